"""Prototypical networks: Snell et al., 2017, https://arxiv.org/abs/1703.05175.

Departures from the paper: distances are weighted sums over views, and a linear head fine-tuned on the support (a
logistic regression, whose penalty is learned) is added to them with a strength that starts at zero and may depend on
the shot, as far as held-out items of the support let it. Untrained, the head is nearest centroid.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.episodes import one_hot
from models.grams import EpisodeGrams
from models.logistic import fit_logistic, held_out_logits
from models.nearest import NearestCentroid
from models.strength import ByShot

FINE_TUNING_STEPS = 50
LEAST_LOG, MOST_LOG = -3.0, 6.0
"""Bounds of the logarithm of scikit-learn's C."""

STOPS = (0.25, 0.5, 0.75, 1.0)
"""Parts of the way from no fine-tuning to all of it at which it may be stopped."""

DOUBT = 2.0
"""Standard errors by which held-out accuracy has to fall before fine-tuning is stopped."""


class PrototypicalHead(nn.Module):
    """Score queries by their fused distance to each class prototype (eq. 1-2) and by a fine-tuned linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.nearest = NearestCentroid()
        self.fine_tuning = ByShot()
        self.log_inverse_penalty = ByShot(start=math.log(10.0))

    def forward(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries."""
        gram, cross = grams.fused(weights)
        inverse_penalty = self.log_inverse_penalty(grams.shots).squeeze(-1).clamp(LEAST_LOG, MOST_LOG).exp()
        tuned = fit_logistic(gram, grams.membership, inverse_penalty, steps=FINE_TUNING_STEPS)
        strength = self.fine_tuning(grams.shots).unsqueeze(-1)
        with torch.no_grad():
            near = self.nearest.held_out(grams, weights)
            correction = strength * held_out_logits(gram, grams.membership, tuned, inverse_penalty)
            share = stop_early(near, correction, grams.membership)[:, None, None]
        has_view = grams.query_presence.any(1).unsqueeze(-1)
        logits: Tensor = self.nearest(grams, weights) + share * has_view * strength * tuned.logits(cross)
        return logits


def stop_early(
    before: Float[Tensor, "batch support way"],
    correction: Float[Tensor, "batch support way"],
    membership: Float[Tensor, "batch support way"],
) -> Float[Tensor, " batch"]:
    """Return the share of a correction that is added: the furthest stop where held-out items are not worse off."""
    share = before.new_zeros(len(before))
    for stop in STOPS:
        share = share.masked_fill(~is_worse(before + stop * correction, before, membership), stop)
    return share


def is_worse(
    after: Float[Tensor, "batch support way"],
    before: Float[Tensor, "batch support way"],
    membership: Float[Tensor, "batch support way"],
) -> Bool[Tensor, " batch"]:
    """Say whether the logits of held-out items got worse beyond doubt; items alone in their class have no say."""

    def is_right(logits: Float[Tensor, "batch support way"]) -> Float[Tensor, "batch support"]:
        return one_hot(logits.argmax(-1), logits.shape[-1]).mul(membership).sum(-1)

    has_peers = (membership * (membership.sum(1, keepdim=True) > 1)).sum(-1)
    count = has_peers.sum(-1).clamp(min=1)
    gain = has_peers * (is_right(after) - is_right(before))
    mean = gain.sum(-1) / count
    variance = (gain.square().sum(-1) / count - mean.square()).clamp(min=0)
    return mean + DOUBT * (variance / count).sqrt() < 0
