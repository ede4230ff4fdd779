"""The lake: versioned Delta tables, written exactly once and read with DuckDB.

Every table is append-only. `Lake.append` commits under an application transaction, so that a step which runs again
changes nothing; `Lake.transact` also decides *what* to append from the version it commits on, so that two writers never
both add what only one of them should.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from data_contracts.errors import BatchRefused, LakeCorrupt, ServiceUnavailable, UnknownDomain
from data_contracts.names import items_table
from data_contracts.reports import TableRef
from data_contracts.row_mask import quote
from data_contracts.settings import get_settings
from data_contracts.tables import PLATFORM_TABLES
from tasks.engine import engine

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ITEMS = "items_"
ATTEMPTS = 30
"""How often a commit that lost a race is tried again, with growing pauses: two minutes in all."""
OWN_MISTAKES = (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException, duckdb.OutOfMemoryException)
"""What DuckDB raises for our own SQL or for want of memory; everything else is a damaged Parquet file."""

Transacted = tuple[str, int]


class Snapshot:
    """One table at one version; everything read from it belongs to that version."""

    def __init__(self, name: str, table: DeltaTable, *, is_local: bool) -> None:
        self.name = name
        self.table = table
        self.is_local = is_local

    @property
    def version(self) -> int:
        """Delta version."""
        return int(self.table.version())

    @property
    def schema(self) -> pa.Schema:
        """Columns in the order they were added."""
        return pa.schema(self.table.schema())

    def read(self, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return the rows that meet the SQL condition `where`, in no particular order.

        Raises:
            LakeCorrupt: a file of the table is missing or damaged.
        """
        return self._select(columns, where or "TRUE")

    def latest(self, *, key: str, by: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return, of the rows that meet `where`, the one with the greatest `by` for each `key`, ordered by `key`.

        Raises:
            LakeCorrupt: a file of the table is missing or damaged.
        """
        newest = f"row_number() OVER (PARTITION BY {quote(key)} ORDER BY {quote(by)} DESC) = 1"
        return self._select(columns, f"{where or 'TRUE'} QUALIFY {newest} ORDER BY {quote(key)}")

    def commits(self, fence: str) -> int:
        """Return how often `Lake.transact` has committed under `fence`."""
        return self.table.transaction_version(fence) or 0

    def _select(self, columns: Sequence[str] | None, condition: str) -> pa.Table:
        chosen = ", ".join(quote(name) for name in columns) if columns is not None else "*"
        with engine(2).cursor() as connection, translated_damage(self.name):
            connection.execute("SET TimeZone = 'UTC'")
            self.show_in(connection)
            return connection.sql(f"SELECT {chosen} FROM {quote(self.name)} WHERE {condition}").to_arrow_table()

    def show_in(self, connection: "DuckDBPyConnection") -> None:
        """Make the table a relation of `connection` under its own name.

        DuckDB reads local Parquet files itself, many times faster than through an Arrow dataset for wide rows.
        """
        files = self.table.file_uris()
        if not files:
            connection.register(self.name, self.schema.empty_table())
        elif self.is_local:
            connection.execute(f"CREATE TEMP VIEW {quote(self.name)} AS {self._parquet_sql(files)}")
        else:
            connection.register(self.name, self.table.to_pyarrow_dataset())

    def _parquet_sql(self, files: Sequence[str]) -> str:
        columns = ", ".join(quote(name) for name in self.schema.names)
        listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
        partitions = self.table.metadata().partition_columns
        types = ", ".join(f"{quote(name)}: VARCHAR" for name in partitions)
        hive = f"hive_partitioning = true, hive_types = {{{types}}}" if partitions else "hive_partitioning = false"
        return f"SELECT {columns} FROM read_parquet([{listed}], union_by_name = true, {hive})"


class Lake:
    """All tables below one folder or object-store URI."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self.uri = uri.rstrip("/")
        self.storage_options = dict(storage_options) if storage_options else None

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.uri

    def tables(self) -> list[str]:
        """Return the names of the tables that exist, sorted."""
        filesystem, root = self._filesystem()
        if not filesystem.exists(root):
            return []
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in filesystem.ls(root, detail=True)]
        return sorted(name for name in names if filesystem.exists(f"{root}/{name}/_delta_log"))

    def domains(self) -> list[str]:
        """Return the domains that have items, sorted."""
        ledger = self.read("batches", columns=["domain"])
        found: list[str] = ledger["domain"].unique().to_pylist()
        tables = set(self.tables())
        return sorted(domain for domain in found if items_table(domain) in tables)

    def version(self, table: str) -> int | None:
        """Return the newest version of `table`; None if there is no such table."""
        handle = self._open(table)
        return None if handle is None else int(handle.version())

    def snapshot(self, table: str, version: int | None = None) -> Snapshot | None:
        """Return `table` at `version` (default: the newest); None if there is no such table.

        Raises:
            LakeCorrupt: the table has no such version, or its log cannot be read.
        """
        handle = self._open(table, version)
        return None if handle is None else Snapshot(table, handle, is_local=self.is_local)

    def read(
        self, table: str, *, version: int | None = None, columns: Sequence[str] | None = None, where: str | None = None
    ) -> pa.Table:
        """Return the rows of `table` that meet the SQL condition `where`, in no particular order.

        A platform table nobody has written to yet is empty. `where` is trusted: users' SQL goes through `query`.

        Raises:
            UnknownDomain: the domain of an items table was never ingested.
            LakeCorrupt: the table, or one of its files, is missing or damaged.
        """
        snapshot = self.snapshot(table, version)
        if snapshot is not None:
            return snapshot.read(columns, where)
        if table in PLATFORM_TABLES:
            empty = PLATFORM_TABLES[table][0].empty_table()
            return empty if columns is None else empty.select(columns)
        raise self._unknown(table)

    def current_items(
        self, domain: str, *, version: int | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the latest row of each item, ordered by `item_id`.

        Raises:
            UnknownDomain: the domain was never ingested.
        """
        table = items_table(domain)
        snapshot = self.snapshot(table, version)
        if snapshot is None:
            raise self._unknown(table)
        return snapshot.latest(key="item_id", by="ingested_at", columns=columns)

    def check_types(self, table: str, schema: pa.Schema) -> None:
        """Check that rows of `schema` may be appended to `table`.

        Raises:
            BatchRefused: a column has another type in the lake.
        """
        snapshot = self.snapshot(table)
        if snapshot is not None:
            _check_types(table, snapshot.schema, schema)

    def append(self, table: str, rows: pa.Table, *, transaction: Transacted | None = None) -> TableRef:
        """Append `rows`, creating the table if need be; a `transaction` (name, number) is committed at most once.

        Numbers of one name must grow. Returns the version the rows are in, or a later one if they already were.

        Raises:
            BatchRefused: a column has another type in the lake.
            ServiceUnavailable: other writers kept winning.
        """
        for pause in _pauses():
            handle = self._open_or_create(table, rows.schema)
            if transaction is not None and _is_committed(handle, transaction):
                return TableRef(table=table, version=int(handle.version()))
            if self._commit(table, handle, rows, transaction):
                return TableRef(table=table, version=int(handle.version()))
            time.sleep(pause)
        raise _lost_race(table)

    def transact(
        self, table: str, schema: pa.Schema, fence: str, decide: Callable[[Snapshot], pa.Table]
    ) -> tuple[TableRef, pa.Table]:
        """Append what `decide` returns for the newest version, which no other writer with the same `fence` has changed.

        `decide` is called again if another writer was faster, so it must have no effects; no rows, no commit.
        Returns the version afterwards and the rows that were appended.
        """
        for pause in _pauses():
            handle = self._open_or_create(table, schema)
            snapshot = Snapshot(table, handle, is_local=self.is_local)
            rows = decide(snapshot)
            mark = (fence, snapshot.commits(fence) + 1)
            if len(rows) == 0 or self._commit(table, handle, rows, mark):
                return TableRef(table=table, version=int(handle.version())), rows
            time.sleep(pause)
        raise _lost_race(table)

    def query(self, sql: str, limit: int = 1000) -> pa.Table:
        """Return at most `limit` rows of a user's SELECT, which sees the tables of the lake and nothing else.

        Raises:
            QueryRefused: the SQL is wrong, is not one SELECT, takes too long or reaches outside the lake.
            LakeCorrupt: a table it reads is damaged.
        """
        from tasks.query import run_query

        return run_query(self, sql, limit)

    def _filesystem(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(self.uri, **(self.storage_options or {}))
        return filesystem, str(root)

    def _open(self, table: str, version: int | None = None) -> DeltaTable | None:
        try:
            return DeltaTable(f"{self.uri}/{table}", version=version, storage_options=self.storage_options)
        except TableNotFoundError:
            if self._has_data(table):
                raise self._unreadable(table, version, "its log is gone, its files are not") from None
            return None
        except (DeltaError, OSError, ValueError) as exc:
            raise self._unreadable(table, version, _first_line(exc)) from exc

    def _has_data(self, table: str) -> bool:
        filesystem, root = self._filesystem()
        return any(name.endswith(".parquet") for name in filesystem.find(f"{root}/{table}"))

    def _unreadable(self, table: str, version: int | None, problem: str) -> LakeCorrupt:
        wanted = "" if version is None else f" at version {version}"
        return LakeCorrupt(
            f"The table {table} of the lake {self.uri} cannot be opened{wanted}: {problem}. Its _delta_log must "
            "hold every commit: restore the folder from a backup, or remove it and ingest its sources again.",
            table=table,
            version=version,
        )

    def _open_or_create(self, table: str, schema: pa.Schema) -> DeltaTable:
        handle = self._open(table)
        if handle is not None:
            return handle
        declared, partitions = PLATFORM_TABLES.get(table, (schema, ()))
        try:
            return DeltaTable.create(
                f"{self.uri}/{table}",
                schema=declared,
                partition_by=list(partitions),
                storage_options=self.storage_options,
            )
        except DeltaError:  # another writer created it in between
            handle = self._open(table)
            if handle is None:
                raise
            return handle

    def _commit(self, table: str, handle: DeltaTable, rows: pa.Table, transaction: Transacted | None) -> bool:
        """Append on exactly the version of `handle`; False if another writer of the same transaction was faster."""
        _check_types(table, pa.schema(handle.schema()), rows.schema)
        marks = [Transaction(*transaction)] if transaction else None
        try:
            write_deltalake(
                handle, rows, mode="append", schema_mode="merge", commit_properties=CommitProperties(None, None, marks)
            )
        except CommitFailedError:
            return False
        return True

    def _unknown(self, table: str) -> UnknownDomain:
        known = ", ".join(name for name in self.tables() if name.startswith(ITEMS)) or "none"
        return UnknownDomain(
            f"The lake {self.uri} has no table {table}; items tables there: {known}. Ingest the domain first: "
            "metafuse ingest DOMAIN --contract FILE.",
            table=table,
            lake=self.uri,
        )


def open_lake() -> Lake:
    """Return the lake of this home."""
    return Lake(get_settings().lake)


@contextmanager
def translated_damage(table: str) -> Iterator[None]:
    """Turn what DuckDB raises on damaged Parquet files into `LakeCorrupt`."""
    try:
        yield
    except OWN_MISTAKES:
        raise
    except duckdb.Error as exc:
        raise LakeCorrupt(
            f"A file of the lake table {table} is missing or damaged: {_first_line(exc)}. Restore the lake from a "
            "backup, or remove the table's folder and ingest its sources again.",
            table=table,
        ) from exc


def _is_committed(handle: DeltaTable, transaction: Transacted) -> bool:
    name, number = transaction
    found = handle.transaction_version(name)
    return found is not None and found >= number


def _check_types(table: str, stored: pa.Schema, given: pa.Schema) -> None:
    spelled = {name.lower(): name for name in stored.names}
    respelled = [name for name in given.names if spelled.get(name.lower(), name) != name]
    if respelled:
        raise BatchRefused(
            f"The lake table {table} has the columns {', '.join(spelled[name.lower()] for name in respelled)}, now "
            f"spelled {', '.join(respelled)}; case does not tell columns apart. Nothing was written. Keep the "
            "spelling, or give the column a new name in the contract.",
            table=table,
            changed=respelled,
        )
    changed = [
        f"{field.name} is {stored.field(field.name).type}, now {field.type}"
        for field in given
        if field.name in stored.names and not _same_type(stored.field(field.name).type, field.type)
    ]
    if changed:
        raise BatchRefused(
            f"The lake table {table} keeps its column types: {'; '.join(changed)}. Nothing was written. Give the "
            "changed column a new name in the contract, or keep its logicalType.",
            table=table,
            changed=changed,
        )


def _same_type(stored: pa.DataType, given: pa.DataType) -> bool:
    """Compare as Parquet does: the name of a list's element and large or small offsets do not count."""
    if pa.types.is_list(stored) or pa.types.is_large_list(stored):
        is_list = pa.types.is_list(given) or pa.types.is_large_list(given) or pa.types.is_fixed_size_list(given)
        return is_list and _same_type(stored.value_type, given.value_type)
    return stored == given or {str(stored), str(given)} <= {"string", "large_string", "string_view"}


def _pauses() -> Iterator[float]:
    for attempt in range(ATTEMPTS):
        yield random.uniform(0.5, 1.0) * min(0.02 * 2**attempt, 5.0)


def _lost_race(table: str) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"{ATTEMPTS} attempts to append to the lake table {table} lost against other writers. Run it again when fewer "
        "ingests of this domain run at the same time.",
        table=table,
    )


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0].rstrip(".")
