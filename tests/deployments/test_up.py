"""`metafuse up` on real servers: schedules fire, events adapt, and nothing is left running."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from lake_of import TITLE, YEAR, add_items, add_labels, contract_of
from learning_lake import add_domain, add_vectors

from data_contracts.configs import MetaTrainConfig, TrainConfig
from data_contracts.errors import ServiceUnavailable
from deployments.up import PREFECT_FILE, START_LIMIT_S, up
from tasks import registry
from tasks.events import deliver_outbox, enqueue, labels_arrived, pending
from tasks.lake import Lake, open_lake

pytestmark = pytest.mark.orchestrated

SILENCE_LIMIT_S = 30.0
"""Shorter than that of `up`, for a server that is made silent."""

NIGHTLY = "meta-train/nightly"

SMALL = MetaTrainConfig(train=TrainConfig(steps=2, meta_batch=2, n_way=2, shots=(1, 2), n_query=3))


@dataclass
class Running:
    """A started `up`: its process, its Prefect API and its lake."""

    process: subprocess.Popen[str]
    home: Path
    api: str
    mlflow: str
    lake: Lake

    def ask(self, method: str, path: str, content: Any = None) -> httpx.Response:
        """What Prefect answers, once it does: `up` starts a server anew that has become silent.

        It answers 503 while another request writes to its database.
        """
        deadline = time.monotonic() + SILENCE_LIMIT_S + START_LIMIT_S
        while True:
            try:
                answer = httpx.request(method, f"{self.api}/{path}", json=content, timeout=20)
                if answer.status_code != 503 or time.monotonic() > deadline:
                    return answer.raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    @contextmanager
    def scheduled(self, deployment: str) -> Iterator[None]:
        """Let the schedule of a deployment fire during the body: runs that nobody waits for keep the machine busy."""
        number = self.ask("GET", f"deployments/name/{deployment}").json()["id"]
        self.ask("POST", f"deployments/{number}/resume_deployment")
        try:
            yield
        finally:
            self.ask("POST", f"deployments/{number}/pause_deployment")

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Flow runs of one flow that have begun or ended."""
        asked = {"flows": {"name": {"any_": [flow]}}, "flow_runs": {"start_time": {"is_null_": False}}}
        return self.ask("POST", "flow_runs/filter", asked).json()

    def wait_for(self, flow: str, is_wanted: Callable[[dict[str, Any]], bool], limit_s: float = 300) -> dict[str, Any]:
        """The first completed run of `flow` that is wanted."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            for run in self.runs(flow):
                if is_wanted(run) and run["state_type"] in ("FAILED", "CRASHED"):
                    raise AssertionError(run["state"]["message"])
                if is_wanted(run) and run["state_type"] == "COMPLETED":
                    return run
            time.sleep(1)
        raise AssertionError(f"no such run of {flow}: {[(run['name'], run['state_type']) for run in self.runs(flow)]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def impatient(target: Path) -> Path:
    """The deployments file with all schedules every minute, paused, and a small training."""
    content = yaml.safe_load(PREFECT_FILE.read_text())
    for deployment in content["deployments"]:
        for schedule in deployment.get("schedules", ()):
            schedule["cron"] = "* * * * *"
            deployment["paused"] = True
        if deployment["entrypoint"] == "flows.meta_train.meta_train":
            deployment["parameters"] = {"config": SMALL.model_dump(mode="json")}
    target.write_text(yaml.safe_dump(content))
    return target


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    from data_contracts.settings import get_settings, use_home

    before = dict(os.environ)
    home = use_home(tmp_path_factory.mktemp("up") / "home").home
    lake = open_lake()
    add_domain(lake, "one", seed=1)
    add_domain(lake, "two", per_class=12, spread=1.0, seed=2)
    prefect, mlflow = free_port(), free_port()
    file = impatient(home / "prefect.yaml")
    script = (
        "from pathlib import Path; from deployments import up;"
        f"up.SILENCE_LIMIT_S = {SILENCE_LIMIT_S};"
        f"up.up(prefect_port={prefect}, mlflow_port={mlflow}, prefect_file=Path({str(file)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "Ctrl-C" in line:
            break
    assert process.poll() is None
    yield Running(process, home, f"http://127.0.0.1:{prefect}/api", f"http://127.0.0.1:{mlflow}", lake)
    process.terminate()
    process.wait(30)
    process.stderr.close()
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def first_training(running: Running) -> dict[str, Any]:
    """The run that the schedule of meta-training started first, once it is through: there is a prior."""
    with running.scheduled(NIGHTLY):
        return running.wait_for("meta-train", lambda run: run["auto_scheduled"])


def processes_of(name: object) -> dict[int, str]:
    """Command lines by number of the processes, other than this one, whose environment names a home or a run."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment, command = (entry / "environ").read_bytes(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if str(name).encode() in environment and int(entry.name) != os.getpid():
            found[int(entry.name)] = command.replace(b"\0", b" ").decode()
    return found


def test_schedule_of_meta_training_fires(first_training: dict[str, Any]):
    assert first_training["name"].startswith("meta-train-20")
    assert registry.resolve("metafuse.prior").tags["prefect.flow_run_id"] != ""


@pytest.mark.usefixtures("first_training")
def test_labels_that_arrive_adapt_their_domain_once(running: Running):
    add_labels(running.lake, "two", {"class-00-00": "class-01"}, day=3)
    version = running.lake.version("labels")
    assert version is not None
    event = labels_arrived("two", version)
    enqueue(running.lake, event)
    enqueue(running.lake, event)
    with running.scheduled("reconcile/every-two-minutes"):
        run = running.wait_for("adapt-domain", lambda run: run["parameters"].get("domain") == "two")
    assert run["name"] == "adapt-two"
    ref = registry.resolve("metafuse.two")
    assert ref.tags["prefect.flow_run_id"] == run["id"]
    assert pending(running.lake) == []


def test_event_sent_again_under_its_id_starts_nothing(running: Running, monkeypatch: pytest.MonkeyPatch):
    running.wait_for("adapt-domain", lambda run: run["parameters"].get("domain") == "two")
    started = len(running.runs("adapt-domain"))
    event = labels_arrived("two", running.lake.version("labels") or 0)
    for _ in range(64):
        running.ask("POST", "events", [event.as_prefect()])
    time.sleep(20)
    assert len(running.runs("adapt-domain")) == started


@pytest.mark.usefixtures("first_training")
def test_events_with_other_ids_adapt_to_the_version_that_is_there(running: Running):
    """Every one of these starts a run; the question is the same, so all but the first find it answered."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for number in range(3):
        enqueue(running.lake, labels_arrived("one", 1000 + number))
    with temporary_settings({PREFECT_API_URL: running.api}):
        assert deliver_outbox(running.lake, wait_s=30) == 3
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        runs = [run for run in running.runs("adapt-domain") if run["parameters"].get("domain") == "one"]
        if len(runs) == 3 and all(run["state_type"] == "COMPLETED" for run in runs):
            break
        time.sleep(1)
    assert [run["state_type"] for run in runs] == ["COMPLETED"] * 3
    assert registry.resolve("metafuse.one").version == "1"
    assert registry.resolve_or_none("metafuse.one", "2") is None


@pytest.mark.usefixtures("first_training")
def test_adaptation_whose_process_is_killed_is_started_again(running: Running):
    known = {run["id"] for run in running.runs("adapt-domain")}
    add_labels(running.lake, "one", {"class-00-00": "class-01"}, day=4)
    running.ask("POST", "events", [labels_arrived("one", 2000).as_prefect()])
    deadline = time.monotonic() + 120
    while not (new := [run for run in running.runs("adapt-domain") if run["id"] not in known]):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (killed,) = (run["id"] for run in new)
    for number in (engine := processes_of(killed)):
        os.kill(number, signal.SIGKILL)
    assert engine
    with running.scheduled("reconcile/every-two-minutes"):
        others = {*known, killed}  # it may have claimed the work, for five minutes
        again = running.wait_for("adapt-domain", lambda run: run["id"] not in others, limit_s=600)
    assert again["parameters"]["domain"] == "one"
    states = {run["id"]: run["state_type"] for run in running.runs("adapt-domain") if run["id"] not in known}
    assert states == {killed: "CRASHED", again["id"]: "COMPLETED"}


def test_drift_adapts_its_domain_again_once(running: Running):
    """The schedule finds it; the announcement starts a run, and that makes one version."""
    running.wait_for("adapt-domain", lambda run: run["parameters"].get("domain") == "two")
    versions = sum(registry.resolve_or_none("metafuse.two", str(number)) is not None for number in range(1, 5))
    new = {f"new-{number:02d}": "class-00" for number in range(40)}
    add_items(running.lake, contract_of("two", TITLE, YEAR), {item: {"title": item, "year": 1} for item in new}, day=5)
    add_vectors(running.lake, "two", new, ["class-00"], 0.4, seed=5)
    found = running.ask("GET", "deployments/name/adapt-domain/on-drift").json()
    with running.scheduled("watch-drift/daily"):
        run = running.wait_for("adapt-domain", lambda run: run["deployment_id"] == found["id"])
    assert run["parameters"]["domain"] == "two"
    assert registry.resolve("metafuse.two", str(versions + 1)).tags["prefect.flow_run_id"] == run["id"]
    assert registry.resolve_or_none("metafuse.two", str(versions + 2)) is None
    assert {row["domain"] for row in running.lake.read("drift", where="is_drifted").to_pylist()} == {"two"}


def test_runs_show_what_they_did(running: Running):
    running.wait_for("adapt-domain", lambda run: run["parameters"].get("domain") == "two")
    artifacts = running.ask("POST", "artifacts/latest/filter", {}).json()
    by_key = {artifact["key"]: artifact["data"] for artifact in artifacts}
    assert "tuned_logreg" in by_key["adapted-two"]
    assert "untrained" in by_key["prior"]


@pytest.mark.usefixtures("first_training")
def test_mlflow_server_shows_the_registered_models(running: Running):
    found = httpx.get(f"{running.mlflow}/api/2.0/mlflow/registered-models/search", timeout=20).json()
    assert "metafuse.prior" in [model["name"] for model in found["registered_models"]]


def test_taken_port_is_named_before_anything_starts(home: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceUnavailable, match=f"port {port} of 127.0.0.1 cannot be used"):
            up(prefect_port=port, mlflow_port=free_port())


def test_server_that_has_become_silent_is_started_anew(running: Running):
    def servers() -> set[int]:
        return {number for number, command in processes_of(running.home).items() if "prefect server start" in command}

    def has_begun_since(run: dict[str, Any]) -> bool:
        """One that crashed before it began did so, to Prefect, when it ended."""
        return run["state_type"] != "CRASHED" and run["auto_scheduled"] and run["start_time"] > since

    with running.scheduled(NIGHTLY):
        before = servers()
        for number in before:
            os.kill(number, signal.SIGSTOP)
        running.ask("GET", "ready")
        assert servers()
        assert not before & servers()
        since = datetime.now(UTC).isoformat()
        running.wait_for("meta-train", has_begun_since)


def test_terminating_leaves_no_process_behind(running: Running):
    assert len(processes_of(running.home)) >= 4
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(45) == 0
    assert processes_of(running.home) == {}
