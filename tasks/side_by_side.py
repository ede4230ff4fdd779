"""Long computations side by side, each in a process of its own that uses one thread.

Processes are started plainly: those of `multiprocessing` run the caller's script again unless it is written for that.
What goes to one and comes back is pickled, and read by nobody else.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import Any, BinaryIO, TypeVar, cast

from data_contracts.errors import ModelError
from data_contracts.settings import get_settings
from tasks import progress

Result = TypeVar("Result")

LOOK_EVERY_S = 0.2
"""How long a report of progress may wait to be passed on."""

_WORK = "from tasks.side_by_side import work; work()"
_NOW, _DONE, _FAILED = "now", "done", "failed"
"""What a process tells: how far it is, what its call returned, or the error it raised."""


def learn_side_by_side(calls: Sequence[Callable[[], Result]], /) -> list[Result]:
    """Run calls that learn, as many at a time as threads may be used; a GPU is given one after the other."""
    settings = get_settings()
    return side_by_side(calls, settings.threads if settings.device == "cpu" else 1)


def side_by_side(calls: Sequence[Callable[[], Result]], at_once: int) -> list[Result]:
    """Return what calls return, in their order, `at_once` of them at a time; with one at a time, in this process.

    A call and its result must be such that pickle can store them, functions by their name. A process holds a copy of
    what its call refers to. What calls report through `tasks.progress` is reported here. If one fails, the others are
    stopped and its error is raised.

    Raises:
        ModelError: a process was killed, as one is that asks for more memory than there is.
    """
    if min(at_once, len(calls)) < 2:
        return [call() for call in calls]
    company = _Company()
    with ThreadPoolExecutor(at_once) as threads:
        futures = [threads.submit(company.run, call) for call in calls]
        try:
            done, pending = company.wait_for(futures)
            while pending and not any(future.exception() for future in done):
                done, pending = company.wait_for(futures)
            for future in done:
                future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            company.stop()
    return [future.result() for future in futures]


@dataclass
class _Company:
    """Processes that run calls, and what they report."""

    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    reports: "SimpleQueue[tuple[int, int, str]]" = field(default_factory=SimpleQueue)
    is_stopped: Event = field(default_factory=Event)

    def run(self, call: Callable[[], Any]) -> Any:
        """Run one call in a process of its own."""
        with _start() as process:
            self.processes.append(process)
            if self.is_stopped.is_set():
                process.kill()
            try:
                with cast(BinaryIO, process.stdin) as calls:
                    pickle.dump(call, calls, pickle.HIGHEST_PROTOCOL)
                return self._listen_to(process)
            except (BrokenPipeError, EOFError, pickle.UnpicklingError) as exc:
                raise ModelError(
                    f"A process that learned ended with code {process.wait()}, as happens when memory runs out. Set "
                    "METAFUSE_THREADS=1, so that one learner is trained at a time, and start again: the steps up to "
                    "the last checkpoint are kept.",
                    code=process.returncode,
                ) from exc

    def _listen_to(self, process: subprocess.Popen[bytes]) -> Any:
        while True:
            kind, told = pickle.load(cast(BinaryIO, process.stdout))
            if kind == _DONE:
                return told
            if kind == _FAILED:
                raise told
            self.reports.put(told)

    def wait_for(self, futures: Sequence[Any]) -> Any:
        """Pass on what was reported; returns the futures that are done and those that are not."""
        found = wait(futures, LOOK_EVERY_S, FIRST_EXCEPTION)
        while not self.reports.empty():
            progress.report(*self.reports.get())
        return found

    def stop(self) -> None:
        """Kill what still runs."""
        self.is_stopped.set()
        for process in self.processes:
            process.kill()


def _start() -> subprocess.Popen[bytes]:
    """Start a process that sees the packages that this one sees, and no Ctrl-C of the terminal."""
    path = os.pathsep.join(part for part in sys.path if part)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _WORK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def work() -> None:
    """Run the call on standard input; what it reports and returns goes to standard output, and nothing else."""
    with os.fdopen(os.dup(1), "wb") as told:
        os.dup2(2, 1)
        import torch

        torch.set_num_threads(1)

        def tell(kind: str, content: Any) -> None:
            pickle.dump((kind, content), told, pickle.HIGHEST_PROTOCOL)
            told.flush()

        try:
            with progress.listening(lambda *now: tell(_NOW, now)):
                result = pickle.load(sys.stdin.buffer)()
        except Exception as exc:
            tell(_FAILED, exc)
        else:
            tell(_DONE, result)
