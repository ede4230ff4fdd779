"""The learners there are, by name: the allow-list from which anything stored is rebuilt."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from data_contracts.errors import ModelError, ModelRefused
from models.learner import DomainModel, MetaLearner
from models.metric.prototypical import PrototypicalLearner, PrototypicalModel

LEARNERS: dict[str, type[PrototypicalLearner]] = {"metric": PrototypicalLearner}
DOMAIN_MODELS: dict[str, type[PrototypicalModel]] = {"metric": PrototypicalModel}


def build_learner(name: str) -> MetaLearner:
    """Return a new, untrained learner.

    Raises:
        ModelError: there is no learner of that name.
    """
    if name not in LEARNERS:
        raise ModelError(f"there is no learner {name!r}; choose from {', '.join(LEARNERS)}.", learner=name)
    return LEARNERS[name]()


def load_learner(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> MetaLearner:
    """Rebuild a stored learner.

    Raises:
        ModelRefused: its kind is not on the list, or its weights do not fit its kind.
    """
    learner: MetaLearner = _load(LEARNERS, config, weights)
    return learner


def load_domain_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DomainModel:
    """Rebuild a stored domain model.

    Raises:
        ModelRefused: its kind is not on the list, or its weights do not fit its kind.
    """
    model: DomainModel = _load(DOMAIN_MODELS, config, weights)
    return model


def _load(kinds: Mapping[str, Any], config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Any:
    kind = str(config.get("kind"))
    if kind not in kinds:
        raise ModelRefused(f"the stored model is of kind {kind!r}; this version knows {', '.join(kinds)}.", kind=kind)
    try:
        return kinds[kind].load(config, weights)
    except (KeyError, RuntimeError, TypeError, ValueError) as exc:
        raise ModelRefused(
            f"the stored weights do not fit a model of kind {kind!r} ({exc}). "
            "It was changed or stored by another version: register it again.",
            kind=kind,
        ) from exc
