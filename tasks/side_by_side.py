"""Long computations side by side, each in a process of its own that uses one thread.

Processes are started plainly: those of `multiprocessing` run the caller's script again unless it is written for that.
What goes to one and comes back is pickled, and read by nobody else.
"""

import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any, BinaryIO, cast

from data_contracts.errors import ModelError
from data_contracts.settings import get_settings
from models.calls import Result, one_by_one
from tasks import progress

LOOK_EVERY_S = 0.2
"""How long a report of progress may wait to be passed on."""

_WORK = "import os; told = os.dup(1); os.dup2(2, 1); from tasks.side_by_side import work; work(told)"
"""What is printed goes to standard error."""

_NOW, _DONE, _FAILED = "now", "done", "failed"
"""What a process tells: how far it is, what its call returned, or the error it raised."""


def learn_side_by_side(calls: Sequence[Callable[[], Result]], /) -> list[Result]:
    """Run calls that learn on the CPU, as many at a time as threads may be used."""
    return side_by_side(calls, get_settings().threads)


def side_by_side(calls: Sequence[Callable[[], Result]], at_once: int) -> list[Result]:
    """Return what calls return, in their order, `at_once` of them at a time; with one at a time, in this process.

    A call and its result must be such that pickle can store them, functions by their name. A process holds a copy of
    what its call refers to. What calls report through `tasks.progress` is reported here. If one fails, the others are
    stopped and its error is raised.

    Raises:
        ModelError: a process was killed, as one is that asks for more memory than there is.
    """
    if min(at_once, len(calls)) < 2:
        return one_by_one(calls)
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
                calls = cast(BinaryIO, process.stdin)  # stays open: its end ends the process
                pickle.dump(call, calls, pickle.HIGHEST_PROTOCOL)
                calls.flush()
                is_error, told = self._listen_to(process)
            except (BrokenPipeError, EOFError, pickle.UnpicklingError) as exc:
                process.kill()
                raise ModelError(
                    f"A process that worked beside others ended with code {process.wait()}. If that was for lack of "
                    "memory (code -9), set METAFUSE_THREADS=1, so that one works at a time, and start again.",
                    code=process.returncode,
                ) from exc
        if is_error:
            raise told
        return told

    def _listen_to(self, process: subprocess.Popen[bytes]) -> tuple[bool, Any]:
        """Note what a process reports; returns whether it ended with an error, and the error or the result."""
        while True:
            kind, told = pickle.load(cast(BinaryIO, process.stdout))
            if kind != _NOW:
                return kind == _FAILED, told
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


def work(descriptor: int) -> None:
    """Run the call on standard input; what it reports and returns goes to a file of this process."""
    import torch

    torch.set_num_threads(1)
    with os.fdopen(descriptor, "wb") as told:

        def tell(kind: str, content: Any) -> None:
            told.write(pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL))
            told.flush()

        try:
            call = pickle.load(sys.stdin.buffer)
            Thread(target=_end_with_input, daemon=True).start()
            with progress.listening(lambda *now: tell(_NOW, now)):
                result = call()
            tell(_DONE, result)
        except Exception as exc:
            tell(_FAILED, _as_stored(exc))


def _end_with_input() -> None:
    """End this process with the one that started it."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _as_stored(error: Exception) -> Exception:
    """Return an error as pickle can store it, with the traceback of this process."""
    text = "".join(traceback.format_exception(error))
    error.add_note(text)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(text)
    return error
