from dataclasses import replace

import pytest
import torch
from synthetic import FACTS, PICTURE, TITLE, VIEWS, draw, make_domain
from test_grams import by_hand, grams_of

from models.features import ViewSpec
from models.fusion import ViewWeights, modality_numbers, separability

HALF = 0.5**0.5


def test_views_are_equal_before_training():
    grams = grams_of(draw(make_domain()))
    weights = ViewWeights()(grams, modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.full((6, 3), 1 / 3))
    torch.testing.assert_close(ViewWeights().prior(modality_numbers(VIEWS)), torch.full((3,), 1 / 3))


def test_two_views_of_one_modality_share_its_bias():
    weights = ViewWeights()
    with torch.no_grad():
        weights.bias[modality_numbers((PICTURE,))] = 1.0
    second = ViewSpec("back", "image", "pixels-2", 9)
    title, front, back = weights.prior(modality_numbers((TITLE, PICTURE, second))).tolist()
    assert front == back == pytest.approx(title * 2.718281828)


def test_modality_number_depends_on_the_modality_alone():
    numbers = modality_numbers((TITLE, PICTURE, FACTS, ViewSpec("other", "text", "words-9", 3)))
    assert numbers[0] == numbers[3]
    assert len(numbers[:3].unique()) == 3


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


def test_better_separated_view_weighs_more_once_evidence_counts():
    grams = grams_of(draw(make_domain(), n_shot=4))
    weights = ViewWeights()
    with torch.no_grad():
        weights.evidence[0] = 5.0
    chosen = weights(grams, modality_numbers(VIEWS)).mean(0)
    assert chosen[0] > chosen[2]
    assert chosen.sum().item() == pytest.approx(1.0)


def test_view_that_no_support_item_has_weighs_nothing():
    domain = make_domain()
    presence = domain.presence.clone()
    presence[:, 1] = False
    grams = grams_of(draw(domain.with_presence(presence)))
    weights = ViewWeights()(grams, modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.0, 0.5]).expand(6, 3))


def test_support_without_any_view_leaves_the_views_equal():
    domain = make_domain()
    empty = domain.with_presence(torch.zeros(96, 3, dtype=torch.bool))
    weights = ViewWeights()(grams_of(replace(draw(domain), domain=empty)), modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.full((6, 3), 1 / 3))
