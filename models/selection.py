"""Choosing a learner for a domain (algorithm selection, Rice, 1976, https://doi.org/10.1016/S0065-2458(08)60520-3).

Two sources are combined: cross-validation on the support set, and what the meta-training domains taught about when each
learner does well, given shot, way, views and how well these separate the classes. With one label per class nothing can
be held out and the second decides alone; how much the first counts beyond that is learned and follows the shot.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.baselines import raw_grams
from models.episodes import EpisodeBatch, as_episode
from models.features import DomainData
from models.fused import FusedLearner
from models.learner import DomainModel
from models.selector import Selector
from models.separation import separability

FOLDS = 5
MOST_LABELS = 20
"""Labels per class that take part in choosing; more would cost much and change little."""


class AutoLearner:
    """Several trained learners and what chooses among them: `auto`.

    `others` were trained beside them. They are stored too, to be adapted by name, and never chosen.
    """

    kind = "auto"

    def __init__(
        self,
        members: Mapping[str, FusedLearner],
        selector: Selector,
        others: Mapping[str, FusedLearner] = MappingProxyType({}),
    ) -> None:
        self.members = dict(members)
        self.selector = selector
        self.others = dict(others)

    @property
    def learners(self) -> dict[str, FusedLearner]:
        """All that are stored."""
        return {**self.members, **self.others}

    def fit_statistics(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Fit what needs no gradient, for every learner."""
        for learner in self.learners.values():
            learner.fit_statistics(domains, classes)

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Choose a learner for each episode by its support and return that learner's log-probabilities."""
        chosen = self.scores(episodes).argmax(-1)
        answers = torch.zeros(*episodes.query.shape, episodes.n_way)
        for number, member in enumerate(self.members.values()):
            is_chosen = chosen == number
            if is_chosen.any():
                answers[is_chosen] = member.log_probabilities(episodes)[is_chosen]
        return answers

    def adapt(self, domain: DomainData, support: Int[Tensor, " support"]) -> DomainModel:
        """Adapt the learner that does best on this domain, as far as its labels and other domains tell."""
        return self.choose(domain, support)[0].adapt(domain, support)

    def choose(self, domain: DomainData, support: Int[Tensor, " support"]) -> tuple[FusedLearner, dict[str, float]]:
        """Return the learner with the largest share, and the shares."""
        preference = self.preference(domain, support)
        return self.members[max(preference, key=lambda kind: preference[kind])], preference

    def preference(self, domain: DomainData, support: Int[Tensor, " support"]) -> dict[str, float]:
        """Return the share that each learner gets in the softmax of the scores: e times as much for a point more."""
        position = ranks(support.unsqueeze(0), domain.labels[support].unsqueeze(0))[0]
        some = support[position < MOST_LABELS]
        shares = self.scores(as_episode(domain, some, some[:0])).softmax(-1)[0]
        return dict(zip(self.members, shares.tolist(), strict=True))

    def scores(self, episodes: EpisodeBatch) -> Float[Tensor, "batch learner"]:
        """Return the score of every learner for the support of each episode."""
        with torch.no_grad():
            scores: Tensor = self.selector(describe(episodes), cross_validated(self.members, episodes), episodes.shots)
        return scores

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the learners."""
        parts = {"members": self.members, "others": self.others}
        return {"kind": self.kind} | {
            part: [learner.config() for learner in learners.values()] for part, learners in parts.items()
        }

    def weights(self) -> dict[str, Tensor]:
        """Return the numbers of every learner, by its kind, and those of the selector."""
        parts = {**{kind: learner.weights() for kind, learner in self.learners.items()}, "selector": self._stored()}
        return {f"{part}/{name}": value for part, stored in parts.items() for name, value in stored.items()}

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Take all numbers from what `weights` gave (KeyError, RuntimeError or ValueError if they do not fit)."""
        for kind, learner in self.learners.items():
            learner.restore(_below(kind, stored))
        selector = _below("selector", stored)
        self.selector.load_state_dict({name: selector[name] for name in self.selector.state_dict()})

    def _stored(self) -> dict[str, Tensor]:
        return dict(self.selector.state_dict())


def cross_validated(members: Mapping[str, FusedLearner], episodes: EpisodeBatch) -> Float[Tensor, "batch learner 2"]:
    """Return the cross-validation of every learner."""
    return torch.stack([cross_validate(member, episodes) for member in members.values()], dim=1)


def cross_validate(learner: FusedLearner, episodes: EpisodeBatch) -> Float[Tensor, "batch 2"]:
    """Return accuracy and mean log-probability on held-out support items; zeros where no class has two items."""
    found = torch.zeros(len(episodes), 2)
    held_out = torch.zeros(len(episodes), 1)
    for fold in leave_out(episodes):
        is_asked = fold.query_labels >= 0
        answers = learner.log_probabilities(fold)
        right = (answers.argmax(-1) == fold.query_labels) & is_asked
        picked = answers.gather(-1, fold.query_labels.clamp(min=0).unsqueeze(-1)).squeeze(-1).clamp(min=-5.0)
        found += torch.stack([right.sum(1), (picked * is_asked).sum(1)], dim=1)
        held_out += is_asked.sum(1, keepdim=True)
    return found / held_out.clamp(min=1)


def leave_out(episodes: EpisodeBatch, *, folds: int = FOLDS) -> list[EpisodeBatch]:
    """Return the episodes of a stratified cross-validation on the support.

    In fold f the items whose position within their class is f modulo the number of folds are queries; a class never
    gives its last item away. Positions are those in the domain, so that the order of the support plays no part.
    """
    labels = episodes.support_labels
    position = ranks(episodes.support, labels)
    sizes = episodes.membership.sum(1).long().gather(1, labels.clamp(min=0))
    count = min(folds, int(sizes.max()) if sizes.numel() else 0)
    batches = []
    for fold in range(count if count > 1 else 0):
        is_held = (position % count == fold) & (labels >= 0) & (sizes > 1)
        batches.append(
            EpisodeBatch(
                episodes.domain,
                episodes.support,
                labels.masked_fill(is_held, -1),
                episodes.support,
                labels.masked_fill(~is_held, -1),
                episodes.n_way,
            )
        )
    return batches


def ranks(rows: Int[Tensor, "batch item"], labels: Int[Tensor, "batch item"]) -> Int[Tensor, "batch item"]:
    """Return how many items of the same label have a smaller row number."""
    is_same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    return (is_same & (rows.unsqueeze(-2) < rows.unsqueeze(-1))).sum(-1)


def describe(episodes: EpisodeBatch) -> Float[Tensor, "batch statistic"]:
    """Return what is known of a support set before any learner sees it.

    That is the logarithms of shot, way and the number of views; the best and the mean gap between similarities within
    and between classes over the views; the mean similarity between classes; and the share of views that items have.
    A view that no support item has does not count.
    """
    grams = raw_grams(episodes)
    gap, between, _ = separability(grams).unbind(-1)
    presence = episodes.presence(episodes.support) & (episodes.support_labels >= 0).unsqueeze(-1)
    is_there = presence.any(1)
    n_views = is_there.sum(1).clamp(min=1)
    best = torch.where(is_there | ~is_there.any(1, keepdim=True), gap, -torch.inf).amax(1)
    means = [(values * is_there).sum(1) / n_views for values in (gap, between)]
    share = presence.sum((1, 2)) / (grams.is_real.sum(1) * n_views).clamp(min=1)
    n_ways = torch.full_like(best, episodes.n_way)
    return torch.stack([grams.shots.log(), n_ways.log(), n_views.log(), best, *means, share], dim=1)


def _below(part: str, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): value for name, value in stored.items() if name.startswith(f"{part}/")}
