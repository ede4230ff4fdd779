"""The evaluation protocol: unseen domains and unseen classes, and the same episodes for every learner.

Accuracies are compared episode by episode, because draws of classes differ by far more than learners do.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from data_contracts.configs import BenchmarkConfig, EpisodesConfig, TrainConfig
from data_contracts.errors import EpisodeTooSmall
from data_contracts.reports import BenchmarkRow
from models.baselines import BestSingle, TunedLogreg, reference_learners, tune_logreg
from models.calls import Run, one_by_one, report_of
from models.catalogue import AUTO, auto_members, build_learner, learners_to_train, named_learners
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData
from models.geometry import remembered
from models.learner import Prior
from models.learning_curve import LearningCurve
from models.metrics import accuracy_per_episode, estimate, expected_calibration_error, reliability
from models.rehearsal import learn_to_choose
from models.selection import AutoLearner
from models.training import Report, fit_to_data, large_classes, train

MIN_QUERY = 5
"""A class needs this many items besides its support to take part in a test."""

REFERENCE = TunedLogreg.kind
UNTRAINED = "nearest_centroid"
"""Name of what every learner is before it is trained."""

EPISODES_AT_ONCE = 200


@runtime_checkable
class EpisodeLearner(Protocol):
    """Anything that answers episodes."""

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Adapt to each episode's support and return log-probabilities of its queries."""
        ...


@dataclass(frozen=True)
class Answers:
    """How one learner did on some episodes."""

    accuracy: Float[Tensor, " episode"]
    nll: Float[Tensor, " query"]
    probabilities: Float[Tensor, "query way"]
    labels: Int[Tensor, " query"]
    cpu_s: float

    @staticmethod
    def joined(parts: Sequence["Answers"]) -> "Answers":
        """Put answers to several batches of the same way together."""
        return Answers(
            torch.cat([part.accuracy for part in parts]),
            torch.cat([part.nll for part in parts]),
            torch.cat([part.probabilities for part in parts]),
            torch.cat([part.labels for part in parts]),
            sum(part.cpu_s for part in parts),
        )


@dataclass(frozen=True)
class Training:
    """How one learner was trained."""

    curve: LearningCurve
    """Empty for `auto`, whose members have their own."""
    seconds: float
    """Those of all members for `auto`."""


@dataclass(frozen=True)
class Comparison:
    """How learners did on the same episodes."""

    rows: tuple[BenchmarkRow, ...]
    """One for each class split, shot and learner."""
    reliability: dict[str, Float[Tensor, "bin 3"]]
    """What `models.metrics.reliability` gives for all answers of a learner."""
    training_s: dict[str, float]
    """Seconds that training took over all class splits, of those learners that are trained."""
    trainings: dict[int, dict[str, Training]] = field(default_factory=dict)
    """Of those learners that were trained for this comparison, by seed of the class split."""

    @staticmethod
    def of(answers: Sequence[Mapping[str, Answers]], *, split_seed: int, shot: int) -> "Comparison":
        """Compare what learners answered at one shot: one mapping from learner to answers per test domain."""
        bins = {
            name: torch.stack([reliability(found[name].probabilities, found[name].labels) for found in answers]).sum(0)
            for name in answers[0]
        }
        return Comparison(tuple(summarise(answers, split_seed=split_seed, shot=shot)), bins, {})

    @staticmethod
    def joined(
        parts: Sequence["Comparison"],
        training_s: Mapping[str, float],
        trainings: Mapping[int, dict[str, Training]] = MappingProxyType({}),
    ) -> "Comparison":
        """Put comparisons of the same learners together."""
        bins = {name: torch.stack([part.reliability[name] for part in parts]).sum(0) for name in parts[0].reliability}
        return Comparison(tuple(row for part in parts for row in part.rows), bins, dict(training_s), dict(trainings))


def answer(learner: EpisodeLearner, episodes: EpisodeBatch) -> Answers:
    """Let a learner answer a batch of episodes and measure it."""
    started = time.process_time()
    with torch.no_grad():
        log_probabilities = learner.log_probabilities(episodes)
    cpu_s = time.process_time() - started
    is_real = episodes.query_labels >= 0
    chosen, labels = log_probabilities[is_real], episodes.query_labels[is_real]
    return Answers(
        accuracy_per_episode(log_probabilities, episodes.query_labels),
        -chosen.gather(1, labels[:, None]).squeeze(1),
        chosen.exp(),
        labels,
        cpu_s,
    )


def compare(
    learners: Mapping[str, EpisodeLearner], episodes: EpisodeBatch, report: Report = lambda *_: None
) -> dict[str, Answers]:
    """Let every learner answer the same episodes."""
    answers = {}
    for number, (name, learner) in enumerate(learners.items()):
        report(number, len(learners), f"test on {episodes.domain.domain}")
        size = len(episodes) if isinstance(learner, BestSingle) else EPISODES_AT_ONCE
        parts = [answer(learner, episodes[start : start + size]) for start in range(0, len(episodes), size)]
        answers[name] = Answers.joined(parts)
    report(len(learners), len(learners), f"test on {episodes.domain.domain}")
    return answers


def held_out_classes(
    training: Sequence[DomainData],
    test: Sequence[DomainData],
    *,
    fraction: float,
    seed: int,
    chosen: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return the classes to test on, none of which may be trained on.

    These are a share of the classes that training and test domains have in common, or the `chosen` ones instead, and
    all that only test domains have.
    """
    trained = {name for domain in training for name in large_classes(domain, 1)}
    tested = {name for domain in test for name in large_classes(domain, 1)}
    common = sorted(trained & tested)
    order = torch.randperm(len(common), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = set(chosen) or {common[number] for number in order[: round(fraction * len(common))]}
    return tuple(sorted(drawn | (tested - trained)))


def draw_episodes(
    domain: DomainData, classes: tuple[str, ...], shot: int, config: EpisodesConfig, seed: int
) -> EpisodeBatch:
    """Draw the episodes that every learner is tested on.

    Raises:
        EpisodeTooSmall: too few classes have enough items.
    """
    generator = torch.Generator().manual_seed(1_000 * seed + shot)
    sampler = EpisodeSampler(domain, classes)
    draw = (config.episodes, config.n_way, shot, config.n_query, generator)
    return sampler.sample(*draw, min_query=MIN_QUERY)


def hide_views(domains: Sequence[DomainData], share: float, seed: int) -> list[DomainData]:
    """Hide that share of the views of test items, but never the last of an item; by another draw for every domain."""
    generator = torch.Generator().manual_seed(seed)
    return [domain.with_hidden_views(share, generator) for domain in domains]


def run_protocol(
    config: BenchmarkConfig, domains: Mapping[str, DomainData], report: Report = lambda *_: None
) -> list[BenchmarkRow]:
    """Return the rows of `run_comparison`; raises like it."""
    return list(run_comparison(config, domains, report).rows)


def run_comparison(
    config: BenchmarkConfig,
    domains: Mapping[str, DomainData],
    report: Report = lambda *_: None,
    run: Run = one_by_one,
) -> Comparison:
    """Meta-train on the training domains and classes, then test on the rest, for every class split.

    The calls that `run` is given are the splits.

    Raises:
        EpisodeTooSmall: too few classes are left to train or test on.
        ModelError: there is no such learner.
    """
    config = config.model_copy(update={"learners": named_learners(config.learners)})
    seeds = config.split_seeds if not config.holdout_classes else (0,)
    reports = [partial(report_of, f"split {seed}", report) if len(seeds) > 1 else report for seed in seeds]
    splits = run([partial(_compare_on_split, config, domains, *one) for one in zip(seeds, reports, strict=True)])
    trainings = {seed: found for seed, (_, found) in zip(seeds, splits, strict=True)}
    seconds = {name: sum(found[name].seconds for found in trainings.values()) for name in trainings[seeds[0]]}
    return Comparison.joined([part for parts, _ in splits for part in parts], seconds, trainings)


def _compare_on_split(
    config: BenchmarkConfig, domains: Mapping[str, DomainData], seed: int, report: Report
) -> tuple[list[Comparison], dict[str, Training]]:
    """Return a comparison for each shot, and how training went."""
    training, test = [domains[name] for name in config.train], [domains[name] for name in config.test]
    classes = held_out_classes(
        training, test, fraction=config.holdout_fraction, seed=seed, chosen=config.holdout_classes
    )
    check_classes(test, classes, config)
    learners, trainings = trained_learners(config, training, classes, report)
    tested, parts = hide_views(test, config.missing, seed), []
    with remembered(tested):
        for shot in config.shots:
            batches = [draw_episodes(domain, classes, shot, config, seed) for domain in tested]
            answers = [compare(learners, episodes, report) for episodes in batches]
            parts.append(Comparison.of(answers, split_seed=seed, shot=shot))
    return parts, trainings


def trained_learners(
    config: BenchmarkConfig, training: Sequence[DomainData], exclude: Sequence[str], report: Report
) -> tuple[dict[str, EpisodeLearner], dict[str, Training]]:
    """Return the baselines, a learner as it is untrained, and those that `config` names, with how training went.

    All are trained without the classes in `exclude`, with fewer ways or shots than the test where the training domains
    have too few classes for them.
    """
    seen = [domain.without_classes(exclude) for domain in training]
    classes = tuple(sorted({name for domain in seen for name in domain.classes}))
    fitted = fit_to_data(config.training, seen)
    report(0, 0, f"tune {REFERENCE}")
    tuned = tune_logreg(seen, classes, fitted.model_copy(update={"shots": config.training.shots}))
    report(1, 1, f"tune {REFERENCE}")
    trained, trainings = train_learners(config.learners, seen, fitted, report)
    return {**reference_learners(tuned), UNTRAINED: untrained_learner(), **trained}, trainings


def train_learners(
    kinds: Sequence[str], domains: Sequence[DomainData], config: TrainConfig, report: Report = lambda *_: None
) -> tuple[dict[str, Prior], dict[str, Training]]:
    """Train the learners that are named, `auto` among them if it is; returns them and how training went.

    Raises:
        ModelError: there is no learner of such a name.
    """
    kinds = named_learners(kinds)
    members, trainings = {}, {}
    for kind in learners_to_train(kinds):
        started, curve = time.perf_counter(), LearningCurve()
        members[kind] = build_learner(kind)
        for progress in train(members[kind], domains, config):
            curve.note(progress)
            report(progress.step, config.steps, f"meta-train {kind}")
            if progress.step == config.steps:
                report(0, 0, f"settle and calibrate {kind}")
        report(1, 1, f"settle and calibrate {kind}")
        trainings[kind] = Training(curve, time.perf_counter() - started)
    trained: dict[str, Prior] = {kind: members[kind] for kind in kinds if kind != AUTO}
    if AUTO in kinds:
        started, own = time.perf_counter(), auto_members(kinds)
        chosen_from = {kind: members[kind] for kind in own}
        selector = learn_to_choose(chosen_from, domains, config, report)
        trained[AUTO] = AutoLearner(chosen_from, selector)
        choosing = time.perf_counter() - started
        trainings[AUTO] = Training(LearningCurve(), choosing + sum(trainings[kind].seconds for kind in own))
    return trained, trainings


def untrained_learner() -> EpisodeLearner:
    """Return what every learner is before it is trained: nearest centroid."""
    return build_learner("metric")


def summarise(answers: Sequence[Mapping[str, Answers]], *, split_seed: int, shot: int) -> list[BenchmarkRow]:
    """Turn every learner's answers, one mapping per test domain, into one row per learner."""
    reference = torch.cat([by_learner[REFERENCE].accuracy for by_learner in answers])
    rows = []
    for name in answers[0]:
        parts = [by_learner[name] for by_learner in answers]
        joined = Answers.joined(parts)
        untrained = torch.cat([by_learner.get(UNTRAINED, by_learner[name]).accuracy for by_learner in answers])
        accuracy, gain = estimate(joined.accuracy), estimate(joined.accuracy - reference)
        rows.append(
            BenchmarkRow(
                split_seed=split_seed,
                shot=shot,
                learner=name,
                accuracy=accuracy.mean,
                ci95=accuracy.ci95,
                nll=joined.nll.mean().item(),
                ece=expected_calibration_error(joined.probabilities, joined.labels),
                diff=gain.mean,
                diff_ci95=gain.ci95,
                over_untrained_ci95=estimate(joined.accuracy - untrained).ci95,
                cpu_s_per_1000=1000 * joined.cpu_s / len(joined.accuracy),
            )
        )
    return rows


def averaged(rows: Sequence[BenchmarkRow], learner: str, shot: int) -> tuple[float, float]:
    """Mean paired difference over class splits and the half-width of its 95 % interval, splits being independent."""
    chosen = [row for row in rows if row.learner == learner and row.shot == shot]
    if not chosen:
        raise EpisodeTooSmall(f"no rows of {learner!r} at {shot} shots to average.", learner=learner, shot=shot)
    mean = sum(row.diff for row in chosen) / len(chosen)
    return mean, math.sqrt(sum(row.diff_ci95**2 for row in chosen)) / len(chosen)


def check_classes(test: Sequence[DomainData], classes: tuple[str, ...], config: EpisodesConfig) -> None:
    """Check that every test domain has enough of the given classes for episodes of every shot.

    Raises:
        EpisodeTooSmall: one has not.
    """
    for domain in test:
        for shot in config.shots:
            able = set(large_classes(domain, shot + MIN_QUERY)) & set(classes)
            if len(able) < config.n_way:
                raise EpisodeTooSmall(
                    f"test domain {domain.domain!r} has {len(able)} held-out classes with at least {shot + MIN_QUERY} "
                    f"labelled items ({shot} to learn from and {MIN_QUERY} to test on), but {config.n_way}-way "
                    f"episodes need {config.n_way}. "
                    "Hold out more classes, ask for fewer ways or shots, or label more items.",
                    domain=domain.domain,
                    classes=len(able),
                )
