"""The inner loop in dual form, with its derivative written by hand.

Inputs are frozen, so what inner steps do to the first layer is known by its effect on the items. With `Z = X W₁ᵀ + b₁`
before adapting and `K = X X_supportᵀ + 1` (the 1 carries the bias), the adapted layer answers `Z - K D`, where the
shift `D` sums the steps' deltas times their rates; a delta is the slope of the inner loss at a layer's output. No
episode needs a `W₁` of its own, and nothing is differentiated in `X`. Deeper layers are small, and each episode has
its own.

Autograd through the same steps gives the same meta-gradient. By hand it takes a fifth less time: sums are formed in
place, nothing is expanded, and what no one asked for is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.optimisation.inner_losses import InnerLoss

GRAM, QUERY_GRAM, RATES = 4, 5, 9
"""Positions among the arguments of `Unrolled`."""


@dataclass(frozen=True)
class Pass:
    """One pass upwards: the first layer's shift `D`, the other layers' weights, and what enters each of those."""

    shift: Tensor | None
    weights: list[Tensor]
    hidden: list[Tensor]


@dataclass(frozen=True)
class Step(Pass):
    """One inner step; deltas and rates are those of all layers."""

    outputs: Tensor
    deltas: list[Tensor]
    rates: list[Tensor]


class Unrolled(torch.autograd.Function):
    """Outputs of the queries after the inner steps, from what the first layer makes of the items.

    Called as `Unrolled.apply(loss, is_first_order, support, query, gram, query_gram, targets, share, offset, *rates,
    *weights, *biases)`: `Z` and `K` of support and queries; the `share` of each support item in the loss; an `offset`
    of the support's outputs; rates `[#batch, step, #unit]` of every layer; weights and biases of all layers
    but the first. Targets and shares are constants, and with `is_first_order` so are the deltas.
    """

    @staticmethod
    def forward(
        ctx: Any,
        loss: InnerLoss,
        is_first_order: bool,
        support: Float[Tensor, "batch support hidden"],
        query: Float[Tensor, "batch query hidden"],
        gram: Float[Tensor, "batch support support"],
        query_gram: Float[Tensor, "batch query support"],
        targets: Float[Tensor, "batch support out"],
        share: Float[Tensor, "batch support 1"],
        offset: Float[Tensor, "batch support out"],
        *rest: Float[Tensor, "..."],
    ) -> Float[Tensor, "batch query out"]:
        """Take the inner steps and answer the queries."""
        n_deeper = len(rest) // 3
        rates, layers = rest[: n_deeper + 1], rest[n_deeper + 1 :]
        weights, biases = list(layers[:n_deeper]), list(layers[n_deeper:])
        shift: Tensor | None = None
        steps = []
        for now in range(rates[0].shape[1]):
            hidden, outputs = _ascend(_shifted(support, gram, shift), weights, biases)
            outputs.add_(offset)
            deltas = _descend(loss.slope(outputs, targets).mul_(share), weights, hidden)
            step = Step(shift, weights, hidden, outputs, deltas, [rate[:, now : now + 1] for rate in rates])
            steps.append(step)
            first, *moves = [rate * delta for rate, delta in zip(step.rates, deltas, strict=True)]
            shift = first if shift is None else first.add_(shift)
            weights = [_less_outer(*layer) for layer in zip(weights, moves, hidden, strict=True)]
            biases = [bias - move.sum(1, keepdim=True) for bias, move in zip(biases, moves, strict=True)]
        hidden, outputs = _ascend(_shifted(query, query_gram, shift), weights, biases)
        ctx.loss, ctx.is_first_order, ctx.steps, ctx.answer = loss, is_first_order, steps, Pass(shift, weights, hidden)
        ctx.save_for_backward(gram, query_gram, share, *rates)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Float[Tensor, "batch query out"]) -> tuple[Tensor | None, ...]:
        """Return the derivatives of the meta-loss in everything but targets and shares."""
        reverse = _Reverse(ctx, of_outputs)
        for step in reversed(ctx.steps):
            of_deltas = reverse.through_update(step)
            if not ctx.is_first_order:
                reverse.through_deltas(step, of_deltas)
        return reverse.result()


class _Reverse:
    """The derivatives of the meta-loss, gathered from the answers back to the start; `of_x` is the one in `x`."""

    def __init__(self, ctx: Any, of_outputs: Tensor) -> None:
        self.loss: InnerLoss = ctx.loss
        self.needed: Sequence[bool] = ctx.needs_input_grad
        self.gram, query_gram, self.share, *rates = ctx.saved_tensors
        answer: Pass = ctx.answer
        self.of_support: Tensor | None = None
        self.of_gram: Tensor | None = None
        self.of_query_gram: Tensor | None = None
        self.of_offset: Tensor | None = None
        self.of_rates = [[rate[:, :0]] for rate in rates]
        self.of_weights = [torch.empty(0)] * len(answer.weights)
        self.of_biases = [torch.empty(0)] * len(answer.weights)
        for layer in reversed(range(len(answer.weights))):
            self.of_weights[layer] = of_outputs.mT @ answer.hidden[layer]
            self.of_biases[layer] = of_outputs.sum(1, keepdim=True)
            of_outputs = _where_active(of_outputs @ answer.weights[layer], answer.hidden[layer])
        self.of_query = of_outputs
        self.of_shift = (query_gram.mT @ of_outputs).neg_()
        if self.needed[QUERY_GRAM] and answer.shift is not None:
            self.of_query_gram = -(of_outputs @ answer.shift.mT)

    def through_update(self, step: Step) -> list[Tensor]:
        """Go through a step's updates; returns the derivatives in its deltas that these give."""
        of_moves = [self.of_shift]
        for of_weight, of_bias, hidden in zip(self.of_weights, self.of_biases, step.hidden, strict=True):
            of_moves.append((hidden @ of_weight.mT).add_(of_bias).neg_())
        for layer, of_rate in enumerate(self.of_rates):
            if self.needed[RATES + layer]:
                of_rate.insert(1, (of_moves[layer] * step.deltas[layer]).sum_to_size(step.rates[layer].shape))
        return [rate * of_move for rate, of_move in zip(step.rates, of_moves, strict=True)]

    def through_deltas(self, step: Step, of_deltas: list[Tensor]) -> None:
        """Go through the pass downwards that gave a step's deltas, then through the one upwards before it."""
        of_hidden = []
        for layer, (weight, hidden) in enumerate(zip(step.weights, step.hidden, strict=True)):
            delta = step.deltas[layer + 1]
            of_hidden.append((step.rates[layer + 1] * delta).neg_() @ self.of_weights[layer])
            of_slope = _where_active(of_deltas[layer], hidden)
            self.of_weights[layer].baddbmm_(delta.mT, of_slope)
            of_deltas[layer + 1].add_(of_slope @ weight.mT)
        of_outputs = self.loss.curvature(step.outputs, of_deltas[-1].mul_(self.share))
        self.of_offset = _sum(self.of_offset, of_outputs.clone())
        for layer in reversed(range(len(step.weights))):
            self.of_weights[layer].baddbmm_(of_outputs.mT, step.hidden[layer])
            self.of_biases[layer].add_(of_outputs.sum(1, keepdim=True))
            of_outputs = _where_active(of_hidden[layer].add_(of_outputs @ step.weights[layer]), step.hidden[layer])
        if step.shift is not None:
            self.of_shift.baddbmm_(self.gram.mT, of_outputs, alpha=-1)
            if self.needed[GRAM]:
                self.of_gram = _sum(self.of_gram, -(of_outputs @ step.shift.mT))
        self.of_support = _sum(self.of_support, of_outputs)

    def result(self) -> tuple[Tensor | None, ...]:
        """Return the derivatives in the order of the arguments."""
        of_rates = [torch.cat(parts, dim=1) if len(parts) > 1 else None for parts in self.of_rates]
        of_weights = [of_weight.sum(0) for of_weight in self.of_weights]
        of_biases = [of_bias.sum((0, 1)) for of_bias in self.of_biases]
        of_items = (self.of_support, self.of_query, self.of_gram, self.of_query_gram)
        return (None, None, *of_items, None, None, self.of_offset, *of_rates, *of_weights, *of_biases)


def _shifted(projection: Tensor, gram: Tensor, shift: Tensor | None) -> Tensor:
    return projection.clone() if shift is None else torch.baddbmm(projection, gram, shift, alpha=-1)


def _ascend(outputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return what enters each deeper layer, and what the last one puts out."""
    hidden = []
    for weight, bias in zip(weights, biases, strict=True):
        hidden.append(outputs.relu_())
        outputs = (hidden[-1] @ weight.mT).add_(bias)
    return hidden, outputs


def _descend(delta: Tensor, weights: Sequence[Tensor], hidden: Sequence[Tensor]) -> list[Tensor]:
    """Return the deltas of all layers, that of the last given."""
    deltas = [delta]
    for weight, entered in zip(reversed(weights), reversed(hidden), strict=True):
        deltas.append(_where_active(deltas[-1] @ weight, entered))
    return deltas[::-1]


def _where_active(slope: Tensor, hidden: Tensor) -> Tensor:
    """Return the slope before a ReLU that gave `hidden`."""
    masked: Tensor = torch.ops.aten.threshold_backward(slope, hidden, 0)
    return masked


def _less_outer(weight: Tensor, move: Tensor, hidden: Tensor) -> Tensor:
    return torch.baddbmm(weight, move.mT, hidden, alpha=-1)


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
