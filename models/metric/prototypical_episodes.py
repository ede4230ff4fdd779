"""Prototypical episodes among embeddings, and as a loss of a network: Snell et al., 2017, eq. 1-2.

The paper's logits are minus squared distances to the prototypes `c`. What all classes of a query share cancels in the
softmax, so they are computed as `2 q·c - ‖c‖²`. With a network whose last layer `W h + b` is linear, `c` is `W` times
the mean of the `h` of its class and `q·c` is `h·Wᵀc`: queries never pass that layer, and `b` moves nothing.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.metric.network import MetricNetwork


def prototype_logits(
    support: Float[Tensor, "batch support dim"],
    query: Float[Tensor, "batch query dim"],
    membership: Float[Tensor, "batch support way"],
) -> Float[Tensor, "batch query way"]:
    """Return minus the squared distance of queries to each prototype, plus a number that all classes share."""
    prototypes = class_means(support, membership)
    return _by_way(prototypes, 2 * prototypes, query).mT


def prototypical_loss(
    network: MetricNetwork,
    items: Float[Tensor, "batch item dim"],
    membership: Float[Tensor, "batch support way"],
    query_labels: Int[Tensor, "batch query"],
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the queries, from items with the support before the queries; -1 is padding."""
    below = network.hidden(items).relu()
    support, query = below.split([membership.shape[1], query_labels.shape[1]], dim=1)
    prototypes = class_means(support, membership) @ network.out.weight.mT
    logits = _by_way(prototypes, 2 * prototypes @ network.out.weight, query)
    return cross_entropy(logits, query_labels, ignore_index=-1)


def class_means(
    items: Float[Tensor, "batch support dim"], membership: Float[Tensor, "batch support way"]
) -> Float[Tensor, "batch way dim"]:
    """Return the mean of the items of each class; zero if it has none."""
    share = membership / membership.sum(1, keepdim=True).clamp(min=1)
    return share.mT @ items


def _by_way(
    prototypes: Float[Tensor, "batch way dim"],
    twice_towards: Float[Tensor, "batch way below"],
    query: Float[Tensor, "batch query below"],
) -> Float[Tensor, "batch way query"]:
    lengths = prototypes.square().sum(-1, keepdim=True)
    return torch.baddbmm(lengths, twice_towards, query.mT, beta=-1)
