"""Where a prior puts items before it looks at labels: centred, whitened and averaged with their neighbours."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from data_contracts.names import MODALITIES
from models.features import DomainData, ViewSpec
from models.fusion import modality_numbers
from models.geometry import WithinClassBasis, find_neighbours, fit_bases
from models.pool import Pool, has_view
from models.strength import ByShot, within

Views = Mapping[str, Float[Tensor, "row _"]]


class Placement(nn.Module):
    """Learned strengths of whitening (per modality) and of averaging with neighbours; both start at none.

    Items are not moved away from their neighbours: tables where that helped in training say nothing of others.

    Whitening uses the within-class scatter of each encoder, which `fit` takes from training classes; an encoder that
    training has not met is left as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whitening = ByShot(len(MODALITIES))
        self.smoothing = ByShot()
        self.bases: dict[str, WithinClassBasis] = {}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Placement":
        """Move the bases with the parameters: this is what `to` calls."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.bases = {
            encoder_id: WithinClassBasis(fn(basis.directions), fn(basis.ratios))
            for encoder_id, basis in self.bases.items()
        }
        return self

    def fit(self, domains: Sequence[DomainData], classes: tuple[str, ...]) -> None:
        """Take the within-class scatter of each shared encoder from the given classes."""
        self.bases = deepcopy(fit_bases(tuple(domains), classes))  # learners share no numbers

    def place(
        self,
        specs: tuple[ViewSpec, ...],
        rows: Views,
        at: Int[Tensor, " row"],
        pool: Pool,
        in_pool: Bool[Tensor, "pool view"],
        weights: Float[Tensor, " view"],
        shot: Float[Tensor, ""],
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Place centred rows of the views `specs`; a view an item lacks is filled from its neighbours in the pool.

        `at` is where in the pool the rows are, -1 if they are not, and `in_pool` says which views its items have.
        Neighbours are those that have the view, by cosine over all views, weighted by `weights`.
        """
        of_rows = has_view(rows)
        with torch.no_grad():
            cosines = (pool.cosines(name, items, at) for name, items in rows.items())
            is_same = at.unsqueeze(-1) == torch.arange(len(pool), device=at.device)
            neighbours = find_neighbours(cosines, of_rows, in_pool, weights, is_same)
        strength = self.smoothing(shot).squeeze(-1)
        powers = self.whitening(shot)[modality_numbers(specs)]
        present, absent = within(strength, 0.0, math.inf), strength.abs()  # what is absent is filled in any case
        towards = torch.where(of_rows, present, absent)
        placed = {}
        for spec, power, pull, near in zip(specs, powers, towards.unsqueeze(-1).unbind(1), neighbours, strict=True):
            own, others = rows[spec.name], pool.views[spec.name]
            if (basis := self.bases.get(spec.encoder_id)) is None:
                placed[spec.name] = normalize(own + pull * near.average(others), dim=-1)
            else:  # the mean of whitened items is the whitened mean, so few items are whitened: no neighbours
                own_length = basis.lengths(pool.squares_of(spec.name, own, at, basis.directions), power)
                lengths = basis.lengths(pool.squares(spec.name, basis.directions), power)
                mixed = own / own_length + pull * near.average(others, lengths)
                placed[spec.name] = basis.whiten(mixed, power)
        return placed

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
