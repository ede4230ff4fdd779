"""The commands that run flows, each in a process of its own: first by itself, as a user runs it, later on a server."""

import json

import pytest

from models.catalogue import LEARNERS

pytestmark = pytest.mark.slow

INGEST = {
    "domain", "batch_id", "received", "accepted", "quarantined", "duplicates", "reasons", "unused_columns",
    "table_version", "seconds",
}  # fmt: skip
ADAPT = {
    "domain", "model", "version", "alias", "accuracy", "ci95", "labels", "tested", "prior_version", "learner",
    "preference", "views", "columns", "seconds",
}  # fmt: skip
ROW = {
    "split_seed", "shot", "learner", "accuracy", "ci95", "nll", "ece", "diff", "diff_ci95", "over_untrained_ci95",
    "cpu_s_per_1000",
}  # fmt: skip


def test_ingest_answers_with_a_ledger_that_balances(metafuse, toys, tmp_path):
    moved = toys.rename(tmp_path / "elsewhere.yaml")
    asked = ("ingest", "toys", "--contract", moved, "--source", toys.parent, "--json")
    facts = metafuse.run(*asked).facts
    assert set(facts) == INGEST
    assert (facts["received"], facts["accepted"], facts["quarantined"], facts["duplicates"]) == (74, 72, 2, 0)
    assert facts["reasons"] == {"weight:type": 1, "weight:minimum": 1}
    again = metafuse.run(*asked).facts
    assert (again["received"], again["duplicates"]) == (74, 74)
    assert again["table_version"] == facts["table_version"]
    events = metafuse.run("sql", "SELECT DISTINCT status FROM outbox", "--json").facts["rows"]
    assert events == [{"status": "pending"}]  # for a server that stays, whenever there is one


def test_quarantined_rows_are_listed_with_their_reasons(shared):
    facts = shared.run("quarantine", "list", "toys", "--json").facts
    assert facts["reasons"] == {"weight:type": 1, "weight:minimum": 1}
    assert {row["domain"] for row in facts["rows"]} == {"toys"}


def test_meta_train_adapt_and_score_answer_with_json(shared):
    asked = ("--domains", "toys,juguetes", "--learners", "ridge,auto", "--steps", "2")
    trained = shared.by_itself.run("meta-train", *asked, "--no-resume", "--json").facts
    assert (trained["learner"], trained["resumed"]) == ("auto", {})
    assert {"ridge", "auto", "tuned_logreg", "nearest_centroid"} <= {row["learner"] for row in trained["leaderboard"]}
    adapted = shared.by_itself.run("adapt", "toys", "--shots", "3", "--json").facts
    assert set(adapted) == ADAPT
    assert sum(adapted["preference"].values()) == pytest.approx(1, abs=1e-3)
    named = shared.run("adapt", "toys", "--shots", "3", "--learner", "ridge", "--json").facts
    assert (named["learner"], named["preference"]) == ("ridge", {})
    assert adapted["model"] == "metafuse.toys"
    assert adapted["alias"] == "champion"
    assert adapted["labels"] == 27
    assert sum(adapted["views"].values()) == pytest.approx(1, abs=1e-3)
    assert "tabular/weight" in adapted["columns"]
    scored = shared.by_itself.run("score", "toys", "--target-accuracy", "0.1", "--json").facts
    assert scored["abstained"] == 0
    assert "label these next" in shared.run("score", "toys", "--ask", "3").out
    counted = shared.run("sql", "SELECT count(*) AS n FROM latest_predictions WHERE domain = 'toys'", "--json").facts
    assert counted["rows"] == [{"n": 72}]
    looked = shared.by_itself.run("drift", "toys", "--json").facts
    assert [(row["domain"], row["version"], row["is_drifted"]) for row in looked["rows"]] == [("toys", "1", False)]
    assert "toys: not enough data: 0 recent items, 30 needed." in shared.run("drift").out


def test_refusal_of_a_flow_is_one_paragraph_with_json_too(shared):
    ran = shared.by_itself.run("benchmark", "--train", "toys", "--test", "juguetes", "--way", "50", "--json")
    assert "50" in ran.refusal
    assert json.loads(ran.out)["error"]["type"] == "EpisodeTooSmall"


def test_benchmark_answers_with_every_learner(shared):
    asked = ("--train", "toys", "--test", "juguetes", "--holdout-fraction", "0.34", "--split-seed", "0,1")
    size = ("--way", "2", "--shots", "1", "--query", "4", "--episodes", "20", "--steps", "2")
    facts = shared.by_itself.run("benchmark", "--learners", "metric", *asked, *size, "--json").facts
    assert {row["shot"] for row in facts["leaderboard"]} == {1}
    baselines = {"best_single", "concat_logreg", "tuned_logreg", "nearest_centroid"}
    assert {row["learner"] for row in facts["rows"]} == {*baselines, "metric"}
    assert {row["split_seed"] for row in facts["rows"]} == {0, 1}
    assert all(set(row) == ROW for row in facts["rows"])
    assert facts["protocol"]["n_way"] == 2
    assert {row["diff"] for row in facts["rows"] if row["learner"] == "tuned_logreg"} == {0.0}


def test_benchmark_takes_all_learners_and_hides_views(shared):
    asked = ("--train", "toys", "--test", "juguetes", "--holdout-fraction", "0.34", "--learners", "all")
    size = ("--way", "2", "--shots", "1", "--query", "3", "--episodes", "5", "--steps", "1", "--missing", "0.5")
    facts = shared.run("benchmark", *asked, *size, "--json").facts
    baselines = {"best_single", "concat_logreg", "tuned_logreg", "nearest_centroid"}
    assert {row["learner"] for row in facts["leaderboard"]} == {*baselines, *LEARNERS, "auto"}
    assert facts["protocol"]["learners"] == [*LEARNERS, "auto"]
    assert facts["protocol"]["missing"] == 0.5
    assert all(row["seconds"] > 0 for row in facts["leaderboard"] if row["learner"] not in baselines)


def test_transfer_answers_with_the_gain_of_every_domain(shared):
    size = ("--way", "2", "--shots", "1", "--query", "3", "--episodes", "10", "--steps", "2")
    facts = shared.by_itself.run("transfer", "--learners", "metric", "--domains", "toys", *size, "--json").facts
    assert set(facts) == {"protocol", "rows", "skipped", "seconds"}
    assert [(row["domain"], row["shot"], row["learner"]) for row in facts["rows"]] == [("toys", 1, "metric")]
    assert set(facts["rows"][0]["from_scratch"]) == {"nearest_centroid", "concat_logreg"}
    assert facts["rows"][0]["is_negative"] in (True, False)
