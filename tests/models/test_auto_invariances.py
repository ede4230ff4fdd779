"""The choice of `auto` hangs on nothing its members do not see; `test_fused.py` has what holds for all learners."""

from dataclasses import replace

import pytest
import torch
from synthetic import VIEWS, departed_learner, draw, make_domain, support_of, without_view
from torch import Tensor
from torch.nn.functional import normalize

from models.catalogue import build_learner
from models.episodes import EpisodeBatch, as_episode
from models.features import DomainData
from models.fused import FusedLearner
from models.selection import MOST_LABELS, AutoLearner, describe
from models.selector import STATISTICS, Selector

KINDS = ("metric", "similarity")
EPISODES = 20


@pytest.fixture(scope="module")
def members() -> dict[str, FusedLearner]:
    """Two learners with every strength on; tests must not change them."""
    return {kind: departed_learner(kind) for kind in KINDS}


def undecided(members: dict[str, FusedLearner], batch: EpisodeBatch) -> AutoLearner:
    """Choose by all statistics and by cross-validation, one learner for half of the episodes and one for the rest."""
    auto = AutoLearner(members, Selector(2))
    selector, statistics = auto.selector, describe(batch)
    selector.mean.copy_(statistics.mean(0))
    with torch.no_grad():
        selector.slope[:, 1] = torch.linspace(0.5, 1.0, STATISTICS)
        lead = auto.scores(batch).diff(dim=1).flatten().sort().values
        selector.level[1] -= lead[len(lead) // 2 - 1 :][:2].mean()
    assert auto.scores(batch).argmax(-1).sum() == len(batch) // 2
    return auto


def answers(auto: AutoLearner, batch: EpisodeBatch) -> Tensor:
    with torch.no_grad():
        return auto.log_probabilities(batch).exp()


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def assert_answers_stay(auto: AutoLearner, changed: EpisodeBatch, batch: EpisodeBatch) -> None:
    assert_near(auto.scores(changed), auto.scores(batch))
    assert_near(answers(auto, changed), answers(auto, batch))


def shuffled(support: Tensor) -> Tensor:
    return support[torch.randperm(len(support), generator=torch.Generator().manual_seed(0))]


def hide_picture(domain: DomainData) -> DomainData:
    presence = domain.presence.clone()
    presence[:, 1] = False
    return domain.with_presence(presence)


def test_untrained_members_answer_as_the_nearest_centroid_of_centred_views_of_equal_weight():
    domain = make_domain()
    batch = draw(domain, batch=EPISODES, n_shot=3)
    unit = {view.name: normalize(domain.features[view.name], dim=-1) for view in VIEWS}
    centred = [normalize(items - items.mean(0), dim=-1) for items in unit.values()]
    items = torch.cat(centred, dim=-1) / 3**0.5
    nearest = torch.cdist(items[batch.query], batch.membership.mT @ items[batch.support] / 3).argmin(-1)
    auto = undecided({kind: build_learner(kind) for kind in KINDS}, batch)
    assert torch.equal(answers(auto, batch).argmax(-1), nearest)


@pytest.mark.parametrize("n_shot", [2, 3, 7])
def test_order_of_the_support_changes_no_choice(members, toys, n_shot):
    batch = draw(toys, EPISODES, n_shot=n_shot)
    order = shuffled(torch.arange(4 * n_shot))
    turned = replace(batch, support=batch.support[:, order], support_labels=batch.support_labels[:, order])
    assert_answers_stay(undecided(members, batch), turned, batch)


def test_order_of_the_support_changes_neither_preference_nor_model(members):
    domain = make_domain(classes=3, per_class=MOST_LABELS + 10)
    support = support_of(domain, MOST_LABELS + 5)
    auto = undecided(members, draw(domain, EPISODES, n_way=3))
    assert auto.preference(domain, shuffled(support)) == pytest.approx(auto.preference(domain, support), abs=1e-5)
    assert_near(auto.adapt(domain, shuffled(support)).predict(domain), auto.adapt(domain, support).predict(domain))


def test_order_of_the_classes_permutes_the_answers(members, toys):
    batch, order = draw(toys, EPISODES, n_shot=3), torch.tensor([2, 0, 3, 1])
    renamed = replace(batch, support_labels=order[batch.support_labels], query_labels=order[batch.query_labels])
    auto = undecided(members, batch)
    assert_near(auto.scores(renamed), auto.scores(batch))
    assert_near(answers(auto, renamed)[..., order], answers(auto, batch))


def test_order_of_the_views_changes_nothing(members, toys):
    batch = draw(toys, EPISODES, n_shot=3)
    turned = replace(toys, views=toys.views[::-1], presence=toys.presence.flip(1))
    assert_answers_stay(undecided(members, batch), replace(batch, domain=turned), batch)


def test_padded_support_changes_nothing(members, toys):
    batch = draw(toys, EPISODES, n_shot=3)
    padded = replace(
        batch,
        support=torch.cat([batch.query[:, :2], batch.support], dim=1),
        support_labels=torch.cat([torch.full((EPISODES, 2), -1), batch.support_labels], dim=1),
    )
    assert_answers_stay(undecided(members, batch), padded, batch)


@pytest.mark.parametrize("n_shot", [1, 3])
def test_view_that_every_item_misses_is_as_if_it_were_not_there(members, toys, n_shot):
    batch = draw(hide_picture(toys), EPISODES, n_shot=n_shot)
    reduced = replace(batch, domain=without_view(toys, "picture"))
    assert_answers_stay(undecided(members, reduced), batch, reduced)


def test_each_episode_of_a_batch_is_answered_as_if_alone(members, toys):
    batch = draw(toys, EPISODES, n_shot=3)
    auto = undecided(members, batch)
    scores, together = auto.scores(batch), answers(auto, batch)
    for number in range(5):
        alone = slice(number, number + 1)
        assert_near(auto.scores(batch[alone]), scores[alone])
        assert_near(answers(auto, batch[alone]), together[alone])


@pytest.mark.parametrize("n_shot", [1, 2, 5])
def test_answers_to_a_batch_are_decided_as_those_of_the_adapted_domain_model(members, toys, n_shot):
    domain = toys.with_classes(toys.classes[:5])
    support = support_of(domain, n_shot)
    auto = undecided(members, draw(domain, EPISODES, n_shot=n_shot))
    query = torch.tensor([row for row in range(60) if row not in support.tolist()])
    expected = auto.adapt(domain, support).predict(domain.take(query)).argmax(-1)
    assert torch.equal(answers(auto, as_episode(domain, support, query))[0].argmax(-1), expected)
