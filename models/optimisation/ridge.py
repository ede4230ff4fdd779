"""Ridge regression as the inner loop: R2D2, Bertinetto et al., 2019, https://arxiv.org/abs/1805.08136.

The inner problem is solved in closed form on the support, the outer loop learns its penalty through the solution:

    W(λ) = argmin_W ‖X W − Y‖² + λ ‖W‖² = Xᵀ (X Xᵀ + λ I)⁻¹ Y        (eq. 5-6)

Only `K = X Xᵀ` is needed, so the cost depends on the number of support items and views enter as a sum of Gram matrices.

Departures from the paper: the features are frozen. Ridge scores are added to nearest centroid with a strength that
starts at zero and, like the penalty, follows the shot. Targets are centred instead of a column of ones being
appended to `X`: items are centred by their domain, and one that has no view must favour no class.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.strength import ByShot, within

LEAST_LOG_PENALTY = -6.0
"""Below this the Gram matrix of similar items cannot be inverted in single precision."""


class RidgeHead(nn.Module):
    """Add to the nearness of each class its score by ridge regression on the support's one-hot labels."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.log_penalty = ByShot()
        self.strength = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries; the strength is relative to the temperature of nearest centroid."""
        gram, cross = grams.fused(weights)
        scores = cross @ self.solve(gram, grams)
        logits: Tensor = self.nearest(grams, weights) + self._scale(grams) * scores
        return logits

    def solve(
        self, gram: Float[Tensor, "batch support support"], grams: EpisodeGrams
    ) -> Float[Tensor, "batch support way"]:
        """Return the solution as weights on support items; those of padding are zero."""
        is_real = grams.is_real.unsqueeze(-1)
        frequency = grams.membership.sum(1, keepdim=True) / is_real.sum(1, keepdim=True).clamp(min=1)
        targets = grams.membership - is_real * frequency
        penalty = within(self.log_penalty(grams.shots), LEAST_LOG_PENALTY, math.inf).exp()
        ridge = is_real * gram * is_real.mT + torch.diag_embed(penalty.expand_as(grams.is_real))
        return torch.cholesky_solve(targets, torch.linalg.cholesky(ridge))

    def _scale(self, grams: EpisodeGrams) -> Float[Tensor, "batch 1 1"]:
        scale: Tensor = self.nearest.scale(grams) * self.strength(grams.shots).unsqueeze(-1)
        return scale
