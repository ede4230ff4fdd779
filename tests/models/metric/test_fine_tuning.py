from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from synthetic import departed_learner, draw, gather, make_domain, support_of
from torch import Tensor

from models.episodes import one_hot
from models.features import DomainData, ViewSpec
from models.grams import EpisodeGrams
from models.metric.fine_tuning import (
    MOST_FOLDS,
    FineTuning,
    folds,
    left_out,
    left_out_of_tuning,
    log_evidence,
    probability_of_better,
    spread,
    that_can_be_left_out,
    tune,
    tuned,
)
from models.metric.prototypical import PrototypicalHead
from models.metrics import Estimate, accuracy_per_episode, estimate
from models.temperature import SCALES

WEIGHTS = torch.tensor([[0.5, 0.3, 0.2]])
EPISODE_PARTS = ("support", "cross", "support_presence", "query_presence", "membership")
RIGHT, WRONG, CHANCE = 20.0, -20.0, 0.0
"""Logits of the class of an item, the others having none."""


@pytest.fixture
def episode() -> EpisodeGrams:
    return gather(draw(make_domain(), batch=1, n_way=4, n_shot=5))


def tuned_logits(episode: EpisodeGrams, strength: float, *, held_out: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return fine-tuned logits, and what they are made of: some logits to tune, and those of logistic regression.

    What is to be tuned is as right about held-out items as is said.
    """
    gram, cross = episode.fused(WEIGHTS)
    start = torch.randn(1, cross.shape[1], 4, generator=torch.Generator().manual_seed(0))
    tuning = FineTuning()
    with torch.no_grad():
        tuning.strength.level.fill_(strength)
        found = tuning(start, lambda _: held_out * episode.membership, gram, cross, episode)
    return found, start, tuned(gram, episode.membership).logits(cross)


@pytest.mark.parametrize("held_out", [RIGHT, WRONG, CHANCE])
@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_without_strength_nothing_changes(episode, strength, held_out):
    found, start, _ = tuned_logits(episode, strength, held_out=held_out)
    assert torch.equal(found, start)


@pytest.mark.parametrize("strength", [0.2, 1.0, 2.0])
def test_share_of_the_classifier_follows_held_out_items_and_the_strength(episode, strength):
    shares = []
    for held_out in (RIGHT, CHANCE, WRONG):
        found, start, classifier = tuned_logits(episode, strength, held_out=held_out)
        parts = torch.stack([start.flatten(), classifier.flatten()], dim=1)
        kept, taken = torch.linalg.lstsq(parts, found.flatten()).solution
        torch.testing.assert_close(parts @ torch.stack([kept, taken]), found.flatten(), atol=1e-4, rtol=1e-4)
        shares.append((1 - kept.item()) / min(strength, 1))
    right, chance, wrong = shares
    assert 0 < right < 0.5
    assert chance == pytest.approx(1, abs=1e-3)
    assert wrong == pytest.approx(1, abs=1e-4)


def test_single_items_of_their_classes_leave_nothing_to_tune_by():
    single = gather(draw(make_domain(), batch=1, n_way=4, n_shot=1))
    found, start, _ = tuned_logits(single, 1.0, held_out=WRONG)
    assert torch.equal(found, start)


def test_classifier_gets_the_spread_of_what_it_takes_a_share_from(episode):
    gram, cross = episode.fused(WEIGHTS)
    tuning = FineTuning()
    with torch.no_grad():
        tuning.strength.level.fill_(1.0)
        small, large = (
            tuning(cross[..., :4], lambda _, unit=unit: unit * WRONG * episode.membership, gram, cross, episode)
            for unit in (1.0, 2.0)
        )
    torch.testing.assert_close(2 * small, large, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (1, 2, 7), (3, 1, 1), (25, 4, 11)])
def test_every_item_that_has_others_is_left_out_once_and_no_class_is_emptied(sizes):
    labels = torch.repeat_interleave(torch.tensor(sizes))
    items = torch.randn(2, len(labels), 8, generator=torch.Generator().manual_seed(0))
    membership = one_hot(labels.expand(2, -1), 3)
    each = folds(items @ items.mT / 8, membership * (membership.sum(1, keepdim=True) > 1)).unbind(1)
    assert len(each) == min(max(sizes), MOST_FOLDS)
    has_others = torch.tensor(sizes)[labels] > 1
    assert torch.equal(sum(fold.long() for fold in each).squeeze(-1), has_others.long().expand(2, -1))
    for fold in each:
        assert (membership * ~fold).sum(1).min() >= 1
        assert ((membership * fold).sum(1) <= -(-torch.tensor(sizes) // MOST_FOLDS)).all()


def test_items_that_are_padding_alone_in_their_class_or_without_any_view_are_not_left_out(episode):
    membership = episode.membership.clone()
    membership[0, 0] = 0  # padding
    of_last_class = membership[0, :, 3].nonzero().flatten()
    membership[0, of_last_class[1:]] = 0
    seen = episode.support_presence.clone()
    blind = int(membership[0, :, 1].nonzero()[0])
    seen[0, :, blind] = False
    judged = that_can_be_left_out(replace(episode, membership=membership, support_presence=seen))
    expected = membership.clone()
    expected[0, [blind, int(of_last_class[0])]] = 0
    assert torch.equal(judged, expected)
    out = folds(episode.fused(WEIGHTS)[0], judged).sum(1)
    assert torch.equal(out, expected.sum(-1, keepdim=True).long())


def test_no_episodes_or_no_queries_get_no_logits(episode):
    tuning = FineTuning()
    none = replace(episode, **{name: getattr(episode, name)[:0] for name in EPISODE_PARTS})
    gram, cross = none.fused(WEIGHTS[:0])
    assert tuning(cross[..., :4], lambda rest: rest.membership, gram, cross, none).shape == (0, 20, 4)
    unasked = replace(episode, cross=episode.cross[:, :, :0], query_presence=episode.query_presence[:, :, :0])
    gram, cross = unasked.fused(WEIGHTS)
    assert tuning(cross[..., :4], lambda rest: rest.membership, gram, cross, unasked).shape == (1, 0, 4)


def test_what_is_left_of_the_labels_is_all_that_no_part_leaves_out(episode, monkeypatch):
    """Items that cannot be left out, alone in their class or without a view, are labels all the same."""
    membership, seen = episode.membership.clone(), episode.support_presence.clone()
    alone = membership[0, :, 3].nonzero().flatten()
    membership[0, alone[1:]] = 0
    blind = int(membership[0, :, 1].nonzero()[0])
    seen[0, :, blind] = False
    episode = replace(episode, membership=membership, support_presence=seen)
    gram, cross = episode.fused(WEIGHTS)
    fitted, asked = [], []
    monkeypatch.setattr(
        "models.metric.fine_tuning.tuned", lambda gram, labels: (fitted.append(labels), tuned(gram, labels))[1]
    )

    def answer(rest: EpisodeGrams) -> Tensor:
        asked.append(rest.membership)
        return rest.membership

    FineTuning()(cross[..., :4], answer, gram, cross, episode)
    left_out_fits, whole = fitted
    assert torch.equal(whole, membership)
    assert torch.equal(left_out_fits, torch.stack(asked, dim=1))
    assert all(labels[0, [blind, int(alone[0])]].any(-1).all() for labels in asked)


@pytest.mark.parametrize("shot", [2, 6])
def test_items_that_are_left_out_together_do_not_depend_on_the_order(shot):
    """Features of three values each: many items are equally central to their class, of two items both are."""
    labels = torch.arange(4).repeat_interleave(shot)
    items = torch.randint(-1, 2, (4 * shot, 7), generator=torch.Generator().manual_seed(1)).float()
    order = torch.randperm(4 * shot, generator=torch.Generator().manual_seed(2))

    def numbers(items: Tensor, labels: Tensor) -> Tensor:
        each = folds((items @ items.T)[None] / 7, one_hot(labels[None], 4))[0, ..., 0]
        return each.int().argmax(0)

    assert torch.equal(numbers(items, labels)[order], numbers(items[order], labels[order]))


def test_held_out_logits_are_scikit_learns_without_the_items_of_a_fold(episode, monkeypatch):
    monkeypatch.setattr("models.metric.fine_tuning.INVERSE_PENALTY", 5.0)
    monkeypatch.setattr("models.metric.fine_tuning.STEPS", 400)
    gram, _ = episode.fused(WEIGHTS)
    views = zip(WEIGHTS[0], episode.items.views, strict=True)
    items = torch.cat([weight**0.5 * view for weight, view in views], dim=-1)[episode.items.support[0]].numpy()
    labels = episode.membership[0].argmax(-1).numpy()
    parts = folds(gram, episode.membership)
    found = left_out_of_tuning(gram, parts, episode.membership)[0]
    found = found - found.mean(-1, keepdim=True)
    for is_out in parts[0, ..., 0].numpy():
        model = LogisticRegression(C=5.0, tol=1e-6).fit(items[~is_out], labels[~is_out])
        np.testing.assert_allclose(found[is_out].numpy(), model.decision_function(items[is_out]), atol=2e-2)


def test_answers_for_left_out_items_are_those_without_them(episode):
    """Both ways of leaving out give the same: an answer asked part by part, and all regressions at once."""
    gram, _ = episode.fused(WEIGHTS)
    judged = episode.membership.clone()
    judged[0, 0] = 0
    parts = folds(gram, judged)
    each = left_out(lambda rest: tuned(gram, rest.membership).logits(gram), parts, episode)
    torch.testing.assert_close(left_out_of_tuning(gram, parts, episode.membership), each)
    assert not each[0, 0].any()
    assert each[0, 1:].any(-1).all()


def test_evidence_is_that_of_scikit_learns_log_loss_over_all_scales():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12).remainder(3)
    logits = torch.randn(1, 12, 3, generator=generator) + 2 * one_hot(labels[None], 3)
    losses = [log_loss(labels.numpy(), (scale * logits[0]).softmax(-1).numpy(), normalize=False) for scale in SCALES]
    expected = np.log(np.mean(np.exp(-np.array(losses))))
    assert log_evidence(logits, one_hot(labels, 3)[None]).item() == pytest.approx(expected, abs=1e-4)


def test_items_that_are_not_judged_are_no_evidence():
    judged = one_hot(torch.tensor([[0, 0, 1, 1, -1, -1]]), 3)
    logits = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    other = logits + 9 * torch.randn(1, 6, 3) * (torch.arange(6) >= 4).unsqueeze(-1)
    assert torch.equal(log_evidence(logits, judged), log_evidence(other, judged))
    assert torch.equal(spread(logits, judged), spread(other, judged))


def test_probability_of_better_follows_bayes_from_even_odds():
    membership = one_hot(torch.tensor([[0, 0, 1, 1]]), 2)
    better, worse = 2 * membership, torch.tensor([[[1.0, 0.0]]]).expand(1, 4, 2)
    odds = (log_evidence(better, membership) - log_evidence(worse, membership)).exp()
    assert odds > 2
    assert probability_of_better(better, better, membership).item() == 0.5
    torch.testing.assert_close(probability_of_better(better, worse, membership), odds / (1 + odds))
    torch.testing.assert_close(probability_of_better(worse, better, membership), 1 / (1 + odds))
    assert probability_of_better(better, worse, torch.zeros_like(membership)).item() == 0


NOTES = ViewSpec("notes", "text", "words-2", 12)


def gains(domain: DomainData) -> tuple[Estimate, Estimate]:
    """Return what fine-tuning adds to the accuracy of nearest centroid, and what putting it in its place would."""
    batch = draw(domain, batch=400, n_way=5, n_shot=5, n_query=10)
    grams, head, weights = gather(batch), PrototypicalHead(), torch.ones(400, 1)
    gram, cross = grams.fused(weights)
    with torch.no_grad():
        before = head(grams, weights)
        head.fine_tuning.strength.level.fill_(1.0)
        answers = head(grams, weights), tuned(gram, grams.membership).logits(cross)
    before, after, replaced = (accuracy_per_episode(logits, batch.query_labels) for logits in (before, *answers))
    return estimate(after - before), estimate(replaced - before)


def test_little_is_lost_where_nearest_centroid_is_the_best_rule():
    """Classes are clouds of one round shape, so nothing is better than their means."""
    domain = make_domain(classes=10, per_class=60, views=(NOTES,), seed=3)
    domain.features["notes"].add_(torch.randn(600, 12, generator=torch.Generator().manual_seed(7)))
    gained, replaced = gains(domain)
    assert replaced.mean < -5 * replaced.ci95
    assert gained.mean > 0.25 * replaced.mean


def test_most_is_gained_where_one_number_drowns_the_others():
    domain = make_domain(classes=10, per_class=60, views=(NOTES,), seed=3)
    domain.features["notes"][:, 0] = 10 * torch.randn(600, generator=torch.Generator().manual_seed(7))
    gained, replaced = gains(domain)
    assert replaced.mean > 0.2
    assert gained.mean > 0.9 * replaced.mean


@pytest.mark.parametrize("kind", ["metric", "protonet", "transductive"])
def test_a_domain_model_is_tuned_once_however_often_it_is_asked(kind, monkeypatch):
    domain, learner, fits = make_domain(), departed_learner(kind), []
    monkeypatch.setattr("models.metric.fine_tuning.tune", lambda *given: (fits.append(given), tune(*given))[1])
    few, many = (learner.adapt(domain, support_of(domain, shot)) for shot in (2, 4))
    asked = [domain.take(torch.arange(count)) for count in (5, 90)]
    found = [model.predict(items) for model in (few, many, few) for items in asked]
    assert len(fits) == 2
    afresh = [learner.adapt(domain, support_of(domain, shot)).predict(items) for shot in (2, 4, 2) for items in asked]
    torch.testing.assert_close(found, afresh, rtol=0, atol=0)
