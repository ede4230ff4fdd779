"""The gain over tuned logistic regression, on a part of the emoji domains built from their artwork."""

import pytest
from accuracy import measure

from data_contracts.configs import BenchmarkConfig
from data_contracts.settings import get_settings
from deployments.samples.emoji import build_emoji
from models.evaluation import averaged
from tasks.contracts import contract_in_force
from tasks.embed import embed_domain
from tasks.ingest import ingest
from tasks.lake import Lake, open_lake
from tasks.media import open_media

TRAINING = ("openmoji-en", "openmoji-fr", "twemoji-de", "twemoji-es")


@pytest.fixture
def emoji_lake(home) -> Lake:
    """Some of the domains, of four hundred emoji each."""
    lake, media = open_lake(), open_media()
    for sample in build_emoji(home / "sources", items=400):
        if sample.domain in (*TRAINING, "noto-ru"):
            ingest(sample.contract, None, lake, media, get_settings().docs, domain=sample.domain)
            embed_domain(lake, media, contract_in_force(lake, sample.domain))
    return lake


@pytest.mark.slow
def test_learner_gains_over_tuned_regression_on_a_vendor_a_language_and_classes_never_seen(emoji_lake):
    config = BenchmarkConfig(train=TRAINING, test=("noto-ru",), split_seeds=(0, 1, 2), episodes=300)
    rows = measure(emoji_lake, config)
    gain, half = averaged(rows, "metric", 1)
    assert gain - half > 0.02
    gain, half = averaged(rows, "metric", 5)
    assert gain + half > 0
