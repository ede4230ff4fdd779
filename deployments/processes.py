"""Processes that one command starts and must not leave behind.

Each runs in a session of its own, so that a Ctrl-C in the terminal reaches only the command, which then stops them in
order. A process that moved to yet another session is found through its parent.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_contracts.errors import ServiceUnavailable

LAST_WORDS_S = 2.0
"""How long what is left of a stopped service may take to end."""
_HAS_PROC = Path("/proc/self/stat").exists()


@dataclass
class Service:
    """One started process, what started it, and the file it writes to."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def is_running(self) -> bool:
        """Say whether the process has not ended yet."""
        return self.process.poll() is None

    def last_lines(self, count: int = 5) -> str:
        """Return the end of its log on one line."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return " / ".join([line.strip() for line in lines if line.strip()][-count:]).rstrip(".")

    def check(self) -> None:
        """Raise if the process has ended.

        Raises:
            ServiceUnavailable: it has; the message holds the end of its log.
        """
        if not self.is_running:
            raise ServiceUnavailable(
                f"{self.name} ended with code {self.process.returncode}: {self.last_lines()}. "
                f"Its log is {self.log}; repair the cause and start again.",
                service=self.name,
                code=self.process.returncode,
            )

    def restart(self) -> None:
        """Stop it and start it anew; its log goes on."""
        self.stop()
        self.process = _spawn(self.command, self.environment, self.log)

    def stop(self, patience_s: float = 15.0) -> None:
        """End the process and everything it started: politely, and after `patience_s` by force."""
        family = [self.process.pid, *descendants(self.process.pid)]
        _signal([self.process.pid], signal.SIGTERM)
        self._end_within(patience_s, [self.process.pid])
        for number in (signal.SIGTERM, signal.SIGKILL):
            left = [pid for pid in family if _is_alive(pid)]
            _signal(left, number)
            self._end_within(LAST_WORDS_S, left)
        _signal_group(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _end_within(self, seconds: float, pids: Sequence[int]) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(map(_is_alive, pids)):
            self.process.poll()  # lets an ended child go
            time.sleep(0.05)


def start(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Service:
    """Start a process in its own session, with its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    return Service(name, command, environment, log, _spawn(command, environment, log))


def run(name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], *, limit_s: float) -> None:
    """Run a command to its end.

    Raises:
        ServiceUnavailable: it failed or took longer than `limit_s`.
    """
    service = start(name, command, log, environment)
    try:
        code = service.process.wait(limit_s)
    except subprocess.TimeoutExpired:
        code = -1
    finally:
        if service.is_running:
            service.stop()
    if code != 0:
        raise ServiceUnavailable(
            f"{name} did not succeed: {service.last_lines()}. Its log is {log}.", service=name, code=code
        )


def descendants(pid: int) -> list[int]:
    """Return every process that `pid` started, directly or not, and that still runs."""
    children: dict[int, list[int]] = {}
    for line in _parents().splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )


def _parents() -> str:
    """`pid ppid` lines of all processes."""
    if _HAS_PROC:
        lines = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                lines.append(f"{entry.parent.name} {_fields(entry)[1]}")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
        return "\n".join(lines)
    return subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _is_alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended but that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return _fields(Path(f"/proc/{pid}/stat"))[0] != "Z" if _HAS_PROC else True
    except (ProcessLookupError, FileNotFoundError):
        return False


def _fields(stat: Path) -> list[str]:
    """State, parent and what else follows the command's name in Linux's /proc/PID/stat."""
    return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


class Probe:
    """Asks an HTTP address; it is ready when the answer is 200 within `patience_s`."""

    def __init__(self, url: str, patience_s: float = 2.0) -> None:
        self.url = url
        self.patience_s = patience_s

    def __call__(self) -> bool:
        """Say whether the address answers 200 now."""
        from httpx import HTTPError, get

        try:
            return get(self.url, timeout=self.patience_s).status_code == 200
        except HTTPError:
            return False


def wait_until(service: Service, is_ready: Probe, *, limit_s: float) -> None:
    """Wait until the probe says yes.

    Raises:
        ServiceUnavailable: the process ended, or `limit_s` passed.
    """
    deadline = time.monotonic() + limit_s
    while not is_ready():
        service.check()
        if time.monotonic() > deadline:
            raise ServiceUnavailable(
                f"{service.name} did not answer within {limit_s:.0f} s: {service.last_lines()}. "
                f"Its log is {service.log}.",
                service=service.name,
            )
        time.sleep(0.3)


@dataclass
class Watch:
    """Starts a server anew that runs but no longer answers, as one does whose event loop is stuck."""

    service: Service
    is_ready: Probe
    every_s: float
    """From one question to the next."""
    silence_limit_s: float
    """How long questions may go unanswered; time in which nobody asks does not count."""
    start_limit_s: float
    """Longest wait for the server once it is started anew."""
    asked: float = -math.inf
    silent_since: float | None = None

    def look(self) -> bool:
        """Ask, if it is time to, and say whether the server had been silent for too long and was started anew.

        Raises:
            ServiceUnavailable: it was, and did not come back.
        """
        now = time.monotonic()
        if now - self.asked < self.every_s:
            return False
        if now - self.asked > self.silence_limit_s:
            self.silent_since = None  # nobody asked for long
        self.asked = now
        if self.is_ready():
            self.silent_since = None
            return False
        self.silent_since = self.silent_since or now
        if time.monotonic() - self.silent_since < self.silence_limit_s:
            return False
        self.service.restart()
        wait_until(self.service, self.is_ready, limit_s=self.start_limit_s)
        self.silent_since = None
        return True
