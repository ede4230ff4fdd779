"""Temperature scaling: Guo et al., 2017, https://arxiv.org/abs/1706.04599 (section 4.2).

What a learner decides and how sure it is of that are learned apart. Training compares decisions at the temperature that
suits a batch best, since noisy domains would otherwise buy calibration with the accuracy of clear ones. The temperature
itself is fitted at the end.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.strength import MOST_SHOTS

SCALES = tuple(2 ** (step / 2) for step in range(-8, 9))
FITTING_STEPS = 50
LEAST_CURVATURE = 1e-3
"""Keeps the slope at zero if all episodes have one shot."""


class Temperature(nn.Module):
    """Multiply logits by a number whose logarithm is linear in that of the shot; at the start it is 1."""

    line: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("line", torch.zeros(2))

    def forward(
        self, logits: Float[Tensor, "batch query way"], shots: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch query way"]:
        """Return logits whose softmax is calibrated."""
        return _at(self.line, logits, shots)

    def fit(
        self,
        logits: Sequence[Float[Tensor, "_ _ way"]],
        labels: Sequence[Int[Tensor, "_ _"]],
        shots: Sequence[Float[Tensor, " _"]],
    ) -> None:
        """Minimise the cross-entropy of batches of episodes; a label of -1 is padding."""
        line = torch.zeros_like(self.line, requires_grad=True)
        optimiser = torch.optim.LBFGS([line], max_iter=FITTING_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            each = [
                _cross_entropy(_at(line, part, shot), wanted)
                for part, wanted, shot in zip(logits, labels, shots, strict=True)
            ]
            total = torch.stack(each).mean() + LEAST_CURVATURE * line.square().sum()
            total.backward()  # type: ignore[no-untyped-call]
            return total

        with torch.enable_grad():
            optimiser.step(loss)  # type: ignore[no-untyped-call]
        self.line.copy_(line.detach())


def decision_loss(logits: Float[Tensor, "batch query way"], labels: Int[Tensor, "batch query"]) -> Float[Tensor, ""]:
    """Return the cross-entropy at that of `SCALES` which makes it least; a label of -1 is padding."""
    with torch.no_grad():
        scale = min(SCALES, key=lambda scale: _cross_entropy(scale * logits, labels).item())
    return _cross_entropy(scale * logits, labels)


def _at(
    line: Float[Tensor, "2"], logits: Float[Tensor, "batch query way"], shots: Float[Tensor, " batch"]
) -> Float[Tensor, "batch query way"]:
    log_scale = line[0] + line[1] * shots.clamp(1.0, MOST_SHOTS).log()
    return log_scale.exp()[:, None, None] * logits


def _cross_entropy(logits: Float[Tensor, "batch query way"], labels: Int[Tensor, "batch query"]) -> Float[Tensor, ""]:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
