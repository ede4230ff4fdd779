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
from pathlib import Path

from data_contracts.errors import MetafuseError
from data_contracts.settings import get_settings
from deployments.processes import Service

ENTRY = Path(__file__).with_name("prefect_server_entry.py")
STOP_LIMIT_S = 5.0
START_LIMIT_S = 120.0
"""Longest wait for an answer: the first one comes when the server has started, and made its database in a new home."""

ENDING_S = 1.0
"""How long a server that no longer answers may take to end, so that its own words can be told."""


@contextmanager
def prefect_server() -> Iterator[None]:
    """Let flows of the body report to a server on loopback, unless Prefect's settings name one.

    The server takes connections at once and answers when it has started. It is stopped after Prefect has sent it the
    last logs and events, which is when this process ends.

    Raises:
        ServiceUnavailable: the body failed, and the server had ended.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        service = _start(listening)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is not None:
        service.stop(STOP_LIMIT_S)
        yield
        return
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", f"{START_LIMIT_S:g}")
    refresh_global_settings_context()
    try:
        yield
    except MetafuseError:
        raise
    except Exception:
        with suppress(subprocess.TimeoutExpired):
            service.process.wait(ENDING_S)
        service.check()
        raise


def _start(listening: socket.socket) -> Service:
    log = get_settings().home.absolute() / "logs" / "prefect-server.log"
    log.parent.mkdir(exist_ok=True)
    descriptor = listening.fileno()
    command = [sys.executable, "-P", str(ENTRY), str(descriptor)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, pass_fds=[descriptor], start_new_session=True
        )
    service = Service("prefect-server", command, {}, log, process)
    atexit.register(service.stop, STOP_LIMIT_S)
    return service
