"""DuckDB in this process: an engine takes longer to start than most tables take to read, so it is started once."""

import atexit
from functools import cache
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@cache
def engine(threads: int) -> "DuckDBPyConnection":
    """Return the engine with so many threads; with one, rows come in the order of their batch.

    Each use has a cursor, and with it temporary views and a time zone, of its own. DuckDB may not keep pages of files:
    a damaged file must be found by whoever reads it next. It is let go before the interpreter ends, or its binding
    complains of leaks.
    """
    atexit.register(engine.cache_clear)
    return duckdb.connect(config={"threads": threads, "enable_external_file_cache": False})
