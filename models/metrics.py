"""How good predictions are, and how sure of that one may be."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

STANDARD_ERRORS = 1.96
"""Half-width of a normal 95 % interval."""


class Estimate(NamedTuple):
    """A mean and the half-width of its 95 % interval."""

    mean: float
    ci95: float

    @property
    def standard_error(self) -> float:
        """Return that of the mean, if the interval is a normal one."""
        return self.ci95 / STANDARD_ERRORS


def estimate(values: Float[Tensor, " episode"]) -> Estimate:
    """Mean over independent episodes with its normal 95 % interval."""
    spread = values.double().std().item() if len(values) > 1 else 0.0
    return Estimate(values.double().mean().item(), STANDARD_ERRORS * spread / math.sqrt(len(values)))


def accuracy_per_episode(
    log_probabilities: Float[Tensor, "episode query way"], labels: Int[Tensor, "episode query"]
) -> Float[Tensor, " episode"]:
    """Share of right answers in each episode; queries labelled -1 do not count."""
    counts = labels >= 0
    right = (log_probabilities.argmax(-1) == labels) & counts
    return right.sum(1) / counts.sum(1).clamp(min=1)


def expected_calibration_error(
    probabilities: Float[Tensor, "item way"], labels: Int[Tensor, " item"], *, bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over equal-width bins (Guo et al., 2017, eq. 3)."""
    return calibration_error(reliability(probabilities, labels, bins=bins))


def calibration_error(bins: Float[Tensor, "bin 3"]) -> float:
    """Return the expected calibration error of what `reliability` gave."""
    counts, confidence, right = bins.unbind(1)
    return ((confidence - right).abs().sum() / counts.sum().clamp(min=1)).item()


def reliability(
    probabilities: Float[Tensor, "item way"], labels: Int[Tensor, " item"], *, bins: int = 15
) -> Float[Tensor, "bin 3"]:
    """Return for each of equal-width bins of confidence: answers, the sum of their confidence, and those right.

    Sums of several of these describe their items together.
    """
    confidence, predicted = probabilities.max(-1)
    columns = torch.stack([torch.ones_like(confidence), confidence, (predicted == labels).float()], dim=1)
    bin_number = (confidence * bins).long().clamp(max=bins - 1)
    return columns.new_zeros(bins, 3, dtype=torch.double).index_add(0, bin_number, columns.double())


def wilson_interval(right: int, total: int) -> Estimate:
    """Accuracy on `total` items and the half-width of its 95 % Wilson score interval (Wilson, 1927)."""
    if total == 0:
        return Estimate(0.0, 1.0)
    z, share = STANDARD_ERRORS, right / total
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return Estimate(share, half)
