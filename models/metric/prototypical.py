"""Prototypical networks: Snell et al., 2017, https://arxiv.org/abs/1703.05175.

Departures from the paper: distances are weighted sums over views, and the head is fine-tuned on the support.
Untrained, it is nearest centroid.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.heads import SupportMemory
from models.metric.fine_tuning import FineTuning
from models.nearest import NearestCentroid


class PrototypicalHead(nn.Module):
    """Score queries by their fused distance to each class prototype (eq. 1-2) and by a fine-tuned linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.fine_tuning = FineTuning()

    def forward(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], memory: SupportMemory | None = None
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        nearest = partial(self.nearest, weights=weights)
        logits: Tensor = self.fine_tuning(nearest(grams), nearest, *grams.fused(weights), grams, memory)
        return logits
