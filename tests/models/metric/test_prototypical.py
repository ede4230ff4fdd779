from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from synthetic import draw, gather, make_domain
from torch import Tensor

from models.grams import EpisodeGrams, distinct_rows
from models.metric.fine_tuning import INVERSE_PENALTY
from models.metric.prototypical import PrototypicalHead
from models.nearest import NearestCentroid, held_out_nearness, nearness, support_as_queries

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


@pytest.fixture
def episode() -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """One episode as similarities, and as explicit items: support, its labels and queries, weighted views joined."""
    batch = draw(make_domain(), batch=1, n_way=4, n_shot=3)
    rows, support, query = distinct_rows(batch)
    views = batch.domain.centred(rows)
    joined = torch.cat([w**0.5 * items for w, items in zip(WEIGHTS, views.values(), strict=True)], dim=-1)
    return gather(batch), joined[support[0]], batch.support_labels[0], joined[query[0]]


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


def test_fine_tuning_gives_scikit_learns_logistic_regression_a_share(episode):
    grams, support, labels, query = episode
    head = PrototypicalHead()
    with torch.no_grad():
        logits = []
        for strength in (0.0, 0.25, 0.5):
            head.fine_tuning.strength.level.fill_(strength)
            logits.append(centred(head(grams, WEIGHTS[None])[0]))
    start, little, more = logits
    model = LogisticRegression(C=INVERSE_PENALTY, tol=1e-6).fit(support.numpy(), labels.numpy())
    classifier = centred(torch.from_numpy(model.decision_function(query.numpy())).float())
    parts = torch.stack([start.flatten(), classifier.flatten()], dim=1)
    share = {}
    for strength, found in ((0.25, little), (0.5, more)):
        kept, taken = torch.linalg.lstsq(parts, found.flatten()).solution
        torch.testing.assert_close(parts @ torch.stack([kept, taken]), found.flatten(), atol=2e-2, rtol=0)
        share[strength] = 1 - kept.item()
    assert 0 < share[0.25] < 0.25
    assert share[0.5] == pytest.approx(2 * share[0.25], abs=1e-2)


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


def test_fine_tuning_leaves_a_query_without_any_view_undecided(episode):
    grams, *_ = episode
    grams.query_presence[:, :, 0] = False
    grams.cross[:, :, 0] = 0
    uneven = replace(grams, membership=grams.membership * (torch.arange(12) < 9).unsqueeze(-1))
    head = PrototypicalHead()
    with torch.no_grad():
        head.fine_tuning.strength.level.fill_(1.0)
        assert head(uneven, WEIGHTS[None])[0, 0].std() < 1e-6


def test_held_out_nearness_is_that_to_the_mean_of_the_others(episode):
    grams, support, labels, _ = episode
    found = held_out_nearness(grams, WEIGHTS[None])[0]
    for item in range(12):
        others = torch.arange(12) != item
        prototypes = torch.stack([support[others & (labels == way)].mean(0) for way in range(4)])
        expected = -(support[item] - prototypes).square().sum(-1)
        torch.testing.assert_close(found[item], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_shot", [1, 2, 3, 5])
def test_held_out_nearness_is_that_of_the_episode_without_the_item_where_views_are_missing(n_shot):
    domain = make_domain(missing=0.5)
    batch = draw(domain, batch=20, n_shot=n_shot)
    grams = gather(batch)
    found, own = held_out_nearness(grams, WEIGHTS.expand(20, 3)), support_as_queries(grams)
    for item in range(batch.support.shape[1]):
        kept = own.membership * (torch.arange(batch.support.shape[1]) != item).unsqueeze(-1)
        expected = nearness(replace(own, membership=kept), WEIGHTS.expand(20, 3))
        torch.testing.assert_close(found[:, item], expected[:, item], atol=1e-4, rtol=0)


def test_only_item_of_a_class_is_held_to_be_of_no_class_in_particular():
    grams = gather(draw(make_domain(), batch=1, n_way=4, n_shot=1))
    logits = NearestCentroid().held_out(grams, WEIGHTS[None])
    own = (grams.membership * logits).sum(-1)
    torch.testing.assert_close(own, ((1 - grams.membership) * logits).sum(-1) / 3)
