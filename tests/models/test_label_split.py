import pytest
import torch

from data_contracts.configs import AdaptConfig
from data_contracts.errors import EpisodeTooSmall
from models.features import DomainData, ViewSpec
from models.label_split import split_labels


def domain_of(labels: dict[str, str | None], absent: tuple[str, ...] = ()) -> DomainData:
    """A domain with one view whose items have these ids and labels."""
    classes = tuple(sorted({label for label in labels.values() if label}))
    ids = tuple(labels)
    return DomainData(
        domain="toys",
        views=(ViewSpec("title", "text", "words", 2),),
        features={"title": torch.ones(len(ids), 2)},
        presence=torch.tensor([[name not in absent] for name in ids]),
        labels=torch.tensor([classes.index(label) if label else -1 for label in labels.values()]),
        classes=classes,
        item_ids=ids,
    )


TOYS = {f"{label}{number}": label for label in ("car", "doll", "ball") for number in range(20)} | {"x": None}


def ids(data: DomainData, rows: torch.Tensor) -> set[str]:
    return {data.item_ids[row] for row in rows.tolist()}


def test_shots_are_per_class_and_the_rest_judges():
    split = split_labels(domain_of(TOYS), AdaptConfig(shots=5))
    assert torch.bincount(split.data.labels[split.support]).tolist() == [5, 5, 5]
    assert len(split.test) == 45
    assert not ids(split.data, split.support) & ids(split.data, split.test)


def test_share_is_kept_for_testing_without_shots():
    split = split_labels(domain_of(TOYS), AdaptConfig(test_fraction=0.3))
    assert len(split.support) + len(split.test) == 60
    assert 8 <= len(split.test) <= 28


def test_more_labels_move_no_item_to_the_other_side_where_a_share_is_kept_for_testing():
    few = {name: label for name, label in TOYS.items() if not name.endswith(("7", "8", "9"))}
    before = split_labels(domain_of(few), AdaptConfig())
    after = split_labels(domain_of(TOYS), AdaptConfig())
    assert ids(before.data, before.support) <= ids(after.data, after.support)
    assert ids(before.data, before.test) <= ids(after.data, after.test)


def test_order_of_rows_does_not_matter():
    split = split_labels(domain_of(TOYS), AdaptConfig(shots=3))
    turned = split_labels(domain_of(dict(reversed(TOYS.items()))), AdaptConfig(shots=3))
    assert ids(split.data, split.support) == ids(turned.data, turned.support)


def test_another_seed_draws_other_items():
    first, second = (split_labels(domain_of(TOYS), AdaptConfig(shots=3, seed=seed)) for seed in (0, 1))
    assert ids(first.data, first.support) != ids(second.data, second.support)


def test_item_without_any_view_is_not_used():
    split = split_labels(domain_of(TOYS, absent=("car1",)), AdaptConfig(shots=5))
    assert "car1" not in ids(split.data, split.support) | ids(split.data, split.test)


def test_class_with_one_label_is_learned_but_cannot_be_tested():
    split = split_labels(domain_of({**TOYS, "rare1": "rare"}), AdaptConfig())
    rare = split.data.classes.index("rare")
    assert (split.data.labels[split.support] == rare).sum() == 1
    assert (split.data.labels[split.test] == rare).sum() == 0


def test_test_items_can_be_limited_with_every_class_keeping_its_share():
    split = split_labels(domain_of(TOYS), AdaptConfig(shots=5)).with_at_most(9)
    assert torch.bincount(split.data.labels[split.test]).tolist() == [3, 3, 3]


def test_only_the_classes_asked_for_are_used():
    split = split_labels(domain_of(TOYS), AdaptConfig(shots=2, classes=("doll", "car")))
    assert split.data.classes == ("doll", "car")
    assert len(split.support) == 4


@pytest.mark.parametrize(("name", "found"), [("car", 20), ("boat", 0)])
def test_class_with_fewer_labels_than_asked_is_reported_by_name(name: str, found: int):
    config = AdaptConfig(shots=21, classes=(name, "doll"))
    with pytest.raises(EpisodeTooSmall, match=f"class '{name}' of domain 'toys' has {found} labelled items"):
        split_labels(domain_of(TOYS), config)


def test_too_few_classes_are_reported_with_their_sizes():
    with pytest.raises(EpisodeTooSmall, match=r"has 0 classes with at least 30 labelled items .*'ball' has 20"):
        split_labels(domain_of(TOYS), AdaptConfig(shots=30))
