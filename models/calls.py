"""Calls that do not need one another: learning makes them, and whoever has processors to spare runs them."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from models.training import Report

Result = TypeVar("Result")


@runtime_checkable
class Run(Protocol):
    """Runs calls, in whatever order."""

    def __call__(self, calls: Sequence[Callable[[], Result]], /) -> list[Result]:
        """Return what each call returns, in their order."""
        ...


def one_by_one(calls: Sequence[Callable[[], Result]], /) -> list[Result]:
    """Run calls one after the other."""
    return [call() for call in calls]


def report_of(part: str, report: Report, done: int, total: int, what: str) -> None:
    """Report on a part of a whole; with the first two arguments given, it is the `Report` of that part."""
    report(done, total, f"{part}: {what}")
