"""Departures of `metric` from prototypical networks, on small domains whose classes are clouds."""

import torch
from departures import CENTRING, PARTS, losses, strengths
from synthetic import FACTS, draw, make_domain

from models.catalogue import build_learner
from models.fusion import modality_numbers


def test_untrained_learner_departs_in_centring_alone():
    lost = losses(build_learner("metric"), [draw(make_domain(), batch=40)])
    assert all(lost[name] == (0.0, 0.0) for name in PARTS)
    assert lost[CENTRING][0] > lost[CENTRING][1] > 0


def test_departure_that_misleads_is_no_loss():
    learner = build_learner("metric")
    with torch.no_grad():
        learner.view_weights.bias[modality_numbers((FACTS,))] = 9.0  # they say the least
        learner.placement.smoothing.level.fill_(0.3)
    lost = losses(learner, [draw(make_domain(), batch=40, n_shot=1)])
    assert lost["view weights"][0] < -lost["view weights"][1]
    assert lost["whitening"] == (0.0, 0.0)
    assert "fine-tuning [0.0]" in strengths(learner, 5)
