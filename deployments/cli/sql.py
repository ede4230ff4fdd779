"""`metafuse sql`: ask the lake a question."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_contracts.errors import QueryRefused
from deployments.cli.answer import Answer, rows_table
from deployments.cli.command import command

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ROWS = 10_000


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "sql")
    def sql(
        query: Annotated[str, typer.Argument(help="One SELECT over the lake's tables.")],
        limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Print at most so many rows.")] = 1000,
    ) -> Answer:
        """Run one SELECT over the lake; nothing can be written and no other file be read.

        Tables: items_DOMAIN (dashes become underscores), embeddings, labels, quarantine, batches,
        predictions, promotions.

        Example: metafuse sql "SELECT label, count(*) AS n FROM items_noto_ru GROUP BY 1 ORDER BY n DESC"
        """
        from tasks.lake import open_lake

        table = open_lake().query(query, limit)
        rows = _rows(table, query)
        return Answer({"columns": table.column_names, "rows": rows}, rows_table(table.column_names, rows))


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
