"""Who did how well: learners ranked by what they answered to the same episodes."""

import math
from collections.abc import Sequence

from data_contracts.reports import BenchmarkRow, LeaderboardRow
from models.catalogue import AUTO, CATALOGUE
from models.evaluation import UNTRAINED, Comparison

OTHERS = {AUTO: "choice", UNTRAINED: "untrained"}


def leaderboard(comparison: Comparison) -> tuple[LeaderboardRow, ...]:
    """Return a row for each shot and learner, the most accurate of a shot first; class splits are averaged."""
    shots = sorted({row.shot for row in comparison.rows})
    return tuple(row for shot in shots for row in _ranked([r for r in comparison.rows if r.shot == shot], comparison))


def family(learner: str) -> str:
    """Return the family of a learner, and whether it is transductive; or what it is instead."""
    entry = CATALOGUE.get(learner)
    if entry is None:
        return OTHERS.get(learner, "baseline")
    return f"{entry.family}, transductive" if entry.is_transductive else entry.family


def _ranked(rows: Sequence[BenchmarkRow], comparison: Comparison) -> list[LeaderboardRow]:
    untrained = _mean([row.accuracy for row in rows if row.learner == UNTRAINED])
    found = []
    for learner in dict.fromkeys(row.learner for row in rows):
        own = [row for row in rows if row.learner == learner]
        accuracy = _mean([row.accuracy for row in own])
        found.append(
            LeaderboardRow(
                shot=own[0].shot,
                learner=learner,
                family=family(learner),
                accuracy=accuracy,
                ci95=_mean_half_width([row.ci95 for row in own]),
                over_untrained=accuracy - untrained,
                over_untrained_ci95=_mean_half_width([row.over_untrained_ci95 for row in own]),
                over_tuned=_mean([row.diff for row in own]),
                over_tuned_ci95=_mean_half_width([row.diff_ci95 for row in own]),
                nll=_mean([row.nll for row in own]),
                ece=_mean([row.ece for row in own]),
                seconds=comparison.training_s.get(learner),
            )
        )
    return sorted(found, key=lambda row: -row.accuracy)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_half_width(values: Sequence[float]) -> float:
    """Half-width of the interval of a mean of independent estimates."""
    return math.sqrt(sum(value**2 for value in values)) / len(values)
