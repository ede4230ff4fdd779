import math

import pytest
import torch
from synthetic import PICTURE, TITLE, class_names, draw, make_domain, support_of

from data_contracts.configs import BenchmarkConfig, TrainConfig
from data_contracts.errors import EpisodeTooSmall
from data_contracts.reports import BenchmarkRow
from models.baselines import BestSingle, ConcatLogreg
from models.catalogue import AUTO_MEMBERS
from models.episodes import as_episode
from models.evaluation import (
    Answers,
    answer,
    averaged,
    compare,
    draw_episodes,
    held_out_classes,
    run_comparison,
    run_protocol,
    summarise,
    trained_learners,
)
from models.features import DomainData, ViewSpec

pytestmark = [pytest.mark.loop, pytest.mark.usefixtures("short_fits")]

TRAINING = TrainConfig(steps=2, n_way=2, n_query=4, shots=(1, 2), meta_batch=2, validate_every=1)
CONFIG = BenchmarkConfig(
    train=("first", "second"),
    test=("strange",),
    learners=("metric",),
    n_way=2,
    shots=(1, 2),
    n_query=6,
    episodes=20,
    training=TRAINING,
)
SPOKEN = ViewSpec("spoken", "audio", "waves-1", 10)


@pytest.fixture
def domains() -> dict[str, DomainData]:
    """Two domains to train on and one to test on, with other views and two classes of its own."""
    return {
        "first": make_domain("first", classes=16, per_class=8, views=(TITLE, PICTURE), seed=1),
        "second": make_domain("second", classes=16, per_class=8, views=(TITLE,), seed=2),
        "strange": make_domain("strange", classes=18, per_class=9, views=(PICTURE, SPOKEN), seed=3),
    }


def test_held_out_classes_are_a_share_of_the_common_ones_and_all_that_only_tests_have(domains):
    training, test = [domains["first"], domains["second"]], [domains["strange"]]
    drawn = held_out_classes(training, test, fraction=0.25, seed=0)
    assert len(set(drawn) & set(class_names(16))) == 4
    assert set(drawn) - set(class_names(16)) == {"class-16", "class-17"}


def test_chosen_classes_take_the_place_of_the_share(domains):
    training, test = [domains["first"], domains["second"]], [domains["strange"]]
    held_out = held_out_classes(training, test, fraction=0.25, seed=0, chosen=("class-03", "class-05"))
    assert held_out == ("class-03", "class-05", "class-16", "class-17")


def test_held_out_classes_depend_on_the_seed_alone(domains):
    def drawn(seed: int, *training: str) -> tuple[str, ...]:
        return held_out_classes([domains[name] for name in training], [domains["strange"]], fraction=0.5, seed=seed)

    assert drawn(0, "first", "second") == drawn(0, "second", "first")
    assert len({drawn(seed, "first") for seed in range(5)}) == 5


def test_class_that_nobody_labelled_is_not_held_out(domains):
    strange = domains["strange"]
    strange.labels[strange.labels == 17] = -1
    assert "class-17" not in held_out_classes([domains["first"]], [strange], fraction=0.5, seed=0)


def test_labels_of_held_out_classes_do_not_reach_the_learners(domains):
    exclude = class_names(5)
    other = domains["first"].with_classes(class_names(16))
    rows = (other.labels < 5).nonzero().flatten()
    other.labels[rows] = other.labels[rows.flip(0)]
    learners = [
        trained_learners(CONFIG, [first, domains["second"]], exclude, lambda *_: None)[0]
        for first in (domains["first"], other)
    ]
    assert learners[0]["tuned_logreg"] == learners[1]["tuned_logreg"]
    for name, value in learners[0]["metric"].weights().items():
        assert torch.equal(value, learners[1]["metric"].weights()[name])


@pytest.mark.slow
def test_comparison_gives_a_row_for_each_learner_shot_and_split_and_knows_what_training_took(domains):
    config = CONFIG.model_copy(update={"split_seeds": (0, 1), "learners": ("metric", "auto")})
    compared = run_comparison(config, domains)
    found = [(row.split_seed, row.shot, row.learner) for row in compared.rows]
    learners = ("best_single", "concat_logreg", "tuned_logreg", "nearest_centroid", "metric", "auto")
    assert found == [(seed, shot, name) for seed in (0, 1) for shot in (1, 2) for name in learners]
    assert all(row.diff == row.diff_ci95 == 0 for row in compared.rows if row.learner == "tuned_logreg")
    assert all(0.5 < row.accuracy <= 1 and row.nll > 0 and 0 <= row.ece <= 1 for row in compared.rows)
    assert compared.training_s.keys() == {*AUTO_MEMBERS, "auto"}
    assert compared.reliability.keys() == set(learners)
    assert {int(bins[:, 0].sum()) for bins in compared.reliability.values()} == {2 * 2 * 20 * 2 * 6}


def test_learners_that_are_always_compared_are_named_by_default():
    assert {"metric", "auto"} <= set(BenchmarkConfig(train=("first",), test=("strange",)).learners)


def test_protocol_gives_the_same_answer_twice(domains):
    def without_time(rows: list[BenchmarkRow]) -> list[dict]:
        return [row.model_dump(exclude={"cpu_s_per_1000"}) for row in rows]

    assert without_time(run_protocol(CONFIG, domains)) == without_time(run_protocol(CONFIG, domains))


def test_given_classes_are_the_ones_held_out_and_seeds_play_no_part(domains):
    given = class_names(4, start=2)
    config = CONFIG.model_copy(update={"holdout_classes": given, "split_seeds": (0, 1), "shots": (1,)})
    reports: list[tuple[int, int, str]] = []
    rows = run_protocol(config, domains, lambda *report: reports.append(report))
    assert {row.split_seed for row in rows} == {0}
    assert (5, 5, "test on strange") in reports
    assert set(draw_episodes(domains["strange"], given, 1, config, 0).domain.classes) >= set(given)


def test_episodes_hold_only_the_tested_classes_and_follow_the_seed(domains):
    tested = class_names(3, start=4)
    first, again, other = (draw_episodes(domains["strange"], tested, 1, CONFIG, seed) for seed in (0, 0, 1))
    assert set(domains["strange"].labels[first.support].flatten().tolist()) == {4, 5, 6}
    assert torch.equal(first.query, again.query)
    assert not torch.equal(first.support, other.support)


def test_too_few_classes_for_the_way_are_counted(domains):
    few = CONFIG.model_copy(update={"holdout_classes": ("class-03",), "n_way": 4})
    with pytest.raises(EpisodeTooSmall, match="'strange' has 3 held-out classes with at least 6"):
        run_protocol(few, domains)


def test_few_training_classes_give_smaller_training_episodes_and_the_same_tests(domains):
    few = {**domains, "first": make_domain("first", classes=12, per_class=8, views=(TITLE,), seed=1)}
    wide = CONFIG.model_copy(
        update={"train": ("first",), "n_way": 4, "training": TRAINING.model_copy(update={"n_way": 4})}
    )
    assert {row.learner for row in run_protocol(wide, few)} >= {"tuned_logreg", "metric"}


def test_class_needs_its_shot_and_five_more(domains):
    wide = CONFIG.model_copy(update={"shots": (5,)})
    with pytest.raises(EpisodeTooSmall, match="has 0 held-out classes with at least 10 labelled items"):
        run_protocol(wide, domains)
    assert run_protocol(wide.model_copy(update={"shots": (4,)}), domains)


def test_every_learner_answers_the_same_episodes_in_parts_as_in_one(domains, monkeypatch):
    batch = draw(domains["strange"], batch=10)
    learners = {"best_single": BestSingle(), "concat_logreg": ConcatLogreg()}
    whole = compare(learners, batch)
    monkeypatch.setattr("models.evaluation.EPISODES_AT_ONCE", 3)
    parts = compare(learners, batch)
    for name, expected in whole.items():
        assert torch.equal(parts[name].labels, expected.labels)
        torch.testing.assert_close(parts[name].probabilities, expected.probabilities, atol=1e-4, rtol=0)
        assert parts[name].accuracy.shape == (10,)


def test_answers_leave_padding_out():
    domain = make_domain(classes=2, per_class=4)
    answers = answer(ConcatLogreg(), draw(domain, batch=3, n_way=2, n_shot=1, n_query=9))
    assert answers.labels.shape == (3 * 2 * 3,)
    assert answers.probabilities.shape == (18, 2)
    right = answers.probabilities.gather(1, answers.labels[:, None]).squeeze(1)
    torch.testing.assert_close(answers.nll, -right.log())


def test_one_episode_over_all_classes_has_the_rows_given(toys):
    support, query = support_of(toys, 1), torch.tensor([95, 3])
    batch = as_episode(toys, support, query)
    assert (len(batch), batch.n_way) == (1, 8)
    assert batch.support_labels.tolist() == [list(range(8))]
    assert batch.query_labels.tolist() == [[7, 0]]


def answers_of(accuracy: list[float]) -> Answers:
    sure = torch.tensor([[0.8, 0.2]] * 5)
    return Answers(torch.tensor(accuracy), -sure[:, 0].log(), sure, torch.tensor([0, 0, 0, 0, 1]), 0.5)


def test_summary_is_paired_by_episode():
    parts = [{"tuned_logreg": answers_of([0.5, 0.7]), "ours": answers_of([0.6, 0.9])} for _ in range(2)]
    reference, ours = summarise(parts, split_seed=3, shot=1)
    assert (reference.learner, ours.learner, ours.split_seed, ours.shot) == ("tuned_logreg", "ours", 3, 1)
    assert ours.accuracy == pytest.approx(0.75)
    assert ours.diff == pytest.approx(0.15)
    assert ours.diff_ci95 == pytest.approx(1.96 * math.sqrt(4 * 0.05**2 / 3) / 2, abs=1e-6)
    assert ours.ece == pytest.approx(0.0, abs=1e-6)
    assert ours.nll == pytest.approx(-math.log(0.8))
    assert ours.cpu_s_per_1000 == pytest.approx(1000 * 1.0 / 4)


def row(seed: int, diff: float, ci: float, learner: str = "ours") -> BenchmarkRow:
    rest = dict.fromkeys(("accuracy", "ci95", "nll", "ece", "cpu_s_per_1000"), 0.5)
    return BenchmarkRow(split_seed=seed, shot=1, learner=learner, diff=diff, diff_ci95=ci, **rest)


def test_mean_over_splits_has_the_interval_of_independent_splits():
    mean, half = averaged([row(0, 0.02, 0.03), row(1, 0.06, 0.04), row(1, 9.0, 9.0, "other")], "ours", 1)
    assert mean == pytest.approx(0.04)
    assert half == pytest.approx(0.05 / 2)


def test_average_of_nothing_says_what_is_missing():
    with pytest.raises(EpisodeTooSmall, match="'ours' at 5 shots"):
        averaged([row(0, 0.0, 0.0)], "ours", 5)
