"""What the demo says at its end; `.ci/run` runs the demo itself, twice, on a reduced size."""

from rich.console import Console

from deployments.demo import adapted_table, episodes_table

SCORE = {"accuracy": 0.5, "ci95": 0.1, "nll": 1.0, "ece": 0.1}


def test_models_have_a_row_for_each_domain_and_shot():
    baselines = dict.fromkeys(("best_single", "concat_logreg", "tuned_logreg"), SCORE)
    adapted = [
        {
            "domain": "noto-ru",
            "shots": shots,
            "labels": 5 * shots,
            **SCORE,
            "accuracy": 0.625,
            "baselines": baselines,
            "learner": "ridge",
        }
        for shots in (1, 5)
    ]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(adapted_table(adapted))
    rows = [line for line in capture.get().splitlines() if "noto-ru" in line]
    assert len(rows) == 2
    cells = [cell.strip() for cell in rows[0].strip("│").split("│")]
    assert cells == ["noto-ru", "1", *["50.0 ± 10.0"] * 3, "62.5 ± 10.0", "ridge"]


def test_episodes_end_with_the_paired_gain():
    learners = ("best_single", "concat_logreg", "tuned_logreg", "auto")
    shared = {"domain": "noto-zh", "shot": 1, **SCORE, "diff": 0.0525, "diff_ci95": 0.006}
    console = Console(width=80)
    with console.capture() as capture:
        console.print(episodes_table([{**shared, "learner": learner} for learner in learners]))
    row = next(line for line in capture.get().splitlines() if "noto-zh" in line)
    assert row.strip("│").split("│")[-1].strip() == "+5.2 ± 0.6"
