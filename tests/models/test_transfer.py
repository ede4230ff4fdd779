import math

import pytest
import torch
from synthetic import PICTURE, TITLE, class_names, make_domain

from data_contracts.configs import TrainConfig, TransferConfig
from data_contracts.errors import EpisodeTooSmall, ModelError, UnknownDomain
from data_contracts.reports import TransferRow
from models.evaluation import Answers
from models.features import DomainData
from models.transfer import _row, calibration_episodes, leave_out, run_transfer

pytestmark = [pytest.mark.loop, pytest.mark.usefixtures("short_fits")]

TRAINING = TrainConfig(steps=2, n_way=2, n_query=4, shots=(1, 2), meta_batch=2, validate_every=1)
CONFIG = TransferConfig(learners=("metric",), n_way=2, shots=(1, 2), n_query=6, episodes=30, training=TRAINING)


def domain_of(name: str, **changes) -> DomainData:
    return make_domain(name, **{"classes": 16, "per_class": 9, "views": (TITLE, PICTURE), **changes})


@pytest.fixture
def domains() -> dict[str, DomainData]:
    """Three domains with the same classes; the last has one view only."""
    return {
        "first": domain_of("first", seed=1),
        "second": domain_of("second", seed=2),
        "third": domain_of("third", views=(TITLE,), seed=3),
    }


def with_changes(**changes) -> TransferConfig:
    return CONFIG.model_copy(update=changes)


def test_every_domain_is_left_out_once_and_gives_a_row_for_each_shot_and_learner(domains):
    reports: list[tuple[int, int, str]] = []
    rows, skipped = run_transfer(
        with_changes(learners=("metric", "mahalanobis")), domains, lambda *now: reports.append(now)
    )
    assert skipped == {}
    expected = [(name, shot, kind) for name in domains for shot in (1, 2) for kind in ("metric", "mahalanobis")]
    assert [(row.domain, row.shot, row.learner) for row in rows] == expected
    assert {row.unseen for row in rows} == {"domain and classes"}
    assert {(2, 2, f"without {name}: meta-train mahalanobis") for name in domains} <= set(reports)


def test_choice_among_learners_is_compared_like_any_of_them(domains):
    rows, _ = run_transfer(with_changes(domains=("third",), shots=(1,), learners=("metric", "auto")), domains)
    assert [row.learner for row in rows] == ["metric", "auto"]


def test_domains_that_are_named_are_left_out_and_all_others_train(domains):
    rows, _ = run_transfer(with_changes(domains=("third",), shots=(1,)), domains)
    assert [row.domain for row in rows] == ["third"]
    assert [data.domain for data in leave_out("third", domains, CONFIG).training] == ["first", "second"]


def test_rows_are_the_same_twice(domains):
    chosen = with_changes(domains=("first",))
    assert run_transfer(chosen, domains) == run_transfer(chosen, domains)


def test_training_sees_neither_the_domain_nor_the_tested_classes(domains):
    problem = leave_out("second", domains, CONFIG)
    seen = {name for data in problem.training for name in data.classes}
    assert len(problem.classes) == round(0.35 * 16)
    assert seen == set(class_names(16)) - set(problem.classes)
    assert "second" not in {data.domain for data in problem.training}


def test_where_few_classes_are_shared_only_the_domain_is_unseen():
    few = {name: domain_of(name, classes=6, seed=number) for number, name in enumerate(("first", "second"))}
    problem = leave_out("first", few, with_changes(n_way=4))
    assert problem.unseen == "domain"
    assert problem.classes == class_names(6)
    assert problem.training[0].classes == class_names(6)


def test_classes_that_only_the_domain_has_are_unseen_without_holding_any_out(domains):
    own = {**domains, "own": domain_of("own", classes=class_names(5, start=50), seed=4)}
    problem = leave_out("own", own, CONFIG)
    assert problem.unseen == "domain and classes"
    assert problem.classes == class_names(5, start=50)
    assert {len(data.classes) for data in problem.training} == {16}


def test_unknown_domain_is_refused_with_the_known_ones(domains):
    with pytest.raises(UnknownDomain, match=r"no domain 'fourth' .* first, second, third"):
        run_transfer(with_changes(domains=("first", "fourth")), domains)


def test_one_domain_cannot_be_left_out(domains):
    with pytest.raises(EpisodeTooSmall, match="1 domains have labels"):
        run_transfer(CONFIG, {"first": domains["first"]})


def test_domain_with_too_few_classes_is_skipped_unless_it_was_named(domains):
    small = {**domains, "small": domain_of("small", classes=1, per_class=9)}
    rows, skipped = run_transfer(with_changes(shots=(1,)), small)
    assert {row.domain for row in rows} == set(domains)
    assert "'small' has 1 held-out classes" in skipped["small"]
    with pytest.raises(EpisodeTooSmall, match="'small' has 1 held-out classes"):
        run_transfer(with_changes(domains=("small",)), small)


def test_report_on_domains_that_can_all_not_be_tested_is_refused(domains):
    with pytest.raises(EpisodeTooSmall, match="20-way"):
        run_transfer(with_changes(n_way=20), domains)


def test_too_few_classes_to_train_on_are_said_before_training(domains):
    poor = {"first": domains["first"], "poor": domain_of("poor", classes=3, per_class=4)}
    with pytest.raises(EpisodeTooSmall, match="beside 'first' have too few classes"):
        run_transfer(with_changes(domains=("first",)), poor)


def test_learner_that_does_not_exist_is_named(domains):
    with pytest.raises(ModelError, match="no learner 'oracle'"):
        run_transfer(with_changes(learners=("oracle",)), domains)


def test_calibration_episodes_are_of_the_given_classes_of_the_training_domains(domains):
    chosen = class_names(3, start=4)
    batches = calibration_episodes(list(domains.values()), chosen, 2, CONFIG)
    assert [batch.domain.domain for batch in batches] == list(domains)
    assert {number for batch in batches for number in batch.domain.labels[batch.query].flatten().tolist()} == {4, 5, 6}
    assert calibration_episodes(list(domains.values()), chosen[:1], 2, CONFIG) == []


def test_sets_of_domains_like_those_trained_on_cover_about_as_much_as_stated():
    similar = {name: domain_of(name, classes=30, seed=number) for number, name in enumerate("abcd")}
    rows, _ = run_transfer(with_changes(shots=(2,), episodes=100, coverage=0.8), similar)
    assert sum(row.coverage for row in rows) / len(rows) == pytest.approx(0.8, abs=0.06)
    assert all(0.6 < row.set_size < 1.8 for row in rows)


def answers_of(accuracy: list[float], sure: float = 0.8) -> Answers:
    probabilities = torch.tensor([[sure, 1 - sure]] * 5)
    return Answers(
        torch.tensor(accuracy), -probabilities[:, 0].log(), probabilities, torch.tensor([0, 0, 0, 0, 1]), 0.0
    )


def row_of(own: list[float], limit: float = 0.5, **scratch: list[float]) -> TransferRow:
    problem = leave_out("first", {name: domain_of(name) for name in ("first", "second")}, CONFIG)
    from_scratch = {name: answers_of(accuracy, 0.6) for name, accuracy in scratch.items()}
    return _row(problem, 1, "metric", answers_of(own), from_scratch, limit)


def test_gain_is_paired_and_over_the_better_of_the_two_from_scratch():
    row = row_of([0.9, 0.8, 0.7], nearest_centroid=[0.8, 0.6, 0.7], concat_logreg=[0.9, 0.5, 0.6])
    assert row.reference == "nearest_centroid"
    assert row.gain == pytest.approx(0.1)
    assert row.gain_ci95 == pytest.approx(1.96 * 0.1 / math.sqrt(3), abs=1e-6)
    assert row.transferred.nll == pytest.approx(-math.log(0.8))
    assert row.transferred.ece == pytest.approx(0.0, abs=1e-6)
    assert row.from_scratch["concat_logreg"].ece == pytest.approx(0.2, abs=1e-6)
    assert row.from_scratch["concat_logreg"].accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("own", "is_negative"),
    [([0.4, 0.5, 0.6], True), ([0.5, 0.6, 0.9], False), ([0.9, 0.9, 0.9], False)],
    ids=["harmed", "perhaps harmed", "helped"],
)
def test_alarm_is_raised_if_even_the_upper_end_of_the_gain_is_below_zero(own, is_negative):
    row = row_of(own, nearest_centroid=[0.6, 0.7, 0.8], concat_logreg=[0.1, 0.1, 0.1])
    assert row.is_negative is is_negative


def test_coverage_and_size_are_those_of_the_sets():
    narrow, wide = (row_of([1.0], limit, concat_logreg=[1.0]) for limit in (0.5, math.inf))
    assert (narrow.coverage, narrow.set_size) == (pytest.approx(0.8), 1.0)
    assert (wide.coverage, wide.set_size) == (1.0, 2.0)
