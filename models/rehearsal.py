"""Learning to choose among learners by rehearsal on domains that they did not meet.

How well a learner does on the domains it was trained on says too much for it, even on classes that were kept from it:
the more it can learn of a domain, the more. So each half of the domains trains the learners anew, for a quarter of the
steps, and the other half says how well these do where domains and classes are new, as they are wherever `auto` is used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_contracts.configs import TrainConfig
from data_contracts.errors import ModelError
from models.catalogue import build_learner
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData
from models.fused import FusedLearner
from models.metrics import accuracy_per_episode
from models.selection import Selector, cross_validated, describe, shots_of
from models.training import can_draw, fit_to_data, split_classes, train

EPISODES = 20
DOMAINS = 3
"""Of every shot and share of missing views: so many domains, and so many episodes of each."""
SHOTS = (1, 2, 5, 10)
HIDDEN_SHARES = (0.0, 0.5)

Report = Callable[[int, int, str], None]
Outcome = tuple[Tensor, Tensor, Tensor, Tensor]
"""Statistics, cross-validation, shots and accuracy of every learner for some episodes, as `Selector.fit` takes them."""


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
) -> Selector:
    """Learn to choose among learners that were trained on these domains with `config`.

    Shots, ways and the share of missing views vary, so that the choice can follow them. Where there is no rehearsal,
    because there is one domain or half of them have too few classes, the learners themselves are judged, on classes
    that they were not trained on; their statistics are those of all classes afterwards, as training leaves them.

    Raises:
        EpisodeTooSmall: the domains have too few classes or items to train on.
        ModelError: there is no learner to choose from.
    """
    if not members:
        raise ModelError("there is no learner to choose from. Train at least one.")
    selector = Selector(len(members))
    if len(members) > 1:
        outcomes = _rehearse(tuple(members), rehearsals(domains, config), report) or _judge(members, domains, config)
        if outcomes:
            statistics, validated, shots, accuracy = (torch.cat(parts) for parts in zip(*outcomes, strict=True))
            selector.fit(statistics, validated, shots, accuracy)
    return selector


def rehearsals(domains: Sequence[DomainData], config: TrainConfig) -> list[Rehearsal]:
    """Return up to two rehearsals, one for each half of the domains that has classes enough to train on.

    Validation classes are kept from all, because domains may share classes.

    Raises:
        EpisodeTooSmall: the domains have too few classes or items to train on.
    """
    kept_back = set(split_classes(domains, config).validation)
    brief = config.model_copy(update={"steps": config.steps // 4})
    halves, found = (domains[0::2], domains[1::2]), []
    for met, unmet in (halves, halves[::-1]):
        known = [domain.with_classes(tuple(c for c in domain.classes if c not in kept_back)) for domain in met]
        taught = {name for domain in known for name in domain.classes}
        new = tuple(sorted({name for domain in unmet for name in domain.classes} - taught))
        fitted, problems = fit_to_data(brief, known), _problems(unmet, new, config)
        if problems and can_draw(known, fitted):
            found.append(Rehearsal(known, fitted, problems))
    return found


def _rehearse(kinds: Sequence[str], found: Sequence[Rehearsal], report: Report) -> list[Outcome]:
    outcomes, done, total = [], 0, sum(rehearsal.config.steps for rehearsal in found) * len(kinds)
    for rehearsal in found:
        learners = {kind: build_learner(kind) for kind in kinds}
        for learner in learners.values():
            for now in train(learner, rehearsal.domains, rehearsal.config):
                report(done + now.step, total, "learn to choose")
            done += rehearsal.config.steps
        outcomes += [_outcome(learners, episodes) for episodes in rehearsal.problems]
    return outcomes


def _judge(members: Mapping[str, FusedLearner], domains: Sequence[DomainData], config: TrainConfig) -> list[Outcome]:
    split = split_classes(domains, config)
    for member in members.values():
        member.fit_statistics(domains, (*split.folds[0], *split.folds[1]))
    outcomes = [_outcome(members, episodes) for episodes in _problems(domains, split.validation, config)]
    for member in members.values():
        member.fit_statistics(domains, split.all)
    return outcomes


def _outcome(members: Mapping[str, FusedLearner], episodes: EpisodeBatch) -> Outcome:
    with torch.no_grad():
        answers = [member.log_probabilities(episodes) for member in members.values()]
        accuracy = torch.stack([accuracy_per_episode(a, episodes.query_labels) for a in answers], dim=1)
        return describe(episodes), cross_validated(members, episodes), shots_of(episodes), accuracy


def _problems(domains: Sequence[DomainData], classes: tuple[str, ...], config: TrainConfig) -> list[EpisodeBatch]:
    generator = torch.Generator().manual_seed(config.seed + 2)
    batches = []
    for round_number, (shot, hidden) in enumerate((shot, hidden) for shot in SHOTS for hidden in HIDDEN_SHARES):
        able = [data for data in domains if len(EpisodeSampler(data, classes).usable_classes(shot + 1)) >= 2]
        for data in (able[round_number % len(able) :] + able[: round_number % len(able)])[:DOMAINS] if able else []:
            sampler = EpisodeSampler(data.with_hidden_views(hidden, generator), classes)
            n_way = min(config.n_way, len(sampler.usable_classes(shot + 1)))
            batches.append(sampler.sample(EPISODES, n_way, shot, config.n_query, generator))
    return batches
