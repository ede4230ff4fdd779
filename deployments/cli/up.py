"""`metafuse up`: everything on one machine."""

from typing import Annotated

import typer
from rich.console import Group

from deployments.cli.answer import Answer
from deployments.cli.command import command

Port = Annotated[int, typer.Option(min=1, max=65535)]


def add_to(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "up", prefect_log_level="INFO")
    def up(
        host: Annotated[str, typer.Option(help="Address to listen on; the default is reachable from here only.")] = (
            "127.0.0.1"
        ),
        prefect_port: Port = 4200,
        mlflow_port: Port = 5000,
    ) -> Answer:
        """Start the Prefect server, the MLflow server and the scheduled flows; stop them all with Ctrl-C.

        Example: metafuse up --prefect-port 4300
        """
        from deployments.up import up as start

        start(host=host, prefect_port=prefect_port, mlflow_port=mlflow_port)
        return Answer({"stopped": True}, Group())
