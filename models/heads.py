"""What a learner's head may be asked for beside its logits, each by a protocol of its own.

Every head is called as `head(grams, weights) -> logits [batch, query, way]`. One that is tuned on the support may be
given the memory of a support as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor, nn

from models.grams import EpisodeGrams, LabelledItems
from models.temperature import decision_loss

EpisodeLoss = Callable[
    [nn.Module, EpisodeGrams, Float[Tensor, "batch view"], Int[Tensor, "batch query"]], Float[Tensor, ""]
]
"""Called as `loss(head, grams, weights, query_labels)`; a label of -1 marks padding."""


def query_loss(
    head: nn.Module, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], labels: Int[Tensor, "batch query"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the queries at the temperature that suits the batch best."""
    return decision_loss(head(grams, weights), labels)


@runtime_checkable
class FittedHead(Protocol):
    """A head with statistics of training classes, which need no gradient and are buffers of a fixed shape."""

    def fit(self, items: Sequence[Float[Tensor, "item common"]], labels: Sequence[Int[Tensor, " item"]]) -> None:
        """Take statistics from labelled items in the common space, one entry per training domain."""
        ...


@runtime_checkable
class AdversarialHead(Protocol):
    """A head that learns from a few labels to resemble what plenty of labels give."""

    def game(
        self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"], plenty: LabelledItems
    ) -> Float[Tensor, ""]:
        """Return minus the value of the game, which is added to the loss; `plenty` is of the episodes' classes."""
        ...


@runtime_checkable
class EnsembleHead(Protocol):
    """A head that is several and answers with their mean."""

    def uncertainty(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query"]:
        """Return how far they disagree on each query, in nats."""
        ...


@runtime_checkable
class ContestedHead(Protocol):
    """A head with a part that is used only if it beats the answer without it."""

    def plain(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query way"]:
        """Return logits of the queries without that part."""
        ...

    def drop(self) -> None:
        """Use that part no more."""
        ...


@runtime_checkable
class WeighingHead(Protocol):
    """A head that does not decide by the view weights it is given, but weighs views anew."""

    def reweigh(self, grams: EpisodeGrams, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch view *query"]:
        """Return the weights by which it decides, for each query if they differ; they sum to 1 over the views.

        A query without any view has none.
        """
        ...


@dataclass
class SupportMemory:
    """Keeps what was tuned on one support, for whoever asks about that again and again."""

    tuning: Any = None


@runtime_checkable
class TunedHead(Protocol):
    """A head with a part that is tuned on the support: with `head(grams, weights, memory)` once for each memory."""

    fine_tuning: nn.Module
