"""Episodes as similarities: one Gram matrix per view, whatever the encoder or its dimension.

Prototypes, distances, logistic regression and separability are all functions of these matrices, so what is built on
them takes views and encoders it has never met. A whole batch of episodes shares one Gram matrix over its distinct rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.common_space import COMMON_DIM, to_common
from models.episodes import EpisodeBatch, mean_shares, shots_of

LIKENESS = 0.3
"""Cosine that two items of a class are taken to have in a view, where none of its support shows what it is."""


class Coverage(NamedTuple):
    """Share of the views, by weight, that items came with."""

    support: Float[Tensor, " batch"]
    """Mean over the items."""
    query: Float[Tensor, "batch query"]


@dataclass(frozen=True)
class PlacedItems:
    """The items behind a batch of episodes: one matrix per view, and which of its rows each episode uses.

    A view without an encoder's id is no part of the common space. What items have beside what they `came_with` was
    filled.
    """

    views: tuple[Float[Tensor, "row _"], ...]
    encoder_ids: tuple[str | None, ...]
    support: Int[Tensor, "batch support"]
    query: Int[Tensor, "batch query"]
    came_with: Bool[Tensor, "row view"]

    def common(
        self, weights: Float[Tensor, "batch view"], matrix: Float[Tensor, "out common"] | None = None
    ) -> tuple[Float[Tensor, "batch support out"], Float[Tensor, "batch query out"]]:
        """Return support and queries in the common space, views weighted; a view an item lacks adds nothing.

        With a `matrix` return what it makes of them. Each row meets it once, however many episodes use the row.
        """
        n_outputs = COMMON_DIM if matrix is None else len(matrix)
        support = self.views[0].new_zeros(*self.support.shape, n_outputs)
        query = self.views[0].new_zeros(*self.query.shape, n_outputs)
        for weight, items, encoder_id in zip(weights.T, self.views, self.encoder_ids, strict=True):
            if encoder_id is None:
                continue
            projected = to_common(items, encoder_id)
            if matrix is not None:
                projected = projected @ matrix.T
            is_used = weight > 0  # at zero, where the root's slope is infinite, the gradient is zero
            factor = (torch.where(is_used, weight, 1.0).sqrt() * is_used)[:, None, None]
            support = support + factor * projected[self.support]
            query = query + factor * projected[self.query]
        return support, query

    def between_queries(self, weights: Float[Tensor, "batch view"]) -> Float[Tensor, "batch query query"]:
        """Return the fused Gram matrices of the queries."""
        gram = torch.zeros(())
        for weight, items in zip(weights.T, self.views, strict=True):
            queries = items[self.query]
            gram = gram + weight[:, None, None] * (queries @ queries.mT)
        return gram


@dataclass(frozen=True)
class LabelledItems:
    """Labelled items of the classes of a batch of episodes in the common space, each once, with their class's number.

    A view without an encoder's id is zero.
    """

    views: Float[Tensor, "view row common"]
    labels: Int[Tensor, " row"]
    class_numbers: Int[Tensor, "batch way"]

    def by_episode(
        self, weights: Float[Tensor, "batch view"]
    ) -> Iterator[tuple[Float[Tensor, "item common"], Float[Tensor, "item way"]]]:
        """Yield the items of each episode's classes, views weighted, and their membership.

        One episode after another, because classes may be large. The root of a weight of zero has no gradient.
        """
        labels = self.labels.unsqueeze(-1)
        for weight, numbers in zip(weights, self.class_numbers, strict=True):
            members = (labels == numbers) & (labels >= 0)
            own = members.any(1).nonzero().flatten()
            yield torch.einsum("v,vic->ic", weight.sqrt(), self.views[:, own]), members[own].float()


@dataclass(frozen=True)
class EpisodeGrams:
    """Similarities within the support and from queries to support, for every view; rows of absent views are zero.

    A query that is padding, and so may influence nothing, is one without any view.
    """

    support: Float[Tensor, "batch view support support"]
    cross: Float[Tensor, "batch view query support"]
    support_presence: Bool[Tensor, "batch view support"]
    query_presence: Bool[Tensor, "batch view query"]
    membership: Float[Tensor, "batch support way"]
    items: PlacedItems

    @property
    def shots(self) -> Float[Tensor, " batch"]:
        """Shot of each episode."""
        return shots_of(self.membership)

    @property
    def members(self) -> Float[Tensor, "batch view support way"]:
        """Membership by each view: that of the support items that have it."""
        return self.membership.unsqueeze(1) * self.support_presence.unsqueeze(-1)

    @property
    def is_real(self) -> Float[Tensor, "batch support"]:
        """1 for support items, 0 for padding."""
        return self.membership.sum(-1)

    def coverage(self, weights: Float[Tensor, "batch view"]) -> Coverage:
        """Return the share of the views that items came with; `weights` sum to 1 over views."""
        came_with = self.items.came_with.float()
        of_query, of_support = (
            torch.einsum("bv,biv->bi", weights, came_with[rows]) for rows in (self.items.query, self.items.support)
        )
        return Coverage((of_support * self.is_real).sum(1) / self.is_real.sum(1).clamp(min=1), of_query)

    def fused(
        self, weights: Float[Tensor, "batch view"]
    ) -> tuple[Float[Tensor, "batch support support"], Float[Tensor, "batch query support"]]:
        """Return the weighted sums over views: the Gram matrices of the concatenated, weighted views."""
        return (
            torch.einsum("bv,bvst->bst", weights, self.support),
            torch.einsum("bv,bvqs->bqs", weights, self.cross),
        )


def gather_grams(
    items: PlacedItems, presence: Bool[Tensor, "row view"], membership: Float[Tensor, "batch support way"]
) -> EpisodeGrams:
    """Build episodes' Gram matrices; they share one over all rows."""
    gram = torch.stack([rows @ rows.T for rows in items.views])  # [view, row, row]
    support, query = items.support, items.query
    return EpisodeGrams(
        support=gram[:, support[:, :, None], support[:, None, :]].movedim(0, 1),
        cross=gram[:, query[:, :, None], support[:, None, :]].movedim(0, 1),
        support_presence=presence[support].movedim(2, 1),
        query_presence=presence[query].movedim(2, 1),
        membership=membership,
        items=items,
    )


def in_common_space(
    views: Sequence[Float[Tensor, "row _"]], encoder_ids: Sequence[str | None]
) -> Float[Tensor, "view row common"]:
    """Project every view; one without an encoder's id becomes zero."""
    return torch.stack(
        [
            items.new_zeros(len(items), COMMON_DIM) if encoder_id is None else to_common(items, encoder_id)
            for items, encoder_id in zip(views, encoder_ids, strict=True)
        ]
    )


def distinct_rows(
    episodes: EpisodeBatch,
) -> tuple[Int[Tensor, " row"], Int[Tensor, "batch support"], Int[Tensor, "batch query"]]:
    """Return the rows that occur in a batch, once each, and the episodes re-indexed into them."""
    n_support = episodes.support.shape[1]
    everything = torch.cat([episodes.support, episodes.query], dim=1)
    rows, positions = torch.unique(everything, return_inverse=True)
    return rows, positions[:, :n_support], positions[:, n_support:]


def squared_distances(grams: EpisodeGrams) -> Float[Tensor, "batch view query way"]:
    """Return squared Euclidean distances of queries to prototypes, per view (Snell et al., 2017, eq. 1-2).

    A prototype is the mean of the class's support items that have the view. A query that lacks it is at zero from all.
    """
    members = grams.members
    share = mean_shares(members)
    norms = (share * (grams.support @ share)).sum(2, keepdim=True)
    return distances_of(grams.cross @ share, norms, members.any(2, keepdim=True)) * grams.query_presence.unsqueeze(-1)


def distances_of(
    products: Float[Tensor, "batch view query way"],
    norms: Float[Tensor, "batch view #query way"],
    has_view: Bool[Tensor, "batch view #query way"],
) -> Float[Tensor, "batch view query way"]:
    """Return squared distances of unit items, from their products with prototypes and the squared norms of these.

    Where a class with support has none in the view, its distance is `1 + n - LIKENESS`, `n` being the mean squared
    length of the prototypes there are: with that cosine between items of a class, an item at this distance is as near
    to what a prototype predicts (itself, shrunk to `LIKENESS / n` of its length) as to the domain's mean, and might as
    well be of another class. A class without any support is at the mean distance of those with the view.
    """
    distance = mean_where_unknown(1 + norms - 2 * products, has_view)
    unsure = 1 + mean_where_unknown(norms, has_view) - LIKENESS
    is_seen_elsewhere = has_view.any(1, keepdim=True) & ~has_view & has_view.any(-1, keepdim=True)
    return torch.where(is_seen_elsewhere, unsure, distance)


def query_blocks(
    cross: Float[Tensor, "batch query support"], numbers: int, at_once: int
) -> Iterator[Float[Tensor, "batch block support"]]:
    """Return the queries in blocks for which `at_once` numbers are held, if each query takes so many `numbers`."""
    rows = max(1, at_once // max(1, numbers))
    return (cross[:, start : start + rows] for start in range(0, max(cross.shape[1], 1), rows))


def mean_where_unknown(
    values: Float[Tensor, "*batch query way"], is_known: Bool[Tensor, "*batch #query way"]
) -> Float[Tensor, "*batch query way"]:
    """Give classes of which nothing is known the mean over the others: absence favours no class."""
    mean = (values * is_known).sum(-1, keepdim=True) / is_known.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(is_known, values, mean)
