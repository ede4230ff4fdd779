"""Contenders that take turns on one thread, so that other work on the machine hits them alike."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Contender:
    """Work, and how many units of it one call does."""

    work: Callable[[], Any]
    units: int


@dataclass(frozen=True)
class Pace:
    """How long to measure: rounds, and the seconds that each contender works at least in one; and by which clock."""

    rounds: int
    seconds: float
    clock: Callable[[], float] = time.process_time


def take_turns(contenders: Mapping[str, Contender], pace: Pace) -> dict[str, list[float]]:
    """Return the seconds that each contender took per unit of work, round by round; medians go to stderr."""
    calls = {name: _calls(contender, pace) for name, contender in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(pace.rounds):
        for name, contender in contenders.items():
            times[name].append(seconds_of(contender.work, calls[name], pace.clock) / contender.units)
    for name, seconds in times.items():
        print(f"{name:<24} {1 / statistics.median(seconds):12.4g} a second", file=sys.stderr)
    return times


def how_many_times_faster(times: Mapping[str, list[float]], name: str, other: str) -> float:
    """Return the median over the rounds of what `other` took over what `name` took."""
    return statistics.median(slow / fast for fast, slow in zip(times[name], times[other], strict=True))


def gpu_clock() -> float:
    """Return the seconds on the wall when the GPU has done what it was asked to."""
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(work: Callable[[], Any], calls: int = 1, clock: Callable[[], float] = time.process_time) -> float:
    """Return the seconds of one call, of the CPU unless by another clock, a mean over `calls`."""
    started = clock()
    for _ in range(calls):
        work()
    return (clock() - started) / calls


def _calls(contender: Contender, pace: Pace) -> int:
    contender.work()
    return max(1, round(pace.seconds / max(seconds_of(contender.work, clock=pace.clock), 1e-6)))
