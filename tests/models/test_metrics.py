import math

import jaxtyping
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from models.metrics import (
    accuracy_per_episode,
    calibration_error,
    estimate,
    expected_calibration_error,
    reliability,
    wilson_interval,
)


def test_shapes_are_checked_where_the_maths_is_tested():
    with pytest.raises(jaxtyping.TypeCheckError, match="accuracy_per_episode"):
        accuracy_per_episode(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long))


def test_interval_of_a_mean_is_1_96_standard_errors():
    mean, half = estimate(torch.tensor([0.0, 1.0, 1.0, 1.0]))
    assert mean == 0.75
    assert half == pytest.approx(1.96 * 0.5 / math.sqrt(4))


def test_one_value_has_no_spread():
    assert estimate(torch.tensor([0.5])) == (0.5, 0.0)


def test_interval_covers_the_true_mean_95_times_in_100():
    draws = torch.rand(2_000, 100, generator=torch.Generator().manual_seed(0))
    covered = sum(abs(mean - 0.5) <= half for mean, half in map(estimate, draws))
    assert binomtest(covered, 2_000, 0.95).pvalue > 1e-3


def test_accuracy_leaves_padding_out():
    certain = torch.eye(3).log().clamp(min=-9)
    answers = certain[torch.tensor([[0, 1, 2], [0, 0, 0]])]
    accuracy = accuracy_per_episode(answers, torch.tensor([[0, 1, 0], [0, 1, -1]]))
    torch.testing.assert_close(accuracy, torch.tensor([2 / 3, 1 / 2]))


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    labels = torch.tensor([0, 1, 0, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_reliability_counts_answers_by_their_confidence():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    bins = reliability(probabilities, torch.tensor([0, 1, 0, 1]), bins=4)
    torch.testing.assert_close(bins[2], torch.tensor([2, 1.2, 2], dtype=torch.double))
    torch.testing.assert_close(bins[3], torch.tensor([2, 1.8, 1], dtype=torch.double))
    assert bins[:2].sum() == 0


def test_reliability_of_parts_adds_up():
    probabilities = torch.rand(50, 3, generator=torch.Generator().manual_seed(1)).softmax(-1)
    labels = torch.randint(3, (50,), generator=torch.Generator().manual_seed(2))
    parts = reliability(probabilities[:20], labels[:20]) + reliability(probabilities[20:], labels[20:])
    assert calibration_error(parts) == pytest.approx(expected_calibration_error(probabilities, labels))


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    probabilities = torch.eye(2)
    assert expected_calibration_error(probabilities, torch.tensor([0, 1])) == 0.0
    assert expected_calibration_error(probabilities, torch.tensor([1, 0])) == 1.0


def test_calibration_error_equals_a_loop_over_bins():
    draw = torch.Generator().manual_seed(0)
    probabilities = torch.randn(300, 4, generator=draw).softmax(-1)
    labels = torch.randint(4, (300,), generator=draw)
    confidence, predicted = probabilities.max(-1)
    expected = 0.0
    for number in range(10):
        inside = (confidence >= number / 10) & (confidence < (number + 1) / 10)
        if inside.any():
            right = (predicted == labels)[inside].float().mean()
            expected += (inside.float().mean() * (confidence[inside].mean() - right).abs()).item()
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(expected, abs=1e-6)


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_interval_is_that_of_scipy(total, share):
    right = round(share * total)
    reference = binomtest(right, total).proportion_ci(2 * norm.cdf(1.96) - 1, method="wilson")
    accuracy, half = wilson_interval(right, total)
    assert accuracy == right / total
    assert half == pytest.approx((reference.high - reference.low) / 2, abs=1e-9)


def test_nothing_seen_means_nothing_known():
    assert wilson_interval(0, 0) == (0.0, 1.0)
