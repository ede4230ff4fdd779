"""Temperature scaling: Guo et al., 2017, https://arxiv.org/abs/1706.04599 (section 4.2).

What a learner decides and how sure it is of that are learned apart. Training compares decisions at the temperature that
suits a batch best, since noisy domains would otherwise buy calibration with the accuracy of clear ones. The temperature
itself is fitted at the end. It differs between queries of an episode: one that lacks views is, as a rule, answered with
less certainty, though what it lacks was filled. None of this changes which class is the likeliest.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.grams import Coverage

SCALES = tuple(2 ** (step / 2) for step in range(-8, 9))
SHOTS = (1, 2, 5, 10)
"""Numbers of labels per class that a temperature is fitted at: what a learner does may differ much between them."""

FITTING_STEPS = 50
ROUNDS = 3
PENALTY = 1e-3
"""Penalty on the squares of logarithms of scales, and of their differences from shot to shot.

The first bounds them where certainty never costs or never pays; the second keeps that of a shot without episodes near
its neighbours'.
"""

LEAST_COVERAGE = 0.05
"""Less counts as this much."""


class Uncalibrated(NamedTuple):
    """What a learner answered to a batch of episodes, some of whose views may have been hidden on purpose."""

    logits: Float[Tensor, "batch query way"]
    labels: Int[Tensor, "batch query"]
    """-1 is padding."""
    shots: Float[Tensor, " batch"]
    coverage: Coverage
    is_hidden: bool = False


class Temperature(nn.Module):
    """Multiply logits by a scale that follows the shot and what views the items came with; at the start it is 1.

    The scale is fitted at each of `SHOTS`; between them its logarithm is linear in that of the shot. Where views are
    missing it is multiplied by a power of the coverage of the query, and by one of that of the support.
    """

    log_scales: Tensor
    exponents: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_scales", torch.zeros(len(SHOTS)))
        self.register_buffer("exponents", torch.zeros(2))

    def forward(
        self, logits: Float[Tensor, "batch query way"], shots: Float[Tensor, " batch"], coverage: Coverage
    ) -> Float[Tensor, "batch query way"]:
        """Return logits whose softmax is calibrated."""
        return _scaled(logits, _log_scale(self.log_scales, self.exponents, shots, coverage))

    def fit(self, answers: Sequence[Uncalibrated]) -> None:
        """Minimise the cross-entropy, with a small penalty.

        Scales are fitted to episodes as they are, powers to those in which views were hidden, in turn: how sure a
        learner is of items that lack nothing does not depend on how much it loses where they do. In double precision,
        because in single the search ends wherever rounding hides the slope.
        """
        log_scales, exponents = (
            torch.zeros_like(buffer, dtype=torch.float64) for buffer in (self.log_scales, self.exponents)
        )
        whole, hidden = (_joined([part for part in answers if part.is_hidden is wanted]) for wanted in (False, True))
        for _ in range(ROUNDS if hidden else 1):
            for fitted, queries in ((log_scales, whole), (exponents, hidden)):
                if queries:
                    _minimise(partial(_loss, queries, log_scales, exponents), fitted)
        self.log_scales.copy_(log_scales)
        self.exponents.copy_(exponents)


def decision_loss(logits: Float[Tensor, "batch query way"], labels: Int[Tensor, "batch query"]) -> Float[Tensor, ""]:
    """Return the cross-entropy at that of `SCALES` which makes it least; a label of -1 is padding."""
    with torch.no_grad():
        scale = min(SCALES, key=lambda scale: _cross_entropy(scale * logits, labels).item())
    return _cross_entropy(scale * logits, labels)


@torch.enable_grad()
def _minimise(loss: Callable[[], Tensor], fitted: Tensor) -> None:
    """Move `fitted` to where the loss is least."""
    fitted.requires_grad_()
    optimiser = torch.optim.LBFGS([fitted], max_iter=FITTING_STEPS, line_search_fn="strong_wolfe")

    def evaluate() -> Tensor:
        optimiser.zero_grad()
        total = loss()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(evaluate)  # type: ignore[no-untyped-call]
    fitted.requires_grad_(False)


class _Queries(NamedTuple):
    """Queries of many batches of as many ways, each as an episode of its own, and what they count in the mean loss."""

    logits: Float[Tensor, "query 1 way"]
    labels: Int[Tensor, " query"]
    shots: Float[Tensor, " query"]
    support_coverage: Float[Tensor, " query"]
    query_coverage: Float[Tensor, "query 1"]
    weight: Float[Tensor, " query"]


def _joined(parts: Sequence[Uncalibrated]) -> list[_Queries]:
    """Return the queries of all batches, without padding, by the number of ways; every batch counts the same."""
    by_way: dict[int, list[_Queries]] = defaultdict(list)
    for logits, labels, shots, coverage, _ in parts:
        real = (labels >= 0).nonzero(as_tuple=True)
        of_support, of_query = coverage.support[real[0]].double(), coverage.query[real].double().unsqueeze(1)
        weight = torch.full_like(of_support, 1 / (max(len(of_support), 1) * len(parts)))
        asked = logits[real].double().unsqueeze(1)
        by_way[logits.shape[-1]].append(_Queries(asked, labels[real], shots[real[0]], of_support, of_query, weight))
    return [_Queries(*map(torch.cat, zip(*alike, strict=True))) for alike in by_way.values()]


def _loss(
    groups: Sequence[_Queries], log_scales: Float[Tensor, " shot"], exponents: Float[Tensor, "2"]
) -> Float[Tensor, ""]:
    total = PENALTY * log_scales.diff().square().sum()
    for logits, labels, shots, of_support, of_query, weight in groups:
        log_scale = _log_scale(log_scales, exponents, shots, Coverage(of_support, of_query))
        losses = cross_entropy(_scaled(logits, log_scale).squeeze(1), labels, reduction="none")
        total = total + weight @ (losses + PENALTY * log_scale.squeeze(1).square())
    return total


def _log_scale(
    log_scales: Float[Tensor, " shot"],
    exponents: Float[Tensor, "2"],
    shots: Float[Tensor, " batch"],
    coverage: Coverage,
) -> Float[Tensor, "batch query"]:
    of_query, of_support = (share.clamp(min=LEAST_COVERAGE).log() for share in (coverage.query, coverage.support))
    return exponents[0] * of_query + (exponents[1] * of_support + _at(log_scales, shots)).unsqueeze(-1)


def _at(log_scales: Float[Tensor, " shot"], shots: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    fitted = log_scales.new_tensor(SHOTS).log()
    asked = shots.to(fitted).log().clamp(fitted[0], fitted[-1])
    above = torch.searchsorted(fitted, asked).clamp(min=1)
    below = above - 1
    share = (asked - fitted[below]) / (fitted[above] - fitted[below])
    return torch.lerp(log_scales[below], log_scales[above], share)


def _scaled(
    logits: Float[Tensor, "batch query way"], log_scale: Float[Tensor, "batch query"]
) -> Float[Tensor, "batch query way"]:
    return log_scale.exp().unsqueeze(-1) * logits


def _cross_entropy(logits: Float[Tensor, "batch query way"], labels: Int[Tensor, "batch query"]) -> Float[Tensor, ""]:
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
