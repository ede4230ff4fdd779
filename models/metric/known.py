"""What heads add to the distances of nearest centroid: nothing for what they know nothing about."""

import torch
from jaxtyping import Float
from torch import Tensor

from models.grams import EpisodeGrams


def where_known(added: Float[Tensor, "batch query way"], grams: EpisodeGrams) -> Float[Tensor, "batch query way"]:
    """Return what is added to distances, favouring nothing unknown.

    A class without support gets the mean over the classes that have some, and a query without any view gets zero.
    """
    known = (grams.membership.sum(1) > 0).unsqueeze(1)
    mean = (added * known).sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(known, added, mean) * grams.query_presence.any(1).unsqueeze(-1)
