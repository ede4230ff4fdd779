import math

import pytest
import torch
from sklearn.linear_model import Ridge
from synthetic import draw, make_domain, support_of
from test_grams import by_hand, grams_of
from torch import Tensor
from torch.distributions import Categorical

from models.catalogue import build_learner
from models.generation.parameter_gan import (
    RIDGE,
    STEEPNESS,
    Discriminator,
    ParameterGanHead,
    adversarial_loss,
    average,
    contraction,
    reverse_gradient,
    ridge_heads,
)
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.temperature import decision_loss

WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).expand(6, -1)


@pytest.fixture
def head() -> ParameterGanHead:
    """A head as it is built, but with its correction at full strength."""
    head = ParameterGanHead()
    with torch.no_grad():
        head.strength.level.fill_(1.0)
    return head


@pytest.fixture
def episodes() -> tuple[EpisodeGrams, Tensor]:
    batch = draw(make_domain())
    return grams_of(batch), batch.query_labels


def test_reversed_gradient_has_the_other_sign_and_leaves_values_as_they_are():
    values = torch.tensor([0.1, -2.0, 3e6], requires_grad=True)
    assert torch.equal(reverse_gradient(values), values)
    (reverse_gradient(values) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert values.grad.tolist() == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize(("part", "sign"), [("discriminator", 1), ("generator", -1)])
def test_one_descent_plays_both_sides_of_the_game(head, episodes, part, sign):
    grams, labels = episodes
    parameters = list(getattr(head, part).parameters())
    head.game(grams, WEIGHTS, labels).backward()
    moved = [p for p in parameters if p.grad is not None]
    gradients = [p.grad.clone() for p in moved]
    square = sum(g.square().sum() for g in gradients).item()
    assert square > 0
    values = []
    with torch.no_grad():
        for step in (1e-2, -2e-2):
            for parameter, gradient in zip(moved, gradients, strict=True):
                parameter.add_(step / math.sqrt(square) * gradient)
            values.append(head.game(grams, WEIGHTS, labels).item())
    slope = (values[0] - values[1]) / 2e-2
    assert slope == pytest.approx(sign * math.sqrt(square), rel=0.05)


def test_game_moves_no_item_and_no_view_weight(head, episodes):
    grams, labels = episodes
    weights = WEIGHTS.clone().requires_grad_()
    for items in grams.items.views:
        items.requires_grad_()
    head.game(grams, weights, labels).backward()
    assert weights.grad is None
    assert all(items.grad is None for items in grams.items.views)


def test_discriminator_learns_to_tell_heads_of_few_labels_from_those_of_plenty(head, episodes):
    grams, labels = episodes
    optimiser = torch.optim.Adam(head.discriminator.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        loss = head.game(grams, WEIGHTS, labels)
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


def test_head_of_plenty_of_labels_is_ridge_regression_and_padding_takes_no_part():
    draws = torch.Generator().manual_seed(0)
    items, labels = torch.randn(1, 30, 7, generator=draws), torch.arange(30) % 3
    members = torch.nn.functional.one_hot(labels, 3).float()
    members[25:] = 0
    expected = Ridge(alpha=RIDGE).fit(items[0, :25], members[:25]).coef_
    found = ridge_heads(items, members[None])[0]
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


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


def test_loss_is_cross_entropy_plus_game(head, episodes):
    grams, labels = episodes
    with torch.no_grad():
        expected = head.game(grams, WEIGHTS, labels) + decision_loss(head(grams, WEIGHTS), labels)
        torch.testing.assert_close(adversarial_loss(head, grams, WEIGHTS, labels), expected)
