"""Losses of metric learning, from the distances between labelled items; a label of -1 marks padding.

Triplet: Schroff et al., 2015, https://arxiv.org/abs/1503.03832, eq. 1, but on Euclidean distances that are not squared,
of embeddings that are not normalised, and over all triplets, those without loss included.
Contrastive: Hadsell et al., 2006, eq. 4, with the classes the other way round: y = 1 where they are the same.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

ROUNDING = 1e-6
"""Squared distances of items of unit length that are below this are rounding."""


def triplet_loss(
    distances: Float[Tensor, "*batch item item"], labels: Int[Tensor, "*batch item"], margin: float
) -> Float[Tensor, ""]:
    """Return the mean of `max(d(a, p) - d(a, n) + margin, 0)` over all triplets of a batch; 0 if there are none.

    Nothing with three items as axes is built. With the negatives of an anchor sorted, those that a positive is not far
    enough from come first, and their number and cumulative sum give the loss of all its triplets.
    """
    is_same, is_different = pairs(labels)
    negatives = distances.masked_fill(~is_different, torch.inf).sort(-1).values
    sums = pad(negatives.masked_fill(negatives.isinf(), 0.0).cumsum(-1), (1, 0))
    reach = distances + margin
    violating = torch.searchsorted(negatives.detach(), reach.detach())
    losses = violating * reach - sums.gather(-1, violating)
    triplets = (is_same.sum(-1) * is_different.sum(-1)).sum()
    return (losses * is_same).sum() / triplets.clamp(min=1)


def contrastive_loss(
    distances: Float[Tensor, "*batch item item"], labels: Int[Tensor, "*batch item"], margin: float
) -> Float[Tensor, ""]:
    """Return the mean of `½ (y d² + (1 - y) max(margin - d, 0)²)` over all pairs of a batch; 0 if there are none."""
    is_same, is_different = pairs(labels)
    near, far = distances.square(), (margin - distances).clamp(min=0).square()
    return 0.5 * (near * is_same + far * is_different).sum() / (is_same | is_different).sum().clamp(min=1)


def pairs(
    labels: Int[Tensor, "*batch item"],
) -> tuple[Bool[Tensor, "*batch item item"], Bool[Tensor, "*batch item item"]]:
    """Return which pairs of two real items have the same label, and which have different ones."""
    is_real = labels >= 0
    both = is_real.unsqueeze(-1) & is_real.unsqueeze(-2)
    equal = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    itself = torch.eye(labels.shape[-1], dtype=torch.bool, device=labels.device)
    return both & equal & ~itself, both & ~equal


def pairwise_squared(
    items: Float[Tensor, "*batch item dim"], others: Float[Tensor, "*batch other dim"]
) -> Float[Tensor, "*batch item other"]:
    """Return squared Euclidean distances through inner products."""
    own, theirs = items.square().sum(-1), others.square().sum(-1)
    return own.unsqueeze(-1) + theirs.unsqueeze(-2) - 2 * items @ others.mT


def euclidean(squared: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the root; at zero, where its slope is infinite, the gradient is zero."""
    is_apart = squared > ROUNDING
    return torch.where(is_apart, squared, 1.0).sqrt() * is_apart
