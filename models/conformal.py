"""Sets of classes that hold the right one with a stated probability: split conformal prediction.

Vovk, Gammerman and Shafer, 2005, https://doi.org/10.1007/b106715. How strange a class is for an item is one minus its
probability (Sadinle, Lei and Wasserman, 2019, https://doi.org/10.1080/01621459.2017.1395341): where probabilities are
right, no other sets with the same coverage are smaller on average. The price is that they cover easy items more often
than hard ones, and that an item for which no class is likely enough gets an empty set.

If the n calibration items and a new item are exchangeable, the new item's set holds its class with at least the stated
probability, however bad the probabilities are; and with at most `1 / (n + 1)` more, if no two scores are equal. This
is an average over items and over draws of the calibration items. Items of a domain that took no part in the
calibration are not exchangeable with it: what their sets cover has to be measured.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def threshold(probabilities: Float[Tensor, "item way"], labels: Int[Tensor, " item"], coverage: float) -> float:
    """Return how strange a class may be to stay in the set: the `ceil((n + 1) coverage)`-th smallest calibration score.

    Infinite, so that every class stays, if fewer than `coverage / (1 - coverage)` items are there to calibrate on.
    """
    scores = 1 - probabilities.double().gather(1, labels[:, None]).squeeze(1)
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores.sort().values[rank - 1]) if rank <= len(scores) else math.inf


def prediction_sets(probabilities: Float[Tensor, "item way"], threshold: float) -> Bool[Tensor, "item way"]:
    """Say for each item which classes are in its set."""
    return 1 - probabilities.double() <= threshold


def covered(sets: Bool[Tensor, "item way"], labels: Int[Tensor, " item"]) -> Bool[Tensor, " item"]:
    """Say for each item whether its set holds its class."""
    return torch.gather(sets, 1, labels[:, None]).squeeze(1)
