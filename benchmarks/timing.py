"""Timing calls, and what is said about many timings."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any

__all__ = ("Summary", "combine", "last_cpu", "pinned", "summarize", "time_calls", "tuned_gc")

_WARM_UP = 100  # calls, at most


@dataclass(frozen=True, slots=True)
class Summary:
    """Median, 99th percentile and maximum of some calls, microseconds."""

    median: float
    p99: float
    worst: float


def summarize(samples_ns: Sequence[int]) -> Summary:
    """Sum up timings in nanoseconds."""
    ordered = sorted(samples_ns)
    count = len(ordered)
    return Summary(ordered[count // 2] / 1e3, ordered[count * 99 // 100] / 1e3, ordered[-1] / 1e3)


def combine(rounds: Sequence[Summary]) -> Summary:
    """Several rounds as one: the median of medians and of p99, the worst of all."""
    return Summary(
        median(one.median for one in rounds),
        median(one.p99 for one in rounds),
        max(one.worst for one in rounds),
    )


def time_calls(
    step: Callable[[], Any], count: int, after: Callable[[], Any] | None = None
) -> Summary:
    """Time ``count`` calls one by one, after a few that do not count.

    ``after`` is called after each of them, outside of the time.
    """
    clean_up = after or _nothing
    for _ in range(min(count, _WARM_UP)):
        step()
        clean_up()
    samples = []
    for _ in range(count):
        start = perf_counter_ns()
        step()
        samples.append(perf_counter_ns() - start)
        clean_up()
    return summarize(samples)


def _nothing() -> None:
    """Nothing has to be cleaned up."""


@contextmanager
def tuned_gc() -> Iterator[None]:
    """The garbage collector as the daemon has it: off, and blind to what was there before."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Keep this thread, and processes started meanwhile, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_cpu() -> int:
    """The processor to pin to: the first ones get most of the interrupts."""
    return max(os.sched_getaffinity(0))
