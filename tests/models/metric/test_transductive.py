import pytest
import torch
from synthetic import draw, gather, make_domain
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from models.metric.prototypical import PrototypicalHead
from models.metric.transductive import (
    RATE,
    SHARPNESS,
    STEPS,
    TransductiveHead,
    assign,
    balance,
    distances,
    refine,
    start,
)


@pytest.fixture
def items() -> tuple[Tensor, Tensor, Tensor]:
    """Support of three classes, its labels, and queries of the same classes, of which the first is most frequent."""
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 12, generator=draw)
    labels, of_query = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0] * 6 + [1] * 3 + [2] * 3)
    support = normalize(centres[labels] + torch.randn(6, 12, generator=draw), dim=-1)
    return support, labels, normalize(centres[of_query] + torch.randn(12, 12, generator=draw), dim=-1)


def similarities(support: Tensor, query: Tensor) -> Tensor:
    everything = torch.cat([support, query])
    return (everything @ everything.T).unsqueeze(0)


def test_refinement_moves_explicit_prototypes_towards_what_is_assigned_to_them(items):
    support, labels, query = items
    members = one_hot(labels, 3).float()
    prototypes = members.T @ support / 2
    for _ in range(STEPS):
        plan = (-SHARPNESS * torch.cdist(query, prototypes).square()).softmax(-1)
        total = members.sum(0) + plan.sum(0)
        prototypes = prototypes + RATE * ((members.T @ support + plan.T @ query) / total[:, None] - prototypes)
    gram = similarities(support, query)
    found = refine(gram, start(members[None], 12), torch.ones(1, 12, dtype=torch.bool), is_balanced=False)
    torch.testing.assert_close(found[0].T @ torch.cat([support, query]), prototypes, atol=1e-4, rtol=0)


def test_balanced_plan_gives_every_class_the_same_share(items):
    support, labels, query = items
    mixtures = start(one_hot(labels, 3).float()[None], 12)
    seen = torch.ones(1, 12, dtype=torch.bool)
    plan = assign(similarities(support, query), mixtures, seen, is_balanced=True)
    torch.testing.assert_close(plan.sum(1), torch.full((1, 3), 4.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(plan.sum(2), torch.ones(1, 12), atol=1e-3, rtol=0)
    free = assign(similarities(support, query), mixtures, seen, is_balanced=False)
    torch.testing.assert_close(free.sum(2), torch.ones(1, 12))
    assert free.sum(1).max() > 4.5


def test_balance_takes_each_task_by_itself(items):
    plans = torch.rand(5, 12, 3, generator=torch.Generator().manual_seed(1)) ** 4
    seen, known = torch.ones(5, 12, dtype=torch.bool), torch.ones(5, 1, 3, dtype=torch.bool)
    together = balance(plans, seen, known)
    alone = torch.cat([balance(plans[i : i + 1], seen[:1], known[:1]) for i in range(5)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("is_balanced", [True, False])
def test_query_without_any_view_moves_nothing(items, is_balanced):
    support, labels, query = items
    seen = torch.ones(1, 12, dtype=torch.bool)
    blank = query.clone()
    blank[5] = 0
    seen[0, 5] = False
    kept = [number for number in range(12) if number != 5]
    membership = one_hot(labels, 3).float()[None]
    found = refine(similarities(support, blank), start(membership, 12), seen, is_balanced=is_balanced)
    without = refine(similarities(support, query[kept]), start(membership, 11), seen[:, kept], is_balanced=is_balanced)
    reduced = found[:, [number for number in range(18) if number != 11]]
    torch.testing.assert_close(reduced, without, atol=1e-5, rtol=0)


def test_distances_lack_only_the_length_of_the_query(items):
    support, labels, query = items
    mixtures = start(one_hot(labels, 3).float()[None], 12)
    found = distances(similarities(support, query), mixtures, 6)[0] + query.square().sum(-1, keepdim=True)
    prototypes = one_hot(labels, 3).float().T @ support / 2
    torch.testing.assert_close(found, torch.cdist(query, prototypes).square(), atol=1e-4, rtol=0)


def test_prototypes_move_at_most_to_where_queries_take_them_and_never_away():
    grams, weights = gather(draw(make_domain(), batch=2, n_way=4)), torch.tensor([[0.5, 0.3, 0.2]]).expand(2, 3)
    head, found = TransductiveHead(), {}
    with torch.no_grad():
        for strength in (-3.0, 0.0, 0.5, 1.0, 3.0):
            head.strength.level.fill_(strength)
            found[strength] = head(grams, weights)
    assert torch.equal(found[-3.0], found[0.0])
    assert torch.equal(found[3.0], found[1.0])
    torch.testing.assert_close(found[0.5], (found[0.0] + found[1.0]) / 2)
    assert (found[1.0] - found[0.0]).abs().max() > 0.1


def test_fine_tuning_is_that_of_prototypes_which_stay_where_they_are():
    grams, weights = gather(draw(make_domain(), n_shot=4)), torch.tensor([[0.5, 0.3, 0.2]]).expand(6, 3)
    moving, staying = TransductiveHead(), PrototypicalHead()
    with torch.no_grad():
        for head in (moving, staying):
            head.fine_tuning.strength.level.fill_(0.8)
        torch.testing.assert_close(moving(grams, weights), staying(grams, weights))
        assert (moving(grams, weights) - TransductiveHead()(grams, weights)).abs().max() > 0.1
        moving.strength.level.fill_(1.0)
        assert (moving(grams, weights) - staying(grams, weights)).abs().max() > 0.1


@pytest.mark.parametrize("is_balanced", [True, False])
def test_an_episode_that_is_all_padding_shares_nothing_out(items, is_balanced):
    support, _, query = items
    nobody = torch.zeros(1, 12, dtype=torch.bool)
    plan = assign(similarities(support, query), torch.zeros(1, 18, 3), nobody, is_balanced=is_balanced)
    assert torch.equal(plan, torch.zeros(1, 12, 3))
