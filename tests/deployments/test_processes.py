import os
import sys
import time
from pathlib import Path

import httpx
import pytest

from data_contracts.errors import ServiceUnavailable
from deployments.processes import Probe, Watch, descendants, run, start, wait_until

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, time;"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True);"
    "print(child.pid, flush=True); time.sleep(60)"
)

STALLING = """
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/stall":
            time.sleep(60)
        self.send_response(200)
        self.end_headers()

port = Path(sys.argv[1])
server = HTTPServer(("127.0.0.1", int(port.read_text()) if port.exists() else 0), Handler)
port.write_text(f"{server.server_port:05d}")
server.serve_forever()
"""
"""Answers on the port that stands in a file, which it writes when there is none, until it is asked for /stall."""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for_line(log: Path) -> str:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if "\n" in log.read_text():
            return log.read_text().split("\n")[0]
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def test_process_that_ignores_the_request_is_ended_by_force(tmp_path: Path):
    service = start("stubborn", python(STUBBORN), tmp_path / "log", os.environ)
    wait_for_line(tmp_path / "log")
    service.stop(patience_s=0.3)
    assert not service.is_running


def test_process_in_a_session_of_its_own_ends_with_its_parent(tmp_path: Path):
    service = start("parent", python(PARENT), tmp_path / "log", os.environ)
    child = int(wait_for_line(tmp_path / "log"))
    assert child in descendants(service.process.pid)
    service.stop(patience_s=0.3)
    assert not is_running(child)


def test_process_that_ends_is_reported_with_its_last_words(tmp_path: Path):
    service = start("server", python("import sys; print('no database'); sys.exit(3)"), tmp_path / "log", os.environ)
    with pytest.raises(ServiceUnavailable, match=r"server ended with code 3: no database\. Its log is"):
        wait_until(service, Probe("http://127.0.0.1:9"), limit_s=10)


def test_process_that_never_answers_is_reported(tmp_path: Path):
    service = start("server", python("import time; time.sleep(60)"), tmp_path / "log", os.environ)
    with pytest.raises(ServiceUnavailable, match="did not answer within 1 s"):
        wait_until(service, Probe("http://127.0.0.1:9"), limit_s=1)
    service.stop()


def test_failed_command_is_reported(tmp_path: Path):
    with pytest.raises(ServiceUnavailable, match="deploy did not succeed: wrong file"):
        run("deploy", python("raise SystemExit('wrong file')"), tmp_path / "log", os.environ, limit_s=10)


def test_command_that_takes_too_long_is_ended(tmp_path: Path):
    with pytest.raises(ServiceUnavailable, match="deploy did not succeed"):
        run("deploy", python("import time; time.sleep(60)"), tmp_path / "log", os.environ, limit_s=0.5)


def test_server_that_no_longer_answers_is_started_anew(tmp_path: Path, request: pytest.FixtureRequest):
    port = tmp_path / "port"
    service = start("server", [*python(STALLING), str(port)], tmp_path / "log", os.environ)
    request.addfinalizer(lambda: service.stop(patience_s=1.0))
    deadline = time.monotonic() + 60
    while not (port.exists() and len(port.read_text()) == 5):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first, is_ready = service.process.pid, Probe(f"http://127.0.0.1:{port.read_text()}", patience_s=1.0)
    watch = Watch(service, is_ready, every_s=0.1, silence_limit_s=3.0, start_limit_s=20.0)
    for _ in range(3):
        time.sleep(0.1)
        assert not watch.look()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{is_ready.url}/stall", timeout=0.5)
    while not watch.look():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert is_ready()
    assert service.process.pid != first
    assert not is_running(first)


def look_often(watch: Watch) -> None:
    for _ in range(100):
        assert not watch.look()
        time.sleep(0.1)


def test_time_in_which_nobody_asks_is_no_silence(tmp_path: Path, request: pytest.FixtureRequest):
    """Nothing listens at the address; a look after a break is a first look."""
    service = start("server", python("import time; time.sleep(60)"), tmp_path / "log", os.environ)
    request.addfinalizer(lambda: service.stop(patience_s=1.0))
    watch = Watch(service, Probe("http://127.0.0.1:9"), every_s=0.0, silence_limit_s=1.0, start_limit_s=0.1)
    for _ in range(3):
        assert not watch.look()
        time.sleep(1.1)
    with pytest.raises(ServiceUnavailable, match="server did not answer within"):
        look_often(watch)
