"""A leaderboard as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group

from deployments.cli.answer import fits, rows_table

SHOWN = ("shot", "learner", "family", "accuracy", "over_untrained", "over_tuned", "nll", "ece", "seconds")
NARROW = ("shot", "learner", "accuracy", "over_untrained", "over_tuned", "ece")
"""Where the terminal has no room for all; `--json` has them."""


def shown_leaderboard(board: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out a leaderboard, a line for each shot and learner."""
    lines = [_line(row) for row in board]
    whole, narrow = (rows_table(columns, lines, whole=("learner",)) for columns in (SHOWN, NARROW))
    is_whole = fits(whole)
    return Group(
        whole if is_whole else narrow,
        "",
        "accuracy in %; over_untrained: less nearest_centroid's, which every learner is before training",
        "over_tuned: less tuned_logreg's; both in points, paired by episode, with 95 % intervals"
        + ("; seconds: of training" if is_whole else ""),
    )


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("shot", "learner", "family")},
        "accuracy": f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}",
        **{
            over: f"{100 * row[over]:+.1f} ± {100 * row[f'{over}_ci95']:.1f}"
            for over in ("over_untrained", "over_tuned")
        },
        "nll": None if row["nll"] is None else f"{row['nll']:.3f}",
        "ece": f"{row['ece']:.3f}",
        "seconds": None if row["seconds"] is None else f"{row['seconds']:.1f}",
    }
