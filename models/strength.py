"""Learned strengths that follow the number of labels."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOST_SHOTS = 10.0
"""Beyond this many labels per class a strength keeps its value: training has seen no more."""


class ByShot(nn.Module):
    """Strengths that are linear in the logarithm of the shot."""

    def __init__(self, count: int = 1, *, start: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.full((count,), start))
        self.slope = nn.Parameter(torch.zeros(count))

    def forward(self, shot: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the strengths at the given shot."""
        strength: Tensor = self.level + self.slope * shot.clamp(1.0, MOST_SHOTS).log().unsqueeze(-1)
        return strength


def at_least_zero(strength: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return strengths with zero for negative ones; descent can bring these back, but take them no further."""
    bounded: Tensor = _AtLeastZero.apply(strength)  # type: ignore[no-untyped-call]
    return bounded


class _AtLeastZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return strength.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (strength,) = ctx.saved_tensors
        return torch.where((strength >= 0) | (gradient < 0), gradient, 0.0)
