"""The learners there are, by name: the allow-list from which anything stored is rebuilt."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from data_contracts.errors import ModelError, ModelRefused
from models.fused import FusedLearner, FusedModel
from models.generation.feature_generator import FeatureGeneratorHead, generator_loss
from models.generation.hypernetwork import HypernetworkHead
from models.generation.in_context import InContextHead
from models.generation.parameter_gan import ParameterGanHead
from models.heads import EpisodeLoss, query_loss
from models.learner import DomainModel, Prior
from models.metric.mahalanobis import MahalanobisHead
from models.metric.network import contrastive_head, triplet_head
from models.metric.prototypical import PrototypicalHead
from models.metric.prototypical_episodes import protonet_head
from models.metric.set_attention import SetAttentionHead
from models.metric.transductive import TransductiveHead
from models.optimisation.learned_optimizer import LearnedOptimizerHead, unrolled_loss
from models.optimisation.maml import anil_head, fomaml_head, maml_head, meta_sgd_head
from models.optimisation.per_parameter import PerParameterHead
from models.optimisation.ridge import RidgeHead
from models.selection import AutoLearner
from models.selector import Selector
from models.similarity import SimilarityHead

AUTO = AutoLearner.kind
ALL = "all"
"""Stands for every learner and `auto` where learners are asked for."""

Family = Literal["metric", "optimisation", "generation", "fusion"]


@dataclass(frozen=True)
class Entry:
    """How a learner is made and what sets it apart."""

    family: Family
    head: Callable[[], nn.Module]
    loss: EpisodeLoss = query_loss
    is_transductive: bool = False
    """Whether the answer to one query depends on the other queries."""


CATALOGUE: dict[str, Entry] = {
    "metric": Entry("metric", PrototypicalHead),
    "mahalanobis": Entry("metric", MahalanobisHead),
    "triplet": Entry("metric", triplet_head),
    "contrastive": Entry("metric", contrastive_head),
    "protonet": Entry("metric", protonet_head),
    "set_attention": Entry("metric", SetAttentionHead),
    "transductive": Entry("metric", TransductiveHead, is_transductive=True),
    "transductive_balanced": Entry("metric", partial(TransductiveHead, is_balanced=True), is_transductive=True),
    "ridge": Entry("optimisation", RidgeHead),
    "maml": Entry("optimisation", maml_head),
    "fomaml": Entry("optimisation", fomaml_head),
    "anil": Entry("optimisation", anil_head),
    "meta_sgd": Entry("optimisation", meta_sgd_head),
    "meta_sgd_per_parameter": Entry("optimisation", PerParameterHead),
    "learned_optimizer": Entry("optimisation", LearnedOptimizerHead, unrolled_loss),
    "similarity": Entry("fusion", SimilarityHead),
    "hypernetwork": Entry("generation", HypernetworkHead),
    "parameter_gan": Entry("generation", ParameterGanHead),
    "feature_generator": Entry("generation", FeatureGeneratorHead, generator_loss),
    "in_context": Entry("generation", InContextHead),
}

LEARNERS: tuple[str, ...] = tuple(CATALOGUE)
"""What the outer loop trains, by the names of the command line and of reports."""

AUTO_MEMBERS: tuple[str, ...] = ("metric", "similarity")
"""Learners that `auto` chooses from in any case.

They differ most: one fits a linear head to a domain, the other has learned to read similarities, and neither is better
everywhere (`models/README.md`).
"""


def named_learners(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the learners asked for, each once; `all` becomes every learner and `auto`.

    Raises:
        ModelError: there is no learner of such a name, or none is named.
    """
    if not asked:
        raise ModelError(f"no learner is named; choose from {', '.join((*LEARNERS, AUTO))}, or {ALL}.")
    named = [one for kind in asked for one in ((*LEARNERS, AUTO) if kind == ALL else (check_learner(kind),))]
    return tuple(dict.fromkeys(named))


def check_learner(kind: str) -> str:
    """Return the name of a learner or `auto`.

    Raises:
        ModelError: there is no learner of that name.
    """
    if kind not in (*LEARNERS, AUTO):
        raise _unknown(kind)
    return kind


def learners_to_train(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the learners that have to be trained for those asked for, `auto` being made of several."""
    members = [kind for kind in asked if kind != AUTO]
    return tuple(dict.fromkeys([*members, *(AUTO_MEMBERS if AUTO in asked else ())]))


def auto_members(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the learners that `auto` chooses from: its own and those asked for beside it, but no transductive ones.

    What these say of an item depends on what else is asked, which is for users to want (`models/README.md`).
    """
    return tuple(kind for kind in learners_to_train((*asked, AUTO)) if not CATALOGUE[kind].is_transductive)


def build_learner(kind: str) -> FusedLearner:
    """Return a new, untrained learner, the same at every call.

    Raises:
        ModelError: there is no learner of that kind.
    """
    if kind not in CATALOGUE:
        raise _unknown(kind)
    entry = CATALOGUE[kind]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return FusedLearner(kind, entry.head(), entry.loss)


def load_prior(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Prior:
    """Rebuild a stored learner, or the several that `auto` chooses from.

    Raises:
        ModelRefused: a kind is not on the list, or weights do not fit their kind.
    """
    learner: FusedLearner | AutoLearner
    if config.get("kind") == AUTO:
        with _refusing(AUTO):
            members, others = (_all_listed(config[part]) for part in ("members", "others"))
            learner = AutoLearner(members, Selector(len(members)), others)
    else:
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


def _all_listed(configs: Sequence[Mapping[str, Any]]) -> dict[str, FusedLearner]:
    return {learner.kind: learner for learner in map(_listed, configs)}


def _unknown(kind: str) -> ModelError:
    return ModelError(f"there is no learner {kind!r}; choose from {', '.join((*LEARNERS, AUTO))}.", learner=kind)


def _listed(config: Mapping[str, Any]) -> FusedLearner:
    kind = str(config.get("kind"))
    if kind not in CATALOGUE:
        raise ModelRefused(
            f"the stored model is of kind {kind!r}; this version knows {', '.join(LEARNERS)}. "
            "Use the version that stored it, or register a new one.",
            kind=kind,
        )
    return build_learner(kind)


@contextmanager
def _refusing(kind: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, RuntimeError, TypeError, ValueError) as exc:
        raise ModelRefused(
            f"the stored weights do not fit a model of kind {kind!r} ({exc}). "
            "It was changed, or stored by another version of metafuse: meta-train, then adapt the domains again.",
            kind=kind,
        ) from exc
