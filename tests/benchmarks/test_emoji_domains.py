"""What is gained on a vendor, a language and classes never seen, on some emoji domains made from their artwork."""

import os
from collections.abc import Iterator
from unittest.mock import patch

import accuracy
import downstream
import pytest
import torch

from data_contracts.configs import BenchmarkConfig, TrainConfig
from data_contracts.settings import get_settings, use_home
from deployments.samples.emoji import build_emoji
from models.evaluation import averaged
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.features import load_domain
from tasks.ingest import ingest
from tasks.lake import Lake, open_lake
from tasks.media import open_media

pytestmark = pytest.mark.slow

TRAINING = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es")
TEST = "noto-ru"


@pytest.fixture(scope="module")
def emoji_lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Five of the domains, of four hundred emoji each."""
    with patch.dict(os.environ, METAFUSE_THREADS="1"):
        home = use_home(tmp_path_factory.mktemp("emoji") / "home").home
        lake, media = open_lake(), open_media()
        for sample in build_emoji(home / "sources", items=400):
            if sample.domain in (*TRAINING, TEST):
                ingest(sample.contract, None, lake, media, get_settings().docs, domain=sample.domain)
                embed_domain(lake, media, contract_in_force(lake, sample.domain))
        yield lake
    get_settings.cache_clear()


def test_learners_gain_over_tuned_regression(emoji_lake):
    config = BenchmarkConfig(
        train=TRAINING,
        test=(TEST,),
        split_seeds=(0, 1),
        episodes=300,
        learners=("metric", "auto"),
        training=TrainConfig(steps=100),
    )
    rows = accuracy.measure(emoji_lake, config)
    for learner in ("metric", "auto"):
        few, many = averaged(rows, learner, 1), averaged(rows, learner, 5)
        assert few[0] - few[1] > 0.03, (learner, few)
        assert many[0] > 0, (learner, many)
    assert all(row.diff > -row.diff_ci95 for row in rows if row.learner == "auto")


def test_learned_space_serves_groups_and_anomalies_better_than_raw_features(emoji_lake):
    domains = {name: load_domain(emoji_lake, name) for name in (*TRAINING, TEST)}
    torch.set_num_threads(1)
    rows = downstream.measure(domains, TRAINING, (TEST,), split_seeds=(0, 1), config=TrainConfig(steps=50))

    def value(of: str, space: str, metric: str) -> float:
        return downstream.value(rows, of, space, metric)

    plain = value("k-means, true count, sklearn", "raw", "ARI")
    assert value("k_means, true count", "raw", "ARI") == pytest.approx(plain, abs=1e-6)
    assert value("k_means, true count", "learned", "ARI") > plain + 0.05
    for method in ("LocalOutlierFactor, sklearn", "IsolationForest, sklearn"):
        assert value("nearest neighbours", "learned", "AUROC") > value(method, "raw", "AUROC")
    for space in ("raw", "learned"):
        assert value("nearest neighbours", space, "false alarms") < downstream.STATED + 0.03
