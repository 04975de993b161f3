"""Whose turn it is: who is on the engines, and which contexts run next.

A GPU in real time shares its engines among all that wait.  A deterministic one does one thing at a
time, in an order that depends on nothing but the seed and what there is to do.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator

from xedev.gpu.engine import Engines, Entry
from xedev.gpu.lane import Lane, LaneState

__all__ = ("InParallel", "OneByOne", "Turns")


class Turns(ABC):
    """Decides for the executor."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    @abstractmethod
    def fill_engines(self, now: int) -> None:
        """Put queues on engines and take others off; ``now`` is real time in nanoseconds."""

    @abstractmethod
    def lanes(self, now: int) -> Iterator[Lane]:
        """Those that may run, of the queues that are on engines."""

    @abstractmethod
    def wake_at(self, now: int) -> float:
        """When something is to be done, if nothing comes from outside; infinite for never."""


class InParallel(Turns):
    """All engines at once, with priorities and time slices."""

    def fill_engines(self, now: int) -> None:
        """Put queues on engines and take others off."""
        self._engines.take_turns(now)
        self._engines.preempt(now)
        self._engines.fill()

    def lanes(self, now: int) -> Iterator[Lane]:
        """All that are ready, or have slept enough."""
        for queue in tuple(self._engines.running):
            for lane in queue.lanes:
                if _wake_at(lane) <= now:
                    yield lane

    def wake_at(self, now: int) -> float:
        """When something is to be done."""
        engines = self._engines
        if engines.may_fill:
            return now
        times = (
            min(engines.must_leave_at(queue, now), *map(_wake_at, queue.lanes))
            for queue in engines.running
        )
        return min(engines.next_turn(), min(times, default=float("inf")))


class OneByOne(Turns):
    """One job at a time.

    A job that looks at memory which somebody else has to change, or at the clock, is asleep: the
    next one may begin, on the same engine if need be.  Sleepers go on when nobody is awake.
    """

    def __init__(self, engines: Engines, seed: int) -> None:
        super().__init__(engines)
        self._seed = seed
        self._begun = 0
        self.is_settled = False
        """Whether all that belongs together is here."""

    def has_choice(self) -> bool:
        """Whether one of several jobs, or of one, may begin."""
        return self._nobody_is_awake() and bool(self._fresh())

    def fill_engines(self, now: int) -> None:
        """Choose the next job, when all that may be chosen is here; or let sleepers have turns."""
        if not self._nobody_is_awake():
            return
        fresh = self._fresh()
        if not fresh:
            self._engines.preempt(now)
            self._engines.fill()
        elif self.is_settled:
            self._begin_one_of(fresh)

    def lanes(self, now: int) -> Iterator[Lane]:
        """Who is awake, or all sleepers if nobody is, and no job waits to begin."""
        if self.has_choice():
            return
        lanes = [lane for queue in self._running() for lane in queue.lanes]
        awake = [lane for lane in lanes if lane.state is LaneState.READY]
        if awake:
            yield from awake
        elif any(_wake_at(lane) <= now for lane in lanes):
            yield from (lane for lane in lanes if lane.state is LaneState.ASLEEP)

    def wake_at(self, now: int) -> float:
        """When something is to be done."""
        if self.has_choice():
            return now if self.is_settled else float("inf")
        if self._engines.may_fill and self._nobody_is_awake():
            return now
        lanes = (lane for queue in self._engines.running for lane in queue.lanes)
        return min(map(_wake_at, lanes), default=float("inf"))

    def _nobody_is_awake(self) -> bool:
        return all(queue.is_asleep and not queue.has_next_job for queue in self._engines.running)

    def _fresh(self) -> list[Entry]:
        """Those whose next job has not begun, in an order that time has no part in."""
        fresh = (
            queue
            for queue in self._engines.waiting()
            if not queue.jobs[0].is_started and not self._engines.is_suspended(queue)
        )
        return sorted(fresh, key=_number)

    def _running(self) -> list[Entry]:
        return sorted(self._engines.running, key=_number)

    def _begin_one_of(self, fresh: list[Entry]) -> None:
        # A generator of its own for each choice: how many there were before must not matter.
        queue = random.Random(f"{self._seed} {self._begun}").choice(fresh)
        self._begun += 1
        self.is_settled = False
        if not self._engines.place(queue):
            self._engines.make_room(queue)
            self._engines.place(queue)


def _wake_at(lane: Lane) -> float:
    if lane.state is LaneState.READY:
        return 0
    return lane.wake_at if lane.state is LaneState.ASLEEP else float("inf")


def _number(queue: Entry) -> int:
    return queue.number
