"""Progress bars on standard error, one for each thing that reports itself, for people only."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tasks.progress import listening

MOST_BARS = 8
"""Of these, ended ones give way to new ones; as many as are under way are shown."""


@contextmanager
def shown_progress() -> Iterator[None]:
    """Show what the body reports through `tasks.progress` and clear it at the end; nothing if nobody is watching."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    try:
        with listening(Bars(progress)):
            yield
    finally:
        progress.stop()


class Bars:
    """One bar for each thing that is being done; a total of 0 is one that is not known."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.numbers: dict[str, TaskID] = {}
        self.ended: set[str] = set()

    def __call__(self, done: int, total: int, what: str) -> None:
        """Move the bar of `what`."""
        self.progress.start()
        is_done = 0 < total <= done
        if what in self.ended and not is_done:  # it is done once more
            self._remove(what)
        if what not in self.numbers:
            self._make_room()
            self.numbers[what] = self.progress.add_task(what, total=total or None)
        self.progress.update(self.numbers[what], completed=done, total=total or None)
        if is_done:
            self.ended.add(what)

    def _make_room(self) -> None:
        """Take away the oldest bar that has ended if there are many."""
        oldest = next((what for what in self.numbers if what in self.ended), None)
        if len(self.numbers) >= MOST_BARS and oldest is not None:
            self._remove(oldest)

    def _remove(self, what: str) -> None:
        self.progress.remove_task(self.numbers.pop(what))
        self.ended.remove(what)
