"""Class covariances: Simple CNAPS, Bateni et al., 2020, https://arxiv.org/abs/1912.03432.

A class is a mean and a covariance `Q_k = s (λ_k S_k + (1 - λ_k) S) + I`, where `S_k` is the covariance of the class's
support, `S` that of the whole support and `λ_k = n_k / (n_k + 1)`; the logit is minus the squared distance under Q_k⁻¹.

Departures from the paper: the embedding is frozen; the strength `s` is learned, may depend on the shot and starts at
zero, which is nearest centroid; and no covariance is ever built, because everything is a function of similarities.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams, query_blocks
from models.nearest import NearestCentroid, nearness
from models.strength import ByShot, within

SCATTER_UNIT = 10.0
"""Covariances of unit-norm items are small: a strength of one multiplies them by this."""
NUMBERS_AT_ONCE = 2**22
"""Queries of large domains are answered in blocks of this many offsets from a mean, one for each support item."""


class MahalanobisHead(nn.Module):
    """Score queries by their distance to each class under that class's covariance."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.scatter = ByShot()

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        strength = SCATTER_UNIT * within(self.scatter(grams.shots), 0.0, math.inf)
        shortening = scatter_shortening(grams, weights, strength)
        return self.nearest.scale(grams) * (nearness(grams, weights) + shortening)


def scatter_shortening(
    grams: EpisodeGrams, weights: Float[Tensor, "batch view"], strength: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch query way"]:
    """Return how much nearer each query is under `Q_k⁻¹` than in squared Euclidean distance; never negative.

    With support X, its Gram matrix K, `v = X (x - μ_k)` and `Xᵀ M X` the scatter times the strength, Woodbury's
    identity gives `(x - μ_k)ᵀ Q_k⁻¹ (x - μ_k) = ‖x - μ_k‖² - vᵀ (I + M K)⁻¹ M v`. An item without any view gets zero.
    """
    gram, cross = grams.fused(weights)
    counts = grams.membership.sum(1)
    means = mean_shares(grams.membership)
    own = (counts / (counts + 1))[:, :, None, None]
    centring = own * covariance(grams.membership.mT) + (1 - own) * covariance(grams.is_real).unsqueeze(1)
    centring = strength[:, :, None, None] * centring  # [batch, way, support, support]
    middle = torch.linalg.solve(torch.eye(gram.shape[-1]).to(gram) + centring @ gram.unsqueeze(1), centring)
    of_means = (gram @ means).mT.unsqueeze(2)

    def of_block(asked: Float[Tensor, "batch block support"]) -> Float[Tensor, "batch way block"]:
        offsets = asked.unsqueeze(1) - of_means  # [batch, way, block, support]
        shortening: Tensor = ((offsets @ middle) * offsets).sum(-1)
        return shortening

    blocks = query_blocks(cross, grams.membership.numel(), NUMBERS_AT_ONCE)
    return torch.cat([of_block(asked) for asked in blocks], dim=2).mT * grams.query_presence.any(1).unsqueeze(-1)


def covariance(members: Float[Tensor, "*batch support"]) -> Float[Tensor, "*batch support support"]:
    """Return M such that `Xᵀ M X` is the covariance of the members among the rows of X; zero for a single one."""
    counts = members.sum(-1)[..., None, None]
    centring = torch.diag_embed(members) - members.unsqueeze(-1) * members.unsqueeze(-2) / counts.clamp(min=1)
    return centring / (counts - 1).clamp(min=1)
