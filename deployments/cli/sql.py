"""`metafuse sql`: ask the lake a question."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from data_contracts.errors import QueryRefused
from deployments.cli.answer import Answer, rows_that_fit
from deployments.cli.command import command

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 10_000


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "sql")
    def sql(
        query: Annotated[str, typer.Argument(help="One SELECT over the lake's tables.")],
        limit: Annotated[
            int, typer.Option(min=1, max=MOST_ROWS, help="Print at most so many rows, and say if there are more.")
        ] = 1000,
    ) -> Answer:
        """Run one SELECT over the lake; nothing can be written and no other file be read.

        Tables: items_DOMAIN (dashes become underscores), embeddings, labels, quarantine, batches,
        predictions, promotions. The instant of a row is the column "at", in double quotes.

        Example: metafuse sql "SELECT label, count(*) AS n FROM items_noto_ru GROUP BY 1 ORDER BY n DESC"
        """
        from tasks.lake import open_lake

        table = open_lake().query(query, limit + 1)
        rows, is_cut = _rows(table.slice(0, limit), query), len(table) > limit
        facts = {"columns": table.column_names, "rows": rows, "is_cut": is_cut}
        shown = [rows_that_fit(table.column_names, rows)]
        if is_cut:
            shown += ["", f"There are more rows than these {limit:,}: {_way_to_the_rest(limit)}."]
        return Answer(facts, Group(*shown))


def _way_to_the_rest(limit: int) -> str:
    if limit < MOST_ROWS:
        return f"--limit prints up to {MOST_ROWS:,}"
    return "ask for the next ones with ORDER BY and OFFSET"


def _rows(table: "pa.Table", query: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError) as exc:
        raise QueryRefused(
            f"The answer holds a date or an instant outside the years 1 to 9999 ({exc}). Cast it to VARCHAR in the "
            "query.",
            sql=query,
        ) from exc
    return rows
