"""How well each view holds the classes of a support set together and keeps them apart."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.grams import EpisodeGrams


def separability(grams: EpisodeGrams) -> Float[Tensor, "batch view 3"]:
    """Describe how each view spreads the support set.

    The statistics are the mean similarity within classes less that between classes (0 at one shot, where no class has
    a pair), the mean similarity between classes, and the share of support items that have the view.
    """
    members = grams.membership.unsqueeze(1) * grams.support_presence.unsqueeze(-1)  # [batch, view, support, way]
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


class HeldOut(NamedTuple):
    """How well each support item stands in its own class, in each view, when left out of it."""

    standing: Float[Tensor, "batch view support"]
    """The mean similarity to the others of its class, standardised over the classes; 0 where there is no other."""
    is_judged: Bool[Tensor, "batch view support"]

    def mean(self) -> tuple[Float[Tensor, "batch view"], Float[Tensor, "batch view"]]:
        """Return the mean over the items that have company in their class, 0 if none has, and its standard error.

        That is at least the error of as many standings by chance, whose variance is 1: of two classes an item stands at
        1 or -1, and a few items agree by chance.
        """
        count = self.is_judged.sum(-1).clamp(min=1)
        mean = self.standing.sum(-1) / count
        offset = (self.standing - mean.unsqueeze(-1)) * self.is_judged
        variance = offset.square().sum(-1) / (count - 1).clamp(min=1)
        return mean, (variance.clamp(min=1) / count).sqrt()


def held_out_standings(grams: EpisodeGrams) -> HeldOut:
    """Compare every support item with the others of its class and with the other classes, view by view."""
    members = grams.membership.unsqueeze(1) * grams.support_presence.unsqueeze(-1)
    own = torch.diagonal(grams.support, dim1=-2, dim2=-1).unsqueeze(-1) * members
    others = members.sum(2, keepdim=True) - members
    standing = standings((grams.support @ members - own) / others.clamp(min=1), others > 0)
    has_company = members * (others > 0)
    return HeldOut((standing * has_company).sum(-1), has_company.sum(-1) > 0)


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
