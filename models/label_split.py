"""Which labelled items of a domain a model is adapted from, and which only judge it.

Items are ordered by a hash of their id and the seed, so the choice does not depend on the order of rows. Where all
labels are used but a share, an item stays on its side when further labels arrive, unless it was lent to a class that
had no other. With a fixed number of labels a class, further ones may push an item out of the support: the gate leaves
out of its judgement what the champion was adapted from, so that neither model is judged on items that it has seen.
"""

import hashlib
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from data_contracts.configs import AdaptConfig
from data_contracts.errors import EpisodeTooSmall
from models.features import DomainData

MIN_CLASSES = 2


@dataclass(frozen=True)
class LabelSplit:
    """Rows of `data`, whose labels are those of the chosen classes only."""

    data: DomainData
    support: Int[Tensor, " support"]
    test: Int[Tensor, " test"]

    def with_at_most(self, count: int) -> "LabelSplit":
        """Return the split with `count` test items at most, evenly spaced so that every class keeps its share."""
        if len(self.test) <= count:
            return self
        return replace(self, test=self.test[torch.linspace(0, len(self.test) - 1, count).long()])


def split_labels(data: DomainData, config: AdaptConfig) -> LabelSplit:
    """Choose classes, then for each class its support and its test items; an item without any view is neither.

    Raises:
        EpisodeTooSmall: a class that was asked for has too few labelled items, or too few classes have enough.
    """
    rows_by_class = _ordered_rows(data, config.seed)
    needed = config.shots or 1
    classes = config.classes or tuple(name for name, rows in rows_by_class.items() if len(rows) >= needed)
    for name in classes:
        _check_class(data, name, len(rows_by_class.get(name, ())), needed)
    if len(classes) < MIN_CLASSES:
        raise EpisodeTooSmall(
            f"domain {data.domain!r} has {len(classes)} classes with at least {needed} labelled items "
            f"({_sizes(rows_by_class)}), but a model needs {MIN_CLASSES}. Label items of more classes, or ask for "
            "fewer labels per class.",
            domain=data.domain,
            classes=len(classes),
        )
    support: list[int] = []
    test: list[int] = []
    for name in classes:
        kept, judged = _divide(rows_by_class[name], config)
        support += [row for _, row in kept]
        test += [row for _, row in judged]
    return LabelSplit(data.with_classes(classes), torch.tensor(support), torch.tensor(test, dtype=torch.long))


def _ordered_rows(data: DomainData, seed: int) -> dict[str, list[tuple[float, int]]]:
    """Labelled rows of each class with their place between 0 and 1, in that order."""
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in data.classes}
    usable = ((data.labels >= 0) & data.presence.any(1)).nonzero().flatten().tolist()
    for row, label in zip(usable, data.labels[usable].tolist(), strict=True):
        found[data.classes[label]].append((_place(seed, data.item_ids[row]), row))
    return {name: sorted(rows) for name, rows in found.items()}


def _divide(
    rows: list[tuple[float, int]], config: AdaptConfig
) -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """Return support and test rows; test items come from the low end, which a further label seldom moves."""
    if config.shots is not None:
        cut = len(rows) - config.shots
    else:
        cut = min(sum(place < config.test_fraction for place, _ in rows), len(rows) - 1)
    return rows[cut:], rows[:cut]


def _place(seed: int, item_id: str) -> float:
    digest = hashlib.sha256(f"{seed}:{item_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _check_class(data: DomainData, name: str, found: int, needed: int) -> None:
    if found < needed:
        raise EpisodeTooSmall(
            f"class {name!r} of domain {data.domain!r} has {found} labelled items with content, but {needed} were "
            "asked for. Label more items of that class, leave the class out, or ask for fewer labels per class.",
            domain=data.domain,
            label=name,
            found=found,
            needed=needed,
        )


def _sizes(rows_by_class: dict[str, list[tuple[float, int]]]) -> str:
    shown = [f"{name!r} has {len(rows)}" for name, rows in list(rows_by_class.items())[:5]]
    return "; ".join(shown) + ("; …" if len(rows_by_class) > 5 else "") if shown else "no item is labelled"
