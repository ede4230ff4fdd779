import math
from dataclasses import replace

import pytest
import torch
from synthetic import draw, gather, joined_views, make_domain
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.grams import EpisodeGrams
from models.nearest import NearestCentroid, support_as_queries
from models.optimisation.learned_optimizer import (
    HIDDEN,
    LARGEST_GRADIENT,
    PRECISION,
    SEGMENT,
    STEPS,
    LearnedOptimizerHead,
    UpdateRule,
    clip_gradient,
    log_and_sign,
    unrolled_loss,
)
from models.temperature import decision_loss

WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def episodes(batch: int = 1, *, seed: int = 0) -> tuple[EpisodeGrams, Tensor, Tensor, Tensor]:
    """Episodes as similarities, and the first as explicit items: support, its labels and queries, views joined."""
    drawn = draw(make_domain(), batch=batch, n_way=4, n_shot=3, seed=seed)
    grams = gather(drawn)
    joined, items = joined_views(grams, WEIGHTS), grams.items
    return grams, joined[items.support[0]], drawn.support_labels[0], joined[items.query[0]]


def weights_of(grams: EpisodeGrams) -> Tensor:
    return WEIGHTS.expand(len(grams.membership), -1)


def head_of_strength(strength: float) -> LearnedOptimizerHead:
    torch.manual_seed(0)
    head = LearnedOptimizerHead()
    with torch.no_grad():
        head.strength.level.fill_(strength)
    return head


class Recorded(nn.Module):
    """Corrects nothing, but remembers what it returned, to ask later how much that mattered."""

    def __init__(self) -> None:
        super().__init__()
        self.corrections: list[Tensor] = []

    def forward(self, residual: Tensor, loss: Tensor, coefficients: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self.corrections.append(torch.zeros_like(residual, requires_grad=True))
        return self.corrections[-1], state


def test_untrained_head_is_nearest_centroid_and_learns_to_be_more():
    grams, *_ = episodes()
    head = head_of_strength(0.0)
    torch.testing.assert_close(head(grams, WEIGHTS[None]), NearestCentroid()(grams, WEIGHTS[None]))
    unrolled_loss(head, grams, WEIGHTS[None], torch.zeros(1, 20, dtype=torch.long)).backward()
    assert head.strength.level.grad.abs() > 0


def test_untrained_update_rule_is_gradient_descent_on_explicit_features():
    grams, support, labels, query = episodes()
    head = head_of_strength(0.6)
    prototypes = torch.stack([support[labels == way].mean(0) for way in range(4)])
    rate = 0.6 * 2 / (1 + (support @ support.T).abs().sum(1).max())

    def nearest(items: Tensor) -> Tensor:
        return -math.exp(2.0) * torch.cdist(items, prototypes).square()

    linear = torch.zeros(support.shape[1], 4, requires_grad=True)
    for _ in range(STEPS):
        loss = cross_entropy(nearest(support) + support @ linear, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, linear)
        linear = (linear - rate * gradient).detach().requires_grad_()
    with torch.no_grad():
        expected = nearest(query) + query @ linear
        torch.testing.assert_close(head(grams, WEIGHTS[None])[0], expected, atol=1e-3, rtol=0)


def test_answer_at_the_end_of_a_segment_reaches_back_through_that_segment_alone():
    grams, *_ = episodes()
    head = head_of_strength(1.0)
    head.update = Recorded()
    answers = head.unroll(grams, WEIGHTS[None])
    assert len(answers) == STEPS // SEGMENT
    for number, answer in enumerate(answers):
        reached = torch.autograd.grad(answer[..., 0].sum(), head.update.corrections, allow_unused=True)
        within = range(number * SEGMENT, (number + 1) * SEGMENT)
        assert [gradient is not None and bool(gradient.any()) for gradient in reached] == [
            step in within for step in range(STEPS)
        ]


def test_state_of_the_network_reaches_back_through_one_segment_alone():
    grams, *_ = episodes()
    head = head_of_strength(1.0)
    states: list[Tensor] = []
    head.update.cell.register_forward_hook(lambda _, __, state: states.append(state))
    with torch.no_grad():
        head.update.output.weight.fill_(0.1)
    answers = head.unroll(grams, WEIGHTS[None])
    reached = torch.autograd.grad(answers[-1][..., 0].sum(), states, allow_unused=True)
    assert [gradient is not None for gradient in reached] == [step >= STEPS - SEGMENT for step in range(STEPS)]


def test_loss_is_the_mean_over_the_ends_of_the_segments():
    grams, *_ = episodes(batch=3)
    head, labels = head_of_strength(1.5), torch.arange(20).remainder(4).expand(3, -1)
    losses = [decision_loss(answer, labels) for answer in head.unroll(grams, weights_of(grams))]
    torch.testing.assert_close(unrolled_loss(head, grams, weights_of(grams), labels), sum(losses) / len(losses))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("factor", [1e3, 1e-3], ids=["large", "small"])
def test_gradient_that_flows_back_is_clipped_for_each_episode(factor):
    start = torch.zeros(4, 2, 3, requires_grad=True)
    scale = torch.tensor([1.0, 2.0, 0.0, 5.0])[:, None, None]
    (clip_gradient(start + 0) * factor * scale).sum().backward()
    norms = start.grad.flatten(1).norm(dim=1)
    unclipped = factor * scale.flatten() * math.sqrt(6)
    torch.testing.assert_close(norms, unclipped.clamp(max=LARGEST_GRADIENT / 4))


def test_padding_changes_nothing():
    grams, *_ = episodes(batch=2)
    head = head_of_strength(1.0)
    nn.init.ones_(head.update.output.weight)
    shorter = replace(
        grams,
        support=grams.support[..., :10, :10],
        cross=grams.cross[..., :10],
        support_presence=grams.support_presence[..., :10],
        membership=grams.membership[:, :10],
        items=replace(grams.items, support=grams.items.support[:, :10]),
    )
    padded = replace(grams, membership=torch.cat([shorter.membership, torch.zeros(2, 2, 4)], dim=1))
    with torch.no_grad():
        torch.testing.assert_close(head(padded, weights_of(padded)), head(shorter, weights_of(shorter)))


def test_magnitude_and_sign_are_told_apart_and_join_where_logarithm_gives_way_to_size():
    edge = math.exp(-PRECISION)
    values = torch.tensor([1.0, -math.exp(-1), edge, -edge, 0.5 * edge, 0.0])
    expected = [[0, 1], [-1 / PRECISION, -1], [-1, 1], [-1, -1], [-1, 0.5], [-1, 0]]
    torch.testing.assert_close(log_and_sign(values), torch.tensor(expected))


def test_every_coordinate_is_updated_by_the_same_rule():
    torch.manual_seed(0)
    rule = UpdateRule()
    nn.init.normal_(rule.output.weight)
    residual, coefficients, state = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4, HIDDEN)
    loss = torch.rand(2, 3, 1)
    whole, _ = rule(residual, loss, coefficients, state)
    part = slice(1, 2), slice(2, 3), slice(3, 4)
    alone, _ = rule(residual[part], loss[part[:2]], coefficients[part], state[part])
    torch.testing.assert_close(whole[part], alone)
    assert whole.abs().max() < 1


def test_trained_rule_lowers_the_loss_on_the_support_more_than_as_many_steps_of_gradient_descent():
    learned, plain = head_of_strength(1.0), head_of_strength(1.0)
    for head in (learned, plain):
        nn.init.constant_(head.nearest.log_temperature.level, -1.0)

    def support_loss(head: LearnedOptimizerHead, seed: int) -> Tensor:
        grams, *_ = episodes(batch=8, seed=seed)
        return unrolled_loss(head, support_as_queries(grams), weights_of(grams), grams.membership.argmax(-1))

    optimiser = torch.optim.Adam(learned.update.parameters(), lr=1e-2)
    for step in range(20):
        optimiser.zero_grad()
        support_loss(learned, step).backward()
        optimiser.step()
    with torch.no_grad():
        assert support_loss(learned, 99) < 0.5 * support_loss(plain, 99)
