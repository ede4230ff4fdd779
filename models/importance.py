"""Which columns carry a model's decisions: permutation importance (Breiman, 2001, https://doi.org/10.1023/A:1010933404324).

A column's importance is what labelled items that the model has not seen lose when each takes the column's value from
another item. Of all pairs of items, whose mean is the "switched" loss of Fisher, Rudin and Dominici (2019,
https://jmlr.org/papers/v20/18-760.html, section 3), one each is used: every item is given the value of the next in one
order, the same for every column. The loss is in log-probability, which moves before accuracy does.

It says what this model uses, not what could be learned from a column: columns that say the same stand in for each
other, and each of them then seems to carry little.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.features import DomainData
from models.metrics import Estimate, estimate

LEAST = 1e-12
"""Probability below which a class counts as this probable."""


Predict = Callable[[DomainData], Float[Tensor, "item way"]]
"""What gives probabilities of the classes, as `DomainModel.predict` does."""


class Column(NamedTuple):
    """Which numbers of which view a column became."""

    view: str
    numbers: slice


def column_importance(predict: Predict, data: DomainData, columns: Mapping[str, Column]) -> dict[str, Estimate]:
    """Return for each column the mean log-probability lost without it, in nats, with its 95 % interval over items.

    All items must be labelled. One that lacks the view loses nothing. A view that fewer than two items have cannot be
    shuffled: its columns are left out. `predict` is called once for each column, and once more.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    place = {view.name: number for number, view in enumerate(data.views)}
    before = _log_probability(predict, data)
    found = {}
    for name, column in columns.items():
        rows = order[data.presence[order, place[column.view]]]
        if len(rows) > 1:
            after = _log_probability(predict, shuffled(data, column, rows, rows.roll(1)))
            found[name] = estimate(before - after)
    return found


def shuffled(data: DomainData, column: Column, rows: Int[Tensor, " row"], givers: Int[Tensor, " row"]) -> DomainData:
    """Return the same items, with the column of `rows` taken from `givers`."""
    features = data.features[column.view].clone()
    features[rows, column.numbers] = data.features[column.view][givers, column.numbers]
    return replace(data, features={**data.features, column.view: features})


def _log_probability(predict: Predict, data: DomainData) -> Float[Tensor, " item"]:
    """Of each item's own label."""
    return predict(data).gather(1, data.labels[:, None]).squeeze(1).clamp(min=LEAST).log()
