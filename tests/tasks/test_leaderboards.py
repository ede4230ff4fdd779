from tasks.leaderboards import adaptation_table

SCORE = {"accuracy": 0.5, "ci95": 0.1, "nll": 1.0, "ece": 0.1}
OUTCOME = {
    "domain": "noto-ru",
    "model": "metafuse.noto-ru",
    "version": "3",
    "labels": 20,
    "tested": 80,
    "why": "promote",
    "learner": "ridge",
    "preference": {"metric": 0.25, "ridge": 0.75},
    "views": {"title": 0.4, "picture": 0.6},
    "baselines": {"best_single": {**SCORE, "accuracy": 0.55}, "tuned_logreg": {**SCORE, "accuracy": 0.75}},
    **SCORE,
    "accuracy": 0.625,
}


def rows_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]


def test_adaptation_shows_the_model_among_its_baselines_best_first():
    rows = rows_of(adaptation_table(OUTCOME))
    assert rows[0] == ["model", "accuracy, %", "NLL", "ECE"]
    assert [row[:2] for row in rows[2:5]] == [
        ["tuned_logreg", "75.0 ± 10.0"],
        ["**metafuse.noto-ru** v3", "62.5 ± 10.0"],
        ["best_single", "55.0 ± 10.0"],
    ]


def test_adaptation_shows_which_learner_it_used_and_why():
    chosen = adaptation_table(OUTCOME)
    assert "Learner: `ridge`, which `auto` chose." in chosen
    assert ["metric", "25.0"] in rows_of(chosen)
    asked = adaptation_table({**OUTCOME, "preference": {}})
    assert "Learner: `ridge`, asked for by name." in asked
    assert "share in the choice" not in asked
