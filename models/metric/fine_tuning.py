"""Few-label fine-tuning of a metric on a new domain, as far as items that are left out speak for it.

What is tuned is a linear classifier in the space that the metric measures distances in: a logistic regression on the
support. It takes a share of the decision. The share is the probability that it is better than nearest centroid, given
how likely each of them makes items of the support that had no part in it, times a strength that is learned across
domains, may depend on the shot and starts at zero, which is nearest centroid. Where no class has two items, none can be
left out, and nothing is tuned.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.episodes import mean_shares
from models.grams import EpisodeGrams
from models.logistic import fit_logistic
from models.nearest import support_as_queries
from models.strength import ByShot, within
from models.temperature import SCALES

STEPS = 50
INVERSE_PENALTY = 20.0
"""scikit-learn's C: about the largest that so few steps fit to the end. Where it was learned it ended there but for
domains of which some lose by fine-tuning, and what was learned from them cost accuracy on others."""

MOST_FOLDS = 10
"""Of each class one item is left out at a time; of a class larger than this, one in so many."""

TIE_BREAK = 0.1
"""What likeness to the whole support counts beside that to an item's class."""

Answer = Callable[[EpisodeGrams], Float[Tensor, "batch query way"]]
"""Returns logits of the queries of episodes."""


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
    ) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries, about as far apart as those `before` fine-tuning.

        `nearest` answers for the support in the place of the queries. `gram` and `cross` are the similarities, within
        the support and of queries to it, in the space of the metric.
        """

        def tuned(support: EpisodeGrams) -> Float[Tensor, "batch support way"]:
            return fit_logistic(gram, support.membership, INVERSE_PENALTY, steps=STEPS).logits(gram)

        with torch.no_grad():
            held_out, held_out_tuned = (left_out(answer, gram, grams) for answer in (nearest, tuned))
            probability = probability_of_better(held_out_tuned, held_out, grams.membership)
            unit = spread(held_out, grams.membership) / spread(held_out_tuned, grams.membership).clamp(min=1e-6)
        share = probability.unsqueeze(-1) * within(self.strength(grams.shots), 0.0, 1.0)
        classifier = fit_logistic(gram, grams.membership, INVERSE_PENALTY, steps=STEPS).logits(cross)
        has_view = grams.query_presence.any(1).unsqueeze(-1)
        logits: Tensor = torch.lerp(before, has_view * unit[:, None, None] * classifier, share.unsqueeze(-1))
        return logits


def left_out(
    answer: Answer, gram: Float[Tensor, "batch support support"], grams: EpisodeGrams
) -> Float[Tensor, "batch support way"]:
    """Return logits of support items that had no part in them; zeros for items that are alone in their class.

    One item of every class is left out at a time, so that no class is short of items beside the others.
    """
    support = support_as_queries(grams)
    logits = torch.zeros_like(grams.membership)
    for is_out in folds(gram, grams.membership):
        rest = replace(support, membership=grams.membership * ~is_out)
        logits = torch.where(is_out, answer(rest), logits)
    return logits


def folds(
    gram: Float[Tensor, "batch support support"], membership: Float[Tensor, "batch support way"]
) -> Iterator[Bool[Tensor, "batch support 1"]]:
    """Yield which items to leave out: of every class that has others, the most central one, then the next, and so on.

    So it makes no difference how the support is ordered.
    """
    similarity = gram.exp()
    to_class = (similarity @ mean_shares(membership) * membership).sum(-1)
    to_all = (similarity @ mean_shares(membership.sum(-1, keepdim=True))).squeeze(-1)
    order = (to_class + TIE_BREAK * to_all).argsort(dim=-1, stable=True)
    ranked = membership.gather(1, order.unsqueeze(-1).expand_as(membership))
    rank = ((ranked.cumsum(1) - 1) * ranked).sum(-1)
    fold = torch.empty_like(rank).scatter_(1, order, rank % MOST_FOLDS)
    fold = torch.where(has_peers(membership) > 0, fold, -1)
    for number in range(int(fold.max()) + 1):
        yield (fold == number).unsqueeze(-1)


def probability_of_better(
    after: Float[Tensor, "batch support way"],
    before: Float[Tensor, "batch support way"],
    membership: Float[Tensor, "batch support way"],
) -> Float[Tensor, " batch"]:
    """Return the probability that what gave held-out items the logits `after` is better than what gave `before`.

    It is that of Bayes' rule from even odds, and zero where no item can be held out.
    """
    evidence = log_evidence(after, membership) - log_evidence(before, membership)
    return evidence.sigmoid() * has_peers(membership).amax(-1)


def log_evidence(
    logits: Float[Tensor, "batch support way"], membership: Float[Tensor, "batch support way"]
) -> Float[Tensor, " batch"]:
    """Return the logarithm of the probability of the held-out items' classes, each of `SCALES` being equally likely.

    Items alone in their class have no say.
    """
    own = has_peers(membership).unsqueeze(-1) * membership
    each = torch.stack([(own * (scale * logits).log_softmax(-1)).sum((1, 2)) for scale in SCALES])
    return each.logsumexp(0) - math.log(len(SCALES))


def spread(
    logits: Float[Tensor, "batch support way"], membership: Float[Tensor, "batch support way"]
) -> Float[Tensor, " batch"]:
    """Return the root mean square of held-out items' logits about the mean over the classes."""
    about_mean = logits - logits.mean(-1, keepdim=True)
    squares = has_peers(membership) * about_mean.square().mean(-1)
    return (squares.sum(-1) / has_peers(membership).sum(-1).clamp(min=1)).sqrt()


def has_peers(membership: Float[Tensor, "batch support way"]) -> Float[Tensor, "batch support"]:
    """Return 1 for support items whose class has others, 0 for the rest and for padding."""
    return (membership * (membership.sum(1, keepdim=True) > 1)).sum(-1)
