"""Nearest centroid on fused views: where every learner starts (Snell et al., 2017, https://arxiv.org/abs/1703.05175)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams, distances_of, squared_distances
from models.strength import ByShot


class NearestCentroid(nn.Module):
    """Logits from the fused distance to each class prototype, with a temperature that follows the shot."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = ByShot(start=2.0)

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        return self.scale(grams) * nearness(grams, weights)

    def held_out(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch support way"]:
        """Return logits of the support, each item having no part in the prototype of its class."""
        return self.scale(grams) * held_out_nearness(grams, weights)

    def scale(self, grams: EpisodeGrams) -> Float[Tensor, "batch 1 1"]:
        """Return what distances are multiplied by."""
        scale: Tensor = self.log_temperature(grams.shots).exp().unsqueeze(-1)
        return scale


def nearness(grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
    """Return minus the weighted mean squared distance to each prototype, over the views a query has."""
    return _over_views(-squared_distances(grams), grams, weights)


def held_out_nearness(grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch support way"]:
    """Return the nearness of each support item to each class as it would be without the item."""
    own = support_as_queries(grams)
    return _over_views(-held_out_distances(grams) * own.query_presence.unsqueeze(-1), own, weights)


def held_out_distances(grams: EpisodeGrams) -> Float[Tensor, "batch view support way"]:
    """Return squared distances of support items to the prototypes that there would be without the item.

    Without it the mean `c` of the `n` items of its class would be `c + (c - x) / (n - 1)`.
    """
    members = grams.members
    others = members.sum(2, keepdim=True) - members
    share = mean_shares(members)
    products = grams.support @ share
    norms = (share * products).sum(2, keepdim=True)
    away = members / others.clamp(min=1)
    return distances_of(
        products + away * (products - 1),
        norms + 2 * away * (norms - products) + away.square() * (norms - 2 * products + 1),
        others > 0,
    )


def _over_views(
    values: Float[Tensor, "batch view query way"], grams: EpisodeGrams, weights: Float[Tensor, "batch view"]
) -> Float[Tensor, "batch query way"]:
    shares = weights.unsqueeze(-1) * grams.query_presence
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
    return torch.einsum("bvq,bvqw->bqw", shares, values)


def support_as_queries(grams: EpisodeGrams) -> EpisodeGrams:
    """Return the same episodes with the support in the place of the queries."""
    return replace(
        grams,
        cross=grams.support,
        query_presence=grams.support_presence,
        items=replace(grams.items, query=grams.items.support),
    )
