"""What labels are worth that are asked for, on small domains whose classes are clouds."""

import torch
from asking import CLASSES, accuracies, draw, measure
from synthetic import make_domain

from models.catalogue import build_learner

DOMAIN = make_domain(classes=12, per_class=20)


def test_parts_of_a_draw_share_no_item_and_hold_every_class():
    drawn = draw(DOMAIN, DOMAIN.classes, shot=2, seed=0)
    assert len(drawn.data.classes) == CLASSES
    assert (
        len(drawn.data) == 20 * CLASSES == len({*drawn.support.tolist(), *drawn.pool.tolist(), *drawn.judged.tolist()})
    )
    for rows, each in ((drawn.support, 2), (drawn.pool, 8), (drawn.judged, 10)):
        assert torch.bincount(drawn.data.labels[rows]).tolist() == [each] * CLASSES


def test_more_labels_help_and_none_change_nothing():
    learner, drawn = build_learner("metric"), draw(DOMAIN, DOMAIN.classes, shot=1, seed=0)
    before, by_chance, asked = accuracies(learner, drawn, count=0, seed=0)
    assert before == by_chance == asked
    _, by_chance, asked = accuracies(learner, drawn, count=60, seed=0)
    assert min(by_chance, asked) > before


def test_line_names_the_domain_and_its_figures():
    line = measure(build_learner("metric"), DOMAIN, DOMAIN.classes, shot=1, count=5, draws=3)
    assert line.startswith(DOMAIN.domain)
    assert "±" in line
