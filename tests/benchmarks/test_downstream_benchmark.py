"""Groups and anomalies in the learned space against scikit-learn on raw features, on a part of the emoji domains."""

import pytest
import torch
from downstream import STATED, measure, value

from data_contracts.configs import TrainConfig
from tasks.features import load_domain

TRAINING = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es")


@pytest.mark.slow
def test_learned_space_serves_groups_and_anomalies_better_than_raw_features(emoji_lake):
    domains = {name: load_domain(emoji_lake, name) for name in (*TRAINING, "noto-ru")}
    torch.set_num_threads(1)
    rows = measure(domains, TRAINING, ("noto-ru",), split_seeds=(0, 1), config=TrainConfig(steps=50))
    plain = value(rows, "k-means, true count, sklearn", "raw", "ARI")
    assert value(rows, "k_means, true count", "raw", "ARI") == pytest.approx(plain, abs=1e-6)
    assert value(rows, "k_means, true count", "learned", "ARI") > plain + 0.05
    for method in ("LocalOutlierFactor, sklearn", "IsolationForest, sklearn"):
        assert value(rows, "nearest neighbours", "learned", "AUROC") > value(rows, method, "raw", "AUROC")
    for space in ("raw", "learned"):
        assert value(rows, "nearest neighbours", space, "false alarms") < STATED + 0.03
