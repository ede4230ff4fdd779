import pytest
import torch
from synthetic import draw, make_domain
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.geometry import centred_views
from models.grams import EpisodeGrams, PlacedItems, distinct_rows, gather_grams
from models.metric.prototypical import FINE_TUNING_STEPS, PrototypicalHead
from models.nearest import nearness, support_as_queries

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


@pytest.fixture
def episode() -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """One episode as similarities, and as explicit items: support, its labels and queries, weighted views joined."""
    batch = draw(make_domain(), batch=1, n_way=4, n_shot=3)
    rows, support, query = distinct_rows(batch)
    views = centred_views(batch.domain, rows)
    items = PlacedItems(tuple(views.values()), tuple(view.encoder_id for view in batch.domain.views), support, query)
    grams = gather_grams(items, batch.domain.presence[rows], batch.membership)
    joined = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS, views.values(), strict=True)], dim=-1)
    return grams, joined[support[0]], batch.support_labels[0], joined[query[0]]


def distances(items: Tensor, support: Tensor, labels: Tensor) -> Tensor:
    prototypes = torch.stack([support[labels == way].mean(0) for way in range(4)])
    return torch.cdist(items, prototypes).square()


def test_nearness_is_minus_the_squared_distance_in_the_joined_space(episode):
    grams, support, labels, query = episode
    expected = -distances(query, support, labels)
    torch.testing.assert_close(nearness(grams, WEIGHTS[None])[0], expected, atol=1e-5, rtol=0)


def test_view_a_query_lacks_leaves_its_weight_to_the_others(episode):
    grams, *_ = episode
    grams.query_presence[0, 2, 0] = False
    shares = torch.tensor([[0.5 / 0.8, 0.3 / 0.8, 0.0]])
    torch.testing.assert_close(nearness(grams, WEIGHTS[None])[0, 0], nearness(grams, shares)[0, 0])


def test_support_as_queries_compares_the_support_with_itself(episode):
    grams, support, labels, _ = episode
    expected = -distances(support, support, labels)
    own = nearness(support_as_queries(grams), WEIGHTS[None])[0]
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=0)


def test_untrained_head_is_a_softmax_over_nearness(episode):
    grams, support, labels, query = episode
    expected = -torch.tensor(2.0).exp() * distances(query, support, labels)
    torch.testing.assert_close(PrototypicalHead()(grams, WEIGHTS[None])[0], expected, atol=1e-4, rtol=0)


def test_fine_tuning_is_gradient_descent_on_explicit_features(episode):
    grams, support, labels, query = episode
    head = PrototypicalHead()
    with torch.no_grad():
        head.fine_tuning.level.fill_(0.6)
        head.fine_tuning.slope.fill_(0.1)
        head.nearest.log_temperature.slope.fill_(0.2)
    shot = torch.log(torch.tensor(3.0))
    scale = (2.0 + 0.2 * shot).exp()
    rate = (0.6 + 0.1 * shot) * 2 / (1 + (support @ support.T).abs().sum(1).max())

    linear = torch.zeros(support.shape[1], 4, requires_grad=True)
    for _ in range(FINE_TUNING_STEPS):
        logits = -scale * distances(support, support, labels) + support @ linear
        (gradient,) = torch.autograd.grad(cross_entropy(logits, labels, reduction="sum"), linear)
        linear = (linear - rate * gradient).detach().requires_grad_()
    expected = -scale * distances(query, support, labels) + query @ linear

    with torch.no_grad():
        found = head(grams, WEIGHTS[None])[0]
    torch.testing.assert_close(found, expected.detach(), atol=1e-3, rtol=0)


def test_fine_tuning_lowers_the_loss_on_the_support(episode):
    grams, _, labels, _ = episode
    own = support_as_queries(grams)
    before, after = PrototypicalHead(), PrototypicalHead()
    with torch.no_grad():
        after.fine_tuning.level.fill_(1.0)
        losses = [cross_entropy(head(own, WEIGHTS[None])[0], labels).item() for head in (before, after)]
    assert losses[1] < losses[0]
