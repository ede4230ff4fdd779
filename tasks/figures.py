"""Plots that runs keep in MLflow: how learners learned, how they compare, and how sure they may be."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data_contracts.reports import LeaderboardRow
from models.metrics import calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from models.learning_curve import LearningCurve

BESIDE: dict[str, Any] = {"fontsize": "small", "loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
"""Where the legend of many learners stands."""


def learning_curves(curves: Mapping[str, "LearningCurve"]) -> "Figure":
    """Plot loss and validation accuracy of each learner, or whatever else `curves` are of, over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = _colourful(figure.subplots(1, 2))
    for name, curve in curves.items():
        left.plot(*_columns(curve.losses), label=name)
        right.plot(*_columns(curve.validation), marker="o", markersize=3, label=name)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="accuracy on validation classes")
    right.legend(**BESIDE)
    return figure


def accuracy_against_shots(board: Sequence[LeaderboardRow]) -> "Figure":
    """Plot the accuracy of each learner over the labels per class, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    (axes,) = _colourful([figure.subplots()])
    shots = sorted({row.shot for row in board})
    learners = list(dict.fromkeys(row.learner for row in board))
    for number, learner in enumerate(learners):
        rows = [row for row in board if row.learner == learner]
        beside = 0.5 * ((number + 0.5) / len(learners) - 0.5)
        axes.errorbar(
            [shots.index(row.shot) + beside for row in rows],
            [row.accuracy for row in rows],
            yerr=[row.ci95 for row in rows],
            linestyle="--" if rows[0].family in ("baseline", "untrained") else "-",
            marker="o",
            markersize=3,
            capsize=2,
            label=learner,
        )
    axes.set(xlabel="labels per class", ylabel="accuracy", xticks=range(len(shots)), xticklabels=shots)
    axes.legend(**BESIDE)
    return figure


def reliability_diagram(bins: Mapping[str, "Tensor"]) -> "Figure":
    """Plot accuracy over confidence for each learner; on the diagonal, confidence can be taken at its word."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    (axes,) = _colourful([figure.subplots()])
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for learner, found in bins.items():
        filled = found[found[:, 0] > 0]
        confidence, accuracy = filled[:, 1] / filled[:, 0], filled[:, 2] / filled[:, 0]
        axes.plot(
            confidence, accuracy, marker="o", markersize=3, label=f"{learner}, ECE {calibration_error(found):.3f}"
        )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(**BESIDE)
    return figure


def _colourful(several: Iterable["Axes"]) -> Iterable["Axes"]:
    """Give axes enough colours for all learners."""
    import matplotlib

    for axes in several:
        axes.set_prop_cycle(color=matplotlib.color_sequences["tab20"])
    return several


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
