"""What a command answers: the same facts as JSON for a script and as text for a person."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from data_contracts.errors import MetafuseError

BAD_INPUT = 2
MOST_NAMED = 5
"""Parts of a list that a person is shown; `--json` has all."""

WIDEST = 10_000
"""More than any terminal has columns."""


@dataclass(frozen=True)
class Answer:
    """`facts` is printed with `--json`, `shown` without; `exit_code` is what the process ends with."""

    facts: Mapping[str, Any]
    shown: RenderableType
    exit_code: int = 0

    def show(self, *, as_json: bool) -> None:
        """Print the answer on standard output."""
        if as_json:
            print_json(self.facts)
        else:
            Console().print(self.shown)


def print_json(facts: Mapping[str, Any]) -> None:
    """Print one line of JSON on standard output."""
    typer.echo(json.dumps(plain(facts), ensure_ascii=False, allow_nan=False))


def show_error(error: MetafuseError, *, as_json: bool) -> None:
    """Print one paragraph on standard error and, for scripts, the same with its facts on standard output."""
    Console(stderr=True, soft_wrap=True).print(Text(f"Error: {error}", style="red"))
    if as_json:
        print_json({"error": {"type": type(error).__name__, "message": str(error), "facts": error.facts}})


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: instants as ISO 8601, bytes as hex, non-finite numbers as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case bytes():
            return value.hex()
        case date() | datetime():
            return value.isoformat()
        case Decimal():
            return plain(float(value))
        case Path():
            return str(value)
        case Sequence() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return str(value)


def facts_table(facts: Mapping[str, Any]) -> Table:
    """Lay out facts one a line: name, value."""
    return _lines({name.replace("_", " "): value for name, value in facts.items()})


def _lines(values: Mapping[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, text_of(value))
    return table


def rows_table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, whole: Collection[str] = ()) -> Table:
    """Lay out rows under their column names; what is too wide goes on in the next line, but for the `whole` columns."""
    table = Table(show_edge=False, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(text_of(row.get(column)) for column in columns))
    return table


def rows_that_fit(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Lay out rows as a table or, where that is wider than the terminal, one below the other with a value a line."""
    table = rows_table(columns, rows)
    if not rows or fits(table):
        return table
    return Group(*(part for row in rows for part in (_lines({name: row.get(name) for name in columns}), "")))


def first_few(parts: Sequence[str]) -> str:
    """Return the first `MOST_NAMED` parts as a comma list, and how many more there are; `none` if there is none."""
    left_out = len(parts) - MOST_NAMED
    return ", ".join([*parts[:MOST_NAMED], f"and {left_out} more"] if left_out > 0 else parts) or "none"


def fits(table: Table) -> bool:
    """Return whether no line of a table is wider than the terminal."""
    console = Console()
    return Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width


def text_of(value: Any) -> Text:
    """Return one value as a person reads it, never as markup."""
    match value:
        case None:
            return Text("-", style="dim")
        case float():
            return Text(f"{value:.4g}")
        case Mapping():
            return Text(", ".join(f"{key} {text_of(item)}" for key, item in value.items()) or "none")
        case list() | tuple():
            return Text(", ".join(str(text_of(item)) for item in value) or "none")
        case _:
            return Text(str(value))
