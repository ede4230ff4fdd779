"""Few-label fine-tuning of a metric on a new domain, as far as items that are left out speak for it.

What is tuned is a linear classifier in the space that the metric measures distances in: a logistic regression on the
support. It takes a share of the decision. The share is the probability that it is better than nearest centroid, given
how likely each of them makes items of the support that had no part in it, times a strength that is learned across
domains, may depend on the shot and starts at zero, which is nearest centroid. Where no class has two items, none can be
left out, and nothing is tuned.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.heads import SupportMemory
from models.logistic import DualWeights, fit_logistic
from models.nearest import support_as_queries
from models.strength import ByShot, within
from models.temperature import SCALES

STEPS = 50
INVERSE_PENALTY = 20.0
"""scikit-learn's C: about the largest that so few steps fit well."""

MOST_FOLDS = 10
"""Items of a class that are left out one at a time; of a class that has more, one in so many at a time."""

TIE_BREAK = 0.1
"""What likeness to the whole support counts beside that to an item's class."""

Answer = Callable[[EpisodeGrams], Float[Tensor, "batch query way"]]
"""Returns logits of the queries of episodes."""


class Tuning(NamedTuple):
    """What is tuned on a support, and what of it is used."""

    probability: Float[Tensor, " batch"]
    """That the classifier is better than nearest centroid."""
    unit: Float[Tensor, " batch"]
    """What brings its logits to the spread of those of nearest centroid."""
    classifier: DualWeights | None
    """None where nothing can be left out."""


class FineTuning(nn.Module):
    """Logistic regression on the support, which takes a share of the decision."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = ByShot()

    def forward(
        self,
        before: Float[Tensor, "batch query way"],
        nearest: Answer,
        gram: Float[Tensor, "batch support support"],
        cross: Float[Tensor, "batch query support"],
        grams: EpisodeGrams,
        memory: SupportMemory | None = None,
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries, about as far apart as those `before` fine-tuning.

        `nearest` answers for the support in the place of the queries, with what is left of the labels. `gram` and
        `cross` are the similarities, within the support and of queries to it, in the space of the metric. What
        left-out items say has no gradient. With a `memory`, which is of one support, the support is tuned on once.
        """
        memory = memory or SupportMemory()
        tuning: Tuning = memory.tuning or tune(nearest, gram, grams)
        memory.tuning = tuning
        share = tuning.probability.unsqueeze(-1) * within(self.strength(grams.shots), 0.0, 1.0)
        after = before
        if tuning.classifier is not None:
            has_view = grams.query_presence.any(1).unsqueeze(-1)
            after = has_view * tuning.unit[:, None, None] * tuning.classifier.logits(cross)
        logits: Tensor = torch.lerp(before, after, share.unsqueeze(-1))
        return logits


def tune(nearest: Answer, gram: Float[Tensor, "batch support support"], grams: EpisodeGrams) -> Tuning:
    """Fit the classifier to the support, and weigh it against nearest centroid by items that are left out."""
    with torch.no_grad():
        judged = that_can_be_left_out(grams)
        parts = folds(gram, judged)
        held_out = left_out(nearest, parts, grams)
        held_out_tuned = left_out_of_tuning(gram, parts, grams.membership)
        probability = probability_of_better(held_out_tuned, held_out, judged)
        unit = spread(held_out, judged) / spread(held_out_tuned, judged).clamp(min=1e-6)
    return Tuning(probability, unit, tuned(gram, grams.membership) if parts.shape[1] > 0 else None)


def that_can_be_left_out(grams: EpisodeGrams) -> Float[Tensor, "batch support way"]:
    """Return the membership of items that have a view and are not alone in their class; the rest are of none."""
    membership = grams.members.amax(1)
    return membership * (membership.sum(1, keepdim=True) > 1)


def folds(
    gram: Float[Tensor, "batch support support"], judged: Float[Tensor, "batch support way"]
) -> Bool[Tensor, "batch part support 1"]:
    """Say which items are left out in each part: the least central of every class, then the next, and so on.

    So the order of the support makes no difference, unless items are alike in all their similarities.
    """
    scale = gram.abs().amax((1, 2), keepdim=True).clamp(min=1)
    similarity = (gram / scale).exp()  # of equal sums of similarities few have equal sums of exponentials
    to_class = (similarity @ mean_shares(judged) * judged).sum(-1)
    to_all = (similarity @ mean_shares(judged.sum(-1, keepdim=True))).squeeze(-1)
    order = (to_class + TIE_BREAK * to_all).argsort(dim=-1, stable=True)
    ranked = judged.gather(1, order.unsqueeze(-1).expand_as(judged))
    rank = ((ranked.cumsum(1) - 1) * ranked).sum(-1)
    fold = torch.empty_like(rank).scatter_(1, order, rank % MOST_FOLDS)
    is_judged = judged.any(-1)
    numbers = torch.unique(fold[is_judged]).unsqueeze(-1)
    is_out: Tensor = (fold.unsqueeze(1) == numbers) & is_judged.unsqueeze(1)
    return is_out.unsqueeze(-1)


def left_out(
    answer: Answer, parts: Bool[Tensor, "batch part support 1"], grams: EpisodeGrams
) -> Float[Tensor, "batch support way"]:
    """Return the logits that an answer gives the items of each part when it is left out; zeros for items of none."""
    support = support_as_queries(grams)
    logits = torch.zeros_like(grams.membership)
    for is_out in parts.unbind(1):
        rest = replace(support, membership=grams.membership * ~is_out)
        logits = torch.where(is_out, answer(rest), logits)
    return logits


def left_out_of_tuning(
    gram: Float[Tensor, "batch support support"],
    parts: Bool[Tensor, "batch part support 1"],
    membership: Float[Tensor, "batch support way"],
) -> Float[Tensor, "batch support way"]:
    """Return the logits that logistic regression gives the items of each part when fitted without them.

    Items of no part get zeros. All parts are fitted at once, which takes the memory of at most `MOST_FOLDS` fits.
    """
    if parts.shape[1] == 0:
        return torch.zeros_like(membership)
    return (parts * tuned(gram, membership.unsqueeze(1) * ~parts).logits(gram)).sum(1)


def tuned(
    gram: Float[Tensor, "batch support support"], membership: Float[Tensor, "batch *set support way"]
) -> DualWeights:
    """Return the classifier that is tuned on a support."""
    return fit_logistic(gram, membership, INVERSE_PENALTY, steps=STEPS)


def probability_of_better(
    after: Float[Tensor, "batch support way"],
    before: Float[Tensor, "batch support way"],
    judged: Float[Tensor, "batch support way"],
) -> Float[Tensor, " batch"]:
    """Return the probability that what gave held-out items the logits `after` is better than what gave `before`.

    It is that of Bayes' rule from even odds, and zero where no item is judged.
    """
    evidence = log_evidence(after, judged) - log_evidence(before, judged)
    return evidence.sigmoid() * judged.any(-1).any(-1)


def log_evidence(
    logits: Float[Tensor, "batch support way"], judged: Float[Tensor, "batch support way"]
) -> Float[Tensor, " batch"]:
    """Return the logarithm of the probability of the judged items' classes, each of `SCALES` being equally likely."""
    each = torch.stack([(judged * (scale * logits).log_softmax(-1)).sum((1, 2)) for scale in SCALES])
    return each.logsumexp(0) - math.log(len(SCALES))


def spread(
    logits: Float[Tensor, "batch support way"], judged: Float[Tensor, "batch support way"]
) -> Float[Tensor, " batch"]:
    """Return the root mean square of the judged items' logits about the mean over the classes."""
    squares = (logits - logits.mean(-1, keepdim=True)).square().mean(-1)
    is_judged = judged.sum(-1)
    return ((is_judged * squares).sum(-1) / is_judged.sum(-1).clamp(min=1)).sqrt()
