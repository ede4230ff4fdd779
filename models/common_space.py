"""One space of fixed dimension for items of any views and encoders.

Networks need a fixed number of inputs; views and encoders come and go. Every encoder gets a random projection of its
own, drawn from its id, and an item is the weighted sum of its projected views. Random projections keep inner products
to within about `1 / sqrt(COMMON_DIM)` (Johnson and Lindenstrauss, 1984), those of different encoders are nearly
orthogonal. An encoder fitted to one source has no place here: what a network learns of its numbers is about that source
and misleads in a new domain, which has an encoder of its own. What must be exact, or new, uses Gram matrices instead.
"""

import math
from functools import lru_cache
from hashlib import sha256

import torch
from jaxtyping import Float
from torch import Tensor

COMMON_DIM = 512


@lru_cache(maxsize=64)
def projection(encoder_id: str, dim: int) -> Float[Tensor, "dim common"]:
    """Return the projection of an encoder's `dim` numbers, the same in every process."""
    seed = int.from_bytes(sha256(f"{encoder_id}/{dim}".encode()).digest()[:7])
    drawn = torch.randn(dim, COMMON_DIM, generator=torch.Generator().manual_seed(seed))
    return drawn / math.sqrt(COMMON_DIM)


def to_common(items: Float[Tensor, "row dim"], encoder_id: str) -> Float[Tensor, "row common"]:
    """Project the items of one view."""
    return items @ projection(encoder_id, items.shape[1]).to(items)
