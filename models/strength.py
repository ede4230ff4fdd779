"""Learned strengths that follow the number of labels."""

import math
from collections.abc import Mapping
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
        self.start = start
        self.level = nn.Parameter(torch.full((count,), start))
        self.slope = nn.Parameter(torch.zeros(count))

    def forward(self, shot: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the strengths at the given shot."""
        strength: Tensor = self.level + self.slope * shot.clamp(1.0, MOST_SHOTS).log().unsqueeze(-1)
        return strength

    @torch.no_grad()
    def keep(self, shares: Mapping[float, float]) -> None:
        """Go back towards the start, to these shares of the way, by shot; of several the outermost two count."""
        low, high = (math.log(min(shot, MOST_SHOTS)) for shot in (min(shares), max(shares)))
        at_low, at_high = (
            self.start + shares[shot] * (self(self.level.new_tensor(shot)) - self.start)
            for shot in (min(shares), max(shares))
        )
        slope = (at_high - at_low) / (high - low) if low < high else shares[min(shares)] * self.slope
        self.level.copy_(at_low - slope * low)
        self.slope.copy_(slope)


def bounded(strength: Float[Tensor, "*shape"], most: float) -> Float[Tensor, "*shape"]:
    """Return strengths that stay within `most` of zero, near which they do not change."""
    return most * (strength / most).tanh()


def within(strength: Float[Tensor, "*shape"], least: float, most: float) -> Float[Tensor, "*shape"]:
    """Return strengths clamped to bounds; beyond these, gradients that lead back pass, and others do not."""
    clamped: Tensor = _Within.apply(strength, least, most)  # type: ignore[no-untyped-call]
    return clamped


class _Within(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, strength: Tensor, least: float, most: float) -> Tensor:
        ctx.save_for_backward(strength)
        ctx.bounds = least, most
        return strength.clamp(least, most)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (strength,), (least, most) = ctx.saved_tensors, ctx.bounds
        passes = ((strength >= least) | (gradient < 0)) & ((strength <= most) | (gradient > 0))
        return torch.where(passes, gradient, 0.0), None, None
