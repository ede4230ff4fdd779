"""`metafuse contract`: look at a contract before data meet it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from data_contracts.contract import Column, Contract
from deployments.cli.answer import Answer, facts_table, rows_table
from deployments.cli.command import command


def add_to(app: typer.Typer) -> None:
    """Add the group and its commands to `app`."""
    group = typer.Typer(help="Contracts: what a domain's data must look like.", no_args_is_help=True)
    app.add_typer(group, name="contract")
    group.callback()(_keep_as_group)
    command(group, "check")(check)


def _keep_as_group() -> None:
    """Contracts: what a domain's data must look like."""


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A contract in the Open Data Contract Standard v3.1.")],
) -> Answer:
    """Compile a contract and show its columns, views and rules; nothing is stored.

    Whatever metafuse cannot check for every row is refused by name, never ignored.

    Example: metafuse contract check sources/noto-ru/contract.yaml
    """
    from data_contracts.odcs import load_contract
    from data_contracts.row_mask import compile_mask

    contract = load_contract(file)
    compile_mask(contract)
    facts = _facts(contract)
    summary = {name: facts[name] for name in ("domain", "version", "path", "format")}
    return Answer(
        facts,
        Group(
            facts_table(summary),
            "",
            rows_table(("name", "role", "logical_type", "rules"), facts["columns"]),
            "",
            rows_table(("name", "modality", "columns"), facts["views"]),
            "",
            "The contract is valid.",
        ),
    )


def _facts(contract: Contract) -> dict[str, Any]:
    return {
        "domain": contract.domain,
        "version": contract.version,
        "valid": True,
        "path": contract.server.path,
        "format": contract.server.format,
        "columns": [_column(column) for column in contract.columns],
        "views": [view.model_dump() for view in contract.columns_to_encode],
        "batch_rules": [rule.model_dump() for rule in contract.batch_rules],
    }


def _column(column: Column) -> dict[str, object]:
    rules = column.rules.model_dump(exclude_defaults=True)
    return {"name": column.name, "role": column.role, "logical_type": column.logical_type, "rules": rules}
