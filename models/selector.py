"""What is expected of each learner on a domain, from what is known of its support: a ridge regression over domains.

`selection.py` says what is known, `rehearsal.py` where the outcomes come from that it learns from.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import lsq_linear
from torch import Tensor, nn

from models.metrics import estimate
from models.strength import MOST_SHOTS, ByShot

STATISTICS = 7
MOST_DEVIATIONS = 3.0
"""Statistics further than this from those it learned from count as this far."""

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""On what is known of an episode: 1 halves what it would count by itself, if nothing else were known."""

LEAST_PENALTY = 1e-4
"""On the mean lead of a learner, of which only differences matter."""


class Outcomes(NamedTuple):
    """What some episodes told: what was known before, and how well every learner then did."""

    statistics: Float[Tensor, "batch statistic"]
    validated: Float[Tensor, "batch learner 2"]
    shots: Float[Tensor, " batch"]
    accuracy: Float[Tensor, "batch learner"]
    domain: Int[Tensor, " batch"]
    """Number of the domain that an episode is of."""


class Selector(nn.Module):
    """Expects of every learner how far it will be above their mean, in points of accuracy.

    That is linear in the statistics of the support set and in the cross-validation on it. To do better in
    cross-validation never counts against a learner; before anything is learned it decides alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(count))
        self.slope = nn.Parameter(torch.zeros(STATISTICS, count))
        self.evidence = ByShot(2, start=1.0)
        self.register_buffer("mean", torch.zeros(STATISTICS))
        self.register_buffer("deviation", torch.ones(STATISTICS))

    def forward(
        self,
        statistics: Float[Tensor, "batch statistic"],
        validated: Float[Tensor, "batch learner 2"],
        shots: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch learner"]:
        """Return scores; only their differences within an episode mean anything."""
        expected = self.level + self._standardised(statistics) @ self.slope
        return expected + torch.einsum("blc,bc->bl", _above_mean(validated), self.evidence(shots))

    def _standardised(self, statistics: Float[Tensor, "batch statistic"]) -> Float[Tensor, "batch statistic"]:
        return ((statistics - self.mean) / self.deviation).clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS)

    def fit(self, outcomes: Outcomes) -> None:
        """Fit by least squares, with the penalty that domains left out of the fit call for.

        That is the largest by which the learners chosen for these are as accurate as by any other, but for chance: what
        is known of an episode counts where it tells the same in one domain after another.
        """
        self.mean.copy_(outcomes.statistics.mean(0))
        self.deviation.copy_(outcomes.statistics.std(0).clamp(min=1e-3))
        known, gain = self._equations(outcomes), 100 * _above_mean(outcomes.accuracy.double())
        found = self._solve(known, gain, self._penalty(known, gain, outcomes.domain)).float()
        with torch.no_grad():
            numbers = torch.split(found, [parameter.numel() for parameter in self._coefficients()])
            for parameter, values in zip(self._coefficients(), numbers, strict=True):
                parameter.copy_(values.view_as(parameter))

    def _penalty(
        self,
        known: Float[Tensor, "batch learner coefficient"],
        gain: Float[Tensor, "batch learner"],
        domain: Int[Tensor, " batch"],
    ) -> float:
        parts = [domain == number for number in sorted(set(domain.tolist()))]
        if len(parts) < 2:
            return max(PENALTIES)

        def gained(is_asked: Bool[Tensor, " batch"], penalty: float) -> float:
            found = self._solve(known[~is_asked], gain[~is_asked], penalty)
            chosen = (known[is_asked] @ found).argmax(1, keepdim=True)
            return float(gain[is_asked].gather(1, chosen).mean())

        gains = torch.tensor([[gained(part, penalty) for part in parts] for penalty in PENALTIES])
        lost = [estimate(row) for row in gains[gains.mean(1).argmax()] - gains]
        return max(penalty for penalty, found in zip(PENALTIES, lost, strict=True) if found.mean <= found.ci95)

    def _coefficients(self) -> tuple[nn.Parameter, ...]:
        return self.level, self.slope, self.evidence.level, self.evidence.slope

    def _equations(self, outcomes: Outcomes) -> Float[Tensor, "batch learner coefficient"]:
        """Return what each coefficient is multiplied by in the scores, which are taken from their mean."""
        one_each = _above_mean(torch.eye(len(self.level)).unsqueeze(0)).expand(len(outcomes.shots), -1, -1)
        slopes = torch.einsum("bs,blk->blsk", self._standardised(outcomes.statistics), one_each).flatten(2)
        observed = _above_mean(outcomes.validated)
        later = observed * outcomes.shots.clamp(1.0, MOST_SHOTS).log()[:, None, None]
        return torch.cat([one_each, slopes, observed, later], dim=-1).double()

    def _solve(
        self,
        known: Float[Tensor, "batch learner coefficient"],
        gain: Float[Tensor, "batch learner"],
        penalty: float,
    ) -> Float[Tensor, " coefficient"]:
        """Return the coefficients of a ridge regression in which those of cross-validation are not negative."""
        scale = known.square().mean((0, 1)).sqrt().clamp(min=1e-6)
        penalties = torch.full_like(scale, penalty)
        penalties[: len(self.level)] = LEAST_PENALTY
        least = torch.full_like(scale, -torch.inf)
        least[-4:] = 0.0
        left = torch.cat([(known / scale).flatten(0, 1), (known[..., 0].numel() * penalties).sqrt().diag()])
        right = torch.cat([gain.flatten(), torch.zeros_like(scale)])
        found = lsq_linear(left.numpy(), right.numpy(), (least.numpy(), torch.inf), "bvls")
        return torch.from_numpy(found.x) / scale


def _above_mean(values: Float[Tensor, "batch learner *rest"]) -> Float[Tensor, "batch learner *rest"]:
    return values - values.mean(1, keepdim=True)
