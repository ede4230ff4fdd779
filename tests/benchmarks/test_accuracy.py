"""The gain over tuned logistic regression, on a part of the emoji domains built from their artwork."""

import pytest
from accuracy import measure

from data_contracts.configs import BenchmarkConfig
from models.evaluation import averaged

TRAINING = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es")


@pytest.mark.slow
def test_learner_gains_over_tuned_regression_on_a_vendor_a_language_and_classes_never_seen(emoji_lake):
    config = BenchmarkConfig(train=TRAINING, test=("noto-ru",), split_seeds=(0, 1, 2), episodes=300)
    rows = measure(emoji_lake, config)
    gain, half = averaged(rows, "metric", 1)
    assert gain - half > 0.02
    gain, _ = averaged(rows, "metric", 5)
    assert gain > 0
