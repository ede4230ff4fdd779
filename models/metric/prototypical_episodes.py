"""A metric network trained by prototypical episodes: Snell et al., 2017, https://arxiv.org/abs/1703.05175, eq. 1-2.

It is the network that the triplet or the contrastive loss trains as well, with the same departures (`network.py`).

The paper's logits are minus squared distances to the prototypes `c`. What all classes of a query share cancels in the
softmax, so they are computed as `2 q·c - ‖c‖²`. With a network whose last layer `W h + b` is linear, `c` is `W` times
the mean of the `h` of its class and `q·c` is `h·Wᵀc`: queries never pass that layer, and `b` moves nothing.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.episodes import EpisodeSampler, mean_shares, one_hot
from models.features import DomainData
from models.metric.network import LearnedMetricHead, MetricNetwork, descend

MOST_WAYS = 20
"""More than are asked for later, which made the paper's networks better (section 2.7)."""

SHOT, QUERY, EPISODES = 1, 3, 4


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
    return mean_shares(membership).mT @ items


def _by_way(
    prototypes: Float[Tensor, "batch way dim"],
    twice_towards: Float[Tensor, "batch way below"],
    query: Float[Tensor, "batch query below"],
) -> Float[Tensor, "batch way query"]:
    lengths = prototypes.square().sum(-1, keepdim=True)
    return torch.baddbmm(lengths, twice_towards, query.mT, beta=-1)


def fit_episodes(
    network: MetricNetwork, items: Sequence[Float[Tensor, "_ common"]], labels: Sequence[Int[Tensor, " _"]]
) -> None:
    """Descend the prototypical loss of episodes; those of a step are of one domain, with up to `MOST_WAYS` classes."""
    samplers = [EpisodeSampler(_labelled(part)) for part in labels]
    usable = [len(sampler.usable_classes(SHOT + 1)) for sampler in samplers]
    able = [number for number, classes in enumerate(usable) if classes > 1]

    def of_drawn(draw: torch.Generator) -> Float[Tensor, ""]:
        domain = able[int(torch.randint(len(able), (), generator=draw))]
        n_way = min(MOST_WAYS, usable[domain])
        episodes = samplers[domain].sample(EPISODES, n_way, SHOT, QUERY, draw)
        drawn = items[domain][torch.cat([episodes.support, episodes.query], dim=1)]
        return prototypical_loss(network, drawn, one_hot(episodes.support_labels, n_way), episodes.query_labels)

    if able:
        descend(network, of_drawn)


def _labelled(labels: Int[Tensor, " item"]) -> DomainData:
    """Return what a sampler needs to know of items: their labels."""
    classes, numbers = torch.unique(labels, return_inverse=True)
    names, is_there = tuple(map(str, classes.tolist())), torch.ones_like(labels, dtype=torch.bool).unsqueeze(1)
    return DomainData("items", (), {}, is_there, numbers, names, ("",) * len(labels))


protonet_head = partial(LearnedMetricHead, fit_episodes)
