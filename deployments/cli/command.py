"""What every command has in common: `--home`, `--json`, and errors that end in one paragraph and exit code 2."""

import contextlib
import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from data_contracts.errors import MetafuseError
from data_contracts.settings import use_home
from deployments.cli.answer import BAD_INPUT, Answer, show_error
from deployments.cli.progress import shown_progress

Body = Callable[..., Answer]
Home = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Where everything is kept. Default: $METAFUSE_HOME or ./.metafuse."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")]


def command(group: typer.Typer, name: str, *, prefect_log_level: str = "CRITICAL") -> Callable[[Body], Body]:
    """Register a body that returns an `Answer` as the command `name` of `group`.

    Prefect would log the traceback of every error of a flow; a command says it in one paragraph instead.
    """

    def register(body: Body) -> Body:
        @functools.wraps(body)
        def run(context: typer.Context, home: Path | None, as_json: bool, **arguments: Any) -> None:
            try:
                use_home(home or context.find_root().params.get("home"), prefect_log_level=prefect_log_level)
                quiet = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
                with quiet, shown_progress():
                    answer = body(**arguments)
            except MetafuseError as error:
                _let_go(error)
                show_error(error, as_json=as_json)
                raise typer.Exit(BAD_INPUT) from None
            answer.show(as_json=as_json)
            raise typer.Exit(answer.exit_code)

        _take_also(run, body)
        group.command(name)(run)
        return body

    return register


def _let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error still hold: a DuckDB connection that lives on complains at exit."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _take_also(run: Callable[..., None], body: Body) -> None:
    """Give `run` the parameters of `body` and the two that every command has; typer reads both places."""
    own = list(inspect.signature(body).parameters.values())
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter("home", kind, default=None, annotation=Home),
        inspect.Parameter("as_json", kind, default=False, annotation=Json),
    ]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [context, *(parameter.replace(kind=kind) for parameter in own), *shared]
    )
    run.__annotations__ = {
        **{name: note for name, note in body.__annotations__.items() if name != "return"},
        "context": typer.Context,
        "home": Home,
        "as_json": Json,
    }
    del run.__wrapped__  # type: ignore[attr-defined]
