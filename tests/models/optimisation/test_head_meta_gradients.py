"""What the heads learn from, against the papers' updates by torch.func, in double precision.

    θ'_i = θ - α ∘ ∇_θ L(f_θ(support_i)),   θ and α both learned   (Li et al., 2017, https://arxiv.org/abs/1707.09835)

The rates α are the head's, alike along inputs; the network sees all views in their own dimensions.
"""

import pytest
import torch
from test_inner_loop import relative_error
from test_maml import KINDS, N_WAY, WEIGHTS, depart, make_episodes
from torch import Tensor
from torch.func import grad
from torch.nn.functional import cross_entropy, linear

from models.catalogue import CATALOGUE
from models.common_space import projection
from models.grams import EpisodeGrams
from models.optimisation.maml import HIDDEN, STEPS, MamlHead


def answer(layers: list[tuple[Tensor, Tensor]], items: Tensor) -> Tensor:
    *body, last = layers
    for layer in body:
        items = linear(items, *layer).relu()
    return linear(items, *last)


def adapted(layers, support: Tensor, offset: Tensor, labels: Tensor, rates: list[Tensor], head: MamlHead):
    """Take the steps; `rates` are `[step, unit]` or `[step, 1]` for each layer that moves, the last ones."""
    n_fixed = len(layers) - len(rates)
    for step in range(STEPS):
        slopes = grad(lambda now: cross_entropy(answer(now, support) + offset, labels))(layers)
        if head.loop.is_first_order:
            slopes = [(weight.detach(), bias.detach()) for weight, bias in slopes]
        moved = zip(layers[n_fixed:], slopes[n_fixed:], rates, strict=True)
        layers = layers[:n_fixed] + [
            (weight - rate[step].unsqueeze(-1) * of_weight, bias - rate[step] * of_bias)
            for (weight, bias), (of_weight, of_bias), rate in moved
        ]
    return layers


def plainly(head: MamlHead, grams: EpisodeGrams, weights: Tensor) -> Tensor:
    """Return logits of the queries, one episode after another."""
    items = grams.items
    into = torch.cat(
        [projection(name, rows.shape[1]).double() for name, rows in zip(items.encoder_ids, items.views, strict=True)]
    )
    layers = [
        (head.first.weight @ into.T, head.first.bias),
        (head.second.weight, head.second.bias),
        (into.new_zeros(N_WAY, HIDDEN[-1]), into.new_zeros(N_WAY)),
    ]
    offsets, rates = head.nearest.held_out(grams, weights), head.rates(grams, head.project(grams, weights))
    logits = []
    for number, of_views in enumerate(weights):
        joined = torch.cat([w.sqrt() * rows for w, rows in zip(of_views, items.views, strict=True)], dim=-1)
        support, query = joined[items.support[number]], joined[items.query[number]]
        labels, own = grams.membership[number].argmax(-1), [rate[number] for rate in rates]
        logits.append(answer(adapted(layers, support, offsets[number], labels, own, head), query))
    return head.nearest(grams, weights) + torch.stack(logits)


@pytest.mark.parametrize("kind", KINDS)
def test_meta_gradient_of_a_head_equals_that_of_torch_func(kind):
    grams, labels = make_episodes(dtype=torch.float64)
    weights = WEIGHTS.double().requires_grad_()
    torch.manual_seed(0)
    head = CATALOGUE[kind].head().double()
    depart(head)
    known = [*head.parameters()] if head.loop.is_first_order else [*head.parameters(), weights]
    found, expected = (
        cross_entropy(logits.flatten(0, 1), labels.flatten())
        for logits in (head(grams, weights), plainly(head, grams, weights))
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    expected = torch.autograd.grad(expected, known, allow_unused=True)
    found = torch.autograd.grad(found, known, allow_unused=True)
    assert all(relative_error([one], [other]) < 1e-10 for one, other in zip(found, expected, strict=True))
