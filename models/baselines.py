"""What a careful engineer would do without meta-learning: logistic regression on the stored features.

All three see the same features (unit norm per view, a missing view filled with the domain's mean) and are fitted on the
support alone. They are the bar, so each gets the benefit of the doubt: `best_single` picks its view in hindsight, and
`tuned_logreg` gets weights per modality and a penalty chosen on the meta-training classes for each shot.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from data_contracts.configs import TrainConfig
from models.episodes import EpisodeBatch, EpisodeSampler
from models.features import DomainData
from models.grams import EpisodeGrams, PlacedItems, distinct_rows, gather_grams
from models.logistic import fit_logistic
from models.metrics import accuracy_per_episode

INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0)
TUNING_EPISODES = 20


@dataclass(frozen=True)
class Tuning:
    """Weight of each modality in the sum of Gram matrices, and scikit-learn's C."""

    weights: dict[str, float]
    inverse_penalty: float = 1.0


class BestSingle:
    """Logistic regression on one view: the one that does best on these very episodes."""

    kind: ClassVar[str] = "best_single"

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Return log-probabilities of the queries under the view with the highest accuracy over the batch."""
        grams = raw_grams(episodes)
        answers = [_fit(grams, one_view(number, grams)) for number in range(grams.support.shape[1])]
        right = [accuracy_per_episode(answer, episodes.query_labels).mean() for answer in answers]
        return answers[int(torch.stack(right).argmax())]


class ConcatLogreg:
    """Logistic regression on all views side by side, each with the same weight."""

    kind: ClassVar[str] = "concat_logreg"

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Return log-probabilities of the queries."""
        grams = raw_grams(episodes)
        return _fit(grams, torch.ones(grams.support.shape[1]))


@dataclass(frozen=True)
class TunedLogreg:
    """Logistic regression on weighted views; weights and penalty were tuned for each shot on other classes."""

    kind: ClassVar[str] = "tuned_logreg"
    by_shot: dict[int, Tuning] = field(default_factory=dict)

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Return log-probabilities of the queries, with what was tuned for the nearest shot."""
        grams = raw_grams(episodes)
        shot = grams.shots.mean().item()
        tuning = self.by_shot[min(self.by_shot, key=lambda tuned: abs(tuned - shot))] if self.by_shot else Tuning({})
        modalities = [view.modality for view in episodes.domain.views]
        return _fit(grams, _view_weights(tuning.weights, modalities), tuning.inverse_penalty)

    def config(self) -> dict[str, Any]:
        """Return what was tuned, as JSON."""
        return {
            str(shot): {"weights": tuning.weights, "inverse_penalty": tuning.inverse_penalty}
            for shot, tuning in self.by_shot.items()
        }

    @classmethod
    def load(cls, config: Mapping[str, Any]) -> "TunedLogreg":
        """Rebuild from what `config` gave."""
        return cls({int(shot): Tuning(**tuning) for shot, tuning in config.items()})


def reference_learners(tuned: TunedLogreg) -> dict[str, BestSingle | ConcatLogreg | TunedLogreg]:
    """Return the three by name, in the order in which they are shown."""
    return {learner.kind: learner for learner in (BestSingle(), ConcatLogreg(), tuned)}


def tune_logreg(domains: Sequence[DomainData], classes: tuple[str, ...], config: TrainConfig) -> TunedLogreg:
    """Choose weights, then the penalty, by accuracy on episodes of the training domains, for each shot they can draw.

    Weights come from a grid over all mixtures of the modalities in steps of a tenth (a fifth for more than three).
    """
    modalities = tuple(sorted({view.modality for domain in domains for view in domain.views}))
    by_shot = {}
    for shot in config.shots:
        problems = _tuning_problems(domains, classes, shot, config)
        if problems:
            by_shot[shot] = _tune(problems, modalities)
    return TunedLogreg(by_shot)


@dataclass(frozen=True)
class _Problem:
    grams: EpisodeGrams
    modalities: list[str]
    labels: Int[Tensor, "batch query"]

    def accuracy(self, tuning: Tuning) -> float:
        weights = _view_weights(tuning.weights, self.modalities)
        answer = _fit(self.grams, weights, tuning.inverse_penalty, steps=40)
        return accuracy_per_episode(answer, self.labels).mean().item()


def _tuning_problems(
    domains: Sequence[DomainData], classes: tuple[str, ...], shot: int, config: TrainConfig
) -> list[_Problem]:
    generator = torch.Generator().manual_seed(config.seed)
    problems = []
    for domain in domains:
        sampler = EpisodeSampler(domain, classes)
        if len(sampler.usable_classes(shot + 1)) >= config.n_way:
            episodes = sampler.sample(TUNING_EPISODES, config.n_way, shot, config.n_query, generator)
            modalities = [view.modality for view in domain.views]
            problems.append(_Problem(raw_grams(episodes), modalities, episodes.query_labels))
    return problems


def _tune(problems: Sequence[_Problem], modalities: tuple[str, ...]) -> Tuning:
    def mean_accuracy(tuning: Tuning) -> float:
        return sum(problem.accuracy(tuning) for problem in problems) / len(problems)

    weights = max(_mixtures(modalities), key=lambda mixture: mean_accuracy(Tuning(mixture)))
    return max((Tuning(weights, penalty) for penalty in INVERSE_PENALTIES), key=mean_accuracy)


def _mixtures(modalities: tuple[str, ...]) -> list[dict[str, float]]:
    parts = 10 if len(modalities) <= 3 else 5
    counts = itertools.product(range(parts + 1), repeat=len(modalities))
    return [
        {name: count / parts for name, count in zip(modalities, chosen, strict=True)}
        for chosen in counts
        if sum(chosen) == parts
    ]


def raw_grams(episodes: EpisodeBatch) -> EpisodeGrams:
    """Return Gram matrices of unit-norm features as they are stored; a missing view is its domain's mean."""
    rows, support, query = distinct_rows(episodes)
    domain = episodes.domain
    views = []
    for number, view in enumerate(domain.views):
        unit = normalize(domain.features[view.name][rows], dim=-1)
        views.append(torch.where(domain.presence[rows, number, None], unit, domain.means[view.name]))
    presence = torch.ones(len(rows), len(views), dtype=torch.bool)
    items = PlacedItems(
        tuple(views), tuple(view.encoder_id for view in domain.views), support, query, domain.presence[rows]
    )
    return gather_grams(items, presence, episodes.membership)


def one_view(number: int, grams: EpisodeGrams) -> Float[Tensor, " view"]:
    """Return weights that leave only the view at position `number`."""
    weights = torch.zeros(grams.support.shape[1])
    weights[number] = 1.0
    return weights


def _view_weights(weights: Mapping[str, float], modalities: Sequence[str]) -> Float[Tensor, " view"]:
    """Spread modality weights over views so that they sum to the number of views; unknown modalities get the mean."""
    mean = sum(weights.values()) / len(weights) if weights else 1.0
    chosen = torch.tensor([weights.get(name, mean) for name in modalities])
    total = chosen.sum()
    return torch.ones_like(chosen) if total <= 0 else chosen * (len(chosen) / total)


def _fit(
    grams: EpisodeGrams, weights: Float[Tensor, " view"], inverse_penalty: float = 1.0, *, steps: int = 100
) -> Float[Tensor, "batch query way"]:
    support, cross = grams.fused(weights.expand(len(grams.support), -1))
    fitted = fit_logistic(support, grams.membership, inverse_penalty, steps=steps)
    return fitted.logits(cross).log_softmax(-1)
