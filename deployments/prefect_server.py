"""A Prefect server for one command, which starts while the command loads what it needs.

Prefect would start one too, but only at the first flow, and only after loading the whole server into the command first.
"""

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from data_contracts.errors import MetafuseError
from data_contracts.settings import get_settings
from deployments.processes import Probe, Service, wait_until

ENTRY = Path(__file__).with_name("prefect_server_entry.py")
STOP_LIMIT_S = 5.0
START_LIMIT_S = 120.0
"""Longest wait for the server, which makes its database in a new home."""

PATIENCE_S = 10.0
"""Longest wait for one answer; the connection is taken at once."""

ENDING_S = 1.0
"""How long a server that no longer answers may take to end, so that its own words can be told."""


@contextmanager
def prefect_server(module: str) -> Iterator[None]:
    """Have flows of this process report to a server on loopback, unless Prefect's settings name one.

    It starts while `module`, which holds the flow, is loaded. It outlives the body, because Prefect sends it the last
    logs and events when this process ends, and is stopped then. Events are not delivered to it.

    Raises:
        ServiceUnavailable: the server did not start, or had ended when the body failed.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = _start(listening)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    if _is_another_named():
        service.stop(STOP_LIMIT_S)
        yield
        return
    import_module(module)
    wait_until(service, Probe(f"{url}/health", PATIENCE_S), limit_s=START_LIMIT_S)
    os.environ["PREFECT_API_URL"] = url
    _read_settings_again()
    from tasks.events import use_brief_server

    use_brief_server(url)
    try:
        yield
    except MetafuseError:
        raise
    except Exception:
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(ENDING_S)
        service.check()
        raise


def _is_another_named() -> bool:
    from prefect.settings import get_current_settings

    return get_current_settings().api.url is not None


def _read_settings_again() -> None:
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()


def _start(listening: socket.socket) -> Service:
    log = get_settings().home.absolute() / "logs" / "prefect-of-commands.log"
    log.parent.mkdir(exist_ok=True)
    descriptor = listening.fileno()
    command = [sys.executable, "-P", str(ENTRY), str(descriptor)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[descriptor], start_new_session=True
        )
    service = Service("Prefect's server", command, {}, log, process)
    atexit.register(service.stop, STOP_LIMIT_S)
    return service
