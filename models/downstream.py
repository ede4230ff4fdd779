"""What the learned space is used for: answers with abstention, clusters, anomalies."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from data_contracts.errors import EpisodeTooSmall

CLUSTER_SAMPLE = 2000
"""Silhouettes and stability are measured on at most this many items."""


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
    """A grouping of all items; -1 marks an item that has no view at all."""

    numbers: Int[Tensor, " item"]
    silhouette: float
    stability: float
    """Mean adjusted Rand index between the grouping and groupings of random halves (Hubert and Arabie, 1985)."""


def cluster(
    embedding: Float[Tensor, "item dim"], *, count: int | None = None, max_count: int = 30, seed: int = 0
) -> Clusters:
    """Group items by k-means; `count` None picks the number with the best mean silhouette.

    There are never more groups than different items.

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
    count = min(count, len(items) - 1) if count else _best_count(items[sample], max_count, seed)
    grouping = _k_means(items, count, seed)
    numbers = torch.full((len(embedding),), -1)
    numbers[is_known] = torch.from_numpy(grouping.labels_).long()
    silhouette = _silhouette(items[sample], grouping.labels_[sample])
    return Clusters(numbers, silhouette, _stability(items, grouping.labels_, count, generator))


def _best_count(items: "np.ndarray", max_count: int, seed: int) -> int:
    highest = min(max_count, len(items) - 1)
    tried = sorted({min(highest, round(count)) for count in np.geomspace(2, highest, 8)})
    scores = {count: _silhouette(items, _k_means(items, count, seed).labels_) for count in tried}
    best: int = max(scores, key=lambda count: scores[count])
    return best


def _silhouette(items: "np.ndarray", labels: "np.ndarray") -> float:
    return float(silhouette_score(items, labels)) if len(np.unique(labels)) > 1 else 0.0


def _stability(items: "np.ndarray", labels: "np.ndarray", count: int, generator: np.random.Generator) -> float:
    agreements = []
    for number in range(4):
        half = generator.permutation(len(items))[: max(count, len(items) // 2)]
        again = _k_means(items[half], count, number + 1).predict(items)
        agreements.append(adjusted_rand_score(labels, again))
    return float(np.mean(agreements))


def _k_means(items: "np.ndarray", count: int, seed: int) -> KMeans:
    different = len({item.tobytes() for item in items})
    return KMeans(min(count, different), n_init=4, random_state=seed).fit(items)


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
