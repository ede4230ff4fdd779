"""`metafuse sql`: ask the lake a question."""

from typing import Annotated

import typer

from deployments.cli.answer import Answer, rows_table
from deployments.cli.command import command

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
        rows = table.to_pylist()
        return Answer({"columns": table.column_names, "rows": rows}, rows_table(table.column_names, rows))
