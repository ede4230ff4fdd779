"""How well each view holds the classes of a support set together and keeps them apart."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.grams import EpisodeGrams


def separability(grams: EpisodeGrams) -> Float[Tensor, "batch view 3"]:
    """Describe how each view spreads the support set.

    The statistics are the mean similarity within classes less that between classes (0 at one shot, where no class has
    a pair), the mean similarity between classes, and the share of support items that have the view.
    """
    members = grams.members
    same = members @ members.mT
    both = members.sum(-1)
    pairs = both.unsqueeze(-1) * both.unsqueeze(-2)
    different = pairs - same
    same = same - torch.diag_embed(both)
    within = _masked_mean(grams.support, same)
    between = _masked_mean(grams.support, different)
    gap = torch.where(same.sum((-1, -2)) > 0, within - between, torch.zeros_like(within))
    items = grams.membership.sum((1, 2)).clamp(min=1).unsqueeze(-1)
    return torch.stack([gap, between, both.sum(-1) / items], dim=-1)


def held_out_standing(grams: EpisodeGrams) -> tuple[Float[Tensor, "batch view"], Float[Tensor, "batch view"]]:
    """Say by each view how well support items stand in their own class when left out of it; the mean, and its error.

    An item stands at its mean similarity to the others of its class, standardised over the classes. Those that have no
    company in their class are not judged.
    """
    members = grams.members
    own = torch.diagonal(grams.support, dim1=-2, dim2=-1).unsqueeze(-1) * members
    others = members.sum(2, keepdim=True) - members
    standing = standings((grams.support @ members - own) / others.clamp(min=1), others > 0)
    has_company = members * (others > 0)
    return mean_standing((standing * has_company).sum(-1), has_company.sum(-1) > 0)


def mean_standing(
    standing: Float[Tensor, "batch view support"], is_judged: Bool[Tensor, "batch view support"]
) -> tuple[Float[Tensor, "batch view"], Float[Tensor, "batch view"]]:
    """Return the mean over the judged items, 0 if there are none, and its standard error; others stand at 0.

    That is at least the error of as many standings by chance, whose variance is 1: of two classes an item stands at
    1 or -1, and a few items agree by chance.
    """
    count = is_judged.sum(-1).clamp(min=1)
    mean = standing.sum(-1) / count
    offset = (standing - mean.unsqueeze(-1)) * is_judged
    variance = offset.square().sum(-1) / (count - 1).clamp(min=1)
    return mean, (variance.clamp(min=1) / count).sqrt()


def standings(
    values: Float[Tensor, "batch view item way"], is_known: Bool[Tensor, "batch view #item way"]
) -> Float[Tensor, "batch view item way"]:
    """Standardise over the known classes, so that it does not matter how spread out a view's similarities are."""
    count = is_known.sum(-1, keepdim=True).clamp(min=1)
    offset = torch.where(is_known, values - (values * is_known).sum(-1, keepdim=True) / count, 0.0)
    return offset / (offset.square().sum(-1, keepdim=True) / count + 1e-4).sqrt()


def _masked_mean(
    values: Float[Tensor, "batch view support support"], mask: Float[Tensor, "batch view support support"]
) -> Float[Tensor, "batch view"]:
    return (values * mask).sum((-1, -2)) / mask.sum((-1, -2)).clamp(min=1)
