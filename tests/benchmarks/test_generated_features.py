"""The contest of generator and calibration, on small domains whose classes are clouds."""

import pytest
import torch
from generated_features import (
    CALIBRATION,
    GENERATOR,
    NEITHER,
    USED,
    Recorded,
    accuracies,
    averaged,
    contenders,
    measure,
    strengths,
    summary,
)
from synthetic import class_names, draw, make_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig
from models.metrics import Estimate


def test_dropped_generator_is_measured_with_the_strength_it_had():
    others = make_domain("others", classes=class_names(20, start=50))
    learner = Recorded()
    learner.fit_statistics([others], others.classes)
    with torch.no_grad():
        learner.head.calibration.level.fill_(2.0)
        learner.learned.level.fill_(1.0)
    found = accuracies(contenders(learner), [draw(make_domain(), batch=40, n_shot=1)])
    assert torch.equal(found[USED], found[CALIBRATION])
    assert len({tuple(found[name].tolist()) for name in (GENERATOR, CALIBRATION, NEITHER)}) == 3
    assert summary(found)[1] == (0.0, 0.0)
    assert strengths(learner, 5) == "calibration 2.00, generator 1.00 (dropped)"


def test_splits_are_averaged_as_independent():
    assert averaged([Estimate(0.1, 0.3), Estimate(0.3, 0.4)]) == pytest.approx((0.2, 0.25))


def test_every_shot_is_measured_on_held_out_classes():
    training = [make_domain(f"toys-{seed}", classes=16, seed=seed) for seed in (1, 2)]
    steps = TrainConfig(steps=2, n_way=3, shots=(1, 3), meta_batch=2, n_query=4, validate_every=2)
    config = BenchmarkConfig(train=("a",), test=("b",), n_way=3, shots=(1, 3), episodes=10, training=steps)
    found = measure(training, [make_domain("new", classes=16, seed=3)], config, lambda *_: None)
    assert list(found) == [1, 3]
    assert all(0.3 < estimates[0].mean <= 1 and "calibration" in learned for estimates, learned in found.values())
