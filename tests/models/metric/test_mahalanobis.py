import pytest
import torch
from synthetic import draw, gather, joined_views, make_domain
from torch import Tensor

from models.grams import EpisodeGrams
from models.metric.mahalanobis import SCATTER_UNIT, MahalanobisHead, covariance, scatter_shortening
from models.nearest import nearness

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def episode(n_shot: int) -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """One episode as similarities and, in double precision, as explicit items with labels."""
    batch = draw(make_domain(), batch=1, n_way=4, n_shot=n_shot)
    grams = gather(batch)
    joined, items = joined_views(grams, WEIGHTS).double(), grams.items
    return grams, joined[items.support[0]], batch.support_labels[0], joined[items.query[0]]


def by_explicit_covariances(support: Tensor, labels: Tensor, query: Tensor, strength: float) -> Tensor:
    """Squared distances under the inverse of each class's covariance, as the paper writes it."""
    identity = torch.eye(support.shape[1], dtype=torch.float64)
    found = []
    for way in range(4):
        members = support[labels == way]
        count = len(members)
        own = members.T.cov() if count > 1 else torch.zeros_like(identity)
        share = count / (count + 1)
        scatter = share * own + (1 - share) * support.T.cov()
        offset = query - members.mean(0)
        found.append(torch.einsum("qd,de,qe->q", offset, (identity + strength * scatter).inverse(), offset))
    return torch.stack(found, dim=-1)


@pytest.mark.parametrize("n_shot", [1, 3, 5])
@pytest.mark.parametrize("strength", [0.0, 0.5, 20.0])
def test_distance_is_that_under_explicit_covariances(n_shot, strength):
    grams, support, labels, query = episode(n_shot)
    shortening = scatter_shortening(grams, WEIGHTS[None], torch.full((1, 1), strength))
    found = -nearness(grams, WEIGHTS[None]) - shortening
    expected = by_explicit_covariances(support, labels, query, strength)
    torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_classes_of_uneven_size_have_covariances_of_their_own():
    grams, support, labels, query = episode(5)
    kept = torch.tensor([number for number in range(20) if number not in (0, 1, 2, 3, 5)])
    grams.membership[0, [0, 1, 2, 3, 5]] = 0.0
    shortening = scatter_shortening(grams, WEIGHTS[None], torch.full((1, 1), 4.0))
    found = -nearness(grams, WEIGHTS[None]) - shortening
    expected = by_explicit_covariances(support[kept], labels[kept], query, 4.0)
    torch.testing.assert_close(found[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_covariance_is_that_of_the_members():
    items = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    members = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(items.T @ covariance(members) @ items, items[members > 0].T.cov())
    assert not covariance(torch.tensor([0.0, 1.0, 0.0])).any()


def test_queries_are_answered_the_same_in_blocks_as_all_at_once(monkeypatch):
    grams, *_ = episode(3)
    strength = torch.ones(1, 1)
    at_once = scatter_shortening(grams, WEIGHTS[None], strength)
    monkeypatch.setattr("models.metric.mahalanobis.NUMBERS_AT_ONCE", 7 * grams.membership.numel())
    torch.testing.assert_close(scatter_shortening(grams, WEIGHTS[None], strength), at_once, atol=1e-6, rtol=0)


def test_negative_strength_is_none():
    grams, *_ = episode(3)
    head, start = MahalanobisHead(), MahalanobisHead()
    with torch.no_grad():
        head.scatter.level.fill_(-1.0)
        assert torch.equal(head(grams, WEIGHTS[None]), start(grams, WEIGHTS[None]))


def test_gradient_reaches_the_strength_where_it_starts():
    grams, *_ = episode(3)
    head = MahalanobisHead()
    head(grams, WEIGHTS[None])[0, :, 0].sum().backward()
    assert head.scatter.level.grad.isfinite().all()
    assert head.scatter.level.grad.any()


@pytest.mark.parametrize(("sign", "leads_back"), [(-1.0, True), (1.0, False)])
def test_strength_below_zero_comes_back_where_covariances_help(sign, leads_back):
    """All logits grow with the strength: a loss that falls as they do pulls it back, and one that rises does not."""
    grams, *_ = episode(5)
    head = MahalanobisHead()
    torch.nn.init.constant_(head.scatter.level, -0.3)
    (sign * head(grams, WEIGHTS[None]).sum()).backward()
    assert (head.scatter.level.grad.item() < 0) is leads_back
    assert (head.scatter.level.grad.item() == 0) is not leads_back


def test_strength_counts_in_units_of_its_own():
    grams, support, labels, query = episode(3)
    head = MahalanobisHead()
    with torch.no_grad():
        head.scatter.level.fill_(0.7)
        found = head(grams, WEIGHTS[None])[0]
    expected = -torch.tensor(2.0).exp() * by_explicit_covariances(support, labels, query, 0.7 * SCATTER_UNIT)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
