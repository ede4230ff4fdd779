"""Prototypical networks: Snell et al., 2017, https://arxiv.org/abs/1703.05175.

Departures from the paper: distances are weighted sums over views, and prototypes are fine-tuned by a few gradient steps
on the support, whose rate starts at zero and may depend on the shot. Untrained, the head is nearest centroid.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.nearest import NearestCentroid, support_as_queries
from models.strength import ByShot

FINE_TUNING_STEPS = 10


class PrototypicalHead(nn.Module):
    """Score queries by their fused distance to each class prototype (eq. 1-2), corrected by fine-tuning."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.fine_tuning = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        gram, cross = grams.fused(weights)
        start = self.nearest(support_as_queries(grams), weights)
        correction = self.fine_tune(gram, start, grams)
        logits: Tensor = self.nearest(grams, weights) + cross @ correction
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
        is_real = grams.is_real.unsqueeze(-1)
        stable = 2 / (1 + (is_real * (gram.abs() @ is_real)).amax(1, keepdim=True))
        rate = self.fine_tuning(grams.shots).unsqueeze(-1) * stable
        correction = torch.zeros_like(grams.membership)
        for _ in range(FINE_TUNING_STEPS):
            residual = grams.membership - is_real * (start + gram @ correction).softmax(-1)
            correction = correction + rate * residual
        return correction
