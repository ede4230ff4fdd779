"""Few-label fine-tuning of a metric on a new domain, stopped early by leave-one-out.

What is tuned is a linear classifier in the space that the metric measures distances in: a logistic regression on the
support, whose penalty and strength are learned across domains and may depend on the shot. It starts at no strength, so
an untrained learner is nearest centroid. In each episode it is added to nearest centroid as far as held-out items of
the support are not worse off; where they are better off with it alone, nearest centroid gives way by its strength.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.episodes import one_hot
from models.grams import EpisodeGrams
from models.logistic import fit_logistic, held_out_logits
from models.strength import ByShot
from models.temperature import SCALES

STEPS = 50
LEAST_LOG, MOST_LOG = -3.0, 3.0
"""Bounds of the logarithm of scikit-learn's C. Above, so few steps do not end where held-out logits are known."""

STOPS = (0.25, 0.5, 0.75, 1.0)
"""Parts of the way from no fine-tuning to all of it at which it may be stopped."""

DOUBT = 2.0
"""Standard errors by which held-out accuracy has to fall before fine-tuning is stopped."""


class FineTuning(nn.Module):
    """Logistic regression on the support, added to the logits of nearest centroid or put in their place."""

    def __init__(self, *, may_replace: bool = True) -> None:
        """Build one; `may_replace` says that nearest centroid gives way where held-out items speak for it."""
        super().__init__()
        self.may_replace = may_replace
        self.strength = ByShot()
        self.log_inverse_penalty = ByShot(start=math.log(10.0))

    def forward(
        self,
        nearest: Float[Tensor, "batch query way"],
        held_out: Float[Tensor, "batch support way"],
        gram: Float[Tensor, "batch support support"],
        cross: Float[Tensor, "batch query support"],
        grams: EpisodeGrams,
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries, given those of nearest centroid and of support items that it was built without.

        `gram` and `cross` are the similarities, within the support and of queries to it, in the space of the metric.
        No gradient says how far nearest centroid gives way: where training saw that too, it kept strengths so small
        that nearest centroid hardly ever did.
        """
        inverse_penalty = self.log_inverse_penalty(grams.shots).squeeze(-1).clamp(LEAST_LOG, MOST_LOG).exp()
        tuned = fit_logistic(gram, grams.membership, inverse_penalty, steps=STEPS)
        strength = self.strength(grams.shots).unsqueeze(-1)
        with torch.no_grad():
            correction = strength * held_out_logits(gram, grams.membership, tuned, inverse_penalty)
            share = stop_early(held_out, correction, grams.membership)[:, None, None]
            gives_way = (share == 1) & stands_alone(held_out, correction, grams.membership)[:, None, None]
            gives_way = gives_way & self.may_replace
            kept = 1 - gives_way * strength.clamp(0, 1)
        has_view = grams.query_presence.any(1).unsqueeze(-1)
        logits: Tensor = kept * nearest + share * has_view * strength * tuned.logits(cross)
        return logits


def stop_early(
    before: Float[Tensor, "batch support way"],
    correction: Float[Tensor, "batch support way"],
    membership: Float[Tensor, "batch support way"],
) -> Float[Tensor, " batch"]:
    """Return the share of a correction that is added: the furthest stop where held-out items are not worse."""
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

    has_say = has_peers(membership)
    count = has_say.sum(-1).clamp(min=1)
    gain = has_say * (is_right(after) - is_right(before))
    mean = gain.sum(-1) / count
    variance = (gain.square().sum(-1) / count - mean.square()).clamp(min=0)
    return mean + DOUBT * (variance / count).sqrt() < 0


def stands_alone(
    before: Float[Tensor, "batch support way"],
    correction: Float[Tensor, "batch support way"],
    membership: Float[Tensor, "batch support way"],
) -> Bool[Tensor, " batch"]:
    """Say whether a correction alone is better for held-out items than with what it corrects.

    That is: it makes them likelier, and likelier than chance, and they are not worse than before.
    """
    alone, both, chance = (
        likelihood(logits, membership) for logits in (correction, before + correction, torch.zeros_like(before))
    )
    return (alone > both) & (alone > chance) & ~is_worse(correction, before, membership)


def likelihood(
    logits: Float[Tensor, "batch support way"], membership: Float[Tensor, "batch support way"]
) -> Float[Tensor, " batch"]:
    """Return the log-likelihood of held-out items, in nats, at that of `SCALES` which makes it most.

    Items alone in their class have no say.
    """
    own = has_peers(membership).unsqueeze(-1) * membership
    return torch.stack([(own * (scale * logits).log_softmax(-1)).sum((1, 2)) for scale in SCALES]).amax(0)


def has_peers(membership: Float[Tensor, "batch support way"]) -> Float[Tensor, "batch support"]:
    """Return 1 for support items whose class has others, 0 for the rest and for padding."""
    return (membership * (membership.sum(1, keepdim=True) > 1)).sum(-1)
