"""`metafuse up`: the Prefect server, the MLflow server and a worker on one machine, until Ctrl-C.

It serves the same `prefect.yaml` that a bigger installation deploys. Logs are in HOME/logs.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from data_contracts.errors import ServiceUnavailable, SourceNotFound
from data_contracts.settings import Settings, use_home
from deployments.processes import Probe, Service, Watch, run, start, wait_until
from tasks.moved_home import follow_home

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
POOL = "metafuse"

START_LIMIT_S = 120.0
"""Longest wait for a server; the first start creates its database."""

LOOK_EVERY_S = 5.0
PATIENCE_S = 10.0
"""Longest wait for one answer of a server that is under load."""

SILENCE_LIMIT_S = 60.0
"""How long a server that runs may leave questions unanswered before it is started anew."""

PREFECT_DEFAULTS = {
    # how often a run says that it lives: `tasks.dead_runs` listens
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    # in memory, what held a deployment's only place when the server ended would hold it for ever
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""Settings of Prefect, unless the environment has others."""


@dataclass(frozen=True)
class Addresses:
    """Where the servers listen."""

    host: str
    prefect_port: int
    mlflow_port: int

    @property
    def prefect(self) -> str:
        """Prefect's address, without a path."""
        return f"http://{_in_url(self.host)}:{self.prefect_port}"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return f"http://{_in_url(self.host)}:{self.mlflow_port}"


def up(
    *,
    host: str = "127.0.0.1",
    prefect_port: int = 4200,
    mlflow_port: int = 5000,
    prefect_file: Path = PREFECT_FILE,
    say: Callable[[str], None] | None = None,
) -> None:
    """Start everything, say where it is, and stop it all on Ctrl-C, SIGTERM, or when one part ends.

    A server that runs but does not answer any more is started anew.

    Raises:
        ServiceUnavailable: a port is taken, or a part did not start or ended on its own.
    """
    say = say or _to_stderr
    settings = use_home()
    addresses = Addresses(host, prefect_port, mlflow_port)
    if not prefect_file.is_file():
        raise SourceNotFound(f"the deployments file {prefect_file} is not there.", path=str(prefect_file))
    for port in (prefect_port, mlflow_port):
        _check_free(host, port)
    with _until_stopped(), ExitStack() as running:
        running.callback(say, "Everything has stopped.")
        services, watches = _start_all(settings, addresses, prefect_file, running, say)
        running.callback(say, "Stopping …")
        say(_welcome(settings, addresses))
        while True:
            time.sleep(0.5)
            for service in services:
                service.check()
            for watch in watches:
                if watch.look():
                    say(f"{watch.service.name} did not answer for {SILENCE_LIMIT_S:.0f} s and was started anew.")


def _start_all(
    settings: Settings, addresses: Addresses, prefect_file: Path, running: ExitStack, say: Callable[[str], None]
) -> tuple[list[Service], list[Watch]]:
    logs = settings.home.absolute() / "logs"
    environment = _environment(addresses)
    services, watches = [], []

    def launch(name: str, command: list[str]) -> Service:
        service = start(name, command, logs / f"{name}.log", environment)
        running.callback(service.stop)
        services.append(service)
        return service

    def watch(service: Service, url: str) -> None:
        probe = Probe(url, patience_s=PATIENCE_S)
        wait_until(service, probe, limit_s=START_LIMIT_S)
        watches.append(Watch(service, probe, LOOK_EVERY_S, SILENCE_LIMIT_S, START_LIMIT_S))

    say("Starting the Prefect and MLflow servers …")
    prefect = launch("prefect-server", _prefect_server(addresses))
    if not _has_mlflow_server(settings):
        follow_home(settings.mlflow_database, settings.mlflow_artifacts)
        mlflow = launch("mlflow-server", _mlflow_server(settings, addresses))
        watch(mlflow, f"{addresses.mlflow}/health")
    watch(prefect, f"{addresses.prefect}/api/ready")
    say("Starting a worker and deploying the flows …")
    worker = launch("worker", [*_prefect(), "worker", "start", "--pool", POOL, "--type", "process", "--limit", "2"])
    wait_until(worker, Probe(f"{addresses.prefect}/api/work_pools/{POOL}"), limit_s=START_LIMIT_S)
    deploy = [*_prefect(), "--no-prompt", "deploy", "--all", "--prefect-file", str(prefect_file)]
    run("deploy", deploy, logs / "deploy.log", environment, limit_s=START_LIMIT_S)
    return services, watches


def _prefect() -> list[str]:
    return [sys.executable, "-m", "prefect"]


def _prefect_server(addresses: Addresses) -> list[str]:
    return [*_prefect(), "server", "start", "--host", addresses.host, "--port", str(addresses.prefect_port)]


def _has_mlflow_server(settings: Settings) -> bool:
    """Say whether the settings name an MLflow server that runs elsewhere."""
    return settings.mlflow.startswith("http")


def _mlflow_server(settings: Settings, addresses: Addresses) -> list[str]:
    """Serve the very database and folder that flows write to, so that both ways in see the same."""
    store = ["--backend-store-uri", settings.mlflow, "--default-artifact-root", settings.mlflow_artifacts]
    address = ["--host", addresses.host, "--port", str(addresses.mlflow_port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *store, "--no-serve-artifacts", *address]


def _environment(addresses: Addresses) -> Mapping[str, str]:
    """What the started processes see; `use_home` has set the rest."""
    api = {"PREFECT_API_URL": f"{addresses.prefect}/api", "PREFECT_UI_API_URL": f"{addresses.prefect}/api"}
    return {**PREFECT_DEFAULTS, **os.environ, **api, "PYTHONUNBUFFERED": "1"}


def _welcome(settings: Settings, addresses: Addresses) -> str:
    mlflow = settings.mlflow if _has_mlflow_server(settings) else addresses.mlflow
    return "\n".join(
        [
            "",
            f"  Prefect   {addresses.prefect}   flows, runs, schedules, events",
            f"  MLflow    {mlflow}   runs, metrics, registered models",
            f"  Home      {settings.home}   lake, media, logs",
            "",
            f"  Other terminals reach the server with  export PREFECT_API_URL={addresses.prefect}/api",
            "  Ctrl-C stops everything.",
        ]
    )


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Leave the body at the first Ctrl-C, SIGTERM or closed terminal; later signals cannot interrupt the stopping."""
    is_stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if not is_stopping:
            is_stopping = True
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before: dict[signal.Signals, Any] = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            raise ServiceUnavailable(
                f"port {port} of {host} cannot be used ({exc.strerror}). Stop what listens there, or choose another "
                "with --prefect-port or --mlflow-port.",
                host=host,
                port=port,
            ) from exc


def _in_url(host: str) -> str:
    shown = "127.0.0.1" if host == "0.0.0.0" else host
    return f"[{shown}]" if ":" in shown else shown


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
