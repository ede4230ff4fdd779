"""A domain's contract as the rest of the platform sees it: columns with rules, and the views made from them.

`data_contracts.odcs` builds it from a YAML file in the Open Data Contract Standard v3.1.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from data_contracts.names import COLUMN_PATTERN, DomainName, Modality

Role = Literal["text", "image", "audio", "video", "tabular", "label", "id"]
LogicalType = Literal["string", "integer", "number", "boolean", "date", "timestamp"]
Format = Literal["csv", "jsonl", "parquet"]

MEDIA_ROLES: frozenset[str] = frozenset({"image", "audio", "video"})
TABULAR_VIEW = "tabular"


class Rules(BaseModel):
    """Limits on one column; None means no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: bool = False
    unique: bool = False
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: float | None = None
    exclusive_maximum: float | None = None
    multiple_of: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    allowed: tuple[str, ...] | None = None
    max_pixels: int | None = Field(default=None, description="image or video frame")
    max_bytes: int | None = Field(default=None, description="one media file")
    max_duration_s: float | None = Field(default=None, description="audio or video")


class Column(BaseModel):
    """One column of the source table. A media column holds a path relative to the table, or bytes in Parquet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=COLUMN_PATTERN)
    logical_type: LogicalType
    role: Role
    language: str | None = None
    description: str | None = None
    rules: Rules = Rules()


class Server(BaseModel):
    """Where the source table is, relative to the directory given as the source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    format: Format


class BatchRule(BaseModel):
    """A rule on the whole batch: `metric` compared with `value` by `operator`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: Literal["rowCount", "nullValues", "missingValues", "duplicateValues", "invalidValues"]
    column: str | None = None
    operator: Literal["==", "!=", ">", ">=", "<", "<=", "between"]
    value: tuple[float, ...]
    unit: Literal["rows", "percent"] = "rows"


class View(BaseModel):
    """One encoded field: a media or text column, or all table columns together (`tabular`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    modality: Modality
    columns: tuple[str, ...]


class Contract(BaseModel):
    """Everything the platform knows of a domain before it has seen a row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: DomainName
    version: str
    description: str | None = None
    server: Server
    columns: tuple[Column, ...]
    batch_rules: tuple[BatchRule, ...] = ()

    def column(self, name: str) -> Column:
        """Return the column called `name` (KeyError if there is none)."""
        return {column.name: column for column in self.columns}[name]

    @property
    def id_column(self) -> str:
        """Name of the column that identifies an item."""
        return next(column.name for column in self.columns if column.role == "id")

    @property
    def label_column(self) -> str | None:
        """Name of the column that holds labels, if the source has one."""
        return next((column.name for column in self.columns if column.role == "label"), None)

    @property
    def media_columns(self) -> tuple[Column, ...]:
        """Columns whose values are files or bytes to decode."""
        return tuple(column for column in self.columns if column.role in MEDIA_ROLES)

    @property
    def columns_to_encode(self) -> tuple[View, ...]:
        """One entry per text or media column, and one for all table columns together."""
        single = tuple(
            View(name=column.name, modality=column.role, columns=(column.name,))
            for column in self.columns
            if column.role != "tabular" and column.role != "label" and column.role != "id"
        )
        tabular = tuple(column.name for column in self.columns if column.role == "tabular")
        return (*single, View(name=TABULAR_VIEW, modality="tabular", columns=tabular)) if tabular else single
