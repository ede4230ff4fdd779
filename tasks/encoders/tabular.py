"""Table columns: scaled, ranked and flagged numbers, instants, booleans and categories, fitted on one domain.

What was fitted is plain JSON (`TabularEncoder.state`), so that new rows, other processes and a served model see the
same numbers. A missing value is zero everywhere but in its column's last number, the flag.
"""

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_contracts.errors import ModelRefused
from data_contracts.names import Modality

VERSION: Literal[1] = 1
KNOTS = 33
"""Points kept of a column's distribution."""
MAX_Z = 4.0
"""Standard deviations at which outliers are cut off."""
MAX_CATEGORIES = 24
"""Most frequent values that get a number of their own; the others share the buckets."""
BUCKETS = 8
YEAR_S, WEEK_S = 365.2425 * 86_400, 7 * 86_400


class _Fitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str


class NumberColumn(_Fitted):
    """A number as z-score, as rank between -1 and 1, and a flag."""

    kind: Literal["number"] = "number"
    mean: float
    deviation: float = Field(ge=0)
    values: tuple[float, ...] = Field(description="distinct knots of the distribution, rising")
    ranks: tuple[float, ...] = Field(description="rank of each knot, -1 to 1")

    @classmethod
    def fit(cls, name: str, column: pa.ChunkedArray) -> "NumberColumn":
        """Fit on the values that are there."""
        numbers, missing = _numbers(column)
        known = numbers[~missing]
        if not len(known):
            return cls(name=name, mean=0, deviation=0, values=(0,), ranks=(0,))
        knots, position = np.unique(np.quantile(known, np.linspace(0, 1, KNOTS)), return_inverse=True)
        ranks = np.bincount(position, np.linspace(-1, 1, KNOTS)) / np.bincount(position)
        return cls(name=name, mean=known.mean(), deviation=known.std(), values=knots.tolist(), ranks=ranks.tolist())

    @property
    def dim(self) -> int:
        """Numbers a value becomes."""
        return 3

    def encode(self, column: pa.ChunkedArray) -> Float32[np.ndarray, "row 3"]:
        """Encode every value of `column`."""
        numbers, missing = _numbers(column)
        z = np.clip((numbers - self.mean) / (self.deviation or 1.0), -MAX_Z, MAX_Z)
        return _with_flag([z, np.interp(numbers, self.values, self.ranks)], missing)


class InstantColumn(_Fitted):
    """A date or a timestamp: the number of seconds as a number, and its place in the year and in the week."""

    kind: Literal["instant"] = "instant"
    seconds: NumberColumn

    @classmethod
    def fit(cls, name: str, column: pa.ChunkedArray) -> "InstantColumn":
        """Fit on the values that are there."""
        return cls(name=name, seconds=NumberColumn.fit(name, _seconds(column)))

    @property
    def dim(self) -> int:
        """Numbers a value becomes."""
        return 4 + self.seconds.dim

    def encode(self, column: pa.ChunkedArray) -> Float32[np.ndarray, "row 7"]:
        """Encode every value of `column`."""
        seconds = _seconds(column)
        numbers, missing = _numbers(seconds)
        angles = [2 * np.pi * numbers / period for period in (YEAR_S, WEEK_S)]
        waves = np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1)
        waves[missing] = 0
        return np.concatenate([waves.astype(np.float32), self.seconds.encode(seconds)], axis=1)


class BooleanColumn(_Fitted):
    """True is 1, false is -1, and a flag."""

    kind: Literal["boolean"] = "boolean"

    @classmethod
    def fit(cls, name: str, column: pa.ChunkedArray) -> "BooleanColumn":
        """Return the column's encoder; there is nothing to fit."""
        return cls(name=name)

    @property
    def dim(self) -> int:
        """Numbers a value becomes."""
        return 2

    def encode(self, column: pa.ChunkedArray) -> Float32[np.ndarray, "row 2"]:
        """Encode every value of `column`."""
        numbers, missing = _numbers(pc.cast(pc.cast(column, pa.bool_()), pa.int8()))
        return _with_flag([2 * numbers - 1], missing)


class CategoryColumn(_Fitted):
    """One number per frequent value, buckets for all others, and a flag."""

    kind: Literal["category"] = "category"
    frequent: tuple[str, ...]

    @classmethod
    def fit(cls, name: str, column: pa.ChunkedArray) -> "CategoryColumn":
        """Give the most frequent values numbers of their own; equally frequent ones in alphabetical order."""
        counts = Counter(value for value in column.to_pylist() if value is not None)
        ranking = sorted(counts, key=lambda value: (-counts[value], value))
        return cls(name=name, frequent=tuple(ranking[:MAX_CATEGORIES]))

    @property
    def dim(self) -> int:
        """Numbers a value becomes."""
        return len(self.frequent) + BUCKETS + 1

    def encode(self, column: pa.ChunkedArray) -> Float32[np.ndarray, "row dim"]:
        """Encode every value of `column`."""
        values = pc.cast(column, pa.string()).to_pylist()
        place: dict[str | None, int] = {value: index for index, value in enumerate(self.frequent)} | {
            None: self.dim - 1
        }
        places = [place[value] if value in place else self._bucket(value or "") for value in values]
        vectors = np.zeros((len(places), self.dim), np.float32)
        vectors[np.arange(len(places)), places] = 1
        return vectors

    def _bucket(self, value: str) -> int:
        return len(self.frequent) + zlib.crc32(value.encode()) % BUCKETS


FittedColumn = Annotated[NumberColumn | InstantColumn | BooleanColumn | CategoryColumn, Field(discriminator="kind")]


class TabularState(BaseModel):
    """Everything a fitted encoder knows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = VERSION
    rows: int = Field(ge=0, description="rows it was fitted on")
    columns: tuple[FittedColumn, ...] = Field(min_length=1)


class TabularEncoder:
    """Encode the table columns of one domain as one vector."""

    modality: Modality = "tabular"
    facet: str | None = None
    batch_size = 4096

    def __init__(self, state: TabularState) -> None:
        self._state = state
        digest = hashlib.sha256(self.state().encode()).hexdigest()[:12]
        self.encoder_id = f"tabular-{VERSION}-{digest}"
        self.dim = sum(column.dim for column in state.columns)

    @classmethod
    def fit(cls, table: pa.Table, columns: Sequence[str]) -> "TabularEncoder":
        """Fit every column of `table` named in `columns` by its type."""
        fitted = tuple(_fit_column(name, table.column(name)) for name in columns)
        return cls(TabularState(rows=table.num_rows, columns=fitted))

    @classmethod
    def from_state(cls, state: str) -> "TabularEncoder":
        """Build the encoder that `state` describes.

        Raises:
            ModelRefused: `state` is not what `TabularEncoder.state` writes.
        """
        try:
            return cls(TabularState.model_validate_json(state))
        except ValidationError as exc:
            first = exc.errors()[0]
            raise ModelRefused(
                f"The stored state of a table encoder cannot be used, at {'.'.join(map(str, first['loc']))!r}: "
                f"{first['msg']}. Ingest the domain again to fit a new one.",
                found=state[:200],
            ) from exc

    def state(self) -> str:
        """Return what was fitted, as JSON."""
        return self._state.model_dump_json()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns it reads."""
        return tuple(column.name for column in self._state.columns)

    @property
    def numbers(self) -> dict[str, slice]:
        """Which numbers of a vector each column became."""
        ends = list(accumulate(column.dim for column in self._state.columns))
        starts = [0, *ends[:-1]]
        return {name: slice(*place) for name, *place in zip(self.columns, starts, ends, strict=True)}

    @property
    def fitted_rows(self) -> int:
        """How many rows it was fitted on."""
        return self._state.rows

    def encode(self, items: Sequence[Mapping[str, Any]]) -> Float32[np.ndarray, "item dim"]:
        """Encode rows given as column to value; a column that a row lacks is missing in it."""
        columns = {name: pa.chunked_array([pa.array([row.get(name) for row in items])]) for name in self.columns}
        return self.encode_table(pa.table(columns))

    def encode_table(self, table: pa.Table) -> Float32[np.ndarray, "item dim"]:
        """Encode every row of `table`."""
        return np.concatenate([column.encode(table.column(column.name)) for column in self._state.columns], axis=1)


def _fit_column(name: str, column: pa.ChunkedArray) -> FittedColumn:
    kind = column.type
    if pa.types.is_boolean(kind):
        return BooleanColumn.fit(name, column)
    if pa.types.is_temporal(kind):
        return InstantColumn.fit(name, column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return NumberColumn.fit(name, column)
    return CategoryColumn.fit(name, pc.cast(column, pa.string()))


def _numbers(column: pa.ChunkedArray) -> tuple[Float64[np.ndarray, " row"], Bool[np.ndarray, " row"]]:
    """Return the values as floats, and where they are missing (there the value is zero)."""
    numbers = np.array(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
    missing = ~np.isfinite(numbers)
    return np.where(missing, 0.0, numbers), missing


def _seconds(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dates and timestamps as seconds since 1970."""
    if pa.types.is_null(column.type):
        return column
    microseconds = pc.cast(pc.cast(column, pa.timestamp("us", getattr(column.type, "tz", None))), pa.int64())
    return pc.divide(pc.cast(microseconds, pa.float64()), 1e6)


def _with_flag(
    numbers: Sequence[Float64[np.ndarray, " row"]], missing: Bool[np.ndarray, " row"]
) -> Float32[np.ndarray, "row _"]:
    """Return the numbers as columns, zero where missing, and the flag as the last column."""
    kept = [np.where(missing, 0.0, column) for column in numbers]
    return np.stack([*kept, missing], axis=1).astype(np.float32)
