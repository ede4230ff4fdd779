import math
from dataclasses import replace

import pytest
import torch
from synthetic import FACTS, PICTURE, TITLE, VIEWS, draw, gather, make_domain, without_view
from torch import Tensor

from models.features import DomainData, ViewSpec
from models.fusion import ViewWeights, modality_numbers
from models.separation import held_out_standing, separability


def every(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.bool)


def test_views_are_equal_before_training():
    grams = gather(draw(make_domain()))
    weights = ViewWeights()(grams, modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.full((6, 3), 1 / 3))
    torch.testing.assert_close(ViewWeights().prior(modality_numbers(VIEWS), every(3)), torch.full((3,), 1 / 3))


def test_two_views_of_one_modality_share_its_bias():
    weights = ViewWeights()
    with torch.no_grad():
        weights.bias[modality_numbers((PICTURE,))] = 1.0
    second = ViewSpec("back", "image", "pixels-2", 9)
    title, front, back = weights.prior(modality_numbers((TITLE, PICTURE, second)), every(3)).tolist()
    assert front == back == pytest.approx(title * 2.718281828)


def test_modality_number_depends_on_the_modality_alone():
    numbers = modality_numbers((TITLE, PICTURE, FACTS, ViewSpec("other", "text", "words-9", 3)))
    assert numbers[0] == numbers[3]
    assert len(numbers[:3].unique()) == 3


def test_better_separated_view_weighs_more_once_evidence_counts():
    grams = gather(draw(make_domain(), n_shot=4))
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
    grams = gather(draw(domain.with_presence(presence)))
    weights = ViewWeights()(grams, modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.0, 0.5]).expand(6, 3))


def test_support_without_any_view_leaves_the_views_equal():
    domain = make_domain()
    empty = domain.with_presence(torch.zeros(96, 3, dtype=torch.bool))
    weights = ViewWeights()(gather(replace(draw(domain), domain=empty)), modality_numbers(VIEWS))
    torch.testing.assert_close(weights, torch.full((6, 3), 1 / 3))


SOUND, SPEECH = (ViewSpec(name, "audio", f"waves-{name}", TITLE.dim) for name in ("sound", "speech"))


def trained_without_sound(of_coverage: float = -3.0) -> ViewWeights:
    weights = ViewWeights()
    weights.meet(modality_numbers(VIEWS))
    with torch.no_grad():
        weights.bias[modality_numbers(VIEWS)] = torch.tensor([1.0, 0.5, -2.0])
        weights.evidence.copy_(torch.tensor([0.0, 0.5, of_coverage]))
    return weights


def heard(*views: ViewSpec, noise: tuple[ViewSpec, ...] = ()) -> DomainData:
    """A domain whose sounds are its titles, or noise."""
    domain = make_domain(views=(TITLE, *views))
    draws = torch.Generator().manual_seed(5)
    sounds = {view.name: domain.features["title"] for view in views if view.modality == "audio"}
    sounds |= {view.name: torch.randn(len(domain), TITLE.dim, generator=draws) for view in noise}
    return replace(domain, features={**domain.features, **sounds})


def shares(domain: DomainData, n_shot: int, of_coverage: float = -3.0) -> dict[str, float]:
    """Return the mean weights of the views over a few episodes."""
    weights, grams = trained_without_sound(of_coverage), gather(draw(domain, n_shot=n_shot))
    weighed = weights(grams, modality_numbers(domain.views))
    return dict(zip((view.name for view in domain.views), weighed.mean(0).tolist(), strict=True))


def test_modality_never_met_has_the_smallest_bias_of_those_met_which_its_views_share():
    weights, modalities = trained_without_sound(), modality_numbers((TITLE, SOUND, SPEECH))
    title, sound, speech = weights.prior(modalities, every(3))
    torch.testing.assert_close(title / torch.stack([sound, speech]), torch.full((2,), 2 * math.exp(1.0 + 2.0)))
    title, sound, _ = weights.prior(modalities, torch.tensor([True, True, False]))
    torch.testing.assert_close(title / sound, torch.tensor(math.exp(1.0 + 2.0)))


def test_at_one_shot_a_modality_never_met_counts_like_the_least_trusted_one():
    found = shares(heard(FACTS, SOUND), n_shot=1)
    assert found["sound"] == pytest.approx(found["facts"], rel=0.2)
    assert found["title"] > 10 * found["sound"]


def test_views_of_a_modality_never_met_share_what_one_would_have():
    domain = heard(SOUND, SPEECH, noise=(SPEECH,))
    both = shares(domain, n_shot=1)
    one = shares(domain.with_presence(domain.presence & torch.tensor([True, True, False])), n_shot=1)
    assert (both["sound"] + both["speech"]) / both["title"] == pytest.approx(one["sound"] / one["title"], rel=0.1)


@pytest.mark.parametrize("others", [(), (FACTS,), (PICTURE, FACTS)], ids=["title", "title, facts", "all"])
def test_labels_raise_a_modality_never_met_that_tells_classes_apart_whatever_else_there_is(others):
    good, bad = heard(*others, SOUND), heard(*others, SOUND, noise=(SOUND,))
    assert shares(good, n_shot=8)["sound"] > 0.3 * shares(good, n_shot=8)["title"]
    assert shares(bad, n_shot=8)["sound"] < 1.3 * shares(bad, n_shot=1)["sound"]


@pytest.mark.parametrize("of_coverage", [-3.0, 3.0])
def test_labels_decide_among_views_that_are_all_new(of_coverage):
    domain = heard(SOUND, SPEECH, noise=(SPEECH,))
    untitled = without_view(domain, "title")
    assert shares(untitled, 1, of_coverage)["sound"] == pytest.approx(0.5, abs=0.1)
    assert shares(untitled, 8, of_coverage)["sound"] > 0.85


@pytest.mark.parametrize("n_shot", [2, 3])
def test_two_classes_and_few_labels_raise_no_noise(n_shot):
    domain = heard(SOUND, noise=(SOUND,))
    grams = gather(draw(domain, batch=200, n_way=2, n_shot=n_shot))
    weighed = trained_without_sound()(grams, modality_numbers(domain.views))[:, 1]
    assert (weighed > 0.15).float().mean() < 0.05


@pytest.mark.parametrize("is_titled", [True, False])
def test_new_view_goes_towards_the_most_trusted_that_is_there_as_far_as_items_stand_by_it(is_titled):
    domain = heard(FACTS, SOUND)
    hidden = domain.with_presence(domain.presence & torch.tensor([is_titled, True, True]))
    weights, grams = trained_without_sound(), gather(draw(hidden, n_shot=6))
    standing, error = held_out_standing(grams)
    trust = torch.tensor([1.0, -2.0, -2.0]) + separability(grams) @ weights.evidence
    part = ((standing[:, 2] - 1.96 * error[:, 2]) / standing.amax(1)).clamp(0, 1)
    most = trust[:, 0] if is_titled else trust[:, 1]
    trust[:, 2] += part * (most - trust[:, 2]).clamp(min=0)
    expected = trust.masked_fill(torch.tensor([not is_titled, False, False]), -torch.inf).softmax(-1)
    torch.testing.assert_close(weights(grams, modality_numbers(domain.views)), expected)
    assert (part > 0.2).all()
