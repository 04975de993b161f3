"""Engines, the queues that share them, and the jobs of those."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xedev.gpu.abi import EngineInfo, Placement
from xedev.gpu.lane import Lane
from xedev.gpu.ppgtt import Ppgtt

if TYPE_CHECKING:
    from xedev.gpu.executor import Executor

__all__ = ("Engine", "Engines", "Job", "Queue")


@dataclass(slots=True, eq=False)
class Job:
    """One thing to run: a batch for each lane."""

    seqno: int
    batches: tuple[int, ...]
    fence: tuple[int, int] | None
    """GPU address and value to write when it is done."""
    is_started: bool = False
    begin: int = 0
    """Its queue's time on engines when it began, nanoseconds."""


@dataclass(slots=True, eq=False)
class Engine:
    """One engine, and the queue that is on it."""

    info: EngineInfo
    queue: Queue | None = None


class Queue:
    """Jobs that run one after the other, each on ``width`` engines at once."""

    def __init__(self, executor: Executor, number: int, ppgtt: Ppgtt, placement: Placement) -> None:
        self._clock = executor.clock
        self.number = number
        self.ppgtt = ppgtt
        self.placement = placement
        self.lanes = [Lane(executor, self, slot) for slot in range(placement.width)]
        self.jobs: deque[Job] = deque()
        self.is_dead = False
        self.is_waiting = False
        """Whether it is in line for its engines."""
        self.engines: list[Engine] = []
        """Those that it is on, one for each lane."""
        self.slice_end = 0
        """When others may come first, nanoseconds."""
        self._spent = 0
        self._since = 0

    @property
    def is_running(self) -> bool:
        """Whether it is on its engines."""
        return bool(self.engines)

    @property
    def has_next_job(self) -> bool:
        """Whether it is on its engines with a job that has not begun."""
        return bool(self.engines and self.jobs) and not self.jobs[0].is_started

    def time_on_engine(self) -> int:
        """Nanoseconds, of all its life."""
        running = self._clock.now() - self._since if self.engines else 0
        return self._spent + running

    def enter(self, engines: list[Engine]) -> None:
        """Get on these engines."""
        self._since = self._clock.now()
        self.slice_end = self._since + self.placement.timeslice_us * 1000
        self.engines = engines
        for lane, engine in zip(self.lanes, engines, strict=True):
            engine.queue = self
            lane.enter(engine)

    def leave(self) -> None:
        """Get off them."""
        self._spent = self.time_on_engine()
        for engine in self.engines:
            engine.queue = None
        self.engines = []

    def has_timed_out(self) -> bool:
        """Whether the job at its head takes too long."""
        limit = self.placement.timeout_ms * 1_000_000
        if not limit or not self.jobs or not self.jobs[0].is_started:
            return False
        return self.time_on_engine() - self.jobs[0].begin > limit

    def drop(self) -> None:
        """All that it has to do is forgotten."""
        self.is_dead = True
        self.jobs.clear()
        for lane in self.lanes:
            lane.drop()


class Engines:
    """The engines of a device and who waits for them.

    Within a class and a priority it is first come, first served.  A queue that needs several
    engines at once holds back those behind it, or it would never find them free together.
    """

    def __init__(self, infos: list[EngineInfo]) -> None:
        self._engines = {(i.gt_id, i.engine_class, i.instance): Engine(i) for i in infos}
        self._lines: dict[tuple[int, int], dict[int, deque[Queue]]] = {}
        self.running: list[Queue] = []

    def line_up(self, queue: Queue) -> None:
        """A queue has something to run."""
        if queue.is_waiting or queue.is_running or queue.is_dead:
            return
        queue.is_waiting = True
        self._line(queue).setdefault(queue.placement.priority, deque()).append(queue)

    def remove(self, queue: Queue) -> None:
        """It has nothing more to run."""
        if queue.is_running:
            queue.leave()
            self.running.remove(queue)
        if queue.is_waiting:
            queue.is_waiting = False
            self._line(queue)[queue.placement.priority].remove(queue)

    def waiting(self) -> Iterator[Queue]:
        """All that wait, those that come first before the others of their class."""
        for line in self._lines.values():
            for priority in sorted(line, reverse=True):
                yield from tuple(line[priority])

    def place(self, queue: Queue) -> bool:
        """Put a waiting queue on its engines if they are free."""
        engines = self._free_engines(queue)
        if engines is None:
            return False
        queue.is_waiting = False
        self._line(queue)[queue.placement.priority].remove(queue)
        queue.enter(engines)
        self.running.append(queue)
        return True

    def preempt(self, now: int) -> None:
        """Queues whose time is over, or whom somebody more important waits for, make room."""
        for queue in tuple(self.running):
            if self._must_leave(queue, now):
                queue.leave()
                self.running.remove(queue)
                self.line_up(queue)

    def fill(self) -> None:
        """Put on the engines who is first in line."""
        for line in self._lines.values():
            for priority in sorted(line, reverse=True):
                self._fill_from(tuple(line[priority]))

    def _fill_from(self, line: tuple[Queue, ...]) -> None:
        for queue in line:
            if not self.place(queue) and queue.placement.width > 1:
                return

    def _must_leave(self, queue: Queue, now: int) -> bool:
        own = queue.placement.priority
        for priority, line in self._line(queue).items():
            if line and (priority > own or (priority == own and now >= queue.slice_end)):
                return True
        return False

    def _line(self, queue: Queue) -> dict[int, deque[Queue]]:
        place = queue.placement
        return self._lines.setdefault((place.gt_id, place.engine_class), {})

    def _free_engines(self, queue: Queue) -> list[Engine] | None:
        place = queue.placement
        for start in range(place.mask.bit_length()):
            if not place.mask >> start & 1:
                continue
            found = [
                self._engines[place.gt_id, place.engine_class, start + slot]
                for slot in range(place.width)
            ]
            if all(engine.queue is None for engine in found):
                return found
        return None
