"""Contenders that take turns on one thread, so that other work on the machine hits them alike."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contender:
    """Work, and how many units of it one call does."""

    work: Callable[[], Any]
    units: int


@dataclass(frozen=True)
class Pace:
    """How long to measure: rounds, and the seconds that each contender works at least in one."""

    rounds: int
    seconds: float


def take_turns(contenders: Mapping[str, Contender], pace: Pace) -> dict[str, list[float]]:
    """Return the CPU seconds that each contender took per unit of work, round by round; medians go to stderr."""
    calls = {name: _calls(contender, pace.seconds) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(pace.rounds):
        for name, contender in contenders.items():
            times[name].append(cpu_seconds(contender.work, calls[name]) / contender.units)
    for name, seconds in times.items():
        print(f"{name:<24} {1 / statistics.median(seconds):12.4g} a CPU second", file=sys.stderr)
    return times


def how_many_times_faster(times: Mapping[str, list[float]], name: str, other: str) -> float:
    """Return the median over the rounds of what `other` took over what `name` took."""
    return statistics.median(slow / fast for fast, slow in zip(times[name], times[other], strict=True))


def cpu_seconds(work: Callable[[], Any], calls: int = 1) -> float:
    """Return the CPU seconds of one call, a mean over `calls`."""
    started = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - started) / calls


def _calls(contender: Contender, seconds: float) -> int:
    contender.work()
    return max(1, round(seconds / max(cpu_seconds(contender.work), 1e-6)))
