"""A leaderboard as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group

from deployments.cli.answer import rows_table

SHOWN = ("shot", "learner", "family", "accuracy", "over_untrained", "over_tuned", "nll", "ece", "seconds")


def shown_leaderboard(board: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out a leaderboard, a line for each shot and learner."""
    return Group(
        rows_table(SHOWN, [_line(row) for row in board], whole=("learner",)),
        "",
        "over_untrained: accuracy less nearest_centroid's, which every learner is before training",
        "over_tuned: accuracy less tuned_logreg's; both paired by episode, with 95 % intervals; seconds: of training",
    )


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("shot", "learner", "family")},
        "accuracy": f"{row['accuracy']:.2%} ± {row['ci95']:.2%}",
        **{over: f"{row[over]:+.2%} ± {row[f'{over}_ci95']:.2%}" for over in ("over_untrained", "over_tuned")},
        "nll": None if row["nll"] is None else f"{row['nll']:.3f}",
        "ece": f"{row['ece']:.3f}",
        "seconds": None if row["seconds"] is None else f"{row['seconds']:.1f}",
    }
