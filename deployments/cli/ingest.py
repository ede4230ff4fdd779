"""`metafuse ingest`: bring a domain's source into the lake."""

from pathlib import Path
from typing import Annotated

import typer

from data_contracts.names import check_domain
from data_contracts.reports import IngestReport
from deployments.cli.answer import Answer, facts_table, first_few
from deployments.cli.command import command
from deployments.prefect_server import prefect_server


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "ingest")
    def ingest(
        domain: Annotated[str, typer.Argument(help="The domain; the contract must carry the same name.")],
        contract: Annotated[Path, typer.Option(metavar="FILE", help="The domain's contract (ODCS v3.1 YAML).")],
        source: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR", help="What the contract's path is relative to. Default: the contract's folder."
            ),
        ] = None,
    ) -> Answer:
        """Read a source, quarantine what breaks the contract, store and embed the rest.

        Running it again takes in only what is new or changed. Columns that the contract does not name are not read;
        the answer lists them as unused.

        Example: metafuse ingest noto-ru --contract sources/noto-ru/contract.yaml
        """
        from data_contracts.odcs import load_contract
        from tasks.source import table_files

        folder = contract.parent if source is None else source
        table_files(load_contract(contract, domain=check_domain(domain)), folder)  # refuses before Prefect has started
        with prefect_server("flows.ingest_source"):
            from flows.ingest_source import ingest_source

            result = ingest_source(
                domain=domain,
                contract=str(contract),
                source=None if source is None else str(source),
            )
        facts = {name: result[name] for name in IngestReport.model_fields}
        return Answer(facts, facts_table({**facts, "unused_columns": first_few(facts["unused_columns"])}))
