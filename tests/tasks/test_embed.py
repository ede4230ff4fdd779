from concurrent.futures import ThreadPoolExecutor

import pytest
from lake_of import COLOUR, TITLE, YEAR, add_items, contract_of

from data_contracts.contract import TABULAR_VIEW
from tasks import embed
from tasks.embed import embed_domain
from tasks.encoders import default_encoders
from tasks.features import load_domain
from tasks.lake import Lake, open_lake
from tasks.media import MediaStore
from tasks.progress import listening

CATS = {"1": {"title": "a black cat", "year": 2010}, "2": {"title": "a white cat", "year": 2014}, "3": {"year": 2018}}


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def media(tmp_path):
    return MediaStore(str(tmp_path / "media"))


@pytest.fixture
def cats(lake):
    return add_items(lake, contract_of("cats", TITLE, YEAR), CATS)


def rows_of(lake: Lake, view: str) -> dict[str, list[float]]:
    rows = lake.read("embeddings", where=f"view = '{view}'").to_pylist()
    assert len({(row["domain"], row["item_id"], row["encoder_id"], row["content_sha256"]) for row in rows}) == len(rows)
    return {row["item_id"]: row["vector"] for row in rows}


def test_each_field_of_each_item_gets_a_vector_and_a_missing_field_gets_none(lake, media, cats):
    report = embed_domain(lake, media, cats)
    assert sorted(rows_of(lake, "title")) == ["1", "2"]
    assert sorted(rows_of(lake, TABULAR_VIEW)) == ["1", "2", "3"]
    assert report.views["title"].encoder_id == default_encoders("text")[0].encoder_id
    assert {view: counts.encoded for view, counts in report.views.items()} == {"title": 2, TABULAR_VIEW: 3}


def test_second_run_computes_and_writes_nothing(lake, media, cats):
    embed_domain(lake, media, cats)
    versions = lake.version("embeddings"), lake.version("encoder_states")
    report = embed_domain(lake, media, cats)
    assert (lake.version("embeddings"), lake.version("encoder_states")) == versions
    assert {(counts.present, counts.encoded) for counts in report.views.values()} == {(2, 0), (3, 0)}


def test_content_seen_in_another_domain_is_not_encoded_again(lake, media, cats):
    embed_domain(lake, media, cats)
    pets = add_items(lake, contract_of("pets", TITLE), {"9": {"title": " a black cat "}, "8": {"title": "a dog"}})
    counts = embed_domain(lake, media, pets).views["title"]
    assert (counts.reused, counts.encoded) == (1, 1)
    assert rows_of(lake, "title")["9"] == rows_of(lake, "title")["1"]


def test_equal_contents_of_one_domain_are_encoded_once(lake, media):
    twins = add_items(lake, contract_of("twins", TITLE), {"1": {"title": "same"}, "2": {"title": "same"}})
    done = []
    with listening(lambda *progress: done.append(progress)):
        embed_domain(lake, media, twins)
    assert done == [(1, 1, "embed twins title")]
    assert sorted(rows_of(lake, "title")) == ["1", "2"]


def test_changed_item_gets_a_new_vector_and_returns_to_the_old_one(lake, media, cats):
    embed_domain(lake, media, cats)
    before = load_domain(lake, "cats").features["title"][0]
    add_items(lake, cats, {"1": {"title": "a red fire engine", "year": 2010}}, day=1)
    counts = embed_domain(lake, media, cats).views["title"]
    assert (counts.present, counts.encoded) == (1, 1)
    assert before @ load_domain(lake, "cats").features["title"][0] < 0.7
    add_items(lake, cats, {"1": {"title": "a black cat", "year": 2010}}, day=2)
    assert embed_domain(lake, media, cats).views["title"].encoded == 0
    assert before.equal(load_domain(lake, "cats").features["title"][0])


def test_new_rows_use_the_fitted_table_encoder(lake, media, cats):
    first = embed_domain(lake, media, cats).views[TABULAR_VIEW]
    add_items(lake, cats, {"4": {"year": 2030}}, day=1)
    second = embed_domain(lake, media, cats).views[TABULAR_VIEW]
    assert second.encoder_id == first.encoder_id
    assert (second.present, second.encoded) == (3, 1)


def test_new_table_column_fits_again_and_encodes_every_row(lake, media, cats):
    embed_domain(lake, media, cats)
    wider = contract_of("cats", TITLE, YEAR, COLOUR, version="1.1.0")
    add_items(lake, wider, {"4": {"colour": "red"}}, day=1)
    assert embed_domain(lake, media, wider).views[TABULAR_VIEW].encoded == 4
    assert embed_domain(lake, media, wider).views[TABULAR_VIEW].encoded == 0
    data = load_domain(lake, "cats")
    assert data.presence[:, 1].tolist() == [True] * 4
    assert data.views[1].dim > 3


def test_grown_domain_is_fitted_again(lake, media, cats):
    first = embed_domain(lake, media, cats).views[TABULAR_VIEW]
    add_items(lake, cats, {str(item): {"year": item} for item in range(4, 31)}, day=1)
    second = embed_domain(lake, media, cats).views[TABULAR_VIEW]
    assert second.encoder_id != first.encoder_id
    assert second.encoded == 30


class Stopped(Exception):
    pass


def test_stopped_run_is_completed_without_doubling(lake, media, monkeypatch):
    monkeypatch.setitem(embed.SHARD, "text", 2)
    many = add_items(lake, contract_of("many", TITLE), {str(item): {"title": f"title {item}"} for item in range(5)})

    def stop(done, total, what):
        if done == 4:
            raise Stopped

    with pytest.raises(Stopped), listening(stop):
        embed_domain(lake, media, many)
    assert len(rows_of(lake, "title")) == 2
    counts = embed_domain(lake, media, many).views["title"]
    assert (counts.present, counts.encoded) == (2, 3)
    assert len(rows_of(lake, "title")) == 5


def test_runs_at_the_same_time_write_each_vector_once(lake, media, cats):
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: embed_domain(lake, media, cats), range(3)))
    assert len(lake.read("embeddings")) == 5
    assert len(lake.read("encoder_states")) == 2


def test_task_embeds_a_domain_of_this_home(home):
    lake = open_lake()
    add_items(lake, contract_of("cats", TITLE, YEAR), CATS)
    report = embed.embed.fn("cats")
    assert report["views"]["title"]["encoded"] == 2
    assert len(load_domain(lake, "cats")) == 3
