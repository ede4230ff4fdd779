import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from synthetic import draw, gather, make_domain
from torch import Tensor

from models.episodes import one_hot
from models.grams import EpisodeGrams
from models.logistic import fit_logistic, held_out_logits
from models.metric.fine_tuning import STEPS, FineTuning, is_worse, likelihood, stands_alone, stop_early
from models.temperature import SCALES

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])
RIGHT, WRONG, CHANCE = 1.0, -1.0, 0.0
"""Logits of the class of an item, the others having none."""


@pytest.fixture
def episode() -> EpisodeGrams:
    return gather(draw(make_domain(), batch=1, n_way=4, n_shot=5))


def tuned(
    episode: EpisodeGrams, strength: float, *, held_out: float, may_replace: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Return fine-tuned logits, and what they are made of: some logits to tune, and those of logistic regression.

    The logits to tune are as right for held-out items as is said.
    """
    gram, cross = episode.fused(WEIGHTS)
    start = torch.randn(1, cross.shape[1], 4, generator=torch.Generator().manual_seed(0))
    tuning = FineTuning(may_replace=may_replace)
    with torch.no_grad():
        tuning.strength.level.fill_(strength)
        found = tuning(start, held_out * episode.membership, gram, cross, episode)
    return found, start, fit_logistic(gram, episode.membership, 10.0, steps=STEPS).logits(cross)


@pytest.mark.parametrize("held_out", [RIGHT, WRONG, CHANCE])
def test_without_strength_nothing_changes(episode, held_out):
    found, start, _ = tuned(episode, 0.0, held_out=held_out)
    assert torch.equal(found, start)


def test_classifier_is_added_to_what_is_right_about_held_out_items(episode):
    found, start, classifier = tuned(episode, 0.5, held_out=10 * RIGHT)
    torch.testing.assert_close(found, start + 0.5 * classifier)


@pytest.mark.parametrize("strength", [0.2, 0.5, 2.0])
def test_what_held_out_items_speak_against_gives_way_by_the_strength(episode, strength):
    found, start, classifier = tuned(episode, strength, held_out=WRONG)
    torch.testing.assert_close(found, (1 - min(strength, 1)) * start + strength * classifier)


def test_what_may_not_be_replaced_is_added_to_all_the_same(episode):
    found, start, classifier = tuned(episode, 0.5, held_out=WRONG, may_replace=False)
    torch.testing.assert_close(found, start + 0.5 * classifier)


def test_nothing_gives_way_to_a_classifier_of_negative_strength(episode):
    """Items that have nothing in common look most unlike their own class, so against the classifier is right."""
    gram, cross = torch.eye(20)[None], torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0))
    start, wrong, tuning = cross[..., :4], WRONG * episode.membership, FineTuning()
    penalty = torch.tensor([10.0])
    classifier = fit_logistic(gram, episode.membership, penalty, steps=STEPS)
    against = -0.5 * held_out_logits(gram, episode.membership, classifier, penalty)
    assert stands_alone(wrong, against, episode.membership).item()
    with torch.no_grad():
        tuning.strength.level.fill_(-0.5)
        found = tuning(start, wrong, gram, cross, episode)
    torch.testing.assert_close(found, start - 0.5 * classifier.logits(cross))


def test_nothing_gives_way_to_a_classifier_that_is_likelier_but_more_often_wrong(episode):
    number = torch.arange(20).unsqueeze(-1)
    mostly_right = torch.where(number < 4, 50 * WRONG, 0.01 * RIGHT) * episode.membership
    seldom_right = torch.where(number < 7, 10 * RIGHT, WRONG) * episode.membership
    alone, both = (likelihood(logits, episode.membership) for logits in (seldom_right, mostly_right + seldom_right))
    assert alone > both
    assert not stands_alone(mostly_right, seldom_right, episode.membership).item()


def test_nothing_gives_way_to_a_classifier_that_may_not_even_be_added():
    """Alone it is right about most held-out items; added, about none."""
    episode = gather(draw(make_domain(), batch=1, n_way=4, n_shot=5, seed=1))
    gram, cross = episode.fused(torch.tensor([[0.0, 0.0, 1.0]]))
    tuning, penalty = FineTuning(), torch.tensor([10.0])
    with torch.no_grad():
        tuning.strength.level.fill_(1.0)
        without = held_out_logits(gram, episode.membership, fit_logistic(gram, episode.membership, penalty), penalty)
        is_right = (without.argmax(-1) == episode.membership.argmax(-1)).unsqueeze(-1)
        held_out = torch.where(is_right, 100 * WRONG, 0.01 * RIGHT) * episode.membership
        assert stands_alone(held_out, without, episode.membership).item()
        start = torch.randn(1, cross.shape[1], 4, generator=torch.Generator().manual_seed(0))
        assert torch.equal(tuning(start, held_out, gram, cross, episode), start)


def test_nothing_gives_way_to_a_classifier_that_is_no_better_than_chance(episode):
    assert stands_alone(WRONG * episode.membership, RIGHT * episode.membership, episode.membership).item()
    assert not stands_alone(WRONG * episode.membership, 0.1 * WRONG * episode.membership, episode.membership).item()


def test_single_items_of_their_classes_do_not_decide():
    single = gather(draw(make_domain(), batch=1, n_way=4, n_shot=1))
    found, start, classifier = tuned(single, 0.5, held_out=WRONG)
    torch.testing.assert_close(found, start + 0.5 * classifier)


def test_padding_does_not_decide(episode):
    membership = episode.membership * (torch.arange(20) < 16).unsqueeze(-1)
    padding = 1 - membership.sum(-1, keepdim=True)
    first_class, others = padding * torch.tensor([9.0, 0, 0, 0]), padding * torch.tensor([0.0, 9, 9, 9])
    logits = torch.randn(1, 20, 4, generator=torch.Generator().manual_seed(0)) * (1 - padding)
    for noise in (first_class, others):
        assert likelihood(logits + noise, membership) == likelihood(logits, membership)
        assert is_worse(logits + noise, logits, membership) == is_worse(logits, logits, membership)


def test_likelihood_is_that_of_scikit_learn_at_the_best_scale():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12).remainder(3)
    logits = torch.randn(1, 12, 3, generator=generator) + 2 * one_hot(labels[None], 3)
    each = [-log_loss(labels.numpy(), (scale * logits[0]).softmax(-1).numpy(), normalize=False) for scale in SCALES]
    assert 0 < int(np.argmax(each)) < len(SCALES) - 1
    assert likelihood(logits, one_hot(labels[None], 3)).item() == pytest.approx(max(each), abs=1e-4)


def test_fine_tuning_goes_as_far_as_held_out_items_let_it():
    membership = one_hot(torch.arange(20).remainder(2).unsqueeze(0), 2)
    harmful = -3 * membership * (torch.arange(20) < 8).unsqueeze(-1)  # these are lost beyond two thirds of the way
    helpful = torch.zeros_like(membership)
    before = 2 * membership
    assert stop_early(before, harmful, membership).item() == 0.5
    assert stop_early(before, 10 * harmful, membership).item() == 0
    assert stop_early(before, helpful, membership).item() == 1


def test_worse_means_beyond_two_standard_errors_and_items_alone_in_their_class_have_no_say():
    membership = one_hot(torch.tensor([0] * 10 + [1] * 10 + [2]).unsqueeze(0), 3)
    right, wrong = 2 * membership, 1 - membership
    few = torch.where(torch.arange(21).unsqueeze(-1) < 2, wrong, right)
    many = torch.where(torch.arange(21).unsqueeze(-1) < 8, wrong, right)
    alone = torch.where(torch.arange(21).unsqueeze(-1) == 20, wrong, right)
    assert [is_worse(after, right, membership).item() for after in (few, many, alone, right)] == [0, 1, 0, 0]
    single = one_hot(torch.tensor([[0, 1, 2]]), 3)
    assert not is_worse(1 - single, single, single).item()
