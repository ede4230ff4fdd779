"""A user's SQL over the lake and nothing else.

The tables are handed to DuckDB as Arrow streams, and before the query runs the connection loses the file system,
extensions, spilling to disk and the right to change any of that. Letting DuckDB read the lake's folder itself would be
faster (0.2 s against 0.9 s to average over 16,000 vectors), but whoever may read a folder may write to it too, and a
SELECT can: `WITH written AS (COPY labels TO '…') SELECT 1`.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from data_contracts.errors import LakeCorrupt, MetafuseError, QueryRefused
from data_contracts.tables import PLATFORM_TABLES

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from tasks.lake import Lake

LONGEST_S = 120.0
MEMORY = "2GB"

VIEWS = {
    "latest_predictions": 'SELECT * FROM predictions QUALIFY "at" = max("at") OVER (PARTITION BY domain)',
}
"""Relations beside the tables: what the last scoring of each domain said."""

_BARE_AT = re.compile(r'(?<!["\w])at(?!["\w])', re.IGNORECASE)

_LOCKS = (
    "SET TimeZone = 'UTC'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET arrow_large_buffer_size = true",
    "SET temp_directory = ''",
    f"SET memory_limit = '{MEMORY}'",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def run_query(lake: "Lake", sql: str, limit: int) -> pa.Table:
    """Return at most `limit` rows of one SELECT.

    Raises:
        QueryRefused: the SQL is wrong, is not one SELECT, takes too long or reaches outside the lake.
        LakeCorrupt: a table it reads is damaged.
    """
    with duckdb.connect(config={"threads": 2}) as connection:
        _check_is_select(connection, sql)
        tables = _show_tables(connection, lake)
        for statement in _LOCKS:
            connection.execute(statement)
        try:
            with _time_limit(connection):
                return connection.sql(sql).limit(limit).to_arrow_table()
        except duckdb.Error as exc:
            raise _translate(exc, lake, tables) from exc


def _check_is_select(connection: "DuckDBPyConnection", sql: str) -> None:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as exc:
        hint = ' The column at is a word of SQL: write "at", in double quotes.' if _BARE_AT.search(sql) else ""
        raise QueryRefused(
            f"The SQL cannot be read: {_first_line(exc)}. Correct it and ask again.{hint}", sql=sql
        ) from exc
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        raise QueryRefused(
            f"Only one SELECT can be asked of the lake, found {' and '.join(kinds) or 'nothing'}. Data come in through "
            "metafuse ingest; to keep a result, redirect what --json prints.",
            sql=sql,
            kinds=kinds,
        )


def _show_tables(connection: "DuckDBPyConnection", lake: "Lake") -> list[str]:
    """Make every table of the lake, and every view, a relation; platform tables nobody wrote to yet are empty."""
    existing = lake.tables()
    for name in existing:
        snapshot = lake.snapshot(name)
        if snapshot is not None:
            connection.register(name, snapshot.table.to_pyarrow_dataset())
    for name, (schema, _) in PLATFORM_TABLES.items():
        if name not in existing:
            connection.register(name, schema.empty_table())
    for name, definition in VIEWS.items():
        connection.execute(f"CREATE VIEW {name} AS {definition}")
    return sorted({*existing, *PLATFORM_TABLES, *VIEWS})


@contextmanager
def _time_limit(connection: "DuckDBPyConnection") -> Iterator[None]:
    timer = threading.Timer(LONGEST_S, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _translate(exc: duckdb.Error, lake: "Lake", tables: list[str]) -> MetafuseError:
    problem = _first_line(exc)
    match exc:
        case duckdb.PermissionException():
            return QueryRefused(f"A query sees the lake's tables and nothing else: {problem}.", lake=lake.uri)
        case duckdb.CatalogException():
            return QueryRefused(f"{problem}. Tables of the lake: {', '.join(tables)}.", tables=tables)
        case duckdb.InterruptException():
            return QueryRefused(
                f"The query took longer than {LONGEST_S:g} s and was stopped. Filter or aggregate more.",
                limit_s=LONGEST_S,
            )
        case duckdb.OutOfMemoryException():
            return QueryRefused(f"The query needs more than {MEMORY} of memory. Filter or aggregate more.")
        case duckdb.InvalidInputException() if "reading the stream registered as" in problem:
            return LakeCorrupt(
                f"A file of the lake is missing or damaged: {problem}. Restore the lake from a backup, or remove the "
                "table's folder and ingest its sources again.",
                lake=lake.uri,
            )
        case _:
            return QueryRefused(f"The query failed: {problem}. Correct it and ask again.")


def _first_line(exc: duckdb.Error) -> str:
    return str(exc).strip().partition("\n")[0].rstrip(".")
