import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from synthetic import VIEWS, departed_learner, draw, gather, make_domain, support_of
from test_grams import by_hand
from torch import Tensor
from torch.distributions import Categorical

from models.catalogue import build_learner
from models.common_space import COMMON_DIM, to_common
from models.episodes import EpisodeBatch, one_hot
from models.fused import FusedLearner
from models.fusion import modality_numbers
from models.generation.parameter_gan import (
    RIDGE,
    STEEPNESS,
    Discriminator,
    ParameterGanHead,
    average,
    contraction,
    reverse_gradient,
    ridge_head,
)
from models.grams import EpisodeGrams, LabelledItems, in_common_space
from models.nearest import NearestCentroid
from models.temperature import decision_loss

WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).expand(6, -1)


def assert_near(found: Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


@pytest.fixture
def head() -> ParameterGanHead:
    """A head as it is built, but with its correction at full strength."""
    head = ParameterGanHead()
    with torch.no_grad():
        head.strength.level.fill_(1.0)
    return head


@pytest.fixture
def episodes() -> tuple[EpisodeGrams, LabelledItems]:
    batch = draw(make_domain())
    views = batch.domain.centred(torch.arange(len(batch.domain))).values()
    in_common = in_common_space(tuple(views), tuple(view.encoder_id for view in VIEWS))
    return gather(batch), LabelledItems(in_common, batch.domain.labels, batch.class_numbers)


def what_the_game_sees(learner: FusedLearner, batch: EpisodeBatch) -> tuple[EpisodeGrams, Tensor, LabelledItems]:
    grams = learner._grams(batch)
    return grams, learner.view_weights(grams, modality_numbers(VIEWS)), learner.plenty(batch, grams.items)


def test_reversed_gradient_has_the_other_sign_and_leaves_values_as_they_are():
    values = torch.tensor([0.1, -2.0, 3e6], requires_grad=True)
    assert torch.equal(reverse_gradient(values), values)
    (reverse_gradient(values) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert values.grad.tolist() == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize(("part", "sign"), [("discriminator", 1), ("generator", -1)])
def test_one_descent_plays_both_sides_of_the_game(head, episodes, part, sign):
    grams, plenty = episodes
    parameters = list(getattr(head, part).parameters())
    head.game(grams, WEIGHTS, plenty).backward()
    moved = [p for p in parameters if p.grad is not None]
    gradients = [p.grad.clone() for p in moved]
    square = sum(g.square().sum() for g in gradients).item()
    assert square > 0
    values = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(step / math.sqrt(square) * gradient)
            values.append(head.game(grams, WEIGHTS, plenty).item())
    slope = (values[0] - values[1]) / 2e-2
    assert slope == pytest.approx(sign * math.sqrt(square), rel=0.05)


def test_game_moves_no_item_and_no_view_weight(head, episodes):
    grams, plenty = episodes
    weights = WEIGHTS.clone().requires_grad_()
    for items in grams.items.views:
        items.requires_grad_()
    head.game(grams, weights, plenty).backward()
    assert weights.grad is None
    assert all(items.grad is None for items in grams.items.views)


def test_discriminator_learns_to_tell_heads_of_few_labels_from_those_of_plenty(head, episodes):
    grams, plenty = episodes
    optimiser = torch.optim.Adam(head.discriminator.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        loss = head.game(grams, WEIGHTS, plenty)
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.8 * 2 * math.log(2)


def test_log_odds_are_bounded_by_what_the_discriminator_reads():
    draws = torch.Generator().manual_seed(0)
    discriminator = Discriminator()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(100.0)
        prototypes, heads = torch.randn(8, 4, 512, generator=draws), 1e3 * torch.randn(3, 8, 4, 512, generator=draws)
        log_odds = discriminator(heads, prototypes, torch.ones(8, 4, dtype=torch.bool), torch.full((8,), 50.0))
    assert log_odds.shape == (3, 8, 4)
    assert log_odds.abs().max() <= STEEPNESS * math.sqrt(4 + math.log(10) ** 2)


def test_contraction_lengthens_nothing():
    layer = torch.nn.Linear(6, 9, bias=False)
    square = contraction(layer, torch.eye(6))
    assert torch.linalg.matrix_norm(square, ord=2).item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("count", [5, 30], ids=["fewer items than dimensions", "more"])
def test_head_of_plenty_of_labels_is_ridge_regression(count):
    items = torch.randn(count, 7, generator=torch.Generator().manual_seed(0))
    members = one_hot(torch.arange(count) % 3, 4)
    assert_near(ridge_head(items, members), Ridge(alpha=RIDGE).fit(items, members).coef_)


@pytest.mark.parametrize("n_query", [2, 40], ids=["most are in no episode", "all are in episodes"])
def test_real_heads_are_those_of_every_labelled_item_of_the_classes(n_query, monkeypatch):
    monkeypatch.setattr("models.fused.PLACED_AT_ONCE", 10)
    domain = make_domain(per_class=15, missing=0.3, unlabelled=20)
    learner, batch = departed_learner("parameter_gan"), draw(domain, n_query=n_query)
    batch = replace(batch, support_labels=batch.support_labels.where(batch.support_labels != 3, -1))
    _, weights, plenty = what_the_game_sees(learner, batch)
    for (items, members), weight, labels, rows in zip(
        plenty.by_episode(weights.detach()), weights, batch.support_labels, batch.support, strict=True
    ):
        numbers = [int(domain.labels[rows[labels == way][0]]) for way in range(3)]
        own = torch.cat([(domain.usable_labels == number).nonzero().flatten() for number in numbers])
        assert len(own) > 3 * (2 + 2)
        placed = learner.placed(domain, own, batch.shots.mean())
        expected = sum(
            share.sqrt() * to_common(placed[view.name], view.encoder_id)
            for share, view in zip(weight, VIEWS, strict=True)
            if not view.is_of_one_source
        ).detach()
        is_own = [domain.usable_labels[own] == number for number in numbers]
        reference = Ridge(alpha=RIDGE).fit(expected, torch.stack(is_own, dim=1).float()).coef_
        found = ridge_head(items, members)
        assert_near(found[:3], reference)
        assert not found[3].any()


def test_of_a_large_class_plenty_is_taken_and_what_is_in_episodes(monkeypatch):
    monkeypatch.setattr("models.fused.PLENTY", 4)
    learner, batch = departed_learner("parameter_gan"), draw(make_domain(per_class=15), batch=1, n_query=2)
    ((items, members),) = what_the_game_sees(learner, batch)[2].by_episode(torch.ones(1, 3))
    in_episode = torch.cat([batch.support, batch.query], dim=1)[0]
    first = [(batch.domain.labels == number).nonzero()[:4, 0] for number in batch.class_numbers[0]]
    assert len(items) == len(torch.cat([in_episode, *first]).unique()) < 15 * batch.n_way
    assert (members.sum(1) == 1).all()


def test_queries_have_no_part_in_the_game():
    learner, batch = departed_learner("parameter_gan"), draw(make_domain(), n_query=2)
    spare = torch.cat([(batch.domain.labels == number).nonzero()[-2:, 0] for number in range(8)])
    other = replace(batch, query=spare.expand(6, -1), query_labels=torch.zeros(6, len(spare), dtype=torch.long))
    with torch.no_grad():
        found, expected = (learner.head.game(*what_the_game_sees(learner, one)) for one in (other, batch))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_unlabelled_items_are_of_no_class_without_support():
    items = LabelledItems(torch.ones(1, 3, COMMON_DIM), torch.tensor([-1, 2, -1]), torch.tensor([[2, -1]]))
    ((own, members),) = items.by_episode(torch.ones(1, 1))
    assert len(own) == 1
    assert members.tolist() == [[1.0, 0.0]]


def test_answer_is_the_mean_of_the_answers_of_the_sampled_heads(head, episodes):
    grams, _ = episodes
    with torch.no_grad():
        each = head.ensemble(grams, WEIGHTS).exp()
        torch.testing.assert_close(head(grams, WEIGHTS).exp(), each.mean(0))
        torch.testing.assert_close(average(each.log()).exp().sum(-1), torch.ones(6, 20))
    assert (each[0] - each[1]).abs().max() > 1e-3


def test_uncertainty_is_the_mean_divergence_of_the_heads_from_their_mean(head, episodes):
    grams, _ = episodes
    with torch.no_grad():
        each, mean = head.ensemble(grams, WEIGHTS).exp(), head(grams, WEIGHTS).exp()
        divergence = (each * (each / mean).log()).sum(-1).mean(0)
        found = head.uncertainty(grams, WEIGHTS)
    torch.testing.assert_close(found, divergence, atol=1e-5, rtol=0)
    assert found.max() > 1e-4
    assert found.max() <= math.log(4)


def test_mean_is_less_sure_than_the_heads_by_the_uncertainty(head, episodes):
    grams, _ = episodes
    with torch.no_grad():
        each = Categorical(logits=head.ensemble(grams, WEIGHTS)).entropy().mean(0)
        together = Categorical(logits=head(grams, WEIGHTS)).entropy()
        torch.testing.assert_close(together - each, head.uncertainty(grams, WEIGHTS), atol=1e-5, rtol=0)


def test_domain_model_tells_its_uncertainty_if_it_is_an_ensemble():
    domain = make_domain(missing=0.1)
    support = support_of(domain, 2)
    learner = build_learner("parameter_gan")
    with torch.no_grad():
        learner.head.strength.level.fill_(1.0)
    found = learner.adapt(domain, support).uncertainty(domain)
    assert found is not None
    assert found.shape == (len(domain),)
    assert found.max() > 1e-4
    assert build_learner("metric").adapt(domain, support).uncertainty(domain) is None


def test_strength_of_the_heads_is_bounded(head, episodes):
    answers = []
    with torch.no_grad():
        for strength in (10.0, 100.0, -100.0):
            head.strength.level.fill_(strength)
            answers.append(head.ensemble(episodes[0], WEIGHTS))
    assert torch.equal(answers[0], answers[1])
    assert not torch.allclose(answers[1], answers[2], atol=0.1)


def test_heads_agree_where_they_have_no_strength_and_on_what_they_cannot_see(head):
    grams = by_hand([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], [[1.0, 0.0], [0.0, 0.0]], [0, 1, 1], 2)
    weights = torch.ones(1, 1)
    with torch.no_grad():
        assert head.uncertainty(grams, weights)[0, 1].item() == pytest.approx(0.0, abs=1e-6)
        head.strength.level.zero_()
        assert head.uncertainty(grams, weights).abs().max() < 1e-6
        nearest = NearestCentroid()(grams, weights).log_softmax(-1)
        torch.testing.assert_close(head(grams, weights), nearest)


def test_loss_is_cross_entropy_plus_game(toys):
    learner, batch = departed_learner("parameter_gan"), draw(toys)
    with torch.no_grad():
        grams, weights, plenty = what_the_game_sees(learner, batch)
        expected = learner.head.game(grams, weights, plenty) + decision_loss(
            learner.head(grams, weights), batch.query_labels
        )
        torch.testing.assert_close(learner.meta_loss(batch), expected)
