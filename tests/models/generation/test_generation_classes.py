import torch
from synthetic import draw, gather, make_domain
from test_grams import by_hand

from models.generation.classes import (
    about_prototypes,
    impartial,
    known_classes,
    log_shots,
    mean_of_known,
    present_members,
    prototype_shares,
    rivals,
)

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])


def test_inner_products_about_the_prototypes_are_those_of_shifted_items():
    grams = gather(draw(make_domain(missing=0.2), batch=1, n_shot=3))
    views = [w**0.5 * items for w, items in zip(WEIGHTS[0], grams.items.views, strict=True)]
    items = torch.cat(views, dim=-1)
    support, query = items[grams.items.support[0]], items[grams.items.query[0]]
    origin = (prototype_shares(grams)[0].T @ support).mean(0)
    gram, cross = about_prototypes(grams, WEIGHTS)
    torch.testing.assert_close(gram[0], (support - origin) @ (support - origin).T, atol=1e-5, rtol=0)
    torch.testing.assert_close(cross[0], (query - origin) @ (support - origin).T, atol=1e-5, rtol=0)


def test_support_item_without_any_view_is_no_member_and_has_no_inner_products():
    grams = by_hand([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]], [[0.6, 0.8]], [0, 0, 1], 2)
    assert present_members(grams)[0].tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    gram, cross = about_prototypes(grams, torch.ones(1, 1))
    assert not gram[0, 1].any()
    assert not gram[0, :, 1].any()
    assert not cross[0, :, 1].any()


def test_class_without_support_is_unknown_no_rival_and_takes_no_part_in_means():
    grams = by_hand([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0]], [0, 2], 3)
    is_known = known_classes(grams)
    assert is_known[0].tolist() == [True, False, True]
    assert rivals(is_known)[0].tolist() == [[False, False, True], [True, False, True], [True, False, False]]
    assert mean_of_known(torch.tensor([[[1.0], [100.0], [3.0]]]), is_known).item() == 2.0


def test_impartial_scores_favour_no_class_that_is_unknown_and_none_for_a_query_that_is():
    grams = by_hand([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [0, 2], 3)
    scores = torch.tensor([[[5.0, 70.0, 1.0], [5.0, 70.0, 1.0]]])
    assert impartial(scores, grams, torch.ones(1, 1))[0].tolist() == [[2.0, 0.0, -2.0], [0.0, 0.0, 0.0]]
    assert not impartial(scores, grams, torch.zeros(1, 1)).any()


def test_logarithm_of_the_shot_stays_within_one_and_ten_labels():
    expected = torch.tensor([1.0, 1.0, 3.0, 10.0, 10.0]).log()
    torch.testing.assert_close(log_shots(torch.tensor([0.0, 1.0, 3.0, 10.0, 400.0])), expected)
