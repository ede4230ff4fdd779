import torch

from data_contracts.reports import LeaderboardRow
from models.metrics import reliability
from tasks.figures import accuracy_against_shots, reliability_diagram


def test_accuracy_is_plotted_over_shots_with_a_line_for_each_learner():
    rest = {"over_untrained": 0, "over_untrained_ci95": 0, "over_tuned": 0, "over_tuned_ci95": 0, "ece": 0}
    board = [
        LeaderboardRow(shot=shot, learner=name, family=family, accuracy=0.1 * shot, ci95=0.05, seconds=None, **rest)
        for shot in (1, 5)
        for name, family in (("metric", "metric"), ("tuned_logreg", "baseline"))
    ]
    (axes,) = accuracy_against_shots(board).axes
    assert axes.get_legend_handles_labels()[1] == ["metric", "tuned_logreg"]
    lines = [container.lines[0] for container in axes.containers]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "5"]
    assert [[round(float(x)) for x in line.get_xdata()] for line in lines] == [[0, 1], [0, 1]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]


def test_reliability_is_plotted_where_there_are_answers():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45]])
    bins = reliability(probabilities, torch.tensor([0, 1, 0]))
    (axes,) = reliability_diagram({"auto": bins}).axes
    _, found = axes.lines
    assert found.get_label() == "auto, ECE 0.417"
    torch.testing.assert_close(torch.as_tensor(found.get_xydata()), torch.tensor([[0.55, 1.0], [0.9, 0.5]]).double())
