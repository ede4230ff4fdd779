"""The learners there are, by name: the allow-list from which anything stored is rebuilt."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data_contracts.errors import ModelError, ModelRefused
from models.fused import EpisodeLoss, FusedLearner, FusedModel, query_cross_entropy
from models.learner import DomainModel, MetaLearner
from models.metric.mahalanobis import MahalanobisHead
from models.metric.prototypical import PrototypicalHead
from models.optimisation.ridge import RidgeHead

Family = Literal["metric", "optimisation", "generation", "fusion"]


@dataclass(frozen=True)
class Entry:
    """How a learner is made and what sets it apart."""

    family: Family
    head: Callable[[], nn.Module]
    loss: EpisodeLoss = query_cross_entropy
    is_transductive: bool = False
    """Whether the answer to one query depends on the other queries."""


CATALOGUE: dict[str, Entry] = {
    "metric": Entry("metric", PrototypicalHead),
    "mahalanobis": Entry("metric", MahalanobisHead),
    "ridge": Entry("optimisation", RidgeHead),
}

LEARNERS: tuple[str, ...] = tuple(CATALOGUE)
"""Names on the command line and in reports."""


def build_learner(kind: str) -> MetaLearner:
    """Return a new, untrained learner, the same at every call.

    Raises:
        ModelError: there is no learner of that kind.
    """
    if kind not in CATALOGUE:
        raise ModelError(f"there is no learner {kind!r}; choose from {', '.join(LEARNERS)}.", learner=kind)
    return _new(kind)


def load_learner(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MetaLearner:
    """Rebuild a stored learner.

    Raises:
        ModelRefused: its kind is not on the list, or its weights do not fit its kind.
    """
    learner = _listed(config)
    with _refusing(learner.kind):
        learner.restore(weights)
    return learner


def load_domain_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DomainModel:
    """Rebuild a stored domain model.

    Raises:
        ModelRefused: its kind is not on the list, or its weights do not fit its kind.
    """
    learner = _listed(config)
    with _refusing(learner.kind):
        return FusedModel.load(learner, config, weights)


def _new(kind: str) -> FusedLearner:
    entry = CATALOGUE[kind]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return FusedLearner(kind, entry.head(), entry.loss)


def _listed(config: Mapping[str, Any]) -> FusedLearner:
    kind = str(config.get("kind"))
    if kind not in CATALOGUE:
        raise ModelRefused(
            f"the stored model is of kind {kind!r}; this version knows {', '.join(LEARNERS)}. "
            "Use the version that stored it, or register a new one.",
            kind=kind,
        )
    return _new(kind)


@contextmanager
def _refusing(kind: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as exc:
        raise ModelRefused(
            f"the stored weights do not fit a model of kind {kind!r} ({exc}). "
            "It was changed or stored by another version: register it again.",
            kind=kind,
        ) from exc
