"""The inner steps in dual form, with their derivative written by hand.

Inputs are frozen, so what inner steps do to the first layer is known by its effect on the items. With `Z = X W₁ᵀ + b₁`
before adapting and `K = X X_supportᵀ + 1` (the 1 carries the bias), the adapted layer answers `Z - K D`, where the
shift `D` sums the steps' deltas times their rates; a delta is the slope of the inner loss at a layer's output. No
episode needs a `W₁` of its own to take its steps, and nothing is differentiated in `X`. Deeper layers are small, and
each episode has its own.

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

GRAM, RATES = 3, 7
"""Positions among the arguments of `Unrolled`."""


@dataclass(frozen=True)
class Step:
    """What the reverse pass needs of one step: lists are from the first layer upwards, or from the second.

    `hidden` is what entered the deeper layers when they had these `weights` and the first layer this `shift`.
    """

    number: int
    shift: Tensor | None
    weights: list[Tensor]
    hidden: list[Tensor]
    slope: Tensor
    deltas: list[Tensor]
    rates: list[Tensor]


class Unrolled(torch.autograd.Function):
    """The first layer's shift and the deeper layers' weights and biases after the inner steps.

    Called as `Unrolled.apply(loss, is_first_order, projection, gram, targets, share, offset, *rates, *weights,
    *biases)`: the support's `Z` and `K`; the `share` of each item in the loss; an `offset` of the outputs; rates
    `[#batch, step, #unit]` of every layer; weights and biases of all layers but the first. Targets and shares are
    constants, and with `is_first_order` so are the deltas.
    """

    @staticmethod
    def forward(
        ctx: Any,
        loss: InnerLoss,
        is_first_order: bool,
        projection: Float[Tensor, "batch support hidden"],
        gram: Float[Tensor, "batch support support"],
        targets: Float[Tensor, "batch support out"],
        share: Float[Tensor, "batch support 1"],
        offset: Float[Tensor, "batch support out"],
        *rest: Float[Tensor, "..."],
    ) -> tuple[Float[Tensor, "..."], ...]:
        """Take the inner steps."""
        n_deeper = len(rest) // 3
        rates, layers = rest[: n_deeper + 1], rest[n_deeper + 1 :]
        weights, biases = list(layers[:n_deeper]), list(layers[n_deeper:])
        shift: Tensor | None = None
        ctx.loss, ctx.is_first_order, ctx.steps = loss, is_first_order, []
        ctx.shapes = [parameter.shape for parameter in layers]
        ctx.save_for_backward(gram, targets, share, *rates)
        for now in range(rates[0].shape[1]):
            outputs = projection.clone() if shift is None else torch.baddbmm(projection, gram, shift, alpha=-1)
            hidden = []
            for weight, bias in zip(weights, biases, strict=True):
                hidden.append(outputs.relu_())
                outputs = (hidden[-1] @ weight.mT).add_(bias)
            outputs.add_(offset)
            slope = loss.slope(outputs, targets)
            deltas = _descend(share * slope, weights, hidden)
            step = Step(now, shift, weights, hidden, slope, deltas, [rate[:, now : now + 1] for rate in rates])
            ctx.steps.append(step)
            first, *moves = [rate * delta for rate, delta in zip(step.rates, deltas, strict=True)]
            shift = first if shift is None else first.add_(shift)
            weights = [_less_outer(*layer) for layer in zip(weights, moves, hidden, strict=True)]
            biases = [bias - move.sum(1, keepdim=True) for bias, move in zip(biases, moves, strict=True)]
        return torch.zeros_like(projection) if shift is None else shift, *weights, *biases

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_shift: Tensor, *of_layers: Tensor) -> tuple[Tensor | None, ...]:
        """Return the derivatives of the meta-loss in everything but targets and shares."""
        reverse = _Reverse(ctx, of_shift, of_layers)
        for step in reversed(ctx.steps):
            of_deltas = reverse.through_update(step)
            if not ctx.is_first_order:
                reverse.through_deltas(step, of_deltas)
        return reverse.result()


class _Reverse:
    """The derivatives of the meta-loss on the way back from the last step to the first; `of_x` is the one in `x`."""

    def __init__(self, ctx: Any, of_shift: Tensor, of_layers: Sequence[Tensor]) -> None:
        self.loss: InnerLoss = ctx.loss
        self.needed: Sequence[bool] = ctx.needs_input_grad
        self.shapes: Sequence[torch.Size] = ctx.shapes
        self.gram, self.targets, self.share, *rates = ctx.saved_tensors
        n_deeper = len(of_layers) // 2
        self.of_projection: Tensor | None = None
        self.of_gram: Tensor | None = None
        self.of_offset: Tensor | None = None
        self.of_rates = [torch.zeros_like(rate) for rate in rates]
        self.of_shift = of_shift.clone(memory_format=torch.contiguous_format)
        self.of_weights = [of_weight.clone(memory_format=torch.contiguous_format) for of_weight in of_layers[:n_deeper]]
        self.of_biases = [of_bias.clone() for of_bias in of_layers[n_deeper:]]

    def through_update(self, step: Step) -> list[Tensor]:
        """Go through a step's updates; returns the derivatives in its deltas."""
        of_moves = [self.of_shift]
        for of_weight, of_bias, hidden in zip(self.of_weights, self.of_biases, step.hidden, strict=True):
            of_moves.append((hidden @ of_weight.mT).add_(of_bias).neg_())
        for layer, of_rate in enumerate(self.of_rates):
            if self.needed[RATES + layer]:
                in_step = (of_moves[layer] * step.deltas[layer]).sum_to_size(step.rates[layer].shape)
                of_rate[:, step.number : step.number + 1] = in_step
        return [rate * of_move for rate, of_move in zip(step.rates, of_moves, strict=True)]

    def through_deltas(self, step: Step, of_deltas: list[Tensor]) -> None:
        """Go through the pass downwards that gave a step's deltas, then through the one upwards before it."""
        of_hidden = []
        for layer, (weight, hidden) in enumerate(zip(step.weights, step.hidden, strict=True)):
            delta, rate = step.deltas[layer + 1], step.rates[layer + 1]
            of_hidden.append((rate * delta).neg_() @ self.of_weights[layer])
            of_slope = where_active(of_deltas[layer], hidden)
            self.of_weights[layer].baddbmm_(delta.mT, of_slope)
            of_deltas[layer + 1].add_(of_slope @ weight.mT)
        of_outputs = self.loss.curvature(step.slope, self.targets, of_deltas[-1].mul_(self.share))
        self.of_offset = _sum(self.of_offset, of_outputs.clone())
        for layer in reversed(range(len(step.weights))):
            self.of_weights[layer].baddbmm_(of_outputs.mT, step.hidden[layer])
            self.of_biases[layer].add_(of_outputs.sum(1, keepdim=True))
            of_outputs = where_active(of_hidden[layer].add_(of_outputs @ step.weights[layer]), step.hidden[layer])
        if step.shift is not None:
            self.of_shift.baddbmm_(self.gram.mT, of_outputs, alpha=-1)
            if self.needed[GRAM]:
                self.of_gram = _sum(self.of_gram, -(of_outputs @ step.shift.mT))
        self.of_projection = _sum(self.of_projection, of_outputs)

    def result(self) -> tuple[Tensor | None, ...]:
        """Return the derivatives in the order of the arguments."""
        of_layers = (*self.of_weights, *self.of_biases)
        of_shared = [of_each.sum_to_size(shape) for of_each, shape in zip(of_layers, self.shapes, strict=True)]
        return (None, None, self.of_projection, self.of_gram, None, None, self.of_offset, *self.of_rates, *of_shared)


def _descend(delta: Tensor, weights: Sequence[Tensor], hidden: Sequence[Tensor]) -> list[Tensor]:
    """Return the deltas of all layers, that of the last given."""
    deltas = [delta]
    for weight, entered in zip(reversed(weights), reversed(hidden), strict=True):
        deltas.append(where_active(deltas[-1] @ weight, entered))
    return deltas[::-1]


def where_active(slope: Tensor, hidden: Tensor) -> Tensor:
    """Return the slope before a ReLU that gave `hidden`."""
    masked: Tensor = torch.ops.aten.threshold_backward(slope, hidden, 0)
    return masked


def _less_outer(weight: Tensor, move: Tensor, hidden: Tensor) -> Tensor:
    return torch.baddbmm(weight, move.mT, hidden, alpha=-1)


def _sum(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)
