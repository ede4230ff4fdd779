"""Where items lie before any label is seen: centring by domain, whitening within classes, averaging with neighbours.

Every step has a strength, and at strength zero leaves items where they are, so that a learner built on these starts
as nearest centroid and departs from it only as far as training on other domains and classes supports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from models.features import DomainData

SHRINKAGE = 0.5
"""Weight of the identity in the within-class covariance (Ledoit and Wolf, 2004, with a fixed intensity)."""

ROUNDING = 1e-5
"""Unit-norm items nearer than this to their mean differ from it by rounding alone."""


def centre(
    features: Float[Tensor, "item dim"], mean: Float[Tensor, " dim"], is_present: Bool[Tensor, " item"]
) -> Float[Tensor, "item dim"]:
    """Return unit-norm items about their domain's mean; zero where the view is absent or no different from the mean."""
    offset = normalize(features, dim=-1) - mean
    length = torch.linalg.vector_norm(offset, dim=-1, keepdim=True)
    is_apart = is_present.unsqueeze(-1) & (length > ROUNDING)
    return offset * torch.where(is_apart, 1 / length, 0.0)


def centred_views(domain: DomainData, rows: Int[Tensor, " row"]) -> dict[str, Float[Tensor, "row _"]]:
    """Return every view of the given rows, centred by the domain's own unlabelled mean."""
    return {
        view.name: centre(domain.features[view.name][rows], domain.means[view.name], domain.presence[rows, number])
        for number, view in enumerate(domain.views)
    }


def has_view(views: Mapping[str, Float[Tensor, "row _"]]) -> Bool[Tensor, "row view"]:
    """Say which views items have: a row is of length 1, or zero where the view is absent."""
    return torch.stack([torch.linalg.vector_norm(items.detach(), dim=-1) > 0.5 for items in views.values()], dim=-1)


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

    def lengths(self, items: Float[Tensor, "item dim"], power: Float[Tensor, ""]) -> Float[Tensor, "item 1"]:
        """Return how long items of length 1 would be once whitened, were they not normalised; 1 for absent ones."""
        gain = self._gain(power)
        return (1 + (items @ self.directions).square() @ (gain * (2 + gain))).sqrt().unsqueeze(-1)

    def _gain(self, power: Float[Tensor, ""]) -> Float[Tensor, " rank"]:
        return self.ratios ** (-power / 2) - 1


def fit_bases(
    domains: Sequence[DomainData], classes: tuple[str, ...], *, rank: int = 128
) -> dict[str, WithinClassBasis]:
    """Pool the within-class scatter of `classes` over `domains`, for each encoder that several items share.

    Encoders with fewer labelled items than twice the rank are left out: their scatter would be noise. So are those of
    one source: a learner that was trained with their scatter would miss it in a new domain.
    """
    scatter: dict[str, Tensor] = {}
    freedom: dict[str, int] = {}
    for domain in domains:
        labels = domain.with_classes(classes).labels
        for number, view in enumerate(domain.views):
            if view.is_of_one_source:
                continue
            rows = ((labels >= 0) & domain.presence[:, number]).nonzero().flatten()
            items = centre(domain.features[view.name][rows], domain.means[view.name], domain.presence[rows, number])
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
    rows: Mapping[str, Float[Tensor, "row _"]],
    pool: Mapping[str, Float[Tensor, "pool _"]],
    weights: Mapping[str, float],
    is_same: Bool[Tensor, "row pool"],
    *,
    count: int = 10,
    temperature: float = 0.1,
) -> dict[str, Neighbours]:
    """Find, for each view, the nearest of the pool items that have it; an item is not its own neighbour.

    Nearness is the weighted cosine over all views, so that a view an item lacks can be filled from items that are near
    in the views it has.
    """
    of_rows, of_pool = has_view(rows), has_view(pool)
    shares = next(iter(rows.values())).new_tensor([weights[name] for name in rows])
    lengths = ((of_rows * shares).sum(1, keepdim=True) * (of_pool * shares).sum(1)).sqrt()
    products = torch.stack([weights[name] * (items @ pool[name].T) for name, items in rows.items()]).sum(0)
    similarity = (products / lengths.clamp(min=ROUNDING)).masked_fill(is_same, -torch.inf)
    return {
        name: _nearest(similarity, is_there, count, temperature) for name, is_there in zip(pool, of_pool.T, strict=True)
    }


def _nearest(
    similarity: Float[Tensor, "row pool"], has_view: Bool[Tensor, " pool"], count: int, temperature: float
) -> Neighbours:
    candidates = similarity.masked_fill(~has_view, -torch.inf)
    best = candidates.topk(min(count, candidates.shape[1]), dim=1)
    attention = torch.where(best.values > 0, best.values / temperature, -torch.inf).softmax(-1)
    return Neighbours(best.indices, attention.nan_to_num(0.0))
