"""The one outer loop, whichever learner it trains.

Classes are split three ways. Some are held out to validate on. The rest form two folds: statistics that need no
gradient are fitted on one fold while episodes are drawn from the other, and the folds take turns, because a learner
that meets in its episodes the very classes its statistics were fitted on learns to trust them too much. The last state
wins of those that are not worse on the validation classes, beyond chance, than the best; the untrained state takes part
in that contest. In the end the learner keeps as much of its head as pays on the validation classes, with statistics of
the others (`settling.py`). Then it is calibrated on all classes, each with statistics of the others.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data_contracts.configs import TrainConfig
from data_contracts.errors import EpisodeTooSmall, ModelError
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData
from models.geometry import remembered
from models.learner import MetaLearner, Prior
from models.metrics import accuracy_per_episode, estimate
from models.temperature import SHOTS as CALIBRATION_SHOTS

VALIDATION_EPISODES = 40
CALIBRATION_EPISODES = 20
"""Of every shot, domain and part of the classes."""

HIDDEN_EPISODES, HIDDEN_RATES = 5, (0.5, 0.9)
"""So many more at each rate at which views are hidden."""

EPISODES_AT_ONCE = 32
"""A larger meta-batch is worked through in parts, which bounds memory. A loss that is taken at the temperature that
suits a batch best is taken at that of each part, and what is clipped for each episode is as in a batch of that size."""

EPISODE_CLASSES = 16
"""Episodes of one step draw from this many classes, so that they share most of their rows."""


Report = Callable[[int, int, str], None]
"""Called with what is done, the total, and what is being done."""


@dataclass(frozen=True)
class TrainProgress:
    """Where the loop stands after a step; `validation_accuracy` is None between looks."""

    step: int
    loss: float | None
    validation_accuracy: float | None
    state: Callable[[], dict[str, Any]] = field(repr=False)
    """Copies everything needed to go on from here, or to stop: tensors, numbers and lists only.

    Take it before the loop goes on, and before anything else changes the learner.

    Raises:
        RuntimeError: the loop has gone on since.
    """


@dataclass(frozen=True)
class ClassSplit:
    """Which classes episodes, statistics and validation may use."""

    folds: tuple[tuple[str, ...], tuple[str, ...]]
    validation: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every training class."""
        return (*self.folds[0], *self.folds[1], *self.validation)


def split_classes(domains: Sequence[DomainData], config: TrainConfig) -> ClassSplit:
    """Split the classes that some domain can draw an episode from.

    Raises:
        EpisodeTooSmall: there are too few classes for two folds and validation.
    """
    needed = max(config.shots) + 1
    usable = sorted({name for domain in domains for name in large_classes(domain, needed)})
    n_validation = max(config.n_way, round(config.validation_fraction * len(usable)))
    if len(usable) - n_validation < 2 * config.n_way:
        raise EpisodeTooSmall(
            f"meta-training needs at least {3 * config.n_way} classes with {needed} labelled items each for "
            f"{config.n_way}-way episodes (two folds and validation); the {len(domains)} training domains have "
            f"{len(usable)}. Label more items, or train with fewer ways or shots.",
            classes=len(usable),
        )
    order = torch.randperm(len(usable), generator=torch.Generator().manual_seed(config.seed)).tolist()
    shuffled = [usable[number] for number in order]
    rest = shuffled[n_validation:]
    return ClassSplit((tuple(rest[0::2]), tuple(rest[1::2])), tuple(shuffled[:n_validation]))


def fit_to_data(config: TrainConfig, domains: Sequence[DomainData]) -> TrainConfig:
    """Return the config with fewer shots, then fewer ways, if the domains have too few classes or items for it.

    Two folds and validation each need as many classes as an episode has ways, and need them within one domain:
    domains that share no classes are trained on with fewer ways than one domain with all their classes.
    """
    shots = config.shots
    while len(shots) > 1 and _usable(domains, max(shots)) < 3 * config.n_way:
        shots = tuple(shot for shot in shots if shot < max(shots))
    most = max(2, min(config.n_way, _usable(domains, max(shots)) // 3))
    fitted = [config.model_copy(update={"shots": shots, "n_way": n_way}) for n_way in range(most, 1, -1)]
    return next((candidate for candidate in fitted if can_draw(domains, candidate)), fitted[-1])


def _usable(domains: Sequence[DomainData], shot: int) -> int:
    return len({name for data in domains for name in large_classes(data, shot + 1)})


def can_draw(domains: Sequence[DomainData], config: TrainConfig) -> bool:
    """Say whether both folds give episodes of every shot, and the validation classes episodes of some."""
    try:
        split = split_classes(domains, config)
    except EpisodeTooSmall:
        return False
    parts = [(fold, max(config.shots)) for fold in split.folds] + [(split.validation, min(config.shots))]
    return all(
        any(len(_usable_among(domain, classes, shot)) >= config.n_way for domain in domains) for classes, shot in parts
    )


def _usable_among(domain: DomainData, classes: tuple[str, ...], shot: int) -> tuple[str, ...]:
    large = set(large_classes(domain, shot + 1))
    return tuple(name for name in classes if name in large)


def large_classes(domain: DomainData, n_items: int) -> tuple[str, ...]:
    """Return the classes of a domain with at least `n_items` labelled items that have any view."""
    sizes = torch.bincount(domain.usable_labels[domain.usable_labels >= 0], minlength=len(domain.classes)).tolist()
    return tuple(name for name, size in zip(domain.classes, sizes, strict=True) if size >= n_items)


def train(
    learner: MetaLearner,
    domains: Sequence[DomainData],
    config: TrainConfig,
    state: dict[str, Any] | None = None,
    *,
    is_settled: bool = True,
) -> Iterator[TrainProgress]:
    """Train `learner` in place and report after every step; afterwards it is in its best state and calibrated.

    Give what `state()` of an earlier report returned to go on from there, with the result of training without a break.
    Unless `is_settled`, all of the trained head is used, whether it pays or not.

    Raises:
        EpisodeTooSmall: the domains have too few classes or items for the episodes asked for.
        ModelError: the loss is no longer finite.
    """
    with remembered(domains):
        run = _Run(learner, domains, config)
        if state is None:
            run.start()
            yield run.progress(0, None)
        else:
            run.restore(state)
        for step in range(run.step + 1, config.steps + 1):
            loss = run.advance(step)
            yield run.progress(step, loss)
        run.finish(is_settled)


def validation_episodes(domains: Sequence[DomainData], config: TrainConfig) -> list[EpisodeBatch]:
    """Draw the episodes that learners are validated on: of every shot, in every domain that has classes enough.

    Raises:
        EpisodeTooSmall: no domain has.
    """
    classes = split_classes(domains, config).validation
    episodes = list(_episodes_of(classes, domains, config, config.shots, VALIDATION_EPISODES))
    if not episodes:
        raise EpisodeTooSmall(
            f"no training domain has {config.n_way} of the {len(classes)} validation classes with "
            f"{min(config.shots) + 1} labelled items each. Label more items, or train with fewer ways.",
            classes=classes,
        )
    return episodes


def _episodes_of(
    classes: tuple[str, ...], domains: Iterable[DomainData], config: TrainConfig, shots: Iterable[int], count: int
) -> Iterator[EpisodeBatch]:
    generator = torch.Generator().manual_seed(config.seed + 1)
    for domain in domains:
        sampler = EpisodeSampler(domain, classes)
        for shot in shots:
            if len(sampler.usable_classes(shot + 1)) >= config.n_way:
                yield sampler.sample(count, config.n_way, shot, config.n_query, generator)


def validation_accuracies(prior: Prior, batches: Sequence[EpisodeBatch]) -> Float[Tensor, " episode"]:
    """Return the accuracy of every episode."""
    with torch.no_grad():
        right = [accuracy_per_episode(prior.log_probabilities(episodes), episodes.query_labels) for episodes in batches]
    return torch.cat(right).cpu()


class _Run:
    def __init__(self, learner: MetaLearner, domains: Sequence[DomainData], config: TrainConfig) -> None:
        self.learner, self.domains, self.config = learner, domains, config
        self.split = split_classes(domains, config)
        self.parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self.optimiser = _optimiser(learner, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.validation_episodes = validation_episodes(domains, config)
        learner.unsettle()
        learner.meet([data for data in domains if self._can_draw_from(data)])
        self.step, self.fold = 0, -1
        self.best_accuracy: Float[Tensor, " episode"] | None = None
        self.best = self.fitted_with = self._snapshot()
        self.last_accuracy: float | None = None
        self.reported: int | None = None

    def _can_draw_from(self, domain: DomainData) -> bool:
        least = min(self.config.shots)
        return any(len(_usable_among(domain, fold, least)) >= self.config.n_way for fold in self.split.folds)

    def start(self) -> None:
        """Fit the first statistics and measure the untrained state."""
        self._statistics_of(self._fold_at(0))
        self.validate()

    def advance(self, step: int) -> float:
        """Take one step of the outer loop and return its loss."""
        self.reported = None
        self._statistics_of(self._fold_at(step))
        for group in self.optimiser.param_groups:
            group["lr"] = group["first_lr"] * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.config.steps))
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(self._episodes())
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.step, self.last_accuracy = step, None
        if step % self.config.validate_every == 0 or step == self.config.steps:
            self.validate()
        return loss

    def _backward(self, episodes: EpisodeBatch) -> float:
        """Add the gradient of the mean loss, a part of the meta-batch at a time, and return that loss."""
        total = 0.0
        for start in range(0, len(episodes), EPISODES_AT_ONCE):
            part = episodes[start : start + EPISODES_AT_ONCE]
            loss = self.learner.meta_loss(part) * (len(part) / len(episodes))
            total += float(loss.detach())
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
        if not math.isfinite(total):
            raise ModelError(
                f"the loss of {self.learner.kind} became {total} after {self.step} of {self.config.steps} steps. "
                "Train with a smaller learning rate, or report this with the domains it happened on.",
                learner=self.learner.kind,
            )
        return total

    def validate(self) -> None:
        """Measure accuracy on the validation classes and keep the state unless an earlier one is better."""
        accuracy = validation_accuracies(self.learner, self.validation_episodes)
        self.last_accuracy = accuracy.mean().item()
        if self.best_accuracy is None or self.last_accuracy > self.best_accuracy.mean().item():
            self.best_accuracy = accuracy
        lost = estimate(self.best_accuracy - accuracy)
        if lost.mean <= lost.ci95:
            self.best = self._snapshot()

    def finish(self, is_settled: bool) -> None:
        self.reported = None
        self._become(self.best)
        if is_settled:
            self.learner.fit_statistics(self.domains, (*self.split.folds[0], *self.split.folds[1]))
            self.learner.settle(self.validation_episodes)
        self.learner.calibrate(self._calibration_episodes())
        self.learner.fit_statistics(self.domains, self.split.all)

    def _calibration_episodes(self) -> Iterator[tuple[EpisodeBatch, bool]]:
        """Yield episodes of one part of the classes after another; by then statistics are those of the other parts.

        Views are hidden in some, as is said of each: how sure to be of an answer depends on what it is made from.
        """
        shots = sorted({*self.config.shots, *CALIBRATION_SHOTS})
        generator = torch.Generator().manual_seed(self.config.seed + 2)
        parts = (*self.split.folds, self.split.validation)
        for asked in parts:
            others = tuple(name for part in parts if part is not asked for name in part)
            self.learner.fit_statistics(self.domains, others)
            for episodes in _episodes_of(asked, self.domains, self.config, shots, CALIBRATION_EPISODES):
                yield episodes, False
            for rate in HIDDEN_RATES:
                with_several = (domain for domain in self.domains if len(domain.views_present) > 1)
                domains = (domain.with_view_dropout(rate, generator) for domain in with_several)
                for episodes in _episodes_of(asked, domains, self.config, shots, HIDDEN_EPISODES):
                    yield episodes, True

    def progress(self, step: int, loss: float | None) -> TrainProgress:
        self.reported = step
        return TrainProgress(step, loss, self.last_accuracy, partial(self._state, step))

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where an earlier report stood."""
        self.step, self.best_accuracy = state["step"], state["best_accuracy"]
        self.best = state["best"]
        self._become(state["fitted_with"])
        self._statistics_of(self._fold_at(self.step))
        self._become(state["parameters"])
        self.optimiser.load_state_dict(deepcopy(state["optimiser"]))
        self.generator.set_state(state["generator"])

    def _state(self, step: int) -> dict[str, Any]:
        if step != self.reported:
            raise RuntimeError(f"training has gone on since step {step}: take the state of a report when it comes")
        return {
            "step": step,
            "best_accuracy": self.best_accuracy,
            "best": self.best,
            "fitted_with": self.fitted_with,
            "parameters": self._snapshot(),
            "optimiser": deepcopy(self.optimiser.state_dict()),
            "generator": self.generator.get_state(),
        }

    def _snapshot(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.parameters]

    def _become(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.data.copy_(value)

    def _fold_at(self, step: int) -> int:
        return (step // self.config.validate_every) % 2

    def _statistics_of(self, fold: int) -> None:
        if fold != self.fold:
            self.fitted_with = self._snapshot()
            self.learner.fit_statistics(self.domains, self.split.folds[fold])
            self.fold = fold

    def _episodes(self) -> EpisodeBatch:
        config, classes = self.config, self.split.folds[1 - self.fold]
        shot = config.shots[self._draw(len(config.shots))]
        usable = [_usable_among(domain, classes, shot) for domain in self.domains]
        able = [number for number, names in enumerate(usable) if len(names) >= config.n_way]
        if not able:
            raise EpisodeTooSmall(
                f"no training domain has {config.n_way} classes with {shot + 1} labelled items each within one fold of "
                f"{len(classes)} classes. Label more items, or train with fewer ways or shots.",
                classes=classes,
            )
        drawn = able[self._draw(len(able))]
        names = usable[drawn]
        chosen = torch.randperm(len(names), generator=self.generator)[:EPISODE_CLASSES].tolist()
        dropped = self.domains[drawn].with_view_dropout(config.view_dropout, self.generator)
        sampler = EpisodeSampler(dropped, tuple(names[number] for number in chosen))
        return sampler.sample(config.meta_batch, config.n_way, shot, config.n_query, self.generator)

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (1,), generator=self.generator))


def _optimiser(learner: MetaLearner, config: TrainConfig) -> torch.optim.Optimizer:
    """Return Adam with one rate for strengths and a smaller one for the weights of networks."""
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    networks = {id(parameter) for parameter in learner.networks()}
    parts = {True: config.network_learning_rate, False: config.learning_rate}
    groups = [
        {"params": [p for p in trained if (id(p) in networks) is is_network], "first_lr": rate, "lr": rate}
        for is_network, rate in parts.items()
    ]
    return torch.optim.Adam([group for group in groups if group["params"]])
