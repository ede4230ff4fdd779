"""What the other domains are worth to each domain: every one in turn is left out of training and tested on.

The same episodes are answered by learners trained on the other domains and by two that know the support alone: nearest
centroid, which every learner is before training, and logistic regression on all views. The gain is over the more
accurate of these two, chosen on these very episodes, which can only make it smaller. Where domains have enough classes
in common, the tested ones are kept out of training as well; where they have not, only the domain is unseen, and the row
says so.

Sets of classes are calibrated for each shot on episodes of the training domains, of classes that no weight was trained
on: they took part in choosing a state of the learner, its temperature, and what `auto` chooses. A new domain is not
exchangeable with these, so what its sets cover is a finding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch

from data_contracts.configs import TrainConfig, TransferConfig
from data_contracts.errors import EpisodeTooSmall, UnknownDomain
from data_contracts.reports import EpisodeScore, TransferRow
from models.baselines import ConcatLogreg
from models.calls import Run, one_by_one, report_of
from models.conformal import covered, prediction_sets, threshold
from models.episodes import EpisodeBatch, EpisodeSampler
from models.evaluation import (
    MIN_QUERY,
    UNTRAINED,
    Answers,
    EpisodeLearner,
    answer,
    check_classes,
    compare,
    draw_episodes,
    held_out_classes,
    train_learners,
    untrained_learner,
)
from models.features import DomainData
from models.geometry import remembered
from models.learner import Prior
from models.metrics import estimate, expected_calibration_error
from models.training import Report, can_draw, fit_to_data, large_classes, split_classes

CALIBRATION_EPISODES = 40
"""Of every shot and training domain."""


@dataclass(frozen=True)
class LeftOut:
    """A domain to test on with its classes to test, and the others to train on."""

    test: DomainData
    training: tuple[DomainData, ...]
    classes: tuple[str, ...]
    unseen: Literal["domain and classes", "domain"]


class Transfer(NamedTuple):
    """Rows of the domains that could be tested, and why the others could not."""

    rows: list[TransferRow]
    skipped: dict[str, str]


def run_transfer(
    config: TransferConfig,
    domains: Mapping[str, DomainData],
    report: Report = lambda *_: None,
    run: Run = one_by_one,
) -> Transfer:
    """Leave out each domain that `config` names, or each there is, and measure what the others are worth to it.

    A domain that was not named and has too few classes is skipped. The calls that `run` is given are one for each
    domain that is left out.

    Raises:
        UnknownDomain: a domain that was named is not there.
        EpisodeTooSmall: there are fewer than two domains; a named one, or every one, has too few classes.
    """
    problems, skipped = _problems(config, domains)
    found = run(
        [
            partial(transfer_rows, problem, config, partial(report_of, f"without {problem.test.domain}", report))
            for problem in problems
        ]
    )
    return Transfer([row for rows in found for row in rows], skipped)


def leave_out(name: str, domains: Mapping[str, DomainData], config: TransferConfig) -> LeftOut:
    """Return how to test what the others are worth to a domain.

    Raises:
        EpisodeTooSmall: the domain has too few classes to test on, or the others too few to train on.
    """
    test, training = domains[name], [data for other, data in domains.items() if other != name]
    classes = held_out_classes(training, [test], fraction=config.holdout_fraction, seed=config.split_seed)
    kept = [data.without_classes(classes) for data in training]
    able = set(large_classes(test, max(config.shots) + MIN_QUERY)) & set(classes)
    if len(able) >= config.n_way and can_draw(kept, fit_to_data(config.training, kept)):
        return LeftOut(test, tuple(kept), classes, "domain and classes")
    check_classes([test], test.classes, config)
    _check_training(name, training, config)
    return LeftOut(test, tuple(training), test.classes, "domain")


def transfer_rows(problem: LeftOut, config: TransferConfig, report: Report = lambda *_: None) -> list[TransferRow]:
    """Train on the other domains and test on the one left out: one row for each shot and learner."""
    fitted = fit_to_data(config.training, problem.training)
    trained, _ = train_learners(config.learners, problem.training, fitted, report)
    limits = _calibrate(trained, problem.training, fitted, config)
    untrained = from_scratch()
    rows = []
    with remembered([problem.test]):
        for shot in config.shots:
            episodes = draw_episodes(problem.test, problem.classes, shot, config, config.split_seed)
            answers = compare({**trained, **untrained}, episodes, report)
            scratch = {name: answers[name] for name in untrained}
            rows += [_row(problem, shot, name, answers[name], scratch, limits[name, shot]) for name in trained]
    return rows


def from_scratch() -> dict[str, EpisodeLearner]:
    """Return what answers from the support alone; the first is every learner before training."""
    return {UNTRAINED: untrained_learner(), ConcatLogreg.kind: ConcatLogreg()}


def calibration_episodes(
    domains: Sequence[DomainData], classes: tuple[str, ...], shot: int, config: TransferConfig
) -> list[EpisodeBatch]:
    """Draw episodes of `classes` like those of the test, in every domain that has enough of them."""
    generator = torch.Generator().manual_seed(1_000 * (config.split_seed + 1) + shot)
    samplers = [EpisodeSampler(domain, classes) for domain in domains]
    return [
        sampler.sample(CALIBRATION_EPISODES, config.n_way, shot, config.n_query, generator)
        for sampler in samplers
        if len(sampler.usable_classes(shot + 1)) >= config.n_way
    ]


def _problems(config: TransferConfig, domains: Mapping[str, DomainData]) -> tuple[list[LeftOut], dict[str, str]]:
    unknown = [name for name in config.domains if name not in domains]
    if unknown:
        raise UnknownDomain(
            f"there is no domain {unknown[0]!r} with labels to leave out; those with labels are "
            f"{', '.join(domains) or 'none'}. Name one of these, or ingest labels for it.",
            domain=unknown[0],
        )
    if len(domains) < 2:
        raise EpisodeTooSmall(
            f"{len(domains)} domains have labels, but leaving one out takes at least 2: one to test on and one to "
            "train on. Ingest another domain with labels.",
            domains=tuple(domains),
        )
    problems, skipped = [], {}
    for name in config.domains or domains:
        try:
            problems.append(leave_out(name, domains, config))
        except EpisodeTooSmall as exc:
            skipped[name] = str(exc)
            if config.domains or len(skipped) == len(domains):
                raise
    return problems, skipped


def _check_training(name: str, training: Sequence[DomainData], config: TransferConfig) -> None:
    fitted = fit_to_data(config.training, training)
    if not can_draw(training, fitted):
        raise EpisodeTooSmall(
            f"the domains beside {name!r} have too few classes to train on: two folds and validation need "
            f"{fitted.n_way} classes each with {max(fitted.shots) + 1} labelled items in one domain. Label more items "
            "there, or train with fewer shots.",
            domain=name,
        )


def _calibrate(
    trained: Mapping[str, Prior], domains: Sequence[DomainData], fitted: TrainConfig, config: TransferConfig
) -> dict[tuple[str, int], float]:
    """Return the threshold of the sets for each learner and shot, on classes that statistics are not of meanwhile."""
    split = split_classes(domains, fitted)
    batches = {shot: calibration_episodes(domains, split.validation, shot, config) for shot in config.shots}
    limits = {}
    for name, prior in trained.items():
        prior.fit_statistics(domains, (*split.folds[0], *split.folds[1]))
        for shot, episodes in batches.items():
            limits[name, shot] = _threshold([answer(prior, batch) for batch in episodes], config.coverage)
        prior.fit_statistics(domains, split.all)
    return limits


def _threshold(parts: Sequence[Answers], coverage: float) -> float:
    if not parts:
        return float("inf")
    joined = Answers.joined(parts)
    return threshold(joined.probabilities, joined.labels, coverage)


def _row(
    problem: LeftOut, shot: int, learner: str, own: Answers, scratch: Mapping[str, Answers], limit: float
) -> TransferRow:
    reference = max(scratch, key=lambda name: scratch[name].accuracy.mean().item())
    gain = estimate(own.accuracy - scratch[reference].accuracy)
    sets = prediction_sets(own.probabilities, limit)
    return TransferRow(
        domain=problem.test.domain,
        shot=shot,
        learner=learner,
        unseen=problem.unseen,
        transferred=_score(own),
        from_scratch={name: _score(answers) for name, answers in scratch.items()},
        reference=reference,
        gain=gain.mean,
        gain_ci95=gain.ci95,
        is_negative=gain.mean + gain.ci95 < 0,
        coverage=covered(sets, own.labels).double().mean().item(),
        set_size=sets.sum(1).double().mean().item(),
    )


def _score(answers: Answers) -> EpisodeScore:
    accuracy = estimate(answers.accuracy)
    return EpisodeScore(
        accuracy=accuracy.mean,
        ci95=accuracy.ci95,
        nll=answers.nll.mean().item(),
        ece=expected_calibration_error(answers.probabilities, answers.labels),
    )
