import pytest
import torch
from synthetic import (
    PICTURE,
    TITLE,
    class_names,
    departed_learner,
    domain_of_noisy_pictures,
    draw,
    make_domain,
    misled_learner,
    support_of,
)

from data_contracts.configs import TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelError
from models.catalogue import build_learner
from models.features import DomainData
from models.fused import FusedLearner
from models.learner import Prior
from models.rehearsal import learn_to_choose, rehearsals
from models.selection import AutoLearner
from models.selector import Selector
from models.training import split_classes

pytestmark = [pytest.mark.loop, pytest.mark.usefixtures("short_fits")]

CONFIG = TrainConfig(steps=8, meta_batch=4, n_way=4, n_query=5, shots=(1, 3))


@pytest.fixture
def noisy() -> DomainData:
    return domain_of_noisy_pictures(classes=20)


@pytest.fixture
def shops() -> list[DomainData]:
    """Four domains with classes of their own, two of which share theirs."""
    own = [tuple(f"{name}-{number:02d}" for number in range(16)) for name in ("tools", "toys", "books")]
    return [make_domain(f"shop-{n}", classes=own[n % 3], views=(TITLE, PICTURE), seed=n) for n in range(4)]


def test_learners_are_judged_on_domains_and_classes_that_they_do_not_meet(shops):
    both = rehearsals(shops, CONFIG)
    halves = [{domain.domain for domain in one.domains} for one in both]
    assert [len(half) for half in halves] == [2, 2]
    assert set.union(*halves) == {"shop-0", "shop-1", "shop-2", "shop-3"}
    for one in both:
        met = {domain.domain for domain in one.domains}
        known = {name for domain in one.domains for name in domain.classes}
        assert one.problems
        for batch in one.problems:
            assert batch.domain.domain not in met
            assert known.isdisjoint(
                batch.domain.classes[number] for number in batch.domain.labels[batch.support].unique()
            )
        assert known.isdisjoint(split_classes(shops, CONFIG).validation)
        assert one.config.steps == CONFIG.steps // 4


@pytest.mark.slow
def test_rehearsed_learners_use_all_of_their_heads(shops, monkeypatch):
    settled = []
    monkeypatch.setattr(FusedLearner, "settle", lambda learner, batches: settled.append(learner.kind))
    learn_to_choose({kind: build_learner(kind) for kind in ("metric", "ridge")}, shops, CONFIG)
    assert settled == []


def test_order_of_the_domains_plays_no_part(shops):
    halves = [[one.domains for one in rehearsals(some, CONFIG)] for some in (shops, shops[::-1])]
    names = [[[domain.domain for domain in half] for half in both] for both in halves]
    assert names[0] == names[1]


def test_half_trains_with_fewer_ways_rather_than_with_fewer_shots(shops):
    few = [shop.with_classes(shop.classes[:14]) for shop in shops[:2]]
    both = rehearsals(few, CONFIG)
    assert [one.config.n_way for one in both] == [3, 4]
    assert [one.config.shots for one in both] == [CONFIG.shots] * 2


def test_one_step_is_taken_at_least(shops):
    assert [one.config.steps for one in rehearsals(shops, CONFIG.model_copy(update={"steps": 3}))] == [1, 1]


def test_episodes_vary_in_shot_way_and_share_of_missing_views(shops):
    problems = rehearsals(shops, CONFIG)[0].problems
    ways = {batch.n_way for batch in problems}
    assert min(ways) < CONFIG.n_way < max(ways)
    assert {batch.support.shape[1] // batch.n_way for batch in problems} == {1, 2, 5, 10}
    shares = [batch.domain.presence.float().mean().item() for batch in problems]
    assert min(shares) < 0.7
    assert max(shares) == 1


@pytest.mark.slow
def test_what_learners_became_on_these_domains_plays_no_part(shops):
    kinds, seen = ("ridge", "mahalanobis"), []
    untrained = {kind: build_learner(kind) for kind in kinds}
    departed = {kind: departed_learner(kind, shops) for kind in kinds}
    first = learn_to_choose(untrained, shops[:2], CONFIG, lambda *now: seen.append(now)).state_dict()
    again = learn_to_choose(departed, shops[:2], CONFIG).state_dict()
    assert first["slope"].any()
    for name, value in first.items():
        assert torch.equal(again[name], value)
    assert seen == [(done, 4, f"learn to choose, {part} of 2") for part in (1, 2) for done in (0, 1, 2, 2, 3, 4)]


def test_where_there_is_one_domain_the_learner_that_does_worse_on_its_classes_is_not_chosen(noisy):
    members = {"metric": build_learner("metric"), "misled": misled_learner()}
    assert rehearsals([noisy], CONFIG) == []
    auto = AutoLearner(members, learn_to_choose(members, [noisy], CONFIG))
    for n_shot in (1, 5):
        assert (auto.scores(draw(noisy, n_shot=n_shot)).argmax(-1) == 0).all()
    assert isinstance(auto, Prior)
    preference = auto.preference(noisy, support_of(noisy, 2))
    assert preference["metric"] > preference["misled"]
    assert auto.adapt(noisy, support_of(noisy, 2)).view_weights["title"] == pytest.approx(0.5, abs=1e-4)


def test_half_with_too_few_classes_to_train_on_is_only_judged_by(shops):
    small = make_domain("small", classes=("pens", "nails"), views=(TITLE, PICTURE))
    (only,) = rehearsals([shops[0], small], CONFIG)
    assert [domain.domain for domain in only.domains] == ["shop-0"]
    assert {batch.domain.domain for batch in only.problems} == {"small"}


def test_one_learner_leaves_nothing_to_learn(shops):
    selector = learn_to_choose({"metric": build_learner("metric")}, shops, CONFIG)
    assert torch.equal(selector.level, Selector(1).level)


def test_nothing_to_choose_from_is_refused(noisy):
    with pytest.raises(ModelError, match="no learner to choose from"):
        learn_to_choose({}, [noisy], CONFIG)


def test_domains_with_too_few_classes_are_refused():
    few = make_domain(classes=class_names(5), views=(TITLE, PICTURE))
    with pytest.raises(EpisodeTooSmall, match="at least 12 classes"):
        learn_to_choose({kind: build_learner(kind) for kind in ("metric", "ridge")}, [few, few], CONFIG)
