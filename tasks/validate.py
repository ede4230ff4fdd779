"""Judge a batch against its contract: row by row in DuckDB, and as a whole with Great Expectations.

The row mask decides which rows are quarantined; Great Expectations judges the batch and publishes what it saw.
"""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.arrow_schema import typed_schema
from data_contracts.contract import MEDIA_ROLES, Contract
from data_contracts.errors import BatchRefused
from data_contracts.row_mask import compile_mask


def mask_rows(batch: pa.Table, contract: Contract) -> pa.Table:
    """Return `row` (int64, from 0) and `reasons` (list of codes, empty if the row is accepted) for every row.

    Raises:
        BatchRefused: a column of the contract is not in the batch.
    """
    return _query(compile_mask(contract).sql, judged_columns(batch, contract))


def type_rows(accepted: pa.Table, contract: Contract) -> pa.Table:
    """Cast rows that `mask_rows` accepts to `typed_schema(contract)`: `item_id` and every column that is not media."""
    typed = _query(compile_mask(contract).typed_sql, judged_columns(accepted, contract))
    return typed.cast(typed_schema(contract))


def judged_columns(batch: pa.Table, contract: Contract) -> pa.Table:
    """Keep the contract's columns, with media bytes replaced by a word: here only their presence counts.

    Raises:
        BatchRefused: a column of the contract is not in the batch.
    """
    missing = [column.name for column in contract.columns if column.name not in batch.column_names]
    if missing:
        raise BatchRefused(
            f"The source of {contract.domain} has no column {', '.join(missing)}; it has "
            f"{', '.join(batch.column_names) or 'none'}. Add the column to the source or take it out of the contract.",
            domain=contract.domain,
            missing=missing,
        )
    columns = {column.name: batch[column.name] for column in contract.columns}
    for column in contract.columns:
        if column.role in MEDIA_ROLES and _holds_bytes(columns[column.name].type):
            columns[column.name] = _presence(columns[column.name])
    return pa.table(columns)


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _presence(values: pa.ChunkedArray) -> pa.ChunkedArray:
    is_present = pc.fill_null(pc.greater(pc.binary_length(values), 0), False)
    return pc.if_else(is_present, pa.scalar("bytes"), pa.scalar(None, pa.string()))


def _query(sql: str, batch: pa.Table) -> pa.Table:
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("batch", batch)
        return connection.sql(sql).to_arrow_table()
