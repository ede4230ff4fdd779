from dataclasses import replace

import pytest
import torch
from sklearn.linear_model import Ridge
from synthetic import draw, gather, joined_views, make_domain
from torch import Tensor
from torch.nn.functional import one_hot, pad

from models.grams import EpisodeGrams, PlacedItems, distinct_rows, gather_grams
from models.nearest import NearestCentroid
from models.optimisation.ridge import RidgeHead

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])
SHOT = 3


@pytest.fixture
def head() -> RidgeHead:
    """A head whose penalty and strength depend on the shot."""
    head = RidgeHead()
    with torch.no_grad():
        for strengths, level, slope in ((head.log_penalty, -1.2, 0.3), (head.strength, 0.7, 0.2)):
            strengths.level.fill_(level)
            strengths.slope.fill_(slope)
    return head


@pytest.fixture
def episode() -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """One episode as similarities, and as explicit items: support, its labels and queries, weighted views joined."""
    batch = draw(make_domain(missing=0.2), batch=1, n_way=4, n_shot=SHOT)
    grams = gather(batch)
    joined, items = joined_views(grams, WEIGHTS[0]), grams.items
    return grams, joined[items.support[0]], batch.support_labels[0], joined[items.query[0]]


def ridge_scores(head: RidgeHead, grams: EpisodeGrams) -> Tensor:
    gram, cross = grams.fused(WEIGHTS)
    with torch.no_grad():
        return (cross @ head.solve(gram, grams))[0]


def penalty_of(head: RidgeHead) -> Tensor:
    return head.log_penalty(torch.tensor(float(SHOT))).exp().detach()


def test_scores_are_those_of_ridge_regression_on_explicit_features(head, episode):
    grams, support, labels, query = episode
    targets = one_hot(labels, 4) - 0.25
    inner = support.T @ support + penalty_of(head) * torch.eye(support.shape[1])
    primal = query @ torch.linalg.solve(inner, support.T @ targets)
    torch.testing.assert_close(ridge_scores(head, grams), primal, atol=1e-5, rtol=0)


def test_scores_are_those_of_scikit_learn(head, episode):
    grams, support, labels, query = episode
    model = Ridge(alpha=penalty_of(head).item(), fit_intercept=False).fit(support, one_hot(labels, 4) - 0.25)
    expected = torch.from_numpy(model.predict(query)).float()
    torch.testing.assert_close(ridge_scores(head, grams), expected, atol=1e-5, rtol=0)


def test_scores_are_added_to_nearest_centroid_in_units_of_its_temperature(head, episode):
    grams, *_ = episode
    strength = 0.7 + 0.2 * torch.tensor(SHOT).log()
    with torch.no_grad():
        expected = NearestCentroid()(grams, WEIGHTS)[0] + torch.tensor(2.0).exp() * strength * ridge_scores(head, grams)
        torch.testing.assert_close(head(grams, WEIGHTS)[0], expected, atol=1e-4, rtol=0)


def test_untrained_head_is_nearest_centroid_and_learns_to_be_more(episode):
    grams, *_ = episode
    head = RidgeHead()
    logits = head(grams, WEIGHTS)
    torch.testing.assert_close(logits, NearestCentroid()(grams, WEIGHTS))
    logits[..., 0].logsumexp(-1).sum().backward()
    assert head.strength.level.grad.abs() > 0


def test_padding_has_no_weight_and_no_influence(head, episode):
    grams, *_ = episode
    shorter = replace(
        grams,
        support=grams.support[..., :10, :10],
        cross=grams.cross[..., :10],
        support_presence=grams.support_presence[..., :10],
        membership=grams.membership[:, :10],
        items=replace(grams.items, support=grams.items.support[:, :10]),
    )
    padded = replace(grams, membership=pad(shorter.membership, (0, 0, 0, 2)))
    with torch.no_grad():
        solution, expected = (head.solve(some.fused(WEIGHTS)[0], some) for some in (padded, shorter))
    assert not solution[:, 10:].any()
    torch.testing.assert_close(solution[:, :10], expected)


def test_class_with_more_labels_is_not_favoured_where_nothing_is_known(head):
    labels = torch.tensor([0, 0, 0, 1])
    batch = draw(make_domain(), batch=1, n_way=2, n_shot=2)
    rows, support, _ = distinct_rows(batch)
    views = tuple(batch.domain.centred(rows).values())
    views = tuple(torch.cat([items, torch.zeros(1, items.shape[1])]) for items in views)
    presence = torch.cat([batch.domain.presence[rows], torch.zeros(1, 3, dtype=torch.bool)])
    items = PlacedItems(views, ("a", "b", "c"), support, torch.tensor([[len(rows)]]), presence)
    grams = gather_grams(items, presence, one_hot(labels, 2).float()[None])
    logits = head(grams, WEIGHTS)
    assert logits.shape == (1, 1, 2)
    assert not logits.any()


def test_copies_of_one_item_are_solved_without_any_penalty_left(episode):
    grams, *_ = episode
    head = RidgeHead()
    with torch.no_grad():
        head.log_penalty.level.fill_(-100.0)
        solution = head.solve(torch.ones(1, 12, 12), grams)
    assert solution.isfinite().all()
