"""Fine-tuning on one domain at a time, on small domains whose classes are clouds."""

import torch
from departures import without
from single_domains import measure
from synthetic import make_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig
from models.catalogue import build_learner
from models.fused import FusedLearner


def test_learner_without_fine_tuning_is_else_the_same():
    learner = build_learner("metric")
    assert isinstance(learner, FusedLearner)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.fill_(0.5)
    found = without(learner, "fine-tuning")
    values = {name: value.unique().tolist() for name, value in found.named_parameters()}
    assert {name for name, value in values.items() if value == [0.0]} == {
        name for name in values if "fine_tuning" in name
    }
    assert all(parameter.unique().tolist() == [0.5] for parameter in learner.parameters())


def test_every_domain_is_measured_at_every_shot_and_one_label_tunes_nothing():
    training = [make_domain(f"toys-{seed}", classes=16, seed=seed) for seed in (1, 2)]
    test = [make_domain(name, classes=16, seed=3) for name in ("new", "newer")]
    steps = TrainConfig(steps=2, n_way=3, shots=(1, 3), meta_batch=2, n_query=4, validate_every=2)
    config = BenchmarkConfig(
        train=("a",), test=("b",), n_way=3, shots=(1, 3), episodes=10, training=steps, learners=("metric",)
    )
    rows = list(measure(training, test, config, lambda *_: None))
    assert [(shot, domain) for shot, domain, _ in rows] == [(1, "new"), (1, "newer"), (3, "new"), (3, "newer")]
    assert all(0.3 < estimates[0].mean <= 1 for *_, estimates in rows)
    assert all(estimates[1] == (0.0, 0.0) for shot, _, estimates in rows if shot == 1)
