"""What of a trained head is used: as much as pays on classes that no weight was trained on.

The outer loop trains everything together, so a state that is better than the untrained one may still hold a head that
is worse than none: what networks learn of the training classes need not be so of others. So a part that has to pay is
dropped unless it does, and then all strengths go back part of the way to where they began: at the least and the
greatest shot to the largest share of it that is as good as the best, give or take one standard error of the difference
(after Breiman et al., 1984, Classification and Regression Trees, section 3.4.3). The end of that way is nearest
centroid, on items as they were learned to be placed and weighed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.heads import ContestedHead
from models.metrics import accuracy_per_episode, estimate
from models.strength import ByShot

SHARES = (1.0, 0.7, 0.5, 0.35, 0.2, 0.1, 0.0)
"""Of the way from where strengths began to where training left them, the largest first."""


class Asked(NamedTuple):
    """Episodes as a head is asked about them; to settle it, of one shot."""

    grams: EpisodeGrams
    weights: Float[Tensor, "batch view"]
    labels: Int[Tensor, "batch query"]


@torch.no_grad()
def drop_unless_it_pays(head: nn.Module, episodes: Iterable[Asked]) -> None:
    """Drop the part that a head has in contest, if any, unless it gains accuracy, beyond chance."""
    if not isinstance(head, ContestedHead):
        return
    gains = [
        accuracy_per_episode(head(grams, weights), labels) - accuracy_per_episode(head.plain(grams, weights), labels)
        for grams, weights, labels in episodes
    ]
    gain = estimate(torch.cat(gains))
    if gain.mean <= gain.ci95:
        head.drop()


@torch.no_grad()
def settle_strengths(head: nn.Module, episodes: Iterable[Asked]) -> dict[float, float]:
    """Have the strengths of a head used as far as they pay; returns the share at the least and the greatest shot."""
    accuracies: dict[float, dict[float, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for grams, weights, labels in episodes:
        shot = grams.shots.mean().item()
        for share in SHARES:
            keep(head, {shot: share})
            accuracies[shot][share].append(accuracy_per_episode(head(grams, weights), labels))
    shares = {shot: largest_as_good(accuracies[shot]) for shot in (min(accuracies), max(accuracies))}
    keep(head, shares)
    return shares


def keep(head: nn.Module, shares: Mapping[float, float]) -> None:
    """Use these shares, by shot, of every strength of a head."""
    for module in head.modules():
        if isinstance(module, ByShot):
            module.keep(shares)


def largest_as_good(accuracies: Mapping[float, Sequence[Float[Tensor, " episode"]]]) -> float:
    """Return the first share whose accuracy, episode by episode, is within one standard error of the best share's."""
    found = {share: torch.cat(list(parts)) for share, parts in accuracies.items()}
    best = max(found.values(), key=lambda accuracy: accuracy.mean().item())
    lost = {share: estimate(best - accuracy) for share, accuracy in found.items()}
    return next(share for share, loss in lost.items() if loss.mean <= loss.standard_error)
