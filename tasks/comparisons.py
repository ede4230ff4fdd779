"""What MLflow keeps of a comparison of learners: figures and a leaderboard, and a run below it for each learner."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

from data_contracts.reports import LeaderboardRow
from models.evaluation import Comparison
from models.leaderboard import family, leaderboard
from tasks.figures import accuracy_against_shots, reliability_diagram
from tasks.leaderboards import leaderboard_table
from tasks.tracking import RunLog, tracked_run

NO_RUNS: Mapping[str, RunLog] = {}


def log_comparison(
    run: RunLog, kind: str, comparison: Comparison, ours: Sequence[str], runs: Mapping[str, RunLog] = NO_RUNS
) -> tuple[LeaderboardRow, ...]:
    """Log to an open run of a `kind`, with the reliability of `ours`; `runs` are learners' own, others are opened.

    Returns the leaderboard.
    """
    board = leaderboard(comparison)
    rows = [row.model_dump() for row in board]
    run.figure("accuracy-against-shots", accuracy_against_shots(board))
    run.figure("reliability", reliability_diagram({learner: comparison.reliability[learner] for learner in ours}))
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


def _log_learner(run: RunLog, learner: str, comparison: Comparison) -> None:
    """Log a learner's numbers as `5-shot/accuracy`; the step is the class split."""
    for row in comparison.rows:
        if row.learner == learner:
            numbers = row.model_dump(exclude={"split_seed", "shot", "learner"})
            run.metrics({f"{row.shot}-shot/{name}": value for name, value in numbers.items()}, step=row.split_seed)
    if learner in comparison.training_s:
        run.metrics({"seconds": comparison.training_s[learner]})
    run.flush()
