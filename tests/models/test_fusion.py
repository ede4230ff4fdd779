from dataclasses import replace

import pytest
import torch
from synthetic import FACTS, PICTURE, TITLE, VIEWS, draw, make_domain
from test_grams import grams_of

from models.features import ViewSpec
from models.fusion import ViewWeights, modality_numbers


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


def make_spoken(name: str, dim: int = 12) -> ViewSpec:
    return ViewSpec(name, "audio", f"waves-{name}", dim)


def trained_without_sound() -> ViewWeights:
    weights = ViewWeights()
    weights.meet(modality_numbers(VIEWS))
    with torch.no_grad():
        weights.bias[modality_numbers(VIEWS)] = torch.tensor([1.0, 0.5, -2.0])
    return weights


def test_modality_never_met_is_trusted_like_the_least_trusted_one_and_its_views_have_one_vote():
    weights, sounds = trained_without_sound(), (make_spoken("one"), make_spoken("two"))
    domain = make_domain(views=(*VIEWS, *sounds))
    modalities = modality_numbers(domain.views)
    *_, facts, one, two = weights.prior(modalities)
    torch.testing.assert_close(torch.stack([one, two]), torch.stack([facts, facts]) / 2)
    at_one_shot = weights(grams_of(draw(domain, n_shot=1)), modalities)
    torch.testing.assert_close(at_one_shot, weights.prior(modalities).expand(6, 5))


@pytest.mark.parametrize("is_noise", [True, False], ids=["noise", "as good as a title"])
def test_labels_decide_how_much_a_modality_counts_that_was_never_met(is_noise):
    weights, sound = trained_without_sound(), make_spoken("sound")
    domain = make_domain(views=(*VIEWS, sound))
    drawn = torch.randn(len(domain), 12, generator=torch.Generator().manual_seed(5))
    sounds = drawn if is_noise else domain.features["title"]
    domain = replace(domain, features={**domain.features, "sound": sounds})
    title, _, facts, heard = weights(grams_of(draw(domain, n_shot=8)), modality_numbers(domain.views)).mean(0).tolist()
    assert heard == pytest.approx(facts, rel=0.2) if is_noise else 3 * facts < heard < title


def test_where_no_modality_was_met_all_views_are_alike():
    weights, sounds = trained_without_sound(), (make_spoken("one"), make_spoken("two"))
    domain = make_domain(views=sounds)
    found = weights(grams_of(draw(domain, n_shot=4)), modality_numbers(sounds))
    torch.testing.assert_close(found, torch.full((6, 2), 0.5))
