"""A metric network trained by prototypical episodes: Snell et al., 2017, https://arxiv.org/abs/1703.05175, eq. 1-2.

It is the network that the triplet or the contrastive loss trains as well, with the same departures (`network.py`).

The paper's logits are minus squared distances to the prototypes `c`. What all classes of a query share cancels in the
softmax, so they are computed as `2 q·c - ‖c‖²`. With a network whose last layer `W h + b` is linear, `c` is `W` times
the mean `m` of the `h` of its class and `q·c` is `h·Wᵀc`: queries never pass that layer, and `b` moves nothing.

The gradient is written by hand. With `e` the derivative of the loss by half the logits, `∂t = Σ e h` that by `t = Wᵀc`
and `∂c = W ∂t - c Σ e` that by `c`, the weights get `∂W = c ∂tᵀ + ∂c mᵀ`, the hidden units of a query `e t`, those of a
support item its share of `Wᵀ∂c`. One product gives both, which is written once: autograd would join two.

Nearly all of the work is the two products of the first layer with the items. Items may be stored in bfloat16: these two
are then in bfloat16, as are what goes in and what comes out, with sums in single precision. That moves the gradient by
about a hundredth of its length.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from models.episodes import EpisodeSampler, mean_shares, one_hot
from models.features import DomainData
from models.metric.network import LearnedMetricHead, MetricNetwork, descend

MOST_WAYS = 20
"""More than are asked for later, which made the paper's networks better (section 2.7)."""

SHOT, QUERY, EPISODES = 1, 3, 4


def prototype_logits(
    support: Float[Tensor, "batch support dim"],
    query: Float[Tensor, "batch query dim"],
    labels: Int[Tensor, "batch support"],
    n_way: int,
) -> Float[Tensor, "batch query way"]:
    """Return minus the squared distance of queries to each prototype, plus a number that all classes of a query share.

    A class without items stands at the origin. Labels are those of `class_means`.
    """
    prototypes = class_means(support, labels, n_way)
    lengths = torch.linalg.vector_norm(prototypes, dim=-1).square().unsqueeze(1)
    return torch.baddbmm(lengths, query, prototypes.mT, beta=-1, alpha=2)


def prototypical_loss(
    network: MetricNetwork,
    items: Float[Tensor, "batch item dim"],
    shares: Float[Tensor, "batch support way"],
    targets: Float[Tensor, "batch query way"],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the queries, from items with the support before the queries.

    `shares` are those of `mean_shares`, `targets` are one-hot; a row of zeros is padding. Items get no gradient, and
    may be of half precision where the rest is single.
    """
    loss: Tensor = _PrototypicalLoss.apply(  # type: ignore[no-untyped-call]
        items, network.hidden.weight, network.hidden.bias, network.out.weight, shares.mT, targets.mT
    )
    return loss


class _PrototypicalLoss(torch.autograd.Function):
    """The loss as a function of weights; classes come before items in what is by episode, which keeps sums cheap."""

    @staticmethod
    def forward(
        ctx: Any,
        items: Float[Tensor, "batch item dim"],
        first: Float[Tensor, "hidden dim"],
        bias: Float[Tensor, " hidden"],
        last: Float[Tensor, "out hidden"],
        shares: Float[Tensor, "batch way support"],
        targets: Float[Tensor, "batch way query"],
    ) -> Float[Tensor, ""]:
        hidden = linear(items, first.to(items.dtype), bias.to(items.dtype)).relu_().to(first.dtype)
        n_support = shares.shape[2]
        support, query = hidden[:, :n_support], hidden[:, n_support:]
        means = shares @ support
        prototypes = means @ last.mT
        towards = prototypes @ last
        log_answers = _by_way(prototypes, towards, query).log_softmax(1)
        count = targets.sum()
        ctx.save_for_backward(items, last, shares, targets, hidden, means, prototypes, towards, log_answers, count)
        return -(targets * log_answers).sum() / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        items, last, shares, targets, hidden, means, prototypes, towards, log_answers, count = ctx.saved_tensors
        n_way, n_support = shares.shape[1:]
        error = (log_answers.exp() * targets.sum(1, keepdim=True) - targets) * (2 * by_loss / count)
        by_towards = error @ hidden[:, n_support:]
        by_prototypes = torch.addcmul(by_towards @ last.mT, error.sum(-1, keepdim=True), prototypes, value=-1)
        by_last = prototypes.flatten(0, 1).mT @ by_towards.flatten(0, 1)
        by_last.addmm_(by_prototypes.flatten(0, 1).mT, means.flatten(0, 1))
        parts = shares.new_zeros(len(shares), hidden.shape[1], 2 * n_way)
        parts[:, :n_support, :n_way] = shares.mT
        parts[:, n_support:, n_way:] = error.mT
        by_hidden = parts @ torch.cat([by_prototypes @ last, towards], dim=1)
        by_units = torch.ops.aten.threshold_backward(by_hidden, hidden, 0).flatten(0, 1)
        by_first = by_units.to(items.dtype).mT @ items.flatten(0, 1)
        return None, by_first.to(by_last.dtype), by_units.sum(0), by_last, None, None


def class_means(
    items: Float[Tensor, "batch support dim"], labels: Int[Tensor, "batch support"], n_way: int
) -> Float[Tensor, "batch way dim"]:
    """Return the mean of the items of each class, zero if it has none; a label of no class, such as -1, is padding.

    Rows are added up where they belong, in little more than half the time of a product with shares, which a processor
    starts for every few rows anew. Padding goes to a further class.
    """
    batch, _, dim = items.shape
    is_known = (labels >= 0) & (labels < n_way)
    first = (n_way + 1) * torch.arange(batch, device=labels.device).unsqueeze(1)
    at = (first + labels.where(is_known, n_way)).flatten()
    sums = items.new_zeros(batch * (n_way + 1), dim).index_add_(0, at, items.flatten(0, 1))
    counts = one_hot(labels, n_way).sum(1).clamp(min=1).to(items.dtype)
    return sums.view(batch, n_way + 1, dim)[:, :n_way] / counts.unsqueeze(-1)


def _by_way(
    prototypes: Float[Tensor, "batch way dim"],
    towards: Float[Tensor, "batch way below"],
    query: Float[Tensor, "batch query below"],
) -> Float[Tensor, "batch way query"]:
    return torch.baddbmm(prototypes.square().sum(-1, keepdim=True), towards, query.mT, beta=-1, alpha=2)


def fit_episodes(
    network: MetricNetwork, items: Sequence[Float[Tensor, "_ common"]], labels: Sequence[Int[Tensor, " _"]]
) -> None:
    """Descend the prototypical loss of episodes; those of a step are of one domain, with up to `MOST_WAYS` classes."""
    items = [part.to(storage_type(part)) for part in items]
    samplers = [EpisodeSampler(_labelled(part)) for part in labels]
    usable = [len(sampler.usable_classes(SHOT + 1)) for sampler in samplers]
    able = [number for number, classes in enumerate(usable) if classes > 1]

    def of_drawn(draw: torch.Generator) -> Float[Tensor, ""]:
        domain = able[int(torch.randint(len(able), (), generator=draw))]
        n_way = min(MOST_WAYS, usable[domain])
        episodes = samplers[domain].sample(EPISODES, n_way, SHOT, QUERY, draw)
        drawn = items[domain][torch.cat([episodes.support, episodes.query], dim=1)]
        return prototypical_loss(
            network, drawn, mean_shares(episodes.membership), one_hot(episodes.query_labels, n_way)
        )

    if able:
        descend(network, of_drawn)


def storage_type(items: Float[Tensor, "_ common"]) -> torch.dtype:
    """Return the type to store items in: bfloat16 where the processor multiplies it, which takes half the time."""
    is_native = items.device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if is_native else items.dtype


def _labelled(labels: Int[Tensor, " item"]) -> DomainData:
    """Return what a sampler needs to know of items: their labels."""
    classes, numbers = torch.unique(labels, return_inverse=True)
    names, is_there = tuple(map(str, classes.tolist())), torch.ones_like(labels, dtype=torch.bool).unsqueeze(1)
    return DomainData("items", (), {}, is_there, numbers, names, ("",) * len(labels))


protonet_head = partial(LearnedMetricHead, fit_episodes)
