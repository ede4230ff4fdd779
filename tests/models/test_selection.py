from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from synthetic import (
    PICTURE,
    TITLE,
    departed_learner,
    domain_of_noisy_pictures,
    draw,
    make_domain,
    misled_learner,
    support_of,
    without_view,
)

from data_contracts.errors import ModelRefused
from models.catalogue import build_learner, load_prior
from models.episodes import as_episode
from models.features import DomainData
from models.fused import FusedLearner
from models.selection import AutoLearner, cross_validate, describe, leave_out, ranks
from models.selector import Selector


@pytest.fixture
def members() -> dict[str, FusedLearner]:
    return {"metric": build_learner("metric"), "misled": misled_learner()}


@pytest.fixture
def noisy() -> DomainData:
    return domain_of_noisy_pictures(classes=12)


def test_position_within_the_class_is_that_among_its_row_numbers():
    rows, labels = torch.tensor([[9, 4, 1, 5, 2, 7]]), torch.tensor([[2, 0, 2, 2, 0, 1]])
    assert ranks(rows, labels).tolist() == [[2, 1, 0, 1, 0, 0]]


def test_every_support_item_is_held_out_once_and_is_no_support_then(toys):
    batch = draw(toys, n_shot=3)
    folds = leave_out(batch)
    assert len(folds) == 3
    held = torch.stack([fold.query_labels >= 0 for fold in folds])
    assert (held.sum(0) == 1).all()
    for fold, is_held in zip(folds, held, strict=True):
        assert torch.equal(fold.support_labels >= 0, ~is_held)
        assert torch.equal(fold.query, batch.support)


def test_only_item_of_a_class_is_never_held_out(toys):
    support = torch.cat([support_of(toys, 1), support_of(toys, 3)[1:3]])
    episode = as_episode(toys, support, support[:0])
    held = sum(int((fold.query_labels >= 0).sum()) for fold in leave_out(episode))
    assert held == 3


def test_one_label_per_class_leaves_nothing_to_validate_on(toys):
    batch = draw(toys, n_shot=1)
    assert leave_out(batch) == []
    assert cross_validate(build_learner("metric"), batch).tolist() == [[0.0, 0.0]] * 6


def test_cross_validated_accuracy_is_that_of_leaving_each_item_out(toys):
    learner, domain = departed_learner(), toys.with_classes(toys.classes[:4])
    support = support_of(domain, 2)
    right = []
    with torch.no_grad():
        for place in ([0, 2, 4, 6], [1, 3, 5, 7]):
            kept = torch.tensor([row for number, row in enumerate(support.tolist()) if number not in place])
            answer = learner.log_probabilities(as_episode(domain, kept, support[place]))
            right += (answer[0].argmax(-1) == domain.labels[support[place]]).tolist()
        found = cross_validate(learner, as_episode(domain, support, support[:0]))
    assert found[0, 0].item() == pytest.approx(sum(right) / 8)


def test_statistics_tell_shots_ways_views_and_gaps_in_the_data(toys):
    one, many = describe(draw(toys, n_shot=1)), describe(draw(toys, n_way=8, n_shot=5))
    assert one.shape == (6, 7)
    assert (one[:, 0] == 0).all()
    assert (many[:, 1] > one[:, 1]).all()
    torch.testing.assert_close(many[0, 2], torch.tensor(3.0).log())
    complete = describe(draw(make_domain()))
    assert (complete[:, 6] == 1).all()
    assert (one[:, 6] < 1).any()


def test_view_that_no_support_item_has_does_not_count_among_the_statistics(toys):
    batch = draw(toys, n_shot=3)
    presence = toys.presence.clone()
    presence[batch.support[0], 1] = False
    with_hole = describe(replace(batch, domain=toys.with_presence(presence)))
    without = describe(replace(batch, domain=without_view(toys, "picture")))
    torch.testing.assert_close(with_hole[0], without[0])
    assert with_hole[1, 2] > without[1, 2]  # others have it


def test_statistics_are_finite_where_no_support_item_has_any_view(toys):
    bare = toys.with_presence(torch.zeros_like(toys.presence))
    assert describe(replace(draw(toys), domain=bare)).isfinite().all()


def test_cross_validation_can_overrule_what_other_domains_taught(members, noisy):
    auto = AutoLearner(members, Selector(2))
    with torch.no_grad():
        auto.selector.level[1] = 0.2
        auto.selector.evidence.level.fill_(10.0)
    assert (auto.scores(draw(noisy, n_shot=1)).argmax(-1) == 1).all()
    assert (auto.scores(draw(noisy, n_shot=5)).argmax(-1) == 0).float().mean() > 0.5


def test_answers_are_those_of_the_learner_chosen_for_each_episode(members, noisy):
    auto, batch = AutoLearner(members, Selector(2)), draw(noisy, n_shot=3, batch=20)
    with torch.no_grad():
        auto.selector.evidence.level.fill_(1.0)
        auto.selector.level[1] = auto.scores(batch).diff(dim=1).median().neg()
        chosen = auto.scores(batch).argmax(-1)
        expected = torch.stack([member.log_probabilities(batch) for member in members.values()])
        found = auto.log_probabilities(batch)
    assert set(chosen.tolist()) == {0, 1}
    torch.testing.assert_close(found, expected[chosen, torch.arange(20)])


def test_large_support_is_not_used_whole_for_choosing(members):
    domain = make_domain("large", classes=3, per_class=90, views=(TITLE, PICTURE))
    auto = AutoLearner(members, Selector(2))
    few, many = auto.preference(domain, support_of(domain, 20)), auto.preference(domain, support_of(domain, 60))
    assert few == many


def test_choice_comes_back_from_its_stored_form(noisy):
    members = {"metric": departed_learner(domains=[noisy])}
    auto = AutoLearner(members, Selector(1))
    again = load_prior(auto.config(), load(save(auto.weights())))
    batch = draw(noisy)
    assert again.kind == "auto"
    with torch.no_grad():
        assert torch.equal(again.log_probabilities(batch), auto.log_probabilities(batch))


def test_learner_that_is_only_stored_beside_them_is_never_chosen(members, noisy):
    chosen = AutoLearner(members, Selector(2))
    auto = AutoLearner(members, Selector(2), {"ridge": build_learner("ridge")})
    assert auto.preference(noisy, support_of(noisy, 2)) == chosen.preference(noisy, support_of(noisy, 2))
    metric_only = {"metric": members["metric"]}
    again = AutoLearner(metric_only, Selector(1), {"ridge": departed_learner("ridge", [noisy])})
    found = load_prior(again.config(), load(save(again.weights())))
    assert list(found.learners) == ["metric", "ridge"]
    for name, value in again.others["ridge"].weights().items():
        assert torch.equal(found.others["ridge"].weights()[name], value)


def test_stored_choice_that_is_not_whole_is_refused(noisy):
    auto = AutoLearner({"metric": build_learner("metric")}, Selector(1))
    weights = auto.weights()
    for name in weights:
        with pytest.raises(ModelRefused, match="do not fit"):
            load_prior(auto.config(), {other: value for other, value in weights.items() if other != name})
    with pytest.raises(ModelRefused, match="of kind 'oracle'"):
        load_prior({"kind": "auto", "members": [{"kind": "oracle"}], "others": []}, weights)
    with pytest.raises(ModelRefused, match="do not fit"):
        load_prior({"kind": "auto"}, weights)
