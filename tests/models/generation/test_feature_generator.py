import math
from copy import deepcopy

import pytest
import torch
from synthetic import class_names, draw, gather, make_domain
from test_grams import by_hand
from torch.nn.functional import cross_entropy

from models.catalogue import build_learner
from models.common_space import COMMON_DIM
from models.fused import FusedLearner
from models.generation.classes import prototype_shares
from models.generation.feature_generator import (
    BASE_CLASSES,
    BASE_COUNT,
    SYNTHETIC,
    BaseClasses,
    FeatureGeneratorHead,
    generator_loss,
)
from models.grams import EpisodeGrams
from models.nearest import NearestCentroid
from models.temperature import decision_loss

WEIGHTS = torch.tensor([0.5, 0.3, 0.2]).expand(6, -1)


@pytest.fixture
def episodes() -> EpisodeGrams:
    return gather(draw(make_domain(missing=0.1)))


@pytest.fixture
def head() -> FeatureGeneratorHead:
    """A head with forty base classes of length 1 and both strengths on."""
    head = FeatureGeneratorHead()
    labels = torch.arange(40).repeat(6)
    centres = torch.nn.functional.normalize(torch.randn(40, COMMON_DIM), dim=-1)
    head.fit([centres[labels] + 0.02 * torch.randn(240, COMMON_DIM)], [labels])
    with torch.no_grad():
        head.calibration.level.fill_(0.5)
        head.generation.level.fill_(0.3)
    return head


def test_statistics_are_mean_and_standard_deviation_of_each_class_over_all_domains():
    head = FeatureGeneratorHead()
    one, other = torch.zeros(2, COMMON_DIM), torch.zeros(1, COMMON_DIM)
    one[0, 0], one[1, 0], other[0, 1] = 1.0, 5.0, 5.0
    head.fit([one, other], [torch.tensor([0, 0]), torch.tensor([2])])
    assert head.base.counts[:4].tolist() == [2.0, 1.0, 0.0, 0.0]
    assert head.base.means[0, :2].tolist() == [3.0, 0.0]
    assert head.base.means[1, :2].tolist() == [0.0, 5.0]
    assert head.base.spreads[0, :2].tolist() == [2.0, 0.0]


def test_of_too_many_base_classes_the_largest_are_kept():
    labels = torch.cat([torch.arange(BASE_CLASSES + 5), torch.tensor([BASE_CLASSES + 3])])
    base = BaseClasses()
    base.fit(torch.randn(len(labels), COMMON_DIM, generator=torch.Generator().manual_seed(0)), labels)
    assert base.counts.sum().item() == BASE_CLASSES + 1
    assert base.counts.max().item() == base.counts[0].item() == 2


def test_new_statistics_replace_the_old_ones_and_no_items_leave_none():
    base, items = BaseClasses(), torch.ones(2, COMMON_DIM)
    base.fit(items, torch.tensor([0, 1]))
    base.fit(items[:1], torch.tensor([1]))
    assert base.counts.tolist() == [1.0] + [0.0] * (BASE_CLASSES - 1)
    base.fit(items[:0], torch.tensor([], dtype=torch.long))
    assert not base.counts.any()
    assert not base.means.any()


def test_without_statistics_the_head_is_nearest_centroid(head, episodes):
    head.base.fit(torch.zeros(0, COMMON_DIM), torch.zeros(0, dtype=torch.long))
    with torch.no_grad():
        assert torch.equal(head(episodes, WEIGHTS), NearestCentroid()(episodes, WEIGHTS))


def test_near_base_classes_are_those_at_the_smallest_distance():
    base, items = BaseClasses(), torch.zeros(4, COMMON_DIM)
    items[0, 0], items[1, 0], items[2, 1], items[3, 1] = 0.9, 1.1, -1.0, -3.0
    base.fit(items, torch.tensor([0, 0, 1, 1]))
    mean, spread = base.near(torch.eye(COMMON_DIM)[None, :1])
    torch.testing.assert_close(mean[0, 0, :2], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(spread[0, 0, :2], torch.tensor([0.1, 0.0]))


def test_calibrated_prototype_lies_between_the_support_and_the_base_classes(head, episodes):
    support, query = episodes.items.common(WEIGHTS)
    own = prototype_shares(episodes).mT @ support
    calibrated = (own + BASE_COUNT * head.base.near(own)[0]) / (1 + BASE_COUNT)
    change = torch.cdist(query, own).square() - torch.cdist(query, calibrated).square()
    expected = change - change.mean(-1, keepdim=True)
    found = head.corrections(episodes, WEIGHTS)[0]
    is_seen = episodes.query_presence.any(1)
    torch.testing.assert_close(found[is_seen], expected[is_seen], atol=1e-4, rtol=0)


def test_synthetic_items_are_spread_as_base_classes_are_about_the_way_to_them(head, episodes):
    support, _ = episodes.items.common(WEIGHTS)
    own = prototype_shares(episodes).mT @ support
    near, spread = head.base.near(own)
    with torch.no_grad():
        synthetic = head.synthesise(support, episodes)
    assert synthetic.shape == (SYNTHETIC, *own.shape)
    mean = synthetic.mean(0)
    way = near - own
    share = ((mean - own) * way).sum(-1) / way.square().sum(-1)
    assert share.min() > 0
    assert share.max() < 1
    torch.testing.assert_close(mean, own + share[..., None] * way, atol=1e-5, rtol=0)
    ratio = (synthetic - mean).square().sum(-1).mean(0) / spread.square().sum(-1)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.3


def test_generator_that_is_worse_than_calibration_is_not_used_but_may_come_back(head, episodes):
    with torch.no_grad():
        head.generation.level.fill_(-0.8)
        below = head(episodes, WEIGHTS)
        assert head.advantage(episodes.shots).max() == 0
        head.generation.level.zero_()
        assert torch.equal(below, head(episodes, WEIGHTS))
        head.generation.level.fill_(-0.8)
    head(episodes, WEIGHTS)[0, 0, 0].backward()
    assert head.generation.level.grad.item() != 0


def test_strengths_lead_from_nearest_centroid_to_calibration_to_the_generator(head, episodes):
    with torch.no_grad():
        contenders = head.contenders(episodes, WEIGHTS)
        for name, calibration, generation in (("nearest", 0, 0), ("calibrated", 1, 0), ("generated", 1, 1)):
            head.calibration.level.fill_(calibration)
            head.generation.level.fill_(generation)
            torch.testing.assert_close(head(episodes, WEIGHTS), contenders[name], atol=1e-4, rtol=0)
    assert not torch.allclose(contenders["calibrated"], contenders["generated"], atol=0.1)


def test_contest_teaches_the_generator_and_its_strength_and_nothing_else(head):
    batch = draw(make_domain())
    grams, weights = gather(batch), WEIGHTS.clone().requires_grad_()
    for items in grams.items.views:
        items.requires_grad_()
    loss = head.contest(grams, weights, batch.query_labels)
    full = cross_entropy(head.contenders(grams, weights)["generated"].flatten(0, 1), batch.query_labels.flatten())
    torch.testing.assert_close(loss, full + decision_loss(head(grams, weights), batch.query_labels))
    loss.backward()
    taught = {name.split(".")[0] for name, parameter in head.named_parameters() if parameter.grad is not None}
    assert taught == {"generator", "generation"}
    assert weights.grad is None
    assert all(items.grad is None for items in grams.items.views)


def test_calibration_learns_as_if_there_were_no_generator(head):
    batch, without = draw(make_domain()), deepcopy(head)
    without.drop()
    decision_loss(without(gather(batch), WEIGHTS), batch.query_labels).backward()
    generator_loss(head, gather(batch), WEIGHTS, batch.query_labels).backward()
    for name in ("calibration.level", "calibration.slope", "nearest.log_temperature.level"):
        found = head.get_parameter(name).grad
        torch.testing.assert_close(found, without.get_parameter(name).grad)
        assert found.any()


def test_calibration_alone_is_left_of_a_dropped_generator(head, episodes):
    with torch.no_grad():
        used, plain = head(episodes, WEIGHTS), head.plain(episodes, WEIGHTS)
        head.drop()
        assert torch.equal(head(episodes, WEIGHTS), plain)
    assert not torch.equal(used, plain)


@pytest.fixture
def contest() -> FusedLearner:
    """A learner with base classes that mislead, whose generator is used in full."""
    learner = build_learner("feature_generator")
    others = make_domain("others", classes=class_names(20, start=50))
    learner.fit_statistics([others], others.classes)
    with torch.no_grad():
        learner.head.generation.level.fill_(1.0)
    return learner


def towards_base_classes(learner: FusedLearner, share: float) -> None:
    """Let the generator place every item at about this share of the way."""
    last = learner.head.generator.network[2]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(math.log(share / (1 - share)))


@pytest.mark.parametrize(("share", "calibration", "is_kept"), [(0.01, 1.5, True), (0.99, 0.0, False)])
def test_generator_is_kept_only_if_it_beats_calibration_on_new_classes(contest, share, calibration, is_kept):
    towards_base_classes(contest, share)
    with torch.no_grad():
        contest.head.calibration.level.fill_(calibration)
    contest.settle([draw(make_domain(seed=seed), batch=40, n_shot=1) for seed in range(3)])
    assert contest.head.generation.level.item() == is_kept
    assert contest.head.calibration.level.item() == calibration


def test_generator_that_is_as_good_as_calibration_is_dropped(contest):
    with torch.no_grad():
        contest.head.generation.level.fill_(-0.3)
    contest.settle([draw(make_domain(), batch=10, n_shot=1)])
    assert contest.head.generation.level.item() == 0


def test_trained_generator_beats_calibration_by_base_classes_that_mislead(head):
    batch = draw(make_domain(), batch=6, n_shot=1)
    grams, labels = gather(batch), batch.query_labels
    optimiser = torch.optim.Adam(head.generator.parameters(), lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        generator_loss(head, grams, WEIGHTS, labels).backward()
        optimiser.step()
    with torch.no_grad():
        loss = {
            name: cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
            for name, logits in head.contenders(grams, WEIGHTS).items()
        }
    assert loss["generated"] < loss["calibrated"]


def test_gradient_is_finite_with_base_classes_of_a_single_item(head):
    batch = draw(make_domain())
    head.fit([torch.randn(5, COMMON_DIM)], [torch.arange(5)])
    weights = WEIGHTS.clone().requires_grad_()
    generator_loss(head, gather(batch), weights, batch.query_labels).backward()
    assert weights.grad.isfinite().all()
    assert weights.grad.any()


def test_query_without_any_view_favours_no_class(head):
    grams = by_hand([[1.0, 0.0], [0.0, 1.0]], [[0.0, 0.0]], [0, 1], 2)
    logits = head(grams, torch.ones(1, 1))
    assert logits[0, 0, 0] == logits[0, 0, 1]
