import math

import pytest

from data_contracts.reports import BenchmarkRow
from models.evaluation import Comparison
from models.leaderboard import leaderboard

SCORES = {"nearest_centroid": 0.4, "ridge": 0.6, "tuned_logreg": 0.5, "auto": 0.7}


def row(learner: str, accuracy: float, *, seed: int = 0, shot: int = 1) -> BenchmarkRow:
    rest = {"nll": 0.5, "ece": 0.1, "cpu_s_per_1000": 1.0, "ci95": 0.03, "diff_ci95": 0.04}
    return BenchmarkRow(split_seed=seed, shot=shot, learner=learner, accuracy=accuracy, diff=accuracy - 0.5, **rest)


def board_of(*rows: BenchmarkRow):
    return leaderboard(Comparison(rows, {}, {"ridge": 12.0}))


def test_learners_are_ranked_within_each_shot():
    rows = [row(name, accuracy, shot=shot) for shot in (5, 1) for name, accuracy in SCORES.items()]
    assert [(found.shot, found.learner) for found in board_of(*rows)] == [
        (shot, name) for shot in (1, 5) for name in ("auto", "ridge", "tuned_logreg", "nearest_centroid")
    ]


def test_row_says_what_a_learner_is_and_what_it_gains():
    board = {found.learner: found for found in board_of(*(row(*score) for score in SCORES.items()))}
    assert {name: found.family for name, found in board.items()} == {
        "auto": "choice",
        "ridge": "optimisation",
        "tuned_logreg": "baseline",
        "nearest_centroid": "untrained",
    }
    assert board["ridge"].over_untrained == pytest.approx(0.2)
    assert board["ridge"].over_tuned == pytest.approx(0.1)
    assert (board["ridge"].nll, board["ridge"].ece) == (0.5, 0.1)
    assert (board["ridge"].seconds, board["tuned_logreg"].seconds) == (12.0, None)


def test_class_splits_are_averaged_as_independent():
    rows = [row(name, accuracy + 0.02 * seed, seed=seed) for seed in (0, 1) for name, accuracy in SCORES.items()]
    best = board_of(*rows)[0]
    assert best.accuracy == pytest.approx(0.71)
    assert best.ci95 == pytest.approx(0.03 / math.sqrt(2))
    assert best.over_tuned_ci95 == pytest.approx(0.04 / math.sqrt(2))
