"""The server of one command: it ends with the command, however that ends, and gives way to one that is named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.processes import _is_alive, descendants

pytestmark = pytest.mark.slow

BODY = """
import os, time
from data_contracts.settings import use_home
use_home()
from deployments.prefect_server import prefect_server
from deployments.processes import descendants
with prefect_server("tasks.events"):
    from tasks.events import has_server
    print(os.environ.get("PREFECT_API_URL"), flush=True)
    {body}
"""
CHILDREN = "print(descendants(os.getpid()))"


def started(home: Path, body: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BODY.format(body=body)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return subprocess.Popen(
        command,
        env={**kept, "METAFUSE_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(pids: list[int]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if not any(map(_is_alive, pids)):
            return True
        time.sleep(0.1)
    return False


def test_server_ends_with_a_command_that_is_killed(tmp_path):
    with started(tmp_path / "home", "time.sleep(60)") as command:
        assert command.stdout.readline().startswith("http://127.0.0.1:")
        servers = descendants(command.pid)
        assert servers
        command.kill()
    assert ends(servers)


def test_server_answers_and_ends_with_its_command(tmp_path):
    ask = "from prefect import get_client; print(get_client(sync_client=True).api_healthcheck())"
    with started(tmp_path / "home", f"{ask}; print(has_server()); {CHILDREN}") as command:
        out, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    _, health, takes_events, servers = out.splitlines()
    assert health == "None"  # no error
    assert takes_events == "False"  # it would be gone before anything reacts to them
    assert ends(json.loads(servers))


@pytest.mark.parametrize("place", ["environment", "profile"])
def test_server_that_is_named_is_used(tmp_path, place):
    url = "http://127.0.0.1:9/api"
    home = tmp_path / "home"
    (home / "prefect").mkdir(parents=True)
    if place == "profile":
        profile = f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{url}"\n'
        (home / "prefect" / "profiles.toml").write_text(profile)
    named = {"PREFECT_API_URL": url} if place == "environment" else {}
    shown = "from prefect.settings import get_current_settings as now; print(now().api.url)"
    with started(home, f"{shown}; print(has_server()); {CHILDREN}", **named) as command:
        out, err = command.communicate(timeout=60)
    assert out.splitlines()[1:] == [url, "True", "[]"], err


def test_server_that_ended_is_told_with_its_log(tmp_path):
    end = "os.kill(descendants(os.getpid())[0], 9); raise RuntimeError('no answer')"
    with started(tmp_path / "home", end) as command:
        _, err = command.communicate(timeout=60)
    assert "ServiceUnavailable: Prefect's server ended with code -9" in err
    assert "prefect-of-commands.log" in err
