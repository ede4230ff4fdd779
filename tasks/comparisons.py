"""What MLflow keeps of a comparison of learners: figures and a leaderboard, and a run below it for each learner."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from data_contracts.reports import LeaderboardRow
from models.evaluation import Comparison
from models.leaderboard import family, leaderboard
from models.learning_curve import LearningCurve
from tasks.figures import accuracy_against_shots, learning_curves, reliability_diagram
from tasks.leaderboards import leaderboard_table
from tasks.tracking import RunLog, tracked_run

NO_RUNS: Mapping[str, RunLog] = {}


def log_comparison(
    run: RunLog, kind: str, comparison: Comparison, ours: Sequence[str], runs: Mapping[str, RunLog] = NO_RUNS
) -> tuple[LeaderboardRow, ...]:
    """Log to an open run of a `kind`, with the reliability of `ours`; `runs` are learners' own, others are opened.

    Learning curves are those of the first class split. Returns the leaderboard.
    """
    board = leaderboard(comparison)
    rows = [row.model_dump() for row in board]
    run.figure("accuracy-against-shots", accuracy_against_shots(board))
    run.figure("reliability", reliability_diagram({learner: comparison.reliability[learner] for learner in ours}))
    first = next(iter(comparison.trainings.values()), {})
    if curves := {learner: trained.curve for learner, trained in first.items() if trained.curve.validation}:
        run.figure("learning-curves", learning_curves(curves))
    run.text("leaderboard.md", leaderboard_table(rows))
    run.document("leaderboard.json", {"rows": rows})
    for learner in comparison.reliability:
        own = runs.get(learner)
        with nullcontext(own) if own else tracked_run(kind, learner, {}, learner_tags(learner)) as log:
            _log_learner(log, learner, comparison)
    return board


def learner_tags(learner: str) -> dict[str, str]:
    """Return what the run of a learner is tagged with."""
    return {"learner": learner, "family": family(learner)}


def log_curve(run: RunLog, curve: LearningCurve, prefix: str = "") -> None:
    """Log loss and validation accuracy at every step that has them."""
    for name, points in {"loss": curve.losses, "validation_accuracy": curve.validation}.items():
        for step, value in points:
            run.metrics({f"{prefix}{name}": value}, step=step)


def _log_learner(run: RunLog, learner: str, comparison: Comparison) -> None:
    """Log a learner's numbers as `5-shot/accuracy`, the step being the class split, and its curve for each split."""
    for row in comparison.rows:
        if row.learner == learner:
            numbers = row.model_dump(exclude={"split_seed", "shot", "learner"})
            run.metrics({f"{row.shot}-shot/{name}": value for name, value in numbers.items()}, step=row.split_seed)
    found = {f"split-{seed}": trained.get(learner) for seed, trained in comparison.trainings.items()}
    curves = {split: training.curve for split, training in found.items() if training and training.curve.validation}
    for split, curve in curves.items():
        log_curve(run, curve, f"{split}/")
    if curves:
        run.figure("training", learning_curves(curves))
    if learner in comparison.training_s:
        run.metrics({"seconds": comparison.training_s[learner]})
    run.flush()
