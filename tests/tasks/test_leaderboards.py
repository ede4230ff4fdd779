import torch

from models.catalogue import CATALOGUE
from models.evaluation import REFERENCE, UNTRAINED, Answers, Comparison
from models.leaderboard import family, leaderboard
from tasks.leaderboards import adaptation_table, leaderboard_table, prior_table, scores_table

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
    "columns": {"picture": {"loss": 0.51, "ci95": 0.0625}, "title": {"loss": 0.125, "ci95": 0.03}},
    "baselines": {"best_single": {**SCORE, "accuracy": 0.55}, "tuned_logreg": {**SCORE, "accuracy": 0.75}},
    **SCORE,
    "accuracy": 0.625,
}
BOARD = [
    {
        "shot": 1,
        "learner": "ridge",
        "family": "optimisation",
        "accuracy": 0.7,
        "ci95": 0.02,
        "over_untrained": 0.05,
        "over_untrained_ci95": 0.011,
        "over_tuned": -0.01,
        "over_tuned_ci95": 0.015,
        "nll": 0.876,
        "ece": 0.0123,
        "seconds": 17.4,
    }
]


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


def test_adaptation_shows_what_each_column_carried():
    rows = rows_of(adaptation_table(OUTCOME))
    assert rows[-2:] == [["picture", "0.510 ± 0.062"], ["title", "0.125 ± 0.030"]]
    assert "shuffled" not in adaptation_table({**OUTCOME, "columns": {}})


def test_leaderboard_has_a_line_for_each_shot_and_learner():
    head, _, row = rows_of(leaderboard_table(BOARD))
    assert head[:4] == ["shot", "learner", "family", "accuracy, %"]
    assert row == ["1", "ridge", "optimisation", "70.0 ± 2.0", "+5.0 ± 1.1", "-1.0 ± 1.5", "0.876", "0.012", "17"]
    untaught = rows_of(leaderboard_table([{**BOARD[0], "seconds": None}]))[-1]
    assert untaught[-1] == "-"


def test_gains_are_paired_by_episode():
    sure = torch.tensor([[0.8, 0.2]] * 2)
    accuracies = {REFERENCE: [0.5, 0.7], UNTRAINED: [0.5, 0.9], "ridge": [0.6, 0.9]}
    answers = {
        name: Answers(torch.tensor(accuracy), torch.zeros(2), sure, torch.tensor([0, 0]), 1.0)
        for name, accuracy in accuracies.items()
    }
    board = leaderboard(Comparison.of([answers], split_seed=0, shot=1))
    rows = {row[1]: row[4:6] for row in rows_of(leaderboard_table([row.model_dump() for row in board]))}
    assert rows["ridge"] == ["+5.0 ± 9.8", "+15.0 ± 9.8"]
    assert rows[UNTRAINED] == ["+0.0 ± 0.0", "+10.0 ± 19.6"]


def test_learners_that_look_at_all_queries_at_once_say_so():
    assert [family(name) for name in ("metric", "transductive", "transductive_balanced", "auto", REFERENCE)] == [
        "metric", "metric, transductive", "metric, transductive", "choice", "baseline",
    ]  # fmt: skip
    assert all(("transductive" in family(kind)) == entry.is_transductive for kind, entry in CATALOGUE.items())


def test_prior_is_shown_with_its_leaderboard():
    report = {
        "model": "metafuse.prior",
        "version": "2",
        "learner": "auto",
        "domains": ["one", "two"],
        "classes": 8,
        "validation_accuracy": 0.7,
        "untrained_accuracy": 0.6,
        "champion_accuracy": 0.65,
        "leaderboard": BOARD,
    }
    rows = rows_of(prior_table(report))
    assert ["champion before", "65.0"] in rows
    assert rows[-1][1] == "ridge"


def test_scores_table_says_which_items_to_label_next():
    counts = {"items": 9, "abstained": 2, "anomalies": 0, "clusters": 3, "cluster_stability": 0.5}
    facts = {"domain": "noto-ru", "rung": "champion", "passed_over": {}, "labels": {"cat": 7}}
    report = {**facts, "ask": ["a-1", "b-2"], **counts}
    assert "Label these next: `a-1`, `b-2`" in scores_table(report)
    assert "Label these next" not in scores_table({**report, "ask": []})


def test_names_from_data_are_no_markup():
    counts = {"items": 9, "abstained": 2, "anomalies": 0, "clusters": 3, "cluster_stability": 0.5}
    facts = {"domain": "noto-ru", "rung": "champion", "passed_over": {}, "labels": {"a`![x](//h)\n\n# b\\|c": 7}}
    table = scores_table({**facts, "ask": ["`<i>`"], **counts})
    assert "Label these next: `'<i>'`\n" in table
    assert "| `a'![x](//h) # b\\¦c` | 7 |" in table


def test_scores_table_says_why_the_champion_did_not_answer():
    counts = {"items": 9, "abstained": 2, "anomalies": 0, "clusters": 3, "cluster_stability": 0.5}
    why = {"champion": "version 1 is refused."}
    report = {"domain": "noto-ru", "rung": "nearest_centroid", "labels": {}, "ask": [], **counts}
    assert "The champion did not answer: version 1 is refused." in scores_table({**report, "passed_over": why})
    assert "did not answer" not in scores_table({**report, "passed_over": {}})
