"""The items of a domain that serve as neighbours of others, centred once for all batches.

Which of their views are hidden, and which learner asks, changes from batch to batch; where they lie about their
domain's mean does not. So what is costly and follows from that alone is kept.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

POOL_SIZE = 2048

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


def has_view(views: Mapping[str, Float[Tensor, "row _"]]) -> Bool[Tensor, "row view"]:
    """Say which views items have: a row is of length 1, or zero where the view is absent."""
    return torch.stack([torch.linalg.vector_norm(items.detach(), dim=-1) > 0.5 for items in views.values()], dim=-1)


def pool_rows(n_items: int) -> Int[Tensor, " pool"]:
    """Return the rows that serve as unlabelled neighbours: all, or an evenly spaced `POOL_SIZE` of them."""
    return torch.arange(n_items) if n_items <= POOL_SIZE else torch.linspace(0, n_items - 1, POOL_SIZE).long()


class Pool:
    """Centred items, and what is asked of them again and again."""

    def __init__(self, views: Mapping[str, Float[Tensor, "pool _"]]) -> None:
        self.views = dict(views)
        self.has_view = has_view(views)
        self._squares: dict[str, tuple[Tensor, Tensor]] = {}
        self._cosines: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.has_view)

    def masked(self, is_there: Bool[Tensor, "pool view"]) -> dict[str, Float[Tensor, "pool _"]]:
        """Return the views with zeros where they are not there."""
        return {
            name: items * has.unsqueeze(-1) for (name, items), has in zip(self.views.items(), is_there.T, strict=True)
        }

    def keep_cosines(self) -> None:
        """Keep the cosines of all pairs of the pool, from when they are first asked for.

        Until they are forgotten all rows that are asked about have to be items of the pool.
        """
        self._cosines = {}

    def forget_cosines(self) -> None:
        """Keep them no more."""
        self._cosines = None

    @property
    def keeps_cosines(self) -> bool:
        """Whether it does."""
        return self._cosines is not None

    def cosines(self, name: str, items: Float[Tensor, "row dim"], at: Int[Tensor, " row"]) -> Float[Tensor, "row pool"]:
        """Return the cosines of a view's items with those of the pool, which has them `at` these positions, -1: not.

        Where either lacks the view they mean nothing.
        """
        pool = self.views[name]
        if self._cosines is None:
            return items @ pool.T
        if name not in self._cosines:
            self._cosines[name] = pool @ pool.T
        return self._cosines[name][at]

    def squares(self, name: str, directions: Float[Tensor, "dim rank"]) -> Float[Tensor, "pool rank"]:
        """Return the squared coordinates of a view's items along directions; those asked for last are kept."""
        kept_for, squares = self._squares.get(name, (None, None))
        if squares is None or kept_for is not directions:
            with torch.inference_mode(False), torch.no_grad():
                squares = (self.views[name] @ directions).square()
            self._squares[name] = (directions, squares)
        return squares

    def squares_of(
        self,
        name: str,
        items: Float[Tensor, "row dim"],
        at: Int[Tensor, " row"],
        directions: Float[Tensor, "dim rank"],
    ) -> Float[Tensor, "row rank"]:
        """Return those of a view's items, which the pool has `at` these positions, -1: not.

        Where they lack the view they mean nothing.
        """
        return self.squares(name, directions)[at] if self.keeps_cosines else (items @ directions).square()
