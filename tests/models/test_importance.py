"""A table of three columns: one says the class, the others say nothing."""

from dataclasses import replace

import pytest
import torch
from synthetic import support_of

from models.catalogue import build_learner
from models.features import DomainData, ViewSpec
from models.importance import Column, column_importance

CLASSES = ("a", "b", "c", "d")
COLUMNS = {
    "weather": Column("facts", slice(0, 3)),
    "colour": Column("facts", slice(3, 7)),
    "day": Column("facts", slice(7, 9)),
}
SHOT = 5


def table(seed: int = 0, per_class: int = 25) -> DomainData:
    """The colour is a class's own in four of five items."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(CLASSES)).repeat_interleave(per_class)
    anything = torch.randint(0, len(CLASSES), labels.shape, generator=draw)
    colour = torch.where(torch.rand(labels.shape, generator=draw) < 0.2, anything, labels)
    weather, day = torch.randn(len(labels), 3, generator=draw), torch.randn(len(labels), 2, generator=draw)
    features = torch.cat([weather, torch.eye(len(CLASSES))[colour], day], dim=1)
    return DomainData(
        "sales",
        (ViewSpec("facts", "tabular", "numbers-1", features.shape[1]),),
        {"facts": features},
        torch.ones(len(labels), 1, dtype=torch.bool),
        labels,
        CLASSES,
        tuple(f"item-{number}" for number in range(len(labels))),
    )


def judged(data: DomainData, columns=COLUMNS, kind: str = "metric"):
    support = support_of(data, SHOT)
    model = build_learner(kind).adapt(data, support)
    rest = [row for row in range(len(data)) if row not in set(support.tolist())]
    return column_importance(model.predict, data.take(torch.tensor(rest)), columns)


@pytest.mark.parametrize("kind", ["metric", "mahalanobis", "transductive"])
def test_column_that_says_the_class_is_found_and_noise_is_not(kind):
    found = judged(table(), kind=kind)
    assert max(found, key=lambda name: found[name].mean) == "colour"
    assert found["colour"].mean > 3 * found["colour"].ci95
    assert all(abs(found[name].mean) < found[name].ci95 for name in ("weather", "day"))


def test_interval_of_a_column_of_noise_holds_zero_as_often_as_it_says():
    found = [judged(table(seed)) for seed in range(40)]
    holds = [abs(one[name].mean) < one[name].ci95 for one in found for name in ("weather", "day")]
    assert sum(holds) / len(holds) >= 0.9


def test_order_of_columns_does_not_matter():
    data, before = table(), judged(table())
    weather, colour, day = (data.features["facts"][:, column.numbers] for column in COLUMNS.values())
    moved = replace(data, features={"facts": torch.cat([day, colour, weather], dim=1)})
    places = {"day": slice(0, 2), "colour": slice(2, 6), "weather": slice(6, 9)}
    after = judged(moved, {name: Column("facts", place) for name, place in places.items()})
    assert all(after[name] == pytest.approx(before[name], abs=1e-5) for name in COLUMNS)


def read(data: DomainData) -> torch.Tensor:
    """Says class 0 with the probability that the first number of `facts` is."""
    share = data.features["facts"][:, 0]
    return torch.stack([share, 1 - share], dim=1)


def two_items(presence: tuple[bool, bool] = (True, True)) -> DomainData:
    return DomainData(
        "pair",
        (ViewSpec("facts", "tabular", "numbers-1", 2),),
        {"facts": torch.tensor([[0.8, 5.0], [0.4, 7.0]])},
        torch.tensor(presence)[:, None],
        torch.tensor([0, 1]),
        ("yes", "no"),
        ("one", "two"),
    )


def test_loss_is_the_one_that_can_be_worked_out_by_hand():
    columns = {"read": Column("facts", slice(0, 1)), "unread": Column("facts", slice(1, 2))}
    found = column_importance(read, two_items(), columns)
    lost = torch.tensor([0.8 / 0.4, 0.6 / 0.2]).log()
    assert found["read"].mean == pytest.approx(lost.mean().item())
    assert found["read"].ci95 == pytest.approx(1.96 * lost.std().item() / 2**0.5)
    assert found["unread"] == (0, 0)


def test_view_that_one_item_has_cannot_be_shuffled():
    assert column_importance(read, two_items((True, False)), {"read": Column("facts", slice(0, 1))}) == {}


def test_item_without_the_view_keeps_its_answer():
    data = two_items()
    third = replace(
        data,
        features={"facts": torch.tensor([[0.8, 5.0], [0.4, 7.0], [0.5, 0.0]])},
        presence=torch.tensor([[True], [True], [False]]),
        labels=torch.tensor([0, 1, 1]),
        item_ids=("one", "two", "three"),
    )
    columns = {"read": Column("facts", slice(0, 1))}
    two, three = (column_importance(read, items, columns)["read"] for items in (data, third))
    assert three.mean == pytest.approx(two.mean * 2 / 3)
