import json
import math
import shutil

import pytest
from deltalake import write_deltalake
from lake_of import TITLE, YEAR, add_items, add_labels, contract_of
from learning_lake import add_domain

from data_contracts.configs import AdaptConfig, MetaTrainConfig, ScoreConfig, TrainConfig
from data_contracts.errors import UnknownDomain
from tasks import registry
from tasks.adapt import adapt_to_domain
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.score import score_items
from tasks.train import meta_train_prior

TRAIN = MetaTrainConfig(domains=("one",), train=TrainConfig(steps=0, n_way=2, shots=(1,), n_query=3))


@pytest.fixture
def lake(tracked_home) -> Lake:
    lake = open_lake()
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", per_class=12, seed=2)
    return lake


def test_domain_of_ten_items_gets_answers_and_no_alarms(lake):
    add_domain(lake, "tiny", n_classes=2, per_class=5)
    report = score_items(lake, "tiny", ScoreConfig())
    assert (report.rung, report.items, report.anomalies) == ("nearest_centroid", 10, 0)
    assert set(report.labels) == {"class-00", "class-01"}


def test_champion_answers_for_every_item(adapted):
    report = score_items(adapted, "two", ScoreConfig(clusters=8))
    assert (report.rung, report.model, report.version) == ("champion", "metafuse.two", "1")
    assert report.items == 96
    rows = adapted.read("predictions").to_pylist()
    assert len(rows) == 96
    answered = [row for row in rows if not row["is_abstained"]]
    right = [row["label"] == row["item_id"].rpartition("-")[0] for row in answered]
    assert sum(right) / len(right) >= 0.9
    assert len(answered) + report.abstained == 96
    assert sum(report.labels.values()) == len(answered)
    for row in rows:
        named = json.loads(row["probabilities_json"])
        assert sum(named.values()) == pytest.approx(1, abs=1e-4)
        assert max(named.values()) == pytest.approx(row["probability"], abs=1e-5)
    assert len({row["cluster"] for row in rows}) == report.clusters == 8


def test_champion_that_is_an_ensemble_tells_how_far_its_heads_disagree(lake):
    add_domain(lake, "hard", per_class=12, spread=3.0, seed=3)
    train = TrainConfig(steps=10, n_way=2, shots=(1,), n_query=3, learning_rate=0.5)
    meta_train_prior(lake, MetaTrainConfig(domains=("one",), learners=("parameter_gan",), train=train))
    adapt_to_domain(lake, "hard", AdaptConfig(shots=3, learner="parameter_gan"))
    add_items(lake, contract_of("hard", TITLE, YEAR), {"empty": {}}, day=5)
    assert score_items(lake, "hard", ScoreConfig()).rung == "champion"
    nats = {row["item_id"]: row["uncertainty"] for row in lake.read("predictions").to_pylist()}
    assert nats.pop("empty") is None
    assert 0 <= min(nats.values()) < 0.5 * max(nats.values())
    assert 1e-3 < max(nats.values()) <= math.log(8)


def test_model_of_one_head_tells_no_disagreement(adapted):
    score_items(adapted, "two", ScoreConfig())
    assert set(adapted.read("predictions")["uncertainty"].to_pylist()) == {None}


def test_groups_by_density_are_other_groups_and_both_have_a_stability(adapted):
    by_means = score_items(adapted, "two", ScoreConfig(clusters=8))
    by_density = score_items(adapted, "two", ScoreConfig(cluster_method="hdbscan"))
    assert by_density.is_new
    assert 0 < by_density.clusters <= 8
    stored = {row["score_id"]: row["cluster_stability"] for row in adapted.read("predictions").to_pylist()}
    assert stored == {report.score_id: report.cluster_stability for report in (by_means, by_density)}
    assert all(0 < stability <= 1 for stability in stored.values())


def test_scoring_again_writes_nothing(adapted):
    first = score_items(adapted, "two", ScoreConfig())
    version = adapted.version("predictions")
    again = score_items(adapted, "two", ScoreConfig())
    assert (first.is_new, again.is_new) == (True, False)
    assert first.model_dump(exclude={"is_new", "seconds"}) == again.model_dump(exclude={"is_new", "seconds"})
    assert adapted.version("predictions") == version


def test_labels_do_not_change_what_a_champion_says(adapted):
    score_items(adapted, "two", ScoreConfig())
    add_labels(adapted, "two", {"class-00-00": "class-01"}, day=3)
    assert not score_items(adapted, "two", ScoreConfig()).is_new


def test_about_as_many_alarms_are_raised_as_allowed(adapted):
    report = score_items(adapted, "two", ScoreConfig(false_alarm_rate=0.05))
    assert report.anomalies <= 0.1 * report.items


def test_without_champion_the_prior_answers_from_the_labels_there_are(lake):
    meta_train_prior(lake, TRAIN)
    report = score_items(lake, "two", ScoreConfig())
    assert (report.rung, report.model) == ("prior_and_support", "metafuse.prior")
    assert "metafuse.two" in report.passed_over["champion"]


def test_without_prior_nearest_centroid_answers(lake):
    assert score_items(lake, "two", ScoreConfig()).rung == "nearest_centroid"


def test_damaged_champion_is_passed_over(adapted, monkeypatch):
    ref = registry.resolve("metafuse.two")
    registry.tag(ref, {"sha256.weights.safetensors": "0" * 64})
    report = score_items(adapted, "two", ScoreConfig())
    assert report.rung == "prior_and_support"
    assert "version 1 of model 'metafuse.two' is refused" in report.passed_over["champion"]


def test_without_labels_every_item_is_abstained_from_but_grouped(lake):
    data = load_domain(lake, "two")
    add_labels(lake, "two", dict.fromkeys(data.item_ids, ""), day=3)
    report = score_items(lake, "two", ScoreConfig(clusters=4))
    assert (report.rung, report.abstained, report.labels) == ("abstain", 96, {})
    assert list(report.passed_over) == ["champion", "prior_and_support", "nearest_centroid"]
    assert report.clusters == 4


def test_item_without_any_view_is_abstained_from(adapted):
    add_items(adapted, contract_of("two", TITLE, YEAR), {"empty": {}}, day=5)
    report = score_items(adapted, "two", ScoreConfig())
    (row,) = [row for row in adapted.read("predictions").to_pylist() if row["item_id"] == "empty"]
    assert report.items == 97
    assert (row["rung"], row["label"], row["is_abstained"]) == ("abstain", None, True)
    assert (row["cluster"], row["is_anomaly"]) == (-1, False)


def test_items_without_a_label_are_asked_for_best_first(lake):
    unlabelled = [f"class-{number:02d}-{item:02d}" for number in range(8) for item in range(2, 12)]
    add_labels(lake, "two", dict.fromkeys(unlabelled, ""), day=3)
    add_items(lake, contract_of("two", TITLE, YEAR), {"empty": {}}, day=5)
    report = score_items(lake, "two", ScoreConfig(ask=4))
    assert len(set(report.ask)) == 4
    assert set(report.ask) <= set(unlabelled)
    ranks = {row["ask"]: row["item_id"] for row in lake.read("predictions").to_pylist()}
    assert [ranks[rank] for rank in (1, 2, 3, 4)] == list(report.ask)
    assert len(ranks) == 5  # with None
    assert score_items(lake, "two", ScoreConfig(ask=6)).ask[:4] == report.ask
    assert score_items(lake, "two", ScoreConfig(ask=0)).ask == ()


def test_champion_no_longer_asks_for_what_has_been_labelled(adapted):
    add_labels(adapted, "two", dict.fromkeys(["class-00-00", "class-01-00", "class-02-00"], ""), day=3)
    first = score_items(adapted, "two", ScoreConfig())
    assert set(first.ask) == {"class-00-00", "class-01-00", "class-02-00"}
    add_labels(adapted, "two", {first.ask[0]: "class-05"}, day=4)
    second = score_items(adapted, "two", ScoreConfig())
    assert (second.rung, second.is_new) == ("champion", True)
    assert set(second.ask) == set(first.ask[1:])


def test_without_any_label_typical_items_are_asked_for(lake):
    add_labels(lake, "two", dict.fromkeys(load_domain(lake, "two").item_ids, ""), day=3)
    report = score_items(lake, "two", ScoreConfig(ask=8))
    assert len({item_id.rpartition("-")[0] for item_id in report.ask}) >= 6


def test_table_of_predictions_with_fewer_columns_goes_on(lake):
    score_items(lake, "one", ScoreConfig())
    older = lake.read("predictions").drop_columns(["ask", "uncertainty"])
    table = f"{lake.uri}/predictions"
    shutil.rmtree(table)
    write_deltalake(table, older, partition_by=["domain"])
    assert lake.read("predictions").num_rows == 48
    add_labels(lake, "two", {"class-00-00": ""}, day=3)
    assert score_items(lake, "two", ScoreConfig()).ask == ("class-00-00",)
    assert lake.read("predictions")["uncertainty"].null_count == 144
    counted = lake.query("SELECT domain, count(ask) AS asked, count(*) AS items FROM predictions GROUP BY 1 ORDER BY 1")
    assert [tuple(row.values()) for row in counted.to_pylist()] == [("one", 0, 48), ("two", 1, 96)]


def test_unknown_domain_is_named(lake):
    with pytest.raises(UnknownDomain, match="nowhere"):
        score_items(lake, "nowhere", ScoreConfig())
