"""Stored embeddings of one domain, as every learner sees them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from models.pool import Pool, centre, pool_rows


@dataclass(frozen=True)
class ViewSpec:
    """One view of a domain: its name there, its modality and what encoded it."""

    name: str
    modality: str
    encoder_id: str
    dim: int

    @property
    def is_of_one_source(self) -> bool:
        """Whether the encoder was fitted to the columns of one source: what is learned of it, no new domain can use."""
        return self.modality == "tabular"


@dataclass(frozen=True, eq=False)
class DomainData:
    """All items of one domain: one feature matrix per view, a presence mask, and the labels that are known.

    Features are finite and of single precision; what they hold where `presence` is false plays no part. `labels`
    indexes `classes`; -1 is unlabelled. Nothing in it may change: what follows from it is made once and kept.
    """

    domain: str
    views: tuple[ViewSpec, ...]
    features: dict[str, Float[Tensor, "item _"]]
    presence: Bool[Tensor, "item view"]
    labels: Int[Tensor, " item"]
    classes: tuple[str, ...]
    item_ids: tuple[str, ...]
    provenance: dict[str, int] = field(default_factory=dict)
    """Lake table to the version that was read."""
    _whole: "DomainData | None" = field(default=None, init=False, repr=False)
    """The domain that has the same items, if some of their views or labels are hidden here."""

    def __len__(self) -> int:
        return len(self.item_ids)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the pool out of what is copied or sent to another process, which makes its own."""
        return {name: value for name, value in self.__dict__.items() if name != "pool"}

    @cached_property
    def means(self) -> dict[str, Float[Tensor, " _"]]:
        """Mean of each view's unit-norm features over the items that have it, zero if none has; labels play no part."""
        if self._whole is not None:
            return self._whole.means
        shares = self.presence / self.presence.sum(0).clamp(min=1)
        return {
            view.name: share @ normalize(self.features[view.name], dim=-1)
            for view, share in zip(self.views, shares.T, strict=True)
        }

    @cached_property
    def pool_rows(self) -> Int[Tensor, " pool"]:
        """Rows of the items that serve as neighbours of others."""
        return pool_rows(len(self)).to(self.labels.device)

    @cached_property
    def pool(self) -> Pool:
        """Those items with all of their views, also of those that are hidden: `in_pool` says which are not."""
        if self._whole is not None:
            return self._whole.pool
        with torch.inference_mode(False), torch.no_grad():
            return Pool(self.centred(self.pool_rows))

    def positions_in_pool(self, rows: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return where in the pool the given rows are, -1 for those that are not there."""
        positions = torch.searchsorted(self.pool_rows, rows).clamp(max=len(self.pool_rows) - 1)
        return torch.where(self.pool_rows[positions] == rows, positions, -1)

    @property
    def in_pool(self) -> Bool[Tensor, "pool view"]:
        """Which views the items of the pool have that are not hidden."""
        return self.pool.has_view & self.presence[self.pool_rows]

    def centred(self, rows: Int[Tensor, " row"]) -> dict[str, Float[Tensor, "row _"]]:
        """Return every view of the given rows as unit-norm items about the mean, zero where it is absent."""
        return {view.name: self.centred_view(number, rows) for number, view in enumerate(self.views)}

    def centred_view(self, number: int, rows: Int[Tensor, " row"]) -> Float[Tensor, "row _"]:
        """Return one of them."""
        name = self.views[number].name
        return centre(self.features[name][rows], self.means[name], self.presence[rows, number])

    @cached_property
    def views_present(self) -> list[int]:
        """Numbers of the views that any item has."""
        numbers: list[int] = self.presence.any(0).nonzero().flatten().tolist()
        return numbers

    @cached_property
    def usable_labels(self) -> Int[Tensor, " item"]:
        """Labels of the items that have any view; -1 for the rest, which can neither teach nor be judged."""
        return self.labels.where(self.presence.any(1), torch.tensor(-1))

    def to(self, device: torch.device | str) -> "DomainData":
        """Return the same items on another device; the means stay what they are."""
        if self.labels.device == torch.device(device):
            return self
        moved = replace(
            self,
            features={name: matrix.to(device) for name, matrix in self.features.items()},
            presence=self.presence.to(device),
            labels=self.labels.to(device),
        )
        moved.__dict__["means"] = {name: mean.to(device) for name, mean in self.means.items()}
        return moved

    def take(self, rows: Int[Tensor, " row"]) -> "DomainData":
        """Return the given items only, in the given order, with means of their own; classes stay as they are."""
        return replace(
            self,
            features={name: matrix[rows] for name, matrix in self.features.items()},
            presence=self.presence[rows],
            labels=self.labels[rows],
            item_ids=tuple(self.item_ids[row] for row in rows.tolist()),
        )

    def with_presence(self, presence: Bool[Tensor, "item view"]) -> "DomainData":
        """Return the same items with some views hidden; nothing is copied, and the means stay those of all items.

        Raises:
            ValueError: an item is said to have a view that it came without.
        """
        if bool((presence & ~(self._whole or self).presence).any()):
            raise ValueError(f"items of {self.domain!r} cannot be given views that they came without")
        return self._part_of_whole(replace(self, presence=presence))

    def with_view_dropout(self, rate: float, generator: torch.Generator) -> "DomainData":
        """Return the same items with each view hidden at that rate; an item that would lose all keeps one.

        A view that no item has is not drawn for, so that it changes nothing for the others.
        """
        if not rate or len(self.views_present) < 2:
            return self
        luck = self._draw_luck(generator)
        return self.with_presence(self.presence & ((luck >= rate) | self._luckiest(luck)))

    def with_hidden_views(self, share: float, generator: torch.Generator) -> "DomainData":
        """Return the same items with that share of all their views hidden at random, to the nearest whole view.

        An item always keeps one: where the share is more than all can spare, what they can spare is hidden. A view
        that no item has is not drawn for.
        """
        if not share:
            return self
        luck = self._draw_luck(generator)
        spare = (self.presence & ~self._luckiest(luck)).flatten().nonzero().flatten()
        unlucky = spare[luck.flatten()[spare].argsort()]
        kept = self.presence.flatten().index_fill(0, unlucky[: round(share * int(self.presence.sum()))], False)
        return self.with_presence(kept.view_as(self.presence))

    def _part_of_whole(self, changed: "DomainData") -> "DomainData":
        object.__setattr__(changed, "_whole", self._whole or self)
        return changed

    def _draw_luck(self, generator: torch.Generator) -> Float[Tensor, "item view"]:
        luck = torch.zeros(self.presence.shape)
        luck[:, self.views_present] = torch.rand(len(self), len(self.views_present), generator=generator)
        return luck.to(self.presence.device)

    def _luckiest(self, luck: Float[Tensor, "item view"]) -> Bool[Tensor, "item view"]:
        return one_hot((luck * self.presence).argmax(1), len(self.views)).bool()

    def with_classes(self, classes: tuple[str, ...]) -> "DomainData":
        """Return the same items with only `classes` labelled: every other label becomes -1, and the means stay."""
        lookup = {name: index for index, name in enumerate(classes)}
        mapping = torch.tensor([lookup.get(name, -1) for name in self.classes] + [-1], device=self.labels.device)
        return self._part_of_whole(replace(self, classes=classes, labels=mapping[self.labels]))

    def without_classes(self, classes: Iterable[str]) -> "DomainData":
        """Return the same items with none of `classes` known: their labels become -1."""
        unwanted = set(classes)
        return self.with_classes(tuple(name for name in self.classes if name not in unwanted))
