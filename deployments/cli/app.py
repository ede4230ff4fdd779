"""The command line as a whole: its groups, its help and its entry point."""

import typer

from deployments.cli import benchmark, contract, demo, doctor, drift, ingest, learn, quarantine, sql, transfer, up
from deployments.cli.command import Home

HELP = """Few-label learning over many domains of text, image, audio, video and table data.

Start with [bold]metafuse demo[/bold]; it needs no server, no account and no download.
"""

app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.callback()
def metafuse(home: Home = None) -> None:  # noqa: D103  (typer would show a docstring instead of HELP)
    pass


for part in (demo, up, doctor, ingest, learn, drift, benchmark, transfer, sql, quarantine, contract):
    part.add_to(app)


def main() -> None:
    """Run `metafuse` with the arguments of this process."""
    app(prog_name="metafuse")
