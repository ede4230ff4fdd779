"""MAML on the sinusoids of Finn et al., 2017, section 5.1: amplitude 0.1 to 5, phase 0 to π, inputs from -5 to 5."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from models.optimisation.inner_loop import Goal, InnerLoop, Layer, adapt_and_score, per_layer
from models.optimisation.inner_losses import SQUARED_ERROR

ITERATIONS, META_BATCH, SHOT, RATE = 20_000, 25, 10, 0.01
LOOP = InnerLoop(SQUARED_ERROR)


def draw_sinusoids(batch: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    amplitude = 0.1 + 4.9 * torch.rand(batch, 1, 1, generator=generator)
    phase = math.pi * torch.rand(batch, 1, 1, generator=generator)
    x = 10 * torch.rand(batch, count, 1, generator=generator) - 5
    return x, amplitude * torch.sin(x - phase)


def start(generator: torch.Generator) -> list[Layer]:
    layers = []
    for inputs, outputs in pairwise([1, 40, 40, 1]):
        scale = math.sqrt(2 / inputs) if inputs > 1 else 1.0
        weight = scale * torch.randn(outputs, inputs, generator=generator)
        layers.append(
            Layer(weight.requires_grad_(), (0.1 * torch.randn(outputs, generator=generator)).requires_grad_())
        )
    return layers


def loss_after_one_step(layers: list[Layer], x: Tensor, y: Tensor, shot: int) -> Tensor:
    rates = per_layer(torch.full((1, 3), RATE))
    answers = adapt_and_score(layers, x[:, :shot], x[:, shot:], Goal(y[:, :shot]), rates, LOOP)
    return mse_loss(answers, y[:, shot:])


@pytest.mark.slow
def test_error_after_one_step_is_that_of_the_paper():
    generator = torch.Generator().manual_seed(0)
    layers = start(generator)
    optimiser = torch.optim.Adam([parameter for layer in layers for parameter in layer], lr=1e-3, fused=True)
    for _ in range(ITERATIONS):
        optimiser.zero_grad()
        loss_after_one_step(layers, *draw_sinusoids(META_BATCH, 2 * SHOT, generator), SHOT).backward()
        optimiser.step()
    for shot, published in {5: 0.72, 10: 0.44, 20: 0.28}.items():
        with torch.no_grad():
            found = loss_after_one_step(layers, *draw_sinusoids(2000, shot + 100, generator), shot).item()
        assert found == pytest.approx(published, rel=0.2), f"{shot} shots"
