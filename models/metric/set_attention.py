"""Set attention: FEAT, Ye et al., 2020, https://arxiv.org/abs/1812.03664, in similarity space.

Prototypes are adapted to the task by attention over the support set: `p_k ← p_k + s (Σ_j a_kj x_j - p_k)` with `a` the
softmax over the support of an affinity (eq. 4-6). Departures from the paper: keys, queries and values are the items
themselves, and what each head learns is the sharpness of its similarities and how much it keeps to its own class, so
that any views and dimensions work and distances follow from Gram matrices. The strength `s` follows the shot and
starts at zero, which is nearest centroid.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.metric.known import where_known
from models.nearest import NearestCentroid, nearness
from models.strength import ByShot, within

HEADS = 4
MOST_LOG_SHARPNESS = 4.0
LARGEST_AFFINITY = 20.0


class SetAttentionHead(nn.Module):
    """Score queries by their distance to prototypes that have looked at the whole support."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.log_sharpness = nn.Parameter(torch.linspace(0.5, 2.5, HEADS))
        self.own_class = nn.Parameter(torch.linspace(-1.0, 1.0, HEADS))
        self.strengths = ByShot(HEADS)

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        gram, cross = grams.fused(weights)
        means = mean_shares(grams.membership)
        adapted = self.adapt(gram, means, grams)
        moved = mixture_distances(gram, cross, adapted) - mixture_distances(gram, cross, means)
        return self.nearest.scale(grams) * (nearness(grams, weights) - where_known(moved, grams))

    def adapt(
        self,
        gram: Float[Tensor, "batch support support"],
        means: Float[Tensor, "batch support way"],
        grams: EpisodeGrams,
    ) -> Float[Tensor, "batch support way"]:
        """Return prototypes as weights on support items, given those of the class means."""
        sharpness = within(self.log_sharpness, -math.inf, MOST_LOG_SHARPNESS).exp()[:, None, None]
        is_own = self.own_class[:, None, None] * grams.membership.unsqueeze(1)
        affinity = sharpness * (gram @ means).unsqueeze(1) + is_own
        affinity = LARGEST_AFFINITY * (affinity / LARGEST_AFFINITY).tanh()
        is_real = grams.is_real[:, None, :, None] > 0
        attention = affinity.masked_fill(~is_real, torch.finfo(affinity.dtype).min).softmax(2)
        offsets = (attention - means.unsqueeze(1)) * is_real
        strengths = within(self.strengths(grams.shots), -1.0, 1.0)
        return means + torch.einsum("bh,bhsw->bsw", strengths, offsets) / HEADS


def mixture_distances(
    gram: Float[Tensor, "batch support support"],
    cross: Float[Tensor, "batch query support"],
    mixtures: Float[Tensor, "batch support way"],
) -> Float[Tensor, "batch query way"]:
    """Return squared distances of queries to mixtures of support items, less the queries' own squared lengths."""
    lengths = (mixtures * (gram @ mixtures)).sum(1, keepdim=True)
    return lengths - 2 * cross @ mixtures
