"""Learning to choose among learners by rehearsal on domains that they did not meet.

How well a learner does on the domains it was trained on says too much for it, even on classes that were kept from it:
the more it can learn of a domain, the more. So each half of the domains trains the learners anew, for a quarter of the
steps, and the other half says how well these do where domains and classes are new, as they are wherever `auto` is used.
Their heads are not settled: half of the domains, trained so briefly, say too little of how much of a head pays, and
what they said made `auto` choose worse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch

from data_contracts.configs import TrainConfig
from data_contracts.errors import ModelError
from models.calls import Run, one_by_one
from models.catalogue import build_learner
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData
from models.fused import FusedLearner
from models.geometry import remembered
from models.metrics import accuracy_per_episode
from models.selection import cross_validated, describe
from models.selector import Outcomes, Selector
from models.training import Report, can_draw, split_classes, train

EPISODES = 20
DOMAINS = 3
"""Of every shot and share of missing views: so many domains, and so many episodes of each."""
SHOTS = (1, 2, 5, 10)
HIDDEN_SHARES = (0.0, 0.5)


@dataclass(frozen=True)
class Rehearsal:
    """What learners are trained on to be judged, and what they are judged by."""

    domains: list[DomainData]
    config: TrainConfig
    problems: list[EpisodeBatch]
    """Episodes of other domains, and of classes that `domains` lack."""


def learn_to_choose(
    members: Mapping[str, FusedLearner],
    domains: Sequence[DomainData],
    config: TrainConfig,
    report: Report = lambda *_: None,
    run: Run = one_by_one,
) -> Selector:
    """Learn to choose among learners that were trained on these domains with `config`.

    The calls that `run` is given are the rehearsals.

    Shots, ways and the share of missing views vary, so that the choice can follow them. Where there is no rehearsal,
    because there is one domain or half of them have too few classes, the learners themselves are judged, on classes
    that only chose their state and how much of their heads is used; their statistics are those of all classes
    afterwards, as training leaves them.

    Raises:
        EpisodeTooSmall: the domains have too few classes or items to train on.
        ModelError: there is no learner to choose from.
    """
    if not members:
        raise ModelError("there is no learner to choose from. Train at least one.")
    selector = Selector(len(members))
    if len(members) > 1:
        names, found = tuple(domain.domain for domain in domains), rehearsals(domains, config)
        calls = [
            partial(_rehearse, tuple(members), one, names, report, f"learn to choose, {number} of {len(found)}")
            for number, one in enumerate(found, start=1)
        ]
        outcomes = list(chain(*run(calls))) or _judge(members, domains, config)
        if outcomes:
            selector.fit(Outcomes(*(torch.cat(parts) for parts in zip(*outcomes, strict=True))))
    return selector


def rehearsals(domains: Sequence[DomainData], config: TrainConfig) -> list[Rehearsal]:
    """Return up to two rehearsals, one for each half of the domains that has classes enough to train on.

    Validation classes are kept from all, because domains may share classes. A half has fewer classes than the whole and
    may train with fewer ways, but not with fewer shots.

    Raises:
        EpisodeTooSmall: the domains have too few classes or items to train on.
    """
    kept_back = split_classes(domains, config).validation
    by_name = sorted(domains, key=lambda domain: domain.domain)
    order = torch.randperm(len(by_name), generator=torch.Generator().manual_seed(config.seed)).tolist()
    first, second = ([by_name[number] for number in order[part::2]] for part in (0, 1))
    found = []
    for met, unmet in ((first, second), (second, first)):
        known = [domain.without_classes(kept_back) for domain in met]
        taught = {name for domain in known for name in domain.classes}
        new = tuple(sorted({name for domain in unmet for name in domain.classes} - taught))
        fitted, problems = _brief(known, config), _problems(unmet, new, config)
        if fitted and problems:
            found.append(Rehearsal(known, fitted, problems))
    return found


def _brief(domains: Sequence[DomainData], config: TrainConfig) -> TrainConfig | None:
    """Return the config for a quarter of the steps with as many ways as can be drawn, if any can."""
    steps = max(1, config.steps // 4)
    brief = [config.model_copy(update={"steps": steps, "n_way": n_way}) for n_way in range(config.n_way, 1, -1)]
    return next((candidate for candidate in brief if can_draw(domains, candidate)), None)


def _rehearse(
    kinds: Sequence[str], rehearsal: Rehearsal, names: Sequence[str], report: Report, what: str
) -> list[Outcomes]:
    """Train learners anew and let them try the problems; `names` are those of all domains."""
    learners = {kind: build_learner(kind) for kind in kinds}
    done, total = 0, rehearsal.config.steps * len(kinds)
    for learner in learners.values():
        for now in train(learner, rehearsal.domains, rehearsal.config, is_settled=False):
            report(done + now.step, total, what)
        done += rehearsal.config.steps
    with remembered(problem.domain for problem in rehearsal.problems):
        return _try(learners, rehearsal.problems, names)


def _judge(members: Mapping[str, FusedLearner], domains: Sequence[DomainData], config: TrainConfig) -> list[Outcomes]:
    split = split_classes(domains, config)
    for member in members.values():
        member.fit_statistics(domains, (*split.folds[0], *split.folds[1]))
    names = [domain.domain for domain in domains]
    outcomes = _try(members, _problems(domains, split.validation, config), names)
    for member in members.values():
        member.fit_statistics(domains, split.all)
    return outcomes


@torch.no_grad()
def _try(members: Mapping[str, FusedLearner], problems: Sequence[EpisodeBatch], names: Sequence[str]) -> list[Outcomes]:
    outcomes = []
    for episodes in problems:
        answers = [member.log_probabilities(episodes) for member in members.values()]
        accuracy = torch.stack([accuracy_per_episode(a, episodes.query_labels) for a in answers], dim=1)
        number = torch.full((len(episodes),), names.index(episodes.domain.domain))
        validated = cross_validated(members, episodes)
        outcomes.append(Outcomes(describe(episodes), validated, episodes.shots, accuracy, number))
    return outcomes


def _problems(domains: Sequence[DomainData], classes: tuple[str, ...], config: TrainConfig) -> list[EpisodeBatch]:
    generator = torch.Generator().manual_seed(config.seed + 2)
    batches = []
    for round_number, (shot, hidden) in enumerate((shot, hidden) for shot in SHOTS for hidden in HIDDEN_SHARES):
        able = [data for data in domains if len(EpisodeSampler(data, classes).usable_classes(shot + 1)) >= 2]
        for data in (able[round_number % len(able) :] + able[: round_number % len(able)])[:DOMAINS] if able else []:
            sampler = EpisodeSampler(data.with_view_dropout(hidden, generator), classes)
            most = min(2 * config.n_way, len(sampler.usable_classes(shot + 1)))
            n_way = int(torch.randint(2, most + 1, (), generator=generator))
            batches.append(sampler.sample(EPISODES, n_way, shot, config.n_query, generator))
    return batches
