"""`metafuse demo`: the whole product on real data."""

from typing import Annotated

import typer

from deployments.cli.answer import Answer
from deployments.cli.command import command
from deployments.prefect_server import prefect_server


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "demo")
    def demo(
        items: Annotated[
            int | None, typer.Option(min=100, help="Use so many emoji instead of all, for a quick look.")
        ] = None,
    ) -> Answer:
        """Build real sources, ingest, meta-train, adapt to two unseen domains, score, and compare with baselines.

        Takes a few minutes on two cores; running it again does no work twice.

        Example: metafuse demo --items 300
        """
        with prefect_server("deployments.demo"):
            from deployments.demo import run_demo, shown

            result = run_demo(items=items)
        return Answer(result, shown(result))
