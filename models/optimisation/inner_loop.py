"""Exact second-order MAML on frozen inputs: Finn et al., 2017, https://arxiv.org/abs/1703.03400.

    θ'_i = θ - α ∇_θ L(f_θ(support_i)),   steps repeated;   meta-gradient = ∇_θ Σ_i L(f_θ'_i(query_i))

The network is a stack of linear layers with ReLU between them; one layer is a linear head. Each layer has a rate for
each step, which is differentiable (Antoniou et al., 2019, https://arxiv.org/abs/1810.09502). The inner loss is the mean
over the real items of the support. `unrolled.py` says how the steps are taken.

For `S` support and `Q` query items, hidden layers of `h₁, …, h_m` units and `T` steps, the meta-gradient of one episode
needs at its peak about `T (2 S Σh + Σ h_l h_{l+1}) + 3 Q Σh + (S + Q) (S + dim)` numbers of 4 bytes: 1.2 MB for 5-way
5-shot 15-query with layers 512-256-64-5 and 5 steps. `meta_gradient` works in chunks of episodes to bound it: with a
meta-batch of 128 the process grew by 65 MiB in chunks of 32, and by 186 MiB at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from models.episodes import one_hot
from models.optimisation.inner_losses import CROSS_ENTROPY, InnerLoss
from models.optimisation.unrolled import Unrolled

Rates = Sequence[Float[Tensor, "#batch step _"]]
"""One entry per layer: rates of each step, the same for all units or not, for all episodes or not."""


class Layer(NamedTuple):
    """A linear layer; `nn.Linear` has the same names."""

    weight: Float[Tensor, "out in"]
    bias: Float[Tensor, " out"]


@dataclass(frozen=True)
class InnerLoop:
    """How a network adapts: what it descends and how much of it moves.

    With `is_first_order` deltas count as constants (FOMAML); with `is_head_only` only the last layer moves (ANIL: Raghu
    et al., 2020, https://arxiv.org/abs/1909.09157) and only the last entry of the rates is used.
    """

    loss: InnerLoss = CROSS_ENTROPY
    is_first_order: bool = False
    is_head_only: bool = False


SECOND_ORDER = InnerLoop()


@dataclass(frozen=True)
class Goal:
    """What the support should be answered with: one-hot rows, or values for squared error.

    Items count by `weight` in the mean loss (1 each unless given, 0 for padding). The `offset` is added to the
    network's outputs before the loss.
    """

    targets: Float[Tensor, "batch support out"]
    weight: Float[Tensor, "batch support"] | None = None
    offset: Float[Tensor, "batch support out"] | None = None

    def share(self) -> Float[Tensor, "batch support 1"]:
        """Return the share of each item in the mean loss."""
        weight = torch.ones_like(self.targets[..., 0]) if self.weight is None else self.weight
        return (weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)).unsqueeze(-1)


@dataclass(frozen=True)
class Projected:
    """Items as a layer sees them: its outputs before adapting, and similarities to the support's inputs, plus 1."""

    support: Float[Tensor, "batch support hidden"]
    query: Float[Tensor, "batch query hidden"]
    gram: Float[Tensor, "batch support support"]
    query_gram: Float[Tensor, "batch query support"]


def per_layer(rates: Float[Tensor, "*batch step layer"]) -> list[Float[Tensor, "#batch step 1"]]:
    """Return the rates of each layer, from a table that may be shared by all episodes."""
    table = rates if rates.ndim == 3 else rates.unsqueeze(0)
    return list(table.unsqueeze(-2).unbind(-1))


def adapt_and_score(
    layers: Sequence[Layer],
    support: Float[Tensor, "batch support dim"],
    query: Float[Tensor, "batch query dim"],
    goal: Goal,
    rates: Rates,
    loop: InnerLoop = SECOND_ORDER,
) -> Float[Tensor, "batch query out"]:
    """Adapt a network to each support and return its outputs for the queries, differentiable once."""
    first, *deeper = layers
    if deeper:
        projected = Projected(
            linear(support, *first), linear(query, *first), _gram(support, support), _gram(query, support)
        )
        return adapt_projected(deeper, projected, goal, rates, loop)
    shift, *_ = _unroll(linear(support, *first), _gram(support, support), [], goal, rates, loop)
    weight = torch.baddbmm(first.weight, shift.mT, support, alpha=-1)  # one row per class is less than similarities
    return (weight @ query.mT).mT + (first.bias - shift.sum(1)).unsqueeze(1)


def adapt_projected(
    deeper: Sequence[Layer], items: Projected, goal: Goal, rates: Rates, loop: InnerLoop = SECOND_ORDER
) -> Float[Tensor, "batch query out"]:
    """Do the same from what the first layer made of the items; `deeper` are the layers after it."""
    if loop.is_head_only and deeper:
        *body, head = deeper
        support, query = _features(items.support, body), _features(items.query, body)
        return adapt_and_score(
            [head], support.detach() if loop.is_first_order else support, query, goal, rates[-1:], loop
        )
    shift, *layers = _unroll(items.support, items.gram, deeper, goal, rates, loop)
    outputs = torch.baddbmm(items.query, items.query_gram, shift, alpha=-1)
    for weight, bias in zip(layers[: len(deeper)], layers[len(deeper) :], strict=True):
        outputs = outputs.relu_() @ weight.mT + bias
    return outputs


def _unroll(
    projection: Float[Tensor, "batch support hidden"],
    gram: Float[Tensor, "batch support support"],
    deeper: Sequence[Layer],
    goal: Goal,
    rates: Rates,
    loop: InnerLoop,
) -> tuple[Tensor, ...]:
    offset = torch.zeros_like(goal.targets) if goal.offset is None else goal.offset
    weights, biases = [layer.weight for layer in deeper], [layer.bias for layer in deeper]
    inputs = (projection, gram, goal.targets, goal.share(), offset, *rates, *weights, *biases)
    adapted: tuple[Tensor, ...] = Unrolled.apply(loop.loss, loop.is_first_order, *inputs)  # type: ignore[no-untyped-call]
    return adapted


def _gram(
    items: Float[Tensor, "batch item dim"], support: Float[Tensor, "batch support dim"]
) -> Float[Tensor, "batch item support"]:
    return (items @ support.mT).add_(1)


def _features(outputs: Float[Tensor, "batch item _"], body: Sequence[Layer]) -> Float[Tensor, "batch item _"]:
    """Return what enters the layer after `body`."""
    hidden = outputs.relu()
    for layer in body:
        hidden = linear(hidden, *layer).relu()
    return hidden


@dataclass(frozen=True)
class StoredEpisodes:
    """Episodes as row numbers into stored items, which may be of half precision; a label of -1 marks padding.

    Single precision moves the meta-gradient by less than 1e-6 of its length. With items in bfloat16 it is 1e-3 for a
    linear head, but 5e-2 to 1e-1 for layers 512-256-64-5: nothing is stored so unless the caller asks for it.
    """

    items: Float[Tensor, "row dim"]
    support: Int[Tensor, "batch support"]
    support_labels: Int[Tensor, "batch support"]
    query: Int[Tensor, "batch query"]
    query_labels: Int[Tensor, "batch query"]

    def __getitem__(self, part: slice) -> "StoredEpisodes":
        return StoredEpisodes(
            self.items, self.support[part], self.support_labels[part], self.query[part], self.query_labels[part]
        )

    def take(self, rows: Int[Tensor, "batch item"]) -> Float[Tensor, "batch item dim"]:
        """Return the items of the given rows."""
        return self.items.index_select(0, rows.flatten()).view(*rows.shape, -1)


def meta_gradient(
    layers: Sequence[Layer],
    episodes: StoredEpisodes,
    rates: Float[Tensor, "step layer"],
    loop: InnerLoop = SECOND_ORDER,
    *,
    chunk: int = 32,
) -> Float[Tensor, ""]:
    """Add the gradient of the queries' mean cross-entropy to layers and rates; returns that loss.

    At most `chunk` episodes are held at a time, which changes nothing but memory. Layers and rates are leaves.
    """
    n_query = (episodes.query_labels >= 0).sum()
    total = torch.zeros(())
    for start in range(0, len(episodes.support), chunk):
        loss = _query_loss(layers, episodes[start : start + chunk], rates, loop) / n_query
        loss.backward()  # type: ignore[no-untyped-call]
        total = total + loss.detach()
    return total


def _query_loss(
    layers: Sequence[Layer], episodes: StoredEpisodes, rates: Float[Tensor, "step layer"], loop: InnerLoop
) -> Float[Tensor, ""]:
    dtype = layers[0].weight.dtype
    support, query = (episodes.take(rows).to(dtype) for rows in (episodes.support, episodes.query))
    targets = one_hot(episodes.support_labels, len(layers[-1].bias)).to(dtype)
    logits = adapt_and_score(layers, support, query, Goal(targets, targets.sum(-1)), per_layer(rates), loop)
    return cross_entropy(logits.flatten(0, 1), episodes.query_labels.flatten(), ignore_index=-1, reduction="sum")
