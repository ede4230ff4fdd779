"""Where items lie before any label is seen, beside centring by domain: whitening within classes, and neighbours.

Every step has a strength, and at strength zero leaves items where they are, so that a learner built on these starts
as nearest centroid and departs from it only as far as training on other domains and classes supports.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from models.features import DomainData
from models.pool import ROUNDING, Pool

MOST_KEPT = 2**29
"""Bytes of cosines that are kept at a time, at most."""

SETS_OF_CLASSES = 6
"""As many does one training fit statistics to, two of them in turns."""

SHRINKAGE = 0.5
"""Weight of the identity in the within-class covariance (Ledoit and Wolf, 2004, with a fixed intensity)."""


@contextmanager
def remembered(domains: Iterable[DomainData]) -> Iterator[None]:
    """Keep what follows from domains alone, as long as many batches are drawn from them.

    That is bases, and the cosines between the items of those domains that are pools as a whole, as far as `MOST_KEPT`
    bytes go.
    """
    pools: list[Pool] = []
    left = MOST_KEPT
    for domain in domains:
        needed = 4 * len(domain.views) * len(domain) ** 2
        if len(domain.pool) == len(domain) and not domain.pool.keeps_cosines and needed <= left:
            domain.pool.keep_cosines()
            pools.append(domain.pool)
            left -= needed
    try:
        yield
    finally:
        for pool in pools:
            pool.forget_cosines()
        fit_bases.cache_clear()


@dataclass(frozen=True)
class WithinClassBasis:
    """Leading directions of one encoder's within-class scatter, and how much they exceed the rest.

    With `S = U diag(l) Uᵀ` shrunk to `(1 - s) S / mean(l) + s I`, all but the leading directions have a ratio near 1
    to `s`; keeping the leading ones makes whitening cost `dim x rank` instead of `dim x dim`.
    """

    directions: Float[Tensor, "dim rank"]
    ratios: Float[Tensor, " rank"]

    def whiten(self, items: Float[Tensor, "item dim"], power: Float[Tensor, ""]) -> Float[Tensor, "item dim"]:
        """Shrink the leading directions by `ratios ** (-power / 2)`: 0 changes nothing, 1 whitens fully."""
        return normalize(items + ((items @ self.directions) * self._gain(power)) @ self.directions.T, dim=-1)

    def lengths(self, squares: Float[Tensor, "item rank"], power: Float[Tensor, ""]) -> Float[Tensor, "item 1"]:
        """Return how long items of length 1 would be once whitened, were they not normalised.

        `squares` are those of their coordinates along the leading directions; of absent items, whose squares are zero,
        the length is 1.
        """
        gain = self._gain(power)
        return (1 + squares @ (gain * (2 + gain))).sqrt().unsqueeze(-1)

    def _gain(self, power: Float[Tensor, ""]) -> Float[Tensor, " rank"]:
        return self.ratios ** (-power / 2) - 1


@lru_cache(maxsize=SETS_OF_CLASSES)
def fit_bases(
    domains: tuple[DomainData, ...], classes: tuple[str, ...], *, rank: int = 128
) -> dict[str, WithinClassBasis]:
    """Pool the within-class scatter of `classes` over `domains`, for each encoder that several items share.

    Encoders with fewer labelled items than twice the rank are left out: their scatter would be noise. So are those of
    one source: a learner that was trained with their scatter would miss it in a new domain.
    Results are kept, with the domains, until `remembered` ends.
    """
    scatter: dict[str, Tensor] = {}
    freedom: dict[str, int] = {}
    for domain in domains:
        labels = domain.with_classes(classes).labels
        for number, view in enumerate(domain.views):
            if view.is_of_one_source:
                continue
            rows = ((labels >= 0) & domain.presence[:, number]).nonzero().flatten()
            items = domain.centred_view(number, rows)
            members = torch.nn.functional.one_hot(labels[rows], len(classes)).to(items.dtype)
            counts = members.sum(0).clamp(min=1)
            spread = items - members @ ((members.T @ items) / counts[:, None])
            scatter[view.encoder_id] = scatter.get(view.encoder_id, 0) + spread.T @ spread
            freedom[view.encoder_id] = freedom.get(view.encoder_id, 0) + len(rows) - int((members.sum(0) > 0).sum())
    return {
        encoder_id: _leading_directions(matrix / freedom[encoder_id], rank)
        for encoder_id, matrix in scatter.items()
        if freedom[encoder_id] >= 2 * rank
    }


def _leading_directions(covariance: Float[Tensor, "dim dim"], rank: int) -> WithinClassBasis:
    values, vectors = torch.linalg.eigh(covariance)
    shrunk = (1 - SHRINKAGE) * values / values.mean().clamp(min=ROUNDING**2) + SHRINKAGE
    return WithinClassBasis(vectors[:, -rank:].flip(1).contiguous(), (shrunk[-rank:].flip(0) / SHRINKAGE).clamp(min=1))


@dataclass(frozen=True)
class Neighbours:
    """Each row's nearest items of a reference pool, with attention that sums to 1 (0 where a row has no view)."""

    pool_rows: Int[Tensor, "row neighbour"]
    attention: Float[Tensor, "row neighbour"]

    def average(
        self, pool: Float[Tensor, "pool dim"], lengths: Float[Tensor, "pool 1"] | None = None
    ) -> Float[Tensor, "row dim"]:
        """Return the attention-weighted mean of each row's neighbours, each divided by its length if given."""
        shares = self.attention if lengths is None else self.attention / lengths[self.pool_rows].squeeze(-1)
        return torch.einsum("rn,rnd->rd", shares, pool[self.pool_rows])


def find_neighbours(
    cosines: Iterable[Float[Tensor, "row pool"]],
    of_rows: Bool[Tensor, "row view"],
    of_pool: Bool[Tensor, "pool view"],
    weights: Float[Tensor, " view"],
    is_same: Bool[Tensor, "row pool"],
    *,
    count: int = 10,
    temperature: float = 0.1,
) -> list[Neighbours]:
    """Find, for each view, the nearest of the pool items that have it; an item is not its own neighbour.

    Nearness is the weighted cosine over the views that both have, so that a view an item lacks can be filled from items
    that are near in the views it has. Of `cosines` there is one matrix for each view in turn.
    """
    row_weights, is_in_pool = of_rows * weights, of_pool.to(weights.dtype)
    similarity = torch.zeros_like(is_same, dtype=weights.dtype)
    for cosine, weight, is_there in zip(cosines, row_weights.T, is_in_pool.T, strict=True):
        similarity.addcmul_(cosine * weight.unsqueeze(-1), is_there)
    lengths = (row_weights.sum(1, keepdim=True) * (is_in_pool @ weights)).sqrt()
    similarity = similarity.div_(lengths.clamp_(min=ROUNDING)).masked_fill_(is_same, -torch.inf)
    return [_nearest(similarity, is_there, count, temperature) for is_there in of_pool.T]


def _nearest(
    similarity: Float[Tensor, "row pool"], has_view: Bool[Tensor, " pool"], count: int, temperature: float
) -> Neighbours:
    candidates = similarity.masked_fill(~has_view, -torch.inf)
    best = candidates.topk(min(count, candidates.shape[1]), dim=1)
    attention = torch.where(best.values > 0, best.values / temperature, -torch.inf).softmax(-1)
    return Neighbours(best.indices, attention.nan_to_num(0.0))
