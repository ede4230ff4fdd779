"""What heads add to the distances of nearest centroid: nothing for what they know nothing about."""

from jaxtyping import Float
from torch import Tensor

from models.grams import EpisodeGrams, mean_where_unknown


def where_known(added: Float[Tensor, "batch query way"], grams: EpisodeGrams) -> Float[Tensor, "batch query way"]:
    """Return what is added to distances, favouring nothing unknown.

    A class without support gets the mean over the classes that have some, and a query without any view gets zero.
    """
    is_known = grams.membership.any(1, keepdim=True)
    return mean_where_unknown(added, is_known) * grams.query_presence.any(1).unsqueeze(-1)
