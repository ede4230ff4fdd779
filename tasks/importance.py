"""Which source columns carried a domain: the columns of its table one by one, every other view as the one it is."""

from collections.abc import Iterable, Mapping

from data_contracts.reports import ColumnLoss
from models.features import ViewSpec
from models.importance import Column, column_importance
from models.label_split import LabelSplit
from models.learner import DomainModel
from tasks.encoders.tabular import TabularEncoder

MOST_JUDGED = 200
"""Judged items that columns are shuffled over, at most."""

MOST_COLUMNS = 32
"""Columns a table may have to be taken apart; a wider one is shuffled as a whole."""


def measure_columns(model: DomainModel, split: LabelSplit, states: Mapping[str, str]) -> dict[str, ColumnLoss]:
    """Return for each column what the judged items lose without it, the largest loss first.

    `states` holds what the encoders of the tables have learned, by view. The model answers `MOST_JUDGED` items at most
    once for each column: 0.02 to 0.04 s a column beside pictures, titles and 1,300 items to be neighbours, and so some
    0.2 s for five columns and a second for the most there may be.
    """
    judged = split.with_at_most(MOST_JUDGED)
    found = column_importance(model.predict, judged.data.take(judged.test), columns_of(model.views, states))
    ranked = sorted(found.items(), key=lambda entry: -entry[1].mean)
    return {name: ColumnLoss(loss=lost.mean, ci95=lost.ci95) for name, lost in ranked}


def columns_of(views: Iterable[ViewSpec], states: Mapping[str, str]) -> dict[str, Column]:
    """Return the columns of all views: `view/column` in a table, `view` elsewhere and for a table that is too wide."""
    found: dict[str, Column] = {}
    for view in views:
        table = TabularEncoder.from_state(states[view.name]).numbers if view.modality == "tabular" else {}
        if 0 < len(table) <= MOST_COLUMNS:
            found |= {f"{view.name}/{name}": Column(view.name, numbers) for name, numbers in table.items()}
        else:
            found[view.name] = Column(view.name, slice(0, view.dim))
    return found
