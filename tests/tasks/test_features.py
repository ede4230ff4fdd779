import pytest
import torch
from lake_of import TITLE, YEAR, add_items, add_labels, contract_of

from data_contracts.errors import UnknownDomain
from tasks.embed import embed_domain
from tasks.features import load_domain
from tasks.lake import Lake
from tasks.media import MediaStore


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


@pytest.fixture
def media(tmp_path):
    return MediaStore(str(tmp_path / "media"))


@pytest.fixture
def pets(lake, media):
    rows = {"b": {"year": 2014}, "a": {"title": "a black cat", "year": 2010}, "c": {"title": "a dog"}}
    contract = add_items(lake, contract_of("pets", TITLE, YEAR), rows)
    embed_domain(lake, media, contract)
    add_labels(lake, "pets", {"a": "dog", "b": "dog", "gone": "fish"})
    add_labels(lake, "pets", {"a": "cat"}, day=1)
    return contract


def test_items_views_and_labels_line_up(lake, pets):
    data = load_domain(lake, "pets")
    assert data.item_ids == ("a", "b", "c")
    assert [(view.name, view.modality, view.dim) for view in data.views] == [
        ("title", "text", 512),
        ("tabular", "tabular", 3),
    ]
    assert data.presence.tolist() == [[True, True], [False, True], [True, False]]
    assert data.features["title"][1].abs().sum() == 0
    assert data.features["title"].norm(dim=1)[[0, 2]].tolist() == pytest.approx([1, 1], abs=1e-5)
    assert data.features["title"].dtype == torch.float32


def test_newest_label_counts_and_labels_of_unknown_items_do_not(lake, pets):
    data = load_domain(lake, "pets")
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 1, -1]


def test_label_can_be_taken_back(lake, pets):
    add_labels(lake, "pets", {"b": ""}, day=2)
    data = load_domain(lake, "pets")
    assert (data.classes, data.labels.tolist()) == (("cat",), [0, -1, -1])


def test_provenance_reads_the_lake_as_it_was(lake, media, pets):
    before = load_domain(lake, "pets")
    add_items(lake, pets, {"d": {"title": "a fish"}}, day=2)
    add_labels(lake, "pets", {"c": "dog"}, day=2)
    embed_domain(lake, media, pets)
    after = load_domain(lake, "pets")
    again = load_domain(lake, "pets", versions=before.provenance)
    assert len(after) == 4
    assert again.item_ids == before.item_ids
    assert again.labels.equal(before.labels)
    assert again.presence.equal(before.presence)
    assert set(before.provenance) == {"items_pets", "contracts", "embeddings", "encoder_states", "labels"}


def test_view_that_no_item_has_is_left_out(lake, media):
    contract = add_items(lake, contract_of("bare", TITLE, YEAR), {"a": {"title": "x"}})
    embed_domain(lake, media, contract)
    assert [view.name for view in load_domain(lake, "bare").views] == ["title"]


def test_unknown_domain_is_named(lake, pets):
    with pytest.raises(UnknownDomain, match="no domain 'dogs'"):
        load_domain(lake, "dogs")


def test_domain_without_vectors_says_how_to_get_them(lake):
    add_items(lake, contract_of("new", TITLE), {"a": {"title": "x"}})
    with pytest.raises(UnknownDomain, match="1 items, but no vectors"):
        load_domain(lake, "new")
