from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import FACTS, PICTURE, TITLE, class_names, draw, make_domain
from torch import Tensor

from data_contracts.configs import TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelError
from models.catalogue import LEARNERS, build_learner
from models.episodes import EpisodeBatch
from models.evaluation import answer
from models.features import DomainData
from models.fused import FusedLearner
from models.fusion import modality_numbers
from models.grams import Coverage, EpisodeGrams
from models.metric.prototypical import PrototypicalHead
from models.metrics import accuracy_per_episode, estimate
from models.settling import keep
from models.strength import ByShot
from models.training import (
    CALIBRATION_SHOTS,
    HIDDEN_RATES,
    TrainProgress,
    fit_to_data,
    large_classes,
    split_classes,
    train,
)

pytestmark = [pytest.mark.loop, pytest.mark.usefixtures("short_fits")]

CONFIG = TrainConfig(steps=8, n_way=3, n_query=4, shots=(1, 3), meta_batch=4, validate_every=4, view_dropout=0.2)

MECHANICS = ("metric", "triplet")
"""A learner that is all gradient, and one that trains a network anew whenever statistics are fitted."""

OF_EACH_FAMILY = (*MECHANICS, "maml", "learned_optimizer", "parameter_gan", "feature_generator", "similarity")

EVERY_LEARNER = [
    pytest.param(kind, marks=[] if kind in OF_EACH_FAMILY else pytest.mark.slow, id=kind) for kind in LEARNERS
]
"""Of each family those that train in a way of their own in every run of the tests; all of them take a minute."""

Trained = tuple[list[TrainProgress], list[Tensor]]


@pytest.fixture(params=MECHANICS)
def kind(request: pytest.FixtureRequest) -> str:
    """What the loop itself does is tested with two learners; what it does to a learner, with all."""
    return str(request.param)


@cache
def toys() -> tuple[DomainData, ...]:
    return tuple(make_domain(f"toys-{seed}", classes=15, per_class=8, missing=0.1, seed=seed) for seed in (1, 2))


@pytest.fixture
def domains() -> list[DomainData]:
    return list(toys())


def noisy_facts(domain: DomainData) -> DomainData:
    """The domain with facts that say nothing about the class."""
    noise = torch.randn(len(domain), FACTS.dim, generator=torch.Generator().manual_seed(len(domain.domain)))
    return replace(domain, features={**domain.features, "facts": noise})


def run(kind: str, domains: Sequence[DomainData], config: TrainConfig = CONFIG) -> Trained:
    learner = build_learner(kind)
    reports = with_states(train(learner, domains, config))
    return reports, [value.clone() for value in trained_parameters(learner)]


@cache
def whole_run(kind: str) -> Trained:
    """Train without a break, once for all tests."""
    return run(kind, toys())


def steps(kind: str, domains: Sequence[DomainData], state: dict[str, Any] | None = None) -> list[TrainProgress]:
    """Take all steps that are left, without the end of training, where a learner is settled and calibrated."""
    count = CONFIG.steps + 1 if state is None else CONFIG.steps - state["step"]
    return with_states(islice(train(build_learner(kind), domains, CONFIG, state), count))


def with_states(run: Iterable[TrainProgress]) -> list[TrainProgress]:
    """Take the state of every report while the run waits."""
    return [replace(report, state=partial(deepcopy, report.state())) for report in run]


@cache
def whole_steps(kind: str) -> list[TrainProgress]:
    """Take all steps without a break, once for all tests."""
    return steps(kind, toys())


def stored_and_loaded(state: dict[str, Any], folder: Path) -> dict[str, Any]:
    torch.save(state, folder / "state.pt")
    loaded: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return loaded


def trained_parameters(learner: FusedLearner) -> list[Tensor]:
    return [parameter.detach() for parameter in learner.parameters() if parameter.requires_grad]


def test_classes_are_split_into_two_folds_and_validation(domains):
    split = split_classes(domains, CONFIG)
    parts = [*split.folds, split.validation]
    assert sorted(split.all) == sorted(class_names(15))
    assert [len(part) for part in parts] == [6, 6, 3]
    assert split_classes(domains, CONFIG) == split
    assert split_classes(domains, CONFIG.model_copy(update={"seed": 1})) != split


def test_classes_too_small_for_the_largest_shot_are_left_out():
    domain = make_domain(classes=12, per_class=8)
    domain.labels[(domain.labels == 4) & (torch.arange(96) % 2 == 0)] = -1
    few = CONFIG.model_copy(update={"shots": (1, 5)})
    assert "class-04" not in split_classes([domain], few).all
    assert large_classes(domain, 5) == tuple(name for name in domain.classes if name != "class-04")


def test_too_few_classes_are_an_error_that_counts_them():
    with pytest.raises(EpisodeTooSmall, match=r"at least 9 classes with 4 labelled items each .* have 8"):
        list(train(build_learner("metric"), [make_domain(classes=8)], CONFIG))


def test_every_step_is_reported_and_looks_at_validation_come_when_asked(kind):
    reports, _ = whole_run(kind)
    assert [report.step for report in reports] == list(range(9))
    looks = [report.step for report in reports if report.validation_accuracy is not None]
    assert looks == [0, 4, 8]
    assert reports[0].loss is None
    assert all(report.loss is not None and report.loss > 0 for report in reports[1:])


def test_same_seed_trains_the_same_learner(kind, domains):
    (_, first), (_, second) = whole_run(kind), run(kind, domains)
    assert_equal(first, second)


# After 4 steps statistics have just changed folds: the next step takes them from classes that no step has used yet.
@pytest.mark.parametrize("kind", EVERY_LEARNER)
def test_training_resumed_where_folds_change_equals_training_without_a_break(kind, domains, tmp_path):
    assert_resumed_steps_equal_those_without_a_break(kind, 4, domains, tmp_path)


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_training_resumed_at_any_step_equals_training_without_a_break(kind, stop, domains, tmp_path):
    assert_resumed_steps_equal_those_without_a_break(kind, stop, domains, tmp_path)


def assert_resumed_steps_equal_those_without_a_break(
    kind: str, stop: int, domains: list[DomainData], folder: Path
) -> None:
    whole = whole_steps(kind)
    rest = steps(kind, domains, stored_and_loaded(whole[stop].state(), folder))
    assert [report.step for report in rest] == list(range(stop + 1, 9))
    assert [report.loss for report in rest] == [report.loss for report in whole[stop + 1 :]]
    for of_state in ("parameters", "best"):
        assert_equal(rest[-1].state()[of_state], whole[-1].state()[of_state])


# What is dropped of a generator at the end is a verdict of its own.
@pytest.mark.parametrize("kind", [*MECHANICS, "feature_generator"])
def test_training_resumed_after_its_last_step_ends_as_it_does_without_a_break(kind, domains, tmp_path):
    reports, whole = whole_run(kind)
    learner = build_learner(kind)
    assert list(train(learner, domains, CONFIG, stored_and_loaded(reports[-1].state(), tmp_path))) == []
    assert_equal(whole, trained_parameters(learner))


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_state_may_be_used_twice_and_is_not_changed_by_the_run_it_came_from(kind, domains):
    run_ = train(build_learner(kind), domains, CONFIG)
    state = [next(run_) for _ in range(6)][-1].state()
    kept = deepcopy(state)
    list(islice(run_, 3))
    steps(kind, domains, state)
    for name, moments in state["optimiser"]["state"].items():
        for part, value in moments.items():
            assert torch.equal(value, kept["optimiser"]["state"][name][part])
    assert state["step"] == kept["step"] == 5


def test_state_of_a_step_that_training_has_left_is_refused(domains):
    reports = list(train(build_learner("metric"), domains, CONFIG.model_copy(update={"steps": 1})))
    assert_left(reports)


def assert_left(reports: Iterable[TrainProgress]) -> None:
    for report in reports:
        with pytest.raises(RuntimeError, match=f"gone on since step {report.step}"):
            report.state()


@pytest.mark.parametrize("kind", EVERY_LEARNER)
def test_training_improves_on_classes_and_domains_it_has_not_seen(kind):
    domains = [noisy_facts(make_domain(f"t-{'x' * s}", classes=20, per_class=8, seed=s)) for s in range(2)]
    config = TrainConfig(steps=25, n_way=5, n_query=4, meta_batch=8, shots=(1, 3), validate_every=25)
    strange = noisy_facts(make_domain("strange", classes=class_names(10, start=50), per_class=20, seed=9))
    batch = draw(strange, batch=100, n_way=5, n_shot=1)

    def accuracy() -> float:
        with torch.no_grad():
            return accuracy_per_episode(learner.log_probabilities(batch), batch.query_labels).mean().item()

    learner = build_learner(kind)
    before = accuracy()
    reports = list(train(learner, domains, config))
    looks = [report.validation_accuracy for report in reports if report.validation_accuracy is not None]
    assert max(looks) > looks[0] + 0.02
    assert accuracy() > before + 0.02
    weights = learner.adapt(strange, torch.arange(0, 200, 20)).view_weights
    assert weights["facts"] < min(weights["title"], weights["picture"])


@pytest.mark.parametrize("is_too_fast", [False, True])
def test_learner_ends_in_the_last_state_that_is_not_worse_on_validation_beyond_chance(kind, domains, is_too_fast):
    too_fast = CONFIG.model_copy(update={"learning_rate": 5.0})
    reports, trained = run(kind, domains, too_fast) if is_too_fast else whole_run(kind)
    looks = [report for report in reports if report.validation_accuracy]
    (chosen,) = [look for look in looks if all(map(torch.equal, trained, look.state()["parameters"]))]
    best = max(looks, key=lambda look: look.validation_accuracy)
    found = estimate(reports[-1].state()["best_accuracy"])
    assert found.mean == pytest.approx(best.validation_accuracy)
    assert chosen.validation_accuracy >= best.validation_accuracy - 2 * found.ci95
    assert all(look.validation_accuracy < best.validation_accuracy for look in looks if look.step > chosen.step)


class Contrary(FusedLearner):
    """Learns to be wrong."""

    def meta_loss(self, episodes: EpisodeBatch) -> Tensor:
        return -super().meta_loss(episodes)


def test_untrained_learner_wins_if_training_only_did_harm(domains):
    learner = Contrary("metric", PrototypicalHead())
    reports = list(train(learner, domains, CONFIG.model_copy(update={"learning_rate": 0.5})))
    looks = [report.validation_accuracy for report in reports if report.validation_accuracy is not None]
    assert max(looks[1:]) < looks[0]
    untrained = build_learner("metric").parameters()
    assert_equal(list(learner.parameters()), list(untrained))


def test_no_steps_leave_the_learner_untrained_but_with_statistics(kind):
    many = make_domain(classes=12, per_class=40, views=(TITLE, PICTURE))
    learner = build_learner(kind)
    (only,) = train(learner, [many], CONFIG.model_copy(update={"steps": 0}))
    assert only.step == 0
    assert {name for name in learner.weights() if name.startswith("bases/")} == {
        f"bases/{encoder}/{part}" for encoder in ("words-1", "pixels-1") for part in ("directions", "ratios")
    }


def test_domains_with_different_views_train_together(kind):
    domains = [
        make_domain("first", classes=12, per_class=8, views=(TITLE, PICTURE)),
        make_domain("second", classes=12, per_class=8, views=(FACTS,), seed=1),
    ]
    reports, _ = run(kind, domains)
    assert len(reports) == 9


@pytest.mark.parametrize(
    ("classes", "per_class"),
    [(class_names(2), 8), (class_names(6, start=50), 3), (class_names(4), 8)],
    ids=["few", "small", "in several parts"],
)
def test_modalities_count_as_met_where_episodes_are_drawn_from_items_that_have_them(classes, per_class):
    with_facts = make_domain("facts", classes=15, per_class=8, views=(TITLE, FACTS), seed=1)
    empty = with_facts.with_presence(with_facts.presence & torch.tensor([True, False]))
    undrawn = make_domain("undrawn", classes=classes, per_class=per_class, views=(PICTURE,), seed=2)
    learner = build_learner("metric")
    list(train(learner, [empty, undrawn], CONFIG.model_copy(update={"steps": 0})))
    learner.fit_statistics([with_facts], with_facts.classes)
    assert isinstance(learner, FusedLearner)
    met = learner.view_weights.is_met[modality_numbers((TITLE, FACTS, PICTURE))]
    assert met.tolist() == [True, False, False]


def test_domain_without_enough_classes_is_passed_over(kind, domains):
    small = make_domain("small", classes=2, per_class=8, seed=3)
    reports, _ = run(kind, [*domains, small])
    assert len(reports) == 9


def test_episodes_that_the_data_can_give_stay_as_they_were_asked_for(domains):
    assert fit_to_data(CONFIG, domains) == CONFIG


def test_few_classes_are_met_with_smaller_episodes():
    fitted = fit_to_data(TrainConfig(), [make_domain(classes=6, per_class=4)])
    assert (fitted.n_way, fitted.shots) == (2, (1,))


def test_domains_that_share_no_class_are_trained_on_with_the_ways_that_each_can_give():
    domains = [make_domain(f"toys-{start}", classes=class_names(8, start=start)) for start in (0, 8, 16)]
    asked = CONFIG.model_copy(update={"n_way": 8, "steps": 2, "validate_every": 1})
    fitted = fit_to_data(asked, domains)
    assert 2 <= fitted.n_way < 8
    assert len(list(train(build_learner("metric"), domains, fitted))) == 3
    with pytest.raises(EpisodeTooSmall):
        list(train(build_learner("metric"), domains, fitted.model_copy(update={"n_way": fitted.n_way + 1})))


class Diverging(FusedLearner):
    """Has no finite loss from its third step on."""

    def meta_loss(self, episodes: EpisodeBatch) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().meta_loss(episodes) / (self.calls < 3)


def test_loss_that_is_not_finite_ends_training_with_an_error_that_says_when(domains):
    reports: list[TrainProgress] = []
    with pytest.raises(ModelError, match="metric became inf after 2 of 8 steps"):
        reports.extend(train(Diverging("metric", PrototypicalHead()), domains, CONFIG))
    assert [report.step for report in reports] == [0, 1, 2]
    assert_left(reports)


class Counting(FusedLearner):
    """Notes how many episodes it is given at once, and answers with a loss that says which."""

    def meta_loss(self, episodes: EpisodeBatch) -> Tensor:
        self.sizes = [*getattr(self, "sizes", []), len(episodes)]
        return super().meta_loss(episodes)


def test_large_meta_batch_is_worked_through_in_parts_whose_mean_counts(domains):
    config = CONFIG.model_copy(update={"meta_batch": 80, "steps": 1, "validate_every": 1, "shots": (1,)})
    learner = Counting("metric", PrototypicalHead())
    *_, last = train(learner, domains, config)
    assert learner.sizes == [32, 32, 16]
    assert 0 < last.loss < 1.1


class Settling(FusedLearner):
    """Notes what it is asked when it settles, and what it is then."""

    def fit_statistics(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        self.fitted = set(classes)
        super().fit_statistics(domains, classes)

    def settle(self, batches: Sequence[EpisodeBatch]) -> None:
        self.asked = [(classes_of(batch), self.fitted) for batch in batches]
        self.then = deepcopy(self.state_dict())


def classes_of(batch: EpisodeBatch) -> set[str]:
    """Return the classes of a batch's support."""
    return {batch.domain.classes[number] for number in batch.domain.labels[batch.support].unique().tolist()}


def test_what_has_to_pay_is_tried_on_classes_that_nothing_was_trained_on(domains):
    learner, split = Settling("metric", PrototypicalHead()), split_classes(domains, CONFIG)
    reports = with_states(train(learner, domains, CONFIG.model_copy(update={"learning_rate": 5.0})))
    assert len(learner.asked) == len(domains) * len(CONFIG.shots)
    assert all(classes == set(split.validation) for classes, _ in learner.asked)
    assert all(fitted == set(split.folds[0]) | set(split.folds[1]) for _, fitted in learner.asked)
    assert learner.fitted == set(split.all)
    used = {name: parameter for name, parameter in learner.named_parameters() if parameter.requires_grad}
    assert not all(map(torch.equal, used.values(), reports[-1].state()["parameters"]))
    assert all(torch.equal(learner.then[name], parameter) for name, parameter in used.items())
    assert not learner.then["temperature.log_scales"].any()
    assert learner.temperature.log_scales.any()


def test_settled_learner_that_is_trained_again_uses_all_of_its_head(domains):
    config = CONFIG.model_copy(update={"steps": 4})
    learner = build_learner("in_context")
    reports = with_states(train(learner, domains, config))
    keep(learner.head, {1.0: 0.0})
    again = list(train(learner, domains, config, reports[2].state()))
    assert [report.loss for report in again] == [report.loss for report in reports[3:]]


class HeadWithAGrudge(PrototypicalHead):
    """Puts the likeliest class last."""

    def __init__(self) -> None:
        super().__init__()
        self.grudge = ByShot().requires_grad_(False)
        self.grudge.level.fill_(1.0)

    def forward(self, grams: EpisodeGrams, weights: Tensor) -> Tensor:
        logits = super().forward(grams, weights)
        return logits * (1 - 1_000 * self.grudge(grams.shots)).unsqueeze(-1)


def test_trained_head_is_used_as_far_as_it_pays_on_classes_that_nothing_was_trained_on(domains):
    learner = FusedLearner("metric", HeadWithAGrudge())
    *_, last = train(learner, domains, CONFIG.model_copy(update={"steps": 2}))
    assert last.validation_accuracy < 1 / CONFIG.n_way
    assert learner.head.grudge(torch.tensor([1.0, 10.0])).tolist() == [[0.0], [0.0]]
    batch = draw(domains[0], batch=20)
    with torch.no_grad():
        assert accuracy_per_episode(learner.log_probabilities(batch), batch.query_labels).mean() > 0.5


def test_all_of_a_trained_head_is_used_where_it_is_not_settled(domains):
    learner = FusedLearner("metric", HeadWithAGrudge())
    list(train(learner, domains, CONFIG.model_copy(update={"steps": 2}), is_settled=False))
    assert learner.head.grudge(torch.tensor([1.0, 10.0])).tolist() == [[1.0], [1.0]]


class HeadOfSuddenSureness(PrototypicalHead):
    """Eight times as sure at two labels per class as at any other number."""

    def forward(self, grams: EpisodeGrams, weights: Tensor) -> Tensor:
        return super().forward(grams, weights) * torch.where(grams.shots == 2, 8.0, 1.0)[:, None, None]


def test_learner_is_calibrated_at_shots_that_it_was_not_trained_with(domains, monkeypatch):
    monkeypatch.setattr("models.training.CALIBRATION_SHOTS", CALIBRATION_SHOTS)
    scales = []
    for head in (PrototypicalHead(), HeadOfSuddenSureness()):
        learner = FusedLearner("metric", head)
        list(train(learner, domains, CONFIG.model_copy(update={"steps": 0, "shots": (1, 5)})))
        ones = torch.ones(3, 1, 1)
        whole = Coverage(torch.ones(3), torch.ones(3, 1))
        scales.append(learner.temperature(ones, torch.tensor([1.0, 2.0, 5.0]), whole).flatten())
    even, sudden = scales
    torch.testing.assert_close(even / sudden, torch.tensor([1.0, 8.0, 1.0]), rtol=0.1, atol=0.0)


def test_learner_of_whole_items_knows_how_much_less_to_be_sure_of_items_that_lack_views(monkeypatch):
    monkeypatch.setattr("models.training.HIDDEN_RATES", HIDDEN_RATES)
    whole = [make_domain(f"toys-{seed}", classes=15, per_class=12, seed=seed) for seed in (1, 2)]
    learner = build_learner("metric")
    assert isinstance(learner, FusedLearner)
    list(train(learner, whole, CONFIG.model_copy(update={"steps": 0})))
    new = make_domain("new", classes=class_names(8, start=20), per_class=12, seed=3)
    episodes = draw(new.with_view_dropout(0.9, torch.Generator().manual_seed(0)), batch=100, n_shot=3)
    informed = answer(learner, episodes).nll.view(len(episodes), -1).mean(1)
    learner.temperature.exponents.zero_()
    uninformed = answer(learner, episodes).nll.view(len(episodes), -1).mean(1)
    gain = estimate(uninformed - informed)
    assert gain.mean > 0.1
    assert gain.mean > gain.ci95
