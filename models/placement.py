"""Where a prior puts items before it looks at labels: centred, whitened and averaged with their neighbours."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from data_contracts.names import MODALITIES
from models.features import DomainData, ViewSpec
from models.fusion import modality_numbers
from models.geometry import WithinClassBasis, centred_views, find_neighbours, fit_bases
from models.strength import ByShot

POOL_SIZE = 2048

Views = Mapping[str, Float[Tensor, "row _"]]


class Placement(nn.Module):
    """Learned strengths of whitening (per modality) and of averaging with neighbours; both start at none.

    Whitening uses the within-class scatter of each encoder, which `fit` takes from training classes; an encoder that
    training has not met is left as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whitening = ByShot(len(MODALITIES))
        self.smoothing = ByShot()
        self.bases: dict[str, WithinClassBasis] = {}

    def fit(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Take the within-class scatter of each shared encoder from the given classes."""
        self.bases = fit_bases(domains, classes)

    def place(
        self,
        specs: tuple[ViewSpec, ...],
        rows: Views,
        pool: Mapping[str, Float[Tensor, "pool _"]],
        is_same: Bool[Tensor, "row pool"],
        weights: Float[Tensor, " view"],
        shot: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Place centred rows of the views `specs`; a view an item lacks is filled from its neighbours in the pool.

        Neighbours are those that have the view, by cosine over all views, weighted by `weights`.
        """
        with torch.no_grad():
            shares = dict(zip(rows, weights.tolist(), strict=True))
            neighbours = find_neighbours(rows, pool, shares, is_same)
        strength = self.smoothing(shot).squeeze(-1)
        powers = self.whitening(shot)[modality_numbers(specs)]
        placed = {}
        for spec, power in zip(specs, powers, strict=True):
            own, others = rows[spec.name], pool[spec.name]
            if spec.encoder_id in self.bases:
                basis = self.bases[spec.encoder_id]
                own, others = basis.whiten(own, power), basis.whiten(others, power)
            is_absent = ~own.any(1, keepdim=True)  # filled towards its neighbours, even if views move away
            average = neighbours[spec.name].average(others)
            placed[spec.name] = normalize(own + torch.where(is_absent, strength.abs(), strength) * average, dim=-1)
        return placed

    def place_domain(
        self, domain: DomainData, rows: Int[Tensor, " row"], weights: Float[Tensor, " view"], shot: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Place rows of a domain, with the domain's own items as the pool."""
        pool = pool_rows(domain)
        is_same = rows[:, None] == pool
        return self.place(
            domain.views, centred_views(domain, rows), centred_views(domain, pool), is_same, weights, shot
        )

    def stored_bases(self) -> dict[str, Tensor]:
        """Return the bases by name, to be stored beside the parameters."""
        return {
            f"bases/{encoder_id}/{part}": getattr(basis, part)
            for encoder_id, basis in self.bases.items()
            for part in ("directions", "ratios")
        }

    def restore_bases(self, stored: Mapping[str, Tensor]) -> None:
        """Take the bases from what `stored_bases` gave (KeyError or ValueError if they are not whole)."""
        names = [name.removeprefix("bases/").rpartition("/") for name in stored if name.startswith("bases/")]
        self.bases = {
            encoder_id: WithinClassBasis(stored[f"bases/{encoder_id}/directions"], stored[f"bases/{encoder_id}/ratios"])
            for encoder_id in sorted({encoder_id for encoder_id, _, _ in names})
        }
        for encoder_id, basis in self.bases.items():
            if basis.directions.ndim != 2 or basis.ratios.shape != basis.directions.shape[1:]:
                raise ValueError(f"the basis of {encoder_id} needs one ratio for each direction")


def pool_rows(domain: DomainData) -> Int[Tensor, " pool"]:
    """Return the rows that serve as unlabelled neighbours: all, or an evenly spaced `POOL_SIZE` of them."""
    if len(domain) <= POOL_SIZE:
        return torch.arange(len(domain))
    return torch.linspace(0, len(domain) - 1, POOL_SIZE).long()


def has_view(views: Views) -> Bool[Tensor, "row view"]:
    """Say which views items have once placed: their own, or filled from neighbours."""
    return torch.stack([items.square().sum(-1) > 0.5 for items in views.values()], dim=-1)
