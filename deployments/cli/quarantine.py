"""`metafuse quarantine`: what was kept out of the lake, and why."""

from collections import Counter
from typing import Annotated

import typer
from rich.console import Group

from data_contracts.names import check_domain
from deployments.cli.answer import Answer, rows_table
from deployments.cli.command import command

SHOWN = ("domain", "locator", "item_id", "reasons")


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands to `app`."""
    group = typer.Typer(help="Rows that broke their contract.", no_args_is_help=True)
    app.add_typer(group, name="quarantine")
    command(group, "list")(list_rows)


def list_rows(
    domain: Annotated[str | None, typer.Argument(help="Only this domain.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Print at most so many rows.")] = 50,
) -> Answer:
    """List quarantined rows with the rules they broke, newest first.

    Example: metafuse quarantine list noto-ru --limit 10
    """
    from tasks.contracts import contract_in_force
    from tasks.lake import open_lake

    lake = open_lake()
    where = None if domain is None else f"domain = '{check_domain(domain)}'"
    found = lake.read("quarantine", where=where)
    if domain is not None and len(found) == 0:
        contract_in_force(lake, domain)  # names the domains there are if this is none of them
    return _answer(found.sort_by([("at", "descending"), ("locator", "ascending")]).to_pylist(), limit)


def _answer(rows: list[dict[str, object]], limit: int) -> Answer:
    reasons = dict(Counter(reason for row in rows for reason in row["reasons"]).most_common())  # type: ignore[attr-defined]
    facts = {"total": len(rows), "reasons": reasons, "rows": rows[:limit]}
    if not rows:
        return Answer(facts, "Nothing is in quarantine.")
    counts = [{"reason": reason, "rows": count} for reason, count in reasons.items()]
    total = f"{len(rows):,} rows in quarantine"
    if len(rows) > limit:
        total += f", the newest {limit:,} shown: --limit shows more"
    return Answer(facts, Group(rows_table(SHOWN, rows[:limit]), "", rows_table(("reason", "rows"), counts), "", total))
