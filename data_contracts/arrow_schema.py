"""The Arrow schemas a contract stands for: how its source is read, and what its lake table holds."""

import pyarrow as pa

from data_contracts.contract import MEDIA_ROLES, Column, Contract
from data_contracts.tables import INSTANT, ITEM_COLUMNS

ARROW_TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": INSTANT,
}


def source_schema(contract: Contract) -> pa.Schema:
    """Return how a csv or jsonl source is read: all text, so that a value of the wrong type is a reason, not a crash.

    A Parquet source has the same columns with the types it was written with; a media column may hold bytes there.
    """
    return pa.schema([pa.field(column.name, pa.string()) for column in contract.columns])


def typed_schema(contract: Contract) -> pa.Schema:
    """Return the columns of an accepted row that come from the contract alone: `item_id` first, no media."""
    columns = [_field(column) for column in contract.columns if _is_own_column(column)]
    return pa.schema([ITEM_COLUMNS.field("item_id"), *columns])


def items_schema(contract: Contract) -> pa.Schema:
    """Return the lake table: contract columns in order, media by their hash, then the platform's own columns."""
    columns = [
        pa.field(media_hash_column(column.name), pa.string()) if column.role in MEDIA_ROLES else _field(column)
        for column in contract.columns
        if column.role in MEDIA_ROLES or _is_own_column(column)
    ]
    return pa.schema([*columns, *ITEM_COLUMNS])


def media_hash_column(column: str) -> str:
    """Name of the lake column that holds the SHA-256 of the media column `column`."""
    return f"{column}_sha256"


def _is_own_column(column: Column) -> bool:
    return column.role not in MEDIA_ROLES and column.name != "item_id"


def _field(column: Column) -> pa.Field:
    return pa.field(column.name, ARROW_TYPES[column.logical_type])
