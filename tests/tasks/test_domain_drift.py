import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from lake_of import COLOUR, START, TITLE, YEAR, add_items, add_labels, contract_of
from learning_lake import VIEWS, add_vectors

from data_contracts.configs import AdaptConfig, DriftConfig, ScoreConfig
from data_contracts.errors import UnknownDomain, UnknownModel
from data_contracts.tables import EMBEDDINGS, ENCODER_STATES
from tasks import registry
from tasks.adapt import adapt_to_domain
from tasks.content import content_hashes
from tasks.contracts import contract_in_force, put_in_force
from tasks.drift import watch_domain, watch_domains
from tasks.encoders.tabular import TabularEncoder
from tasks.events import pending
from tasks.lake import Lake
from tasks.leaderboards import drift_table
from tasks.score import score_items
from tasks.vectors import to_vectors

NAMES = [f"class-{number:02d}" for number in range(8)]
CONFIG = DriftConfig()


@pytest.fixture
def lake(adapted) -> Lake:
    """A lake with a model of the domain two, adapted among 96 items."""
    return adapted


def add_more(lake: Lake, count: int, classes: list[str], *, day: int = 5, are_embedded: bool = True) -> dict[str, str]:
    """Add items without labels, of the given classes in turn."""
    items = {f"day{day}-{number:03d}": classes[number % len(classes)] for number in range(count)}
    rows = {item: {"title": item, "year": number} for number, item in enumerate(items)}
    add_items(lake, contract_of("two", TITLE, YEAR), rows, day=day)
    if are_embedded:
        add_vectors(lake, "two", items, NAMES, 0.4, seed=day)
    return items


def embed_anew(lake: Lake, view: str, modality: str, encoder_id: str, dim: int, state: str = "{}") -> None:
    """Put another encoder in force for a view of the domain two, with vectors of all items that have the field."""
    items, contract = lake.current_items("two"), contract_in_force(lake, "two")
    (field,) = [field for field in contract.columns_to_encode if field.name == view]
    found = dict(zip(items["item_id"].to_pylist(), content_hashes(items, field), strict=True))
    known = {item: sha for item, sha in found.items() if sha is not None}
    vectors = np.random.default_rng(0).normal(size=(len(known), dim)).astype(np.float32)
    constant = {"domain": "two", "view": view, "modality": modality, "encoder_id": encoder_id}
    columns = {name: [value] * len(known) for name, value in constant.items()}
    columns |= {"item_id": list(known), "content_sha256": list(known.values()), "vector": to_vectors(vectors)}
    lake.append("embeddings", pa.table({name: columns[name] for name in EMBEDDINGS.names}, schema=EMBEDDINGS))
    row = {**constant, "state_json": state, "at": START + timedelta(days=9)}
    lake.append("encoder_states", pa.Table.from_pylist([row], schema=ENCODER_STATES))


def test_items_like_those_before_are_no_drift(lake):
    add_more(lake, 64, NAMES)
    row = watch_domain(lake, "two", CONFIG)
    assert (row.model, row.version, row.reference_items, row.recent_items) == ("metafuse.two", "1", 96, 64)
    assert (row.is_drifted, row.is_new) == (False, True)
    assert row.why == "no drift: 64 recent items are like the 96 of the reference"
    assert set(row.views) == {"title", "tabular"}
    assert pending(lake) == []


def test_items_of_another_mixture_are_announced(lake):
    add_more(lake, 64, NAMES[:2])
    row = watch_domain(lake, "two", CONFIG)
    assert row.is_drifted
    assert "recent items differ from the reference in view title (p = " in row.why
    (event,) = pending(lake)
    assert event.key == f"metafuse.drift.found/two/1/{row.drift_id}"
    assert event.as_prefect()["payload"] == {"domain": "two", "model_version": "1", "drift_id": row.drift_id}
    assert "**Drift**: recent items differ" in drift_table(row.model_dump(mode="json"))


def test_looking_again_writes_and_announces_nothing(lake):
    add_more(lake, 64, NAMES[:2])
    first = watch_domain(lake, "two", CONFIG)
    versions = (lake.version("drift"), lake.version("outbox"))
    add_labels(lake, "one", {"class-00-00": "class-01"}, day=6)
    add_labels(lake, "two", {"class-00-00": "class-01"}, day=6)
    again = watch_domain(lake, "two", CONFIG)
    assert (first.is_new, again.is_new) == (True, False)
    assert first.model_dump(exclude={"is_new"}) == again.model_dump(exclude={"is_new"})
    assert (lake.version("drift"), lake.version("outbox")) == versions


def test_crash_before_the_announcement_is_made_good_by_the_next_look(lake, monkeypatch):
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    add_more(lake, 64, NAMES[:2])
    monkeypatch.setattr("tasks.drift.enqueue", die)
    with pytest.raises(KeyboardInterrupt):
        watch_domain(lake, "two", CONFIG)
    monkeypatch.undo()
    assert not watch_domain(lake, "two", CONFIG).is_new
    assert len(pending(lake)) == 1


def test_few_new_items_are_not_enough(lake):
    add_more(lake, 29, NAMES[:1])
    row = watch_domain(lake, "two", CONFIG)
    assert (row.is_drifted, row.why, row.views) == (False, "not enough data: 29 recent items, 30 needed", {})
    assert drift_table(row.model_dump(mode="json")).split("\n\n")[1] == "not enough data: 29 recent items, 30 needed."


def test_newest_items_are_looked_at(lake):
    add_more(lake, 40, NAMES[:1], day=5)
    add_more(lake, 64, NAMES, day=6)
    assert not watch_domain(lake, "two", CONFIG.model_copy(update={"window": 64})).is_drifted
    assert watch_domain(lake, "two", CONFIG).is_drifted


def test_items_that_are_not_embedded_yet_wait(lake):
    add_more(lake, 64, NAMES, are_embedded=False)
    assert watch_domain(lake, "two", CONFIG).why == "not enough data: 0 recent items, 30 needed"


@pytest.mark.slow
def test_drift_adapts_once_however_often_it_is_announced_and_is_gone_if_the_gate_agrees(lake):
    before = adapt_to_domain(lake, "two", AdaptConfig())
    add_more(lake, 64, NAMES[:2])
    drift = watch_domain(lake, "two", CONFIG)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: adapt_to_domain(lake, "two", AdaptConfig()), range(64)))
    assert {outcome.version for outcome in outcomes} == {str(int(before.version) + 1)}
    assert sum(outcome.is_new for outcome in outcomes) == 1
    assert {outcome.decision for outcome in outcomes} <= {"promote", "hold", "ask"}
    assert drift.version == registry.resolve("metafuse.two").version
    registry.set_alias("metafuse.two", registry.CHAMPION, outcomes[0].version, who="test", why="test")
    after = watch_domain(lake, "two", CONFIG)
    assert (after.version, after.reference_items, after.is_drifted) == (outcomes[0].version, 160, False)


def test_column_that_came_is_named_and_the_champion_that_cannot_read_the_table_gives_way(lake):
    rows = {f"new-{number}": {"title": f"new {number}", "year": number, "colour": "red"} for number in range(5)}
    add_items(lake, contract_of("two", TITLE, YEAR, COLOUR), rows, day=5)
    embed_anew(lake, "title", *VIEWS["title"])
    table = TabularEncoder.fit(lake.current_items("two"), ["year", "colour"])
    embed_anew(lake, "tabular", "tabular", table.encoder_id, table.dim, table.state())
    row = watch_domain(lake, "two", CONFIG)
    changes = f"view tabular is encoded by {table.encoder_id}, no longer by numbers-1; column colour is new"
    assert (row.is_drifted, row.why) == (True, f"{changes}; not enough data: 5 recent items, 30 needed")
    report = score_items(lake, "two", ScoreConfig())
    assert report.rung == "prior_and_support"
    assert "reads none of the views" in report.passed_over["champion"]
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=3))
    assert (outcome.version, outcome.alias) == ("2", "champion")
    assert outcome.why.startswith("promote: champion version 1 cannot read the items there are now, judged on")
    assert score_items(lake, "two", ScoreConfig()).rung == "champion"
    assert watch_domain(lake, "two", CONFIG).why == "not enough data: 0 recent items, 30 needed"


def test_view_that_came_is_named_and_items_that_have_nothing_else_are_abstained_from(lake):
    contract = contract_of("two", TITLE, YEAR, TITLE.model_copy(update={"name": "note"}))
    rows = {f"new-{number}": {"note": f"note {number}"} for number in range(5)}
    add_items(lake, contract, rows, day=5)
    embed_anew(lake, "note", "text", "words-1", 16)
    assert watch_domain(lake, "two", CONFIG).why.startswith("view note is new; ")
    report = score_items(lake, "two", ScoreConfig())
    assert (report.rung, report.items) == ("champion", 101)
    answers = {row["item_id"]: row for row in lake.read("predictions").to_pylist()}
    assert all(answers[item]["is_abstained"] for item in rows)
    assert len(set(json.loads(answers["new-0"]["probabilities_json"]).values())) == 1
    outcome = adapt_to_domain(lake, "two", AdaptConfig(shots=3))
    assert set(outcome.views) == {"title", "tabular", "note"}


def test_view_that_went_is_named_and_the_champion_answers_from_the_rest(lake):
    from data_contracts.odcs import dump_contract

    contract = contract_of("two", TITLE)
    put_in_force(lake, contract, dump_contract(contract))
    assert watch_domain(lake, "two", CONFIG).why.startswith("view tabular is gone; column year is gone; ")
    report = score_items(lake, "two", ScoreConfig(target_accuracy=0.5))
    assert (report.rung, report.items) == ("champion", 96)
    right = [row["label"] == row["item_id"][:8] for row in lake.read("predictions").to_pylist() if row["label"]]
    assert sum(right) >= 0.8 * 96
    assert set(adapt_to_domain(lake, "two", AdaptConfig(shots=3)).views) == {"title"}


def test_without_a_domain_every_one_that_has_a_champion_is_looked_at(lake):
    adapt_to_domain(lake, "one", AdaptConfig(shots=2))
    registry.tag(registry.resolve("metafuse.one"), {"lake.items_one": "77"})
    report = watch_domains(lake, None, CONFIG)
    assert [row.domain for row in report.rows] == ["two"]
    assert list(report.skipped) == ["one"]
    assert "items_one" in report.skipped["one"]


def test_domain_without_a_model_and_one_that_is_not_there_are_named(lake):
    with pytest.raises(UnknownModel, match=r"'one' has no champion model.*metafuse adapt one"):
        watch_domain(lake, "one", CONFIG)
    with pytest.raises(UnknownDomain, match="nowhere"):
        watch_domains(lake, "nowhere", CONFIG)
