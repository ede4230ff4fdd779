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
    """Strengths that are linear in the logarithm of the shot, and the share of them that is used.

    The share is that of the way from where they began to where training left them: all of it, unless `keep` is called.
    """

    start: Tensor
    log_shots: Tensor
    shares: Tensor

    def __init__(self, count: int = 1, *, start: float = 0.0) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.full((count,), start))
        self.slope = nn.Parameter(torch.zeros(count))
        self.register_buffer("start", torch.tensor(start), persistent=False)
        self.register_buffer("log_shots", torch.tensor([0.0, math.log(MOST_SHOTS)]))
        self.register_buffer("shares", torch.ones(2))

    def forward(self, shot: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch count"]:
        """Return the strengths at the given shot."""
        log_shot = shot.clamp(1.0, MOST_SHOTS).log().unsqueeze(-1)
        low, high = self.log_shots
        position = ((log_shot - low) / (high - low).clamp(min=1e-6)).clamp(0.0, 1.0)
        share = self.shares[0] + (self.shares[1] - self.shares[0]) * position
        strength: Tensor = share * (self.level + self.slope * log_shot) + (1 - share) * self.start
        return strength

    def keep(self, shares: Mapping[float, float]) -> None:
        """Use the shares of the least and the greatest shot; between them linear in its logarithm, beyond constant."""
        ends = (min(shares), max(shares))
        self.log_shots.copy_(torch.tensor([math.log(min(shot, MOST_SHOTS)) for shot in ends]))
        self.shares.copy_(torch.tensor([shares[shot] for shot in ends]))


def bounded(strength: Float[Tensor, "*shape"], most: float) -> Float[Tensor, "*shape"]:
    """Return strengths that stay within `most` of zero, near which they do not change."""
    return most * (strength / most).tanh()


def within(strength: Float[Tensor, "*shape"], least: float, most: float) -> Float[Tensor, "*shape"]:
    """Return strengths clamped to bounds; beyond these, gradients that lead back pass, and others do not.

    Where strengths are given by episode, each counts by itself: one beyond its bound comes back if any of a batch asks
    for it, and stays near the bound where most of them speak against it.
    """
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
