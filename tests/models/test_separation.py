from dataclasses import replace

import torch
from synthetic import TITLE, draw, gather, make_domain
from test_grams import by_hand

from models.separation import held_out_standing, mean_standing, separability

HALF = 0.5**0.5


def test_separability_by_hand():
    grams = by_hand([[1.0, 0.0], [HALF, HALF], [0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0]], [0, 0, 1, 1], 2)
    within, between = (HALF + 1) / 2, (0 + 0 + HALF + HALF) / 4
    torch.testing.assert_close(separability(grams)[0, 0], torch.tensor([within - between, between, 1.0]))


def test_one_shot_has_no_pair_within_a_class():
    grams = by_hand([[1.0, 0.0], [HALF, HALF]], [[1.0, 0.0]], [0, 1], 2)
    torch.testing.assert_close(separability(grams)[0, 0], torch.tensor([0.0, HALF, 1.0]))


def test_items_without_the_view_count_only_in_its_coverage():
    grams = by_hand([[1.0, 0.0], [0.0, 0.0], [HALF, HALF], [0.0, 0.0]], [[1.0, 0.0]], [0, 0, 1, 1], 2)
    torch.testing.assert_close(separability(grams)[0, 0], torch.tensor([0.0, HALF, 0.5]))


def test_items_stand_high_in_their_class_where_classes_are_apart_and_nowhere_without_company():
    near = draw(make_domain(views=(TITLE,)), n_shot=4, batch=20)
    drawn = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
    noise = replace(near, domain=replace(near.domain, features={"title": drawn}))
    alone = draw(make_domain(views=(TITLE,)), n_shot=1, batch=20)
    found = []
    for batch in (near, noise, alone):
        found.append(held_out_standing(gather(batch))[0].mean().item())
    assert found[0] > 1
    assert abs(found[1]) < 0.2
    assert found[2] == 0


def test_mean_standing_is_that_of_judged_items_and_its_error_at_least_that_of_chance():
    standing = torch.tensor([[[1.0, 5.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
    is_judged = torch.tensor([[[True, True, False], [True, True, True], [False, False, False]]])
    mean, error = mean_standing(standing, is_judged)
    assert mean.tolist() == [[3.0, 1.0, 0.0]]
    torch.testing.assert_close(error, torch.tensor([[2.0, 3**-0.5, 1.0]]))
