"""Meta-SGD as published, with a rate for every parameter: Li et al., 2017, https://arxiv.org/abs/1707.09835.

    θ'_i = θ - α ∘ ∇_θ L(f_θ(support_i)),   θ and α both learned   (eq. 2-3)

The dual form of `inner_loop.py` needs updates of the first layer that are sums over items; `α ∘` takes that away unless
rates are shared along inputs. So every episode has a first layer of its own here, at `h₁ · dim` numbers a step: 2.6 MB
for five steps of a 512-256 layer, against 0.3 MB. Autograd goes through the steps, whose gradients are written out.

The head departs from the paper as the others of `maml.py` do; its first layer sees items in the common space.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.optimisation.inner_loop import Goal, InnerLoop, Layer
from models.optimisation.inner_losses import CROSS_ENTROPY, InnerLoss
from models.optimisation.maml import STEPS, MamlHead, blank_layer
from models.optimisation.unrolled import where_active


class PerParameterHead(MamlHead):
    """Nearest centroid, corrected by a network whose every parameter has learned how far to move."""

    def __init__(self) -> None:
        super().__init__(InnerLoop())
        known = (*self.first.parameters(), *self.second.parameters())
        self.parameter_rates = nn.ParameterList(nn.Parameter(torch.zeros_like(parameter)) for parameter in known)

    def correct(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], goal: Goal
    ) -> Float[Tensor, "batch query way"]:
        """Return what the adapted network puts out for the queries."""
        support, query = grams.items.common(weights)
        body = [Layer(layer.weight, layer.bias) for layer in (self.first, self.second)]
        last = blank_layer(self.second.out_features, grams.membership)
        *scales, scale_of_last = (rate[:, :1] for rate in self.rates(grams, self.project(grams, weights)))
        own = [2 * rate.sigmoid() for rate in self.parameter_rates]
        rates = [
            Layer(scale * weight, scale * bias) for scale, weight, bias in zip(scales, own[::2], own[1::2], strict=True)
        ]
        rates.append(Layer(scale_of_last, scale_of_last))
        return adapt_each_parameter([*body, last], support, query, goal, rates, n_steps=STEPS)


def adapt_each_parameter(
    layers: Sequence[Layer],
    support: Float[Tensor, "batch support dim"],
    query: Float[Tensor, "batch query dim"],
    goal: Goal,
    rates: Sequence[Layer],
    *,
    n_steps: int = 1,
    loss: InnerLoss = CROSS_ENTROPY,
) -> Float[Tensor, "batch query out"]:
    """Adapt a network to each support, with rates of the layers' shapes, and return its outputs for the queries."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    for _ in range(n_steps):
        entered, outputs = _ascend(support, weights, biases)
        delta = goal.share() * loss.slope(outputs if goal.offset is None else outputs + goal.offset, goal.targets)
        for number in reversed(range(len(layers))):
            below = delta @ weights[number]
            weights[number] = weights[number] - rates[number].weight * (delta.mT @ entered[number])
            biases[number] = biases[number] - rates[number].bias * delta.sum(1, keepdim=True)
            delta = where_active(below, entered[number])
    return _ascend(query, weights, biases)[1]


def _ascend(
    items: Float[Tensor, "batch item dim"], weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """Return what enters each layer, and what the last one puts out."""
    entered, outputs = [items], items @ weights[0].mT + biases[0]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        entered.append(outputs.relu())
        outputs = entered[-1] @ weight.mT + bias
    return entered, outputs
