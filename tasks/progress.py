"""How far a long step is, for whoever listens: a progress bar, a log, nobody."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int, str], None]
"""Called with what is done, the total, and what is being done."""

_listener: ContextVar[Listener | None] = ContextVar("metafuse_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` for every report within the body, also from flows and tasks that it runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(done: int, total: int, what: str) -> None:
    """Say that `done` of `total` is finished."""
    listener = _listener.get()
    if listener is not None:
        listener(done, total, what)
