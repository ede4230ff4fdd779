"""What the learned space is used for: answers with abstention, clusters, anomalies."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from data_contracts.configs import ClusterMethod
from data_contracts.errors import EpisodeTooSmall

CLUSTER_SAMPLE = 2000
"""Silhouettes are measured on at most this many items."""

SMALLEST_GROUP = 5
"""Fewer items that lie close together are no group to HDBSCAN."""

Grouping = Callable[..., np.ndarray]
"""Called as `group(items, seed=seed)`; returns a number for each item, -1 for none."""


def abstention_threshold(probabilities: Float[Tensor, "item way"], accuracy: float) -> float:
    """Return the confidence below which to abstain so that the rest is expected to reach `accuracy`.

    Relies on calibrated probabilities: the expected accuracy of the answered items is their mean confidence. Items of
    equal confidence are answered together or not at all. Returns infinity if not even the surest reach it.
    """
    confidence, counts = torch.unique(probabilities.amax(-1).double(), return_counts=True)
    levels, counts = confidence.flip(0), counts.flip(0)
    expected = (levels * counts).cumsum(0) / counts.cumsum(0)
    answered = int((expected >= accuracy).sum())
    return float(levels[answered - 1]) if answered else float("inf")


@dataclass(frozen=True)
class Clusters:
    """A grouping of all items; -1 marks an item that is in no group."""

    numbers: Int[Tensor, " item"]
    silhouette: float
    """Mean over items in groups; 0 if there are fewer than two groups."""
    stability: float
    """Mean adjusted Rand index (Hubert and Arabie, 1985) between the grouping and new groupings of random halves."""


def cluster(
    embedding: Float[Tensor, "item dim"],
    *,
    method: ClusterMethod = "k_means",
    count: int | None = None,
    max_count: int = 30,
    seed: int = 0,
) -> Clusters:
    """Group items that have any view, by k-means or by density.

    K-means makes `count` groups, by default as many as have the best mean silhouette, and never more than there are
    different items. HDBSCAN (Campello, Moulavi and Sander, 2013, https://doi.org/10.1007/978-3-642-37456-2_14) finds
    the number of groups itself and leaves items out that are in no dense place; `count` plays no part in it, and its
    cost grows with the square of the number of items.

    Raises:
        EpisodeTooSmall: fewer than three items have a view.
    """
    is_known = embedding.square().sum(-1) > 0
    items = embedding[is_known].numpy()
    if len(items) < 3:
        raise EpisodeTooSmall(
            f"{len(items)} items with any view cannot be grouped; at least 3 are needed. Ingest more items.",
            items=len(items),
        )
    generator = np.random.default_rng(seed)
    sample = generator.permutation(len(items))[:CLUSTER_SAMPLE]
    group: Grouping = _hdbscan
    if method == "k_means":
        chosen = min(count, len(items) - 1) if count else _best_count(items[sample], max_count, seed)
        group = partial(_k_means, count=chosen)
    labels = group(items, seed=seed)
    numbers = torch.full((len(embedding),), -1)
    numbers[is_known] = torch.from_numpy(labels).long()
    return Clusters(numbers, _silhouette(items[sample], labels[sample]), _stability(items, labels, group, generator))


def _best_count(items: "np.ndarray", max_count: int, seed: int) -> int:
    highest = min(max_count, len(items) - 1)
    tried = sorted({min(highest, round(count)) for count in np.geomspace(2, highest, 8)})
    scores = {count: _silhouette(items, _k_means(items, seed=seed, count=count)) for count in tried}
    best: int = max(scores, key=lambda count: scores[count])
    return best


def _silhouette(items: "np.ndarray", labels: "np.ndarray") -> float:
    grouped = labels >= 0
    is_defined = 1 < len(np.unique(labels[grouped])) < grouped.sum()
    return float(silhouette_score(items[grouped], labels[grouped])) if is_defined else 0.0


def _stability(items: "np.ndarray", labels: "np.ndarray", group: Grouping, generator: np.random.Generator) -> float:
    agreements = []
    for number in range(4):
        half = generator.permutation(len(items))[: max(2, len(items) // 2)]
        agreements.append(adjusted_rand_score(labels[half], group(items[half], seed=number + 1)))
    return float(np.mean(agreements))


def _k_means(items: "np.ndarray", *, seed: int, count: int) -> "np.ndarray":
    different = len({item.tobytes() for item in items})
    labels: np.ndarray = KMeans(min(count, different), n_init=4, random_state=seed).fit(items).labels_
    return labels


def _hdbscan(items: "np.ndarray", *, seed: int) -> "np.ndarray":
    """Find groups of at least five items; nothing in it is random."""
    labels: np.ndarray = HDBSCAN(min_cluster_size=min(SMALLEST_GROUP, len(items)), copy=True).fit(items).labels_
    return labels


@dataclass(frozen=True)
class Anomalies:
    """How far items lie from the usual ones: mean distance to the nearest reference items, and the alarm threshold."""

    scores: Float[Tensor, " item"]
    threshold: float

    @property
    def flags(self) -> Bool[Tensor, " item"]:
        """Say which items raise an alarm."""
        return self.scores > self.threshold


def find_anomalies(
    embedding: Float[Tensor, "item dim"],
    reference: Float[Tensor, "reference dim"],
    *,
    false_alarm_rate: float,
    neighbours: int = 5,
) -> Anomalies:
    """Score items by their distance to the nearest items of a reference set.

    The threshold is the conformal quantile of the reference items' own scores, each measured without itself, so that an
    item from the same distribution raises an alarm with at most `false_alarm_rate` (Laxhammar and Falkman, 2010). An
    item that is itself in the reference set is not its own neighbour. Where the reference set is too small to bound the
    rate (fewer than `1 / false_alarm_rate - 1` items) the threshold is infinite: items have scores and raise no alarm.

    Raises:
        EpisodeTooSmall: the reference set has fewer than two items.
    """
    if len(reference) < 2:
        raise EpisodeTooSmall(
            f"{len(reference)} reference items have no neighbours to be compared with; at least 2 are needed. "
            "Ingest more items.",
            items=len(reference),
        )
    neighbours = min(neighbours, len(reference) - 1)
    index = NearestNeighbors().fit(reference.numpy())
    usual = index.kneighbors(n_neighbors=neighbours)[0].mean(1)
    rank = int(np.ceil((1 - false_alarm_rate) * (len(usual) + 1))) - 1
    threshold = float(np.sort(usual)[rank]) if rank < len(usual) else float("inf")
    distances = index.kneighbors(embedding.numpy(), n_neighbors=neighbours + 1)[0]
    is_reference = distances[:, :1] < 1e-6
    scores = np.where(is_reference[:, 0], distances[:, 1:].mean(1), distances[:, :-1].mean(1))
    return Anomalies(torch.from_numpy(scores).float(), threshold)
