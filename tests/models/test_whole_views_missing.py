"""A view that a whole support or a whole domain misses disturbs no learner."""

from dataclasses import replace

import pytest
import torch
from synthetic import departed_learner, draw, make_domain

from models.catalogue import build_learner
from models.episodes import EpisodeBatch
from models.features import DomainData


def draw_with_a_hole(domain: DomainData) -> EpisodeBatch:
    """Episodes in the first of which no support item has the second view, though some queries do."""
    batch = draw(domain, n_shot=1)
    presence = domain.presence.clone()
    presence[batch.support[0], 1] = False
    return replace(batch, domain=domain.with_presence(presence))


@pytest.mark.parametrize("make", [build_learner, departed_learner], ids=["at the start", "in training"])
def test_gradient_is_finite_where_the_whole_support_of_an_episode_misses_a_view(kind, make):
    learner = make(kind)
    with torch.no_grad():
        for strength in learner.placement.smoothing.parameters():
            strength.zero_()  # else the view is filled from neighbours
    learner.meta_loss(draw_with_a_hole(make_domain(missing=0.1))).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)


def test_gradient_is_finite_where_a_whole_domain_misses_a_view(kind, toys):
    presence = toys.presence.clone()
    presence[:, 1] = False
    learner = departed_learner(kind)
    learner.meta_loss(draw(toys.with_presence(presence))).backward()
    assert all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None)
