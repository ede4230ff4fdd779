"""A view that a whole support or a whole domain misses disturbs no learner."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from synthetic import departed_learner, draw, make_domain, without_view

from data_contracts.configs import TrainConfig
from models import training
from models.catalogue import build_learner
from models.episodes import EpisodeBatch
from models.features import DomainData
from models.training import train

CONFIG = TrainConfig(meta_batch=2, n_way=2, shots=(2,), n_query=3)


def draw_with_a_hole(domain: DomainData) -> EpisodeBatch:
    """Episodes in the first of which no support item has the second view, though some queries do."""
    batch = draw(domain, n_shot=1)
    presence = domain.presence.clone()
    presence[batch.support[0], 1] = False
    return replace(batch, domain=domain.with_presence(presence))


def hide_picture(domain: DomainData) -> DomainData:
    presence = domain.presence.clone()
    presence[:, 1] = False
    return domain.with_presence(presence)


@pytest.mark.parametrize("make", [build_learner, departed_learner], ids=["at the start", "in training"])
def test_gradient_is_finite_where_the_whole_support_of_an_episode_misses_a_view(kind, make):
    learner = make(kind)
    with torch.no_grad():
        for strength in learner.placement.smoothing.parameters():
            strength.zero_()  # else the view is filled from neighbours
    learner.meta_loss(draw_with_a_hole(make_domain(missing=0.1))).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_gradient_is_finite_where_a_whole_domain_misses_a_view(kind, toys):
    learner = departed_learner(kind)
    learner.meta_loss(draw(hide_picture(toys))).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_training_where_every_item_misses_a_view_equals_training_without_it(kind, monkeypatch):
    monkeypatch.setattr(training, "VALIDATION_EPISODES", 1)
    domains = [make_domain(name, classes=6, per_class=6, missing=0.1, seed=len(name)) for name in ("one", "three")]

    def first_losses(domains: list[DomainData]) -> list[float | None]:
        return [now.loss for now in islice(train(build_learner(kind), domains, CONFIG), 1, 3)]

    expected = first_losses([without_view(domain, "picture") for domain in domains])
    assert first_losses([hide_picture(domain) for domain in domains]) == pytest.approx(expected, rel=1e-5)
