"""Plots that runs keep in MLflow: how learners learned, how they compare, and how sure they may be."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from data_contracts.reports import LeaderboardRow
from models.metrics import calibration_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from tasks.train_learner import Trained


def learning_curves(runs: Mapping[str, "Trained"]) -> "Figure":
    """Plot loss and validation accuracy of each learner over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, trained in runs.items():
        left.plot(*_columns(trained.losses), label=kind)
        right.plot(*_columns(trained.validation), marker="o", markersize=3, label=kind)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel="accuracy on validation classes")
    right.legend(fontsize="small")
    return figure


def accuracy_against_shots(board: Sequence[LeaderboardRow]) -> "Figure":
    """Plot the accuracy of each learner over the labels per class, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for learner in dict.fromkeys(row.learner for row in board):
        rows = [row for row in board if row.learner == learner]
        style = "--" if rows[0].family in ("baseline", "untrained") else "-"
        axes.errorbar(
            [row.shot for row in rows],
            [row.accuracy for row in rows],
            yerr=[row.ci95 for row in rows],
            linestyle=style,
            marker="o",
            markersize=3,
            capsize=3,
            label=learner,
        )
    shots = sorted({row.shot for row in board})
    axes.set(xlabel="labels per class", ylabel="accuracy", xticks=shots)
    axes.legend(fontsize="small")
    return figure


def reliability_diagram(bins: Mapping[str, "Tensor"]) -> "Figure":
    """Plot accuracy over confidence for each learner; on the diagonal, confidence can be taken at its word."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for learner, found in bins.items():
        filled = found[found[:, 0] > 0]
        confidence, accuracy = filled[:, 1] / filled[:, 0], filled[:, 2] / filled[:, 0]
        axes.plot(confidence, accuracy, marker="o", label=f"{learner}, ECE {calibration_error(found):.3f}")
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize="small", loc="upper left")
    return figure


def _columns(curve: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in curve], [value for _, value in curve]
