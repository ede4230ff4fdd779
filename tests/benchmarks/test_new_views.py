"""Views, encoders and modalities that training has not met, on small domains whose classes are clouds."""

import pytest
from new_views import TRIALS, measure, prepare
from synthetic import make_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig
from models.evaluation import UNTRAINED

DOMAINS = {name: make_domain(name, classes=28, missing=0.1, seed=seed) for seed, name in enumerate(("a", "b", "c"))}
LEARNERS = ("metric", "similarity")
CONFIG = BenchmarkConfig(
    train=("a", "b"),
    test=("c",),
    learners=LEARNERS,
    shots=(1, 5),
    episodes=100,
    training=TrainConfig(steps=60, n_query=5, meta_batch=8, validate_every=20),
)


@pytest.mark.parametrize(("trial", "what"), list(zip(TRIALS, ("name", "encoder_id", "modality"), strict=True)))
def test_training_has_not_met_what_is_new(trial, what):
    training, test = prepare(trial, "picture", [DOMAINS["a"], DOMAINS["b"]], [DOMAINS["c"]])
    (new,) = (spec for spec in test[0].views if spec.name == "picture")
    assert getattr(new, what) not in {getattr(spec, what) for domain in training for spec in domain.views}
    for domain in (*training, *test):
        for number, spec in enumerate(domain.views):
            assert domain.features[spec.name].shape == (len(domain), spec.dim)
            assert not domain.features[spec.name][~domain.presence[:, number]].any()


@pytest.mark.slow
def test_view_encoder_and_modality_never_met_in_training_are_gains():
    rows = {(row.trial, row.shot, row.learner): row for row in measure(DOMAINS, CONFIG, ["picture"])}
    assert set(rows) == {(trial, shot, name) for trial in TRIALS for shot in (1, 5) for name in (UNTRAINED, *LEARNERS)}
    for row in rows.values():
        assert row.gain == pytest.approx(row.accuracy - row.ignoring, abs=1e-6)
    for row in (row for row in rows.values() if row.learner in LEARNERS):
        assert row.gain > row.gain_ci95
        assert row.lead > row.lead_ci95
