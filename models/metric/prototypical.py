"""Prototypical networks: Snell et al., 2017, https://arxiv.org/abs/1703.05175.

Departures from the paper: distances are weighted sums over views, and prototypes are fine-tuned by a few gradient steps
on the support, whose rate starts at zero and may depend on the shot. Untrained, the head is nearest centroid.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.grams import EpisodeGrams, squared_distances
from models.strength import ByShot

FINE_TUNING_STEPS = 10


class PrototypicalHead(nn.Module):
    """Score queries by their fused distance to each class prototype (eq. 1-2), corrected by fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = ByShot(start=2.0)
        self.fine_tuning = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        scale = self.log_temperature(grams.shots).exp().unsqueeze(-1)
        gram, cross = grams.fused(weights)
        start = scale * nearness(support_as_queries(grams), weights)
        correction = self.fine_tune(gram, start, grams)
        logits: Tensor = scale * nearness(grams, weights) + cross @ correction
        return logits

    def fine_tune(
        self,
        gram: Float[Tensor, "batch support support"],
        start: Float[Tensor, "batch support way"],
        grams: EpisodeGrams,
    ) -> Float[Tensor, "batch support way"]:
        """Descend the support's cross-entropy from the logits `start`; returns the steps as weights on support items.

        The learned rate is relative to the largest stable one, which the row sums of the Gram matrix bound.
        """
        is_real = grams.membership.sum(-1, keepdim=True)  # 0 for padding
        stable = 2 / (1 + (is_real * (gram.abs() @ is_real)).amax(1, keepdim=True))
        rate = self.fine_tuning(grams.shots).unsqueeze(-1) * stable
        correction = torch.zeros_like(grams.membership)
        for _ in range(FINE_TUNING_STEPS):
            residual = grams.membership - is_real * (start + gram @ correction).softmax(-1)
            correction = correction + rate * residual
        return correction


def nearness(grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
    """Return minus the weighted mean squared distance to each prototype, over the views a query has."""
    shares = weights.unsqueeze(-1) * grams.query_presence
    shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-6)
    return -torch.einsum("bvq,bvqw->bqw", shares, squared_distances(grams))


def support_as_queries(grams: EpisodeGrams) -> EpisodeGrams:
    """Return the same episodes with the support in the place of the queries."""
    return replace(grams, cross=grams.support, query_presence=grams.support_presence)
