"""Queries that are asked together, on small domains whose classes are clouds."""

import pytest
import torch
from joint_queries import LEARNERS, TRIALS, measure, skewed, with_strangers
from synthetic import draw, make_domain

from data_contracts.configs import BenchmarkConfig, TrainConfig


def test_skewed_queries_are_some_of_those_drawn_and_at_least_one_of_each_class():
    batch = draw(make_domain(), batch=50, n_query=6)
    found = skewed(batch, torch.Generator().manual_seed(0))
    is_kept = found.query_labels >= 0
    assert torch.equal(found.query_labels[is_kept], batch.query_labels[is_kept])
    counts = torch.stack([(found.query_labels == way).sum(1) for way in range(batch.n_way)], dim=1)
    assert counts.min() == 1
    assert (counts.amax(1) == 6).all()
    assert counts.float().mean() < 4.5


def test_strangers_are_asked_after_the_queries_and_are_of_no_class_of_the_episode():
    batch = draw(make_domain(unlabelled=5), batch=20)
    found, count = with_strangers(batch, torch.Generator().manual_seed(0)), batch.query.shape[1]
    assert torch.equal(found.query[:, :count], batch.query)
    assert found.query.shape[1] == 2 * count
    labels = batch.domain.labels[found.query[:, count:]]
    assert (labels >= 0).all()
    assert not (labels.unsqueeze(-1) == batch.class_numbers.unsqueeze(1)).any()


@pytest.mark.slow
def test_every_learner_is_judged_in_every_trial_at_every_shot(monkeypatch):
    monkeypatch.setattr("models.metric.transductive.MOST_ITERATIONS", 30)
    training = [make_domain(f"toys-{seed}", classes=20, seed=seed) for seed in (1, 2)]
    steps = TrainConfig(steps=2, n_way=3, shots=(1, 3), meta_batch=2, n_query=4, validate_every=2)
    config = BenchmarkConfig(
        train=("a",), test=("b",), learners=LEARNERS, n_way=3, shots=(1, 3), episodes=12, training=steps
    )
    found = measure(training, [make_domain("new", classes=20, seed=3)], config)
    assert set(found) == {(trial, shot) for trial in TRIALS for shot in (1, 3)}
    for answers in found.values():
        assert set(answers) == set(LEARNERS)
        assert all(len(accuracy) == 12 and 0.3 < accuracy.mean() <= 1 for accuracy in answers.values())
