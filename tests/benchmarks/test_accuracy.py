"""The gain over tuned logistic regression, on a part of the emoji domains built from their artwork."""

import pytest
from accuracy import measure

from data_contracts.configs import BenchmarkConfig
from models.evaluation import averaged

TRAINING = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es")


@pytest.mark.slow
def test_learners_gain_over_tuned_regression_on_a_vendor_a_language_and_classes_never_seen(emoji_lake):
    config = BenchmarkConfig(
        train=TRAINING, test=("noto-ru",), split_seeds=(0, 1, 2), episodes=300, learners=("metric", "auto")
    )
    rows = measure(emoji_lake, config)
    for learner in ("metric", "auto"):
        few, many = averaged(rows, learner, 1), averaged(rows, learner, 5)
        assert few[0] - few[1] > 0.03, (learner, few)
        assert many[0] > 0, (learner, many)
    assert all(row.diff > -row.diff_ci95 for row in rows if row.learner == "auto")
