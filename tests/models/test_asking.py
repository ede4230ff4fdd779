import pytest
import torch
from synthetic import make_domain, support_of
from torch import Tensor

from models import asking
from models.asking import entropy, most_helpful
from models.catalogue import build_learner


def ask(items: Tensor, count: int, *, labelled: tuple[int, ...] = (), doubt: Tensor | None = None, seed: int = 0):
    is_labelled = torch.zeros(len(items), dtype=torch.bool)
    is_labelled[list(labelled)] = True
    doubt = torch.ones(len(items)) if doubt is None else doubt
    asked = most_helpful(items, doubt, is_open=~is_labelled, is_labelled=is_labelled, count=count, seed=seed)
    return asked.tolist()


def on_a_line(*places: float) -> Tensor:
    return torch.tensor(places).unsqueeze(1)


def test_first_pick_is_the_middle_of_the_largest_group_without_a_label():
    items = on_a_line(0.0, 0.1, 0.2, 0.3, 5.0, 5.1, 5.2)
    assert ask(items, 1, labelled=(0,)) == [5]


def test_picks_are_unlike_one_another():
    items = on_a_line(0.0, 0.1, 5.0, 5.1, 5.2, 9.0, 9.1, 9.2, 20.0)
    assert {place // 4 for place in items[ask(items, 3, labelled=(0,))].flatten().tolist()} == {1, 2, 5}


def test_every_start_of_the_list_is_the_list_for_fewer():
    items = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    lists = [ask(items, count, labelled=(3, 7)) for count in (0, 1, 5, 12)]
    assert [len(found) for found in lists] == [0, 1, 5, 12]
    assert all(found == lists[-1][: len(found)] for found in lists)


def test_each_pick_brings_the_items_closest_of_all():
    items = torch.randn(25, 4, generator=torch.Generator().manual_seed(1))
    chosen = [2, 11]
    for row in ask(items, 4, labelled=(2, 11)):
        far = {other: squared_distances(items, [*chosen, other]).sum() for other in range(25) if other not in chosen}
        assert row == min(far, key=lambda other: far[other])
        chosen.append(row)


def squared_distances(items: Tensor, chosen: list[int]) -> Tensor:
    """Of each item to the nearest of the chosen ones."""
    return (items[:, None] - items[chosen]).square().sum(-1).amin(1)


def test_labelled_items_and_others_that_are_not_open_are_never_asked_for():
    items = torch.randn(12, 2, generator=torch.Generator().manual_seed(2))
    is_labelled, is_open = torch.arange(12) < 3, torch.arange(12) >= 5
    asked = most_helpful(items, torch.ones(12), is_open=is_open, is_labelled=is_labelled, count=100)
    assert sorted(asked.tolist()) == list(range(5, 12))
    for labelled in (is_labelled, is_labelled & False):
        nobody = most_helpful(items, torch.ones(12), is_open=is_open & False, is_labelled=labelled, count=5)
        assert nobody.tolist() == []


def test_only_the_most_uncertain_are_compared_and_the_seed_decides_between_equals(monkeypatch):
    monkeypatch.setattr(asking, "CONSIDERED", 10)
    items = torch.randn(60, 2, generator=torch.Generator().manual_seed(3))
    doubt = torch.rand(60, generator=torch.Generator().manual_seed(4))
    assert set(ask(items, 5, labelled=(0,), doubt=doubt)) <= set(doubt.topk(11).indices.tolist())
    lists = [ask(items, 5, seed=seed) for seed in (0, 0, 1)]
    assert lists[0] == lists[1] != lists[2]


def test_entropy_is_zero_where_sure_and_greatest_where_nothing_is_known():
    rows = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert entropy(rows).tolist() == pytest.approx([0, 0.6931472])
    assert entropy(rows[:, :0]).tolist() == [0, 0]


def test_labels_that_are_asked_for_help_more_than_others():
    learner, gains = build_learner("metric"), []
    for seed in range(20):
        data = make_domain(per_class=12, seed=seed)
        held = torch.arange(len(data)) % 12 >= 8
        support = support_of(data, 1)
        model = learner.adapt(data, support)
        is_labelled = torch.zeros(len(data), dtype=torch.bool)
        is_labelled[support] = True
        is_open = ~(is_labelled | held)
        doubt = entropy(model.predict(data))
        asked = most_helpful(model.embed(data), doubt, is_open=is_open, is_labelled=is_labelled, count=8)
        rows = is_open.nonzero().flatten()
        drawn = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:8]]
        right = []
        for further in (asked, drawn):
            answers = learner.adapt(data, torch.cat([support, further])).predict(data).argmax(1)
            right.append((answers == data.labels)[held].float().mean())
        gains.append(right[0] - right[1])
    found = torch.stack(gains)
    assert found.mean() > 2 * found.std() / len(found) ** 0.5
    assert found.mean() > 0.01
