"""What every meta-learner and every adapted model offers, whichever family it belongs to."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from models.episodes import EpisodeBatch
from models.features import DomainData, ViewSpec


@runtime_checkable
class DomainModel(Protocol):
    """A model adapted to one domain: small, self-contained, needing no prior to predict."""

    kind: str
    classes: tuple[str, ...]
    views: tuple[ViewSpec, ...]

    @property
    def view_weights(self) -> dict[str, float]:
        """Share of the decision that each view carries; shares sum to 1."""
        ...

    def predict(self, data: DomainData) -> Float[Tensor, "item way"]:
        """Return calibrated class probabilities; an item without any view gets the uniform row."""
        ...

    def embed(self, data: DomainData) -> Float[Tensor, "item dim"]:
        """Return items in the space the model decides in, for clusters and anomalies."""
        ...

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the architecture, as JSON."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the numbers that fill it."""
        ...


@runtime_checkable
class EnsembleModel(Protocol):
    """A domain model that may be several, which answer together."""

    def uncertainty(self, data: DomainData) -> Float[Tensor, " item"] | None:
        """Return how far they disagree on each item, in nats; None if there is one only."""
        ...


def can_read(model: DomainModel, views: Sequence[ViewSpec]) -> bool:
    """Say whether a model can answer for items with these views: it knows one of them, and none by another encoder."""
    encoders = {view.name: view.encoder_id for view in views}
    known = [view for view in model.views if view.name in encoders]
    return bool(known) and all(encoders[view.name] == view.encoder_id for view in known)


@runtime_checkable
class Prior(Protocol):
    """What was learned from many domains and adapts to one from a few labels."""

    kind: str

    def fit_statistics(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Fit what needs no gradient on `classes`; episodes to train or measure on have to be of other classes."""
        ...

    def log_probabilities(self, episodes: EpisodeBatch) -> Float[Tensor, "batch query way"]:
        """Adapt to each episode's support and return log-probabilities of its queries."""
        ...

    def adapt(self, domain: DomainData, support: Int[Tensor, " support"]) -> DomainModel:
        """Adapt to one domain from the labelled rows `support`; its other rows serve as unlabelled context.

        Each of these rows has some view: one without any is of no use and would count as an item of its class.
        """
        ...

    def config(self) -> dict[str, Any]:
        """Return what rebuilds the architecture, as JSON."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """Return the numbers that fill it."""
        ...


@runtime_checkable
class MetaLearner(Prior, Protocol):
    """A prior that the outer loop trains on episodes of many domains."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters; the outer loop trains those that require a gradient."""
        ...

    def networks(self) -> Iterator[nn.Parameter]:
        """Return those parameters that are weights of networks, which learn at a rate of their own."""
        ...

    def meet(self, domains: Sequence[DomainData]) -> None:
        """Take note of the domains that training draws episodes from."""
        ...

    def meta_loss(self, episodes: EpisodeBatch) -> Float[Tensor, ""]:
        """Return the loss of the outer loop on a batch of episodes."""
        ...

    def unsettle(self) -> None:
        """Use all that was trained, as training does."""
        ...

    def settle(self, batches: Sequence[EpisodeBatch]) -> None:
        """Keep what pays on episodes of classes that no weight was trained on; each batch is of one shot."""
        ...

    def calibrate(self, batches: Iterable[tuple[EpisodeBatch, bool]]) -> None:
        """Fit to episodes how sure the learner is of its answers; each batch says whether views were hidden in it."""
        ...
