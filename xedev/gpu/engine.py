"""Engines, the queues that share them, and the jobs of those."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from uapi import xe_drm
from xedev.gpu.abi import EngineInfo, Placement
from xedev.gpu.hw_engine_group import EngineModes, has_fences
from xedev.gpu.lane import Lane, LaneState
from xedev.gpu.ppgtt import Ppgtt
from xedev.gpu.queue_group import QueueGroup

if TYPE_CHECKING:
    from xedev.gpu.executor import Executor

__all__ = ("Engine", "Engines", "Entry", "Job", "Queue")

NS_PER_MS = 1_000_000
NS_PER_US = 1_000

ENGINE_GROUPS = {
    xe_drm.DRM_XE_ENGINE_CLASS_COPY: 0,
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: 1,
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: 1,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: 2,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: 2,
}
"""Kernel: ``xe_hw_engine_setup_groups``."""


@dataclass(slots=True, eq=False)
class Job:
    """One thing to run: a batch for each lane."""

    seqno: int
    batches: tuple[int, ...]
    fence: tuple[int, int] | None
    """GPU address and value to write when it is done."""
    is_started: bool = False
    begin: int = 0
    """Its queue's real time on engines when it began, nanoseconds."""


@dataclass(slots=True, eq=False)
class Engine:
    """One engine, and the queue that is on it."""

    info: EngineInfo
    queue: Queue | None = None


class _Stopwatch:
    """Nanoseconds of the times between `start` and `stop`."""

    __slots__ = ("_before", "_now", "_since")

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._before = 0
        self._since = -1

    def start(self) -> int:
        """Go on; the time of the clock."""
        self._since = self._now()
        return self._since

    def stop(self) -> None:
        """Pause."""
        self._before, self._since = self.elapsed(), -1

    def elapsed(self) -> int:
        """All of it, up to now."""
        return self._before + (self._now() - self._since if self._since >= 0 else 0)


class Queue:
    """Jobs that run one after the other, each on ``width`` engines at once."""

    def __init__(self, executor: Executor, number: int, ppgtt: Ppgtt, placement: Placement) -> None:
        self.number = number
        self.ppgtt = ppgtt
        self.placement = placement
        self.lanes = [Lane(executor, self, slot) for slot in range(placement.width)]
        self.jobs: deque[Job] = deque()
        self.group: QueueGroup | None = None
        """With whom it shares a context."""
        self.group_priority = placement.group_priority
        self.is_dead = False
        self.is_waiting = False
        """Whether it is in line for its engines."""
        self.engines: list[Engine] = []
        """Those that it is on, one for each lane."""
        self.reach = 0
        """Logical instances that it may ever be on; one bit each."""
        for slot in range(placement.width):
            self.reach |= placement.mask << slot
        self.slice_end = 0
        """When others may come first, nanoseconds of real time."""
        self._on_engine = _Stopwatch(executor.clock.now)
        self._really_on_engine = _Stopwatch(time.monotonic_ns)

    @property
    def entry(self) -> Entry:
        """What stands in line and on engines for it."""
        return self.group or self

    @property
    def current(self) -> Queue:
        """Itself, as opposed to a group."""
        return self

    @property
    def is_running(self) -> bool:
        """Whether it is on its engines."""
        return bool(self.engines)

    @property
    def has_next_job(self) -> bool:
        """Whether it is on its engines with a job that has not begun."""
        return bool(self.engines and self.jobs) and not self.jobs[0].is_started

    @property
    def is_asleep(self) -> bool:
        """Whether its lanes only look at memory now and then."""
        return all(lane.state is not LaneState.READY for lane in self.lanes)

    def time_on_engine(self) -> int:
        """Nanoseconds of the hardware's clock, of all its life."""
        return self._on_engine.elapsed()

    def begin_job(self) -> Job:
        """Its first job begins."""
        job = self.jobs[0]
        job.is_started = True
        job.begin = self._really_on_engine.elapsed()
        return job

    def time_left(self) -> int | None:
        """Nanoseconds of real time that the job at its head may still take; None for any time."""
        limit = self.placement.timeout_ms * NS_PER_MS
        if not limit or not self.jobs or not self.jobs[0].is_started:
            return None
        return limit - (self._really_on_engine.elapsed() - self.jobs[0].begin)

    @contextmanager
    def excused(self) -> Iterator[None]:
        """What passes meanwhile is no time of the job at its head, unless it is over the limit: the
        driver of a real device would not have been asked."""
        began = self._really_on_engine.elapsed()
        yield
        self.jobs[0].begin += self._really_on_engine.elapsed() - began

    @property
    def engine_group(self) -> tuple[int, int]:
        """The engines that have one mode (kernel: ``struct xe_hw_engine_group``)."""
        return self.placement.gt_id, ENGINE_GROUPS[self.placement.engine_class]

    def enter(self, engines: list[Engine]) -> None:
        """Get on these engines."""
        self._on_engine.start()
        self.slice_end = self._really_on_engine.start() + self.placement.timeslice_us * NS_PER_US
        self.engines = engines
        for lane, engine in zip(self.lanes, engines, strict=True):
            engine.queue = self
            lane.enter(engine.info)

    def leave(self) -> None:
        """Get off them."""
        self._on_engine.stop()
        self._really_on_engine.stop()
        for engine in self.engines:
            engine.queue = None
        self.engines = []

    def drop(self) -> None:
        """All that it has to do is forgotten."""
        self.is_dead = True
        self.jobs.clear()
        for lane in self.lanes:
            lane.drop()


Entry: TypeAlias = Queue | QueueGroup
"""What gets engines."""


class Engines:
    """The engines of a device and who waits for them.

    Within a class and a priority it is first come, first served.  A queue that needs several
    engines at once holds back those behind it, or it would never find them free together.
    """

    def __init__(self, infos: list[EngineInfo]) -> None:
        self._engines = {(i.gt_id, i.engine_class, i.instance): Engine(i) for i in infos}
        self._lines: dict[tuple[int, int], dict[int, deque[Entry]]] = {}
        self.running: list[Entry] = []
        self.may_fill = False
        """Whether something has changed since `fill`: a queue came, or left its engines."""
        self._modes = EngineModes()
        self._faulting: set[Entry] = set()
        """Those with work whose jobs take page faults."""

    def add_job(self, queue: Queue) -> None:
        """A queue has something to run."""
        if queue.group is not None:
            queue.group.line_up(queue)
        self.line_up(queue.entry)

    def job_done(self, queue: Queue, *, stays: bool) -> None:
        """The job is done that was at the head of a queue; whether who has more to run stays on
        its engines."""
        has_more = bool(queue.jobs) if queue.group is None else queue.group.job_done(queue)
        if not has_more or not stays or self._modes.holds(queue.entry):
            self.remove(queue.entry)
        if has_more:
            self.line_up(queue.entry)

    def end(self, queue: Queue) -> None:
        """A queue runs nothing more."""
        if queue.group is None or not queue.group.remove(queue):
            self.remove(queue.entry)

    def line_up(self, queue: Entry) -> None:
        """Somebody has something to run."""
        if queue.is_waiting or queue.is_running or queue.is_dead:
            return
        queue.is_waiting = True
        self.may_fill = True
        if queue.ppgtt.faulting:
            self._faulting.add(queue)
        self._line(queue).setdefault(queue.placement.priority, deque()).append(queue)

    def remove(self, queue: Entry) -> None:
        """It has nothing more to run."""
        self._faulting.discard(queue)
        if queue.is_running:
            self._leave(queue)
        if queue.is_waiting:
            self._leave_line(queue)
            # It may have held others back.
            self.may_fill = True

    def waiting(self) -> Iterator[Entry]:
        """All that wait, those that come first before the others of their class."""
        for line in self._lines.values():
            for priority in sorted(line, reverse=True):
                yield from tuple(line[priority])

    def place(self, queue: Entry) -> bool:
        """Put a waiting queue on its engines if they are free."""
        engines = None if self._may_not_run(queue) else self._free_engines(queue)
        if engines is None:
            return False
        self._leave_line(queue)
        queue.enter(engines)
        self.running.append(queue)
        return True

    def make_room(self, queue: Entry) -> None:
        """Send back in line who is on engines that a waiting queue may be on."""
        for other in tuple(self.running):
            if self._is_rival(queue, other):
                self._send_back(other)

    def preempt(self, now: int) -> None:
        """Queues whose time is over, or whom somebody more important waits for, make room."""
        for queue in tuple(self.running):
            if self.must_leave_at(queue, now) <= now:
                self._send_back(queue)

    def must_leave_at(self, queue: Entry, now: int) -> float:
        """When a running queue has to make room; infinite while nobody wants its engines."""
        if self._may_not_run(queue):
            return now
        own = queue.placement.priority
        when = float("inf")
        for priority, line in self._line(queue).items():
            if priority < own or not any(self._is_rival(other, queue) for other in line):
                continue
            when = min(when, queue.slice_end if priority == own else now)
        return when

    def take_turns(self, now: int) -> None:
        """Let jobs that take faults and those with fences run one kind after the other."""
        if self._faulting:
            changed = self._modes.update(self._all(), now)
        else:
            changed = self._modes.forget()
        self.may_fill |= changed

    def next_turn(self) -> float:
        """When `take_turns` is due."""
        return self._modes.next_change()

    def fill(self) -> None:
        """Put on the engines who is first in line."""
        self.may_fill = False
        for place, line in self._lines.items():
            for priority in sorted(line, reverse=True):
                self._fill_from(place, tuple(line[priority]))

    def _fill_from(self, place: tuple[int, int], line: tuple[Entry, ...]) -> None:
        for queue in line:
            if not self._has_free(place):
                return
            if self.place(queue) or self._may_not_run(queue):
                continue
            if queue.placement.width > 1:
                return

    def _has_free(self, place: tuple[int, int]) -> bool:
        return any(
            engine.queue is None
            for (gt_id, engine_class, _), engine in self._engines.items()
            if (gt_id, engine_class) == place
        )

    def is_suspended(self, queue: Entry) -> bool:
        """Whether a queue that takes page faults has to wait for those of its group with fences:
        a fault must not hold up a job whose fence has to come
        (kernel: ``xe_hw_engine_group_get_mode``)."""
        if not queue.ppgtt.faulting:
            return False
        others = self.running if self._modes.is_for_faults(queue) else self._all()
        return any(
            has_fences(other) and other.engine_group == queue.engine_group for other in others
        )

    def _may_not_run(self, queue: Entry) -> bool:
        return self._modes.holds(queue) or self.is_suspended(queue)

    def _all(self) -> Iterator[Entry]:
        return itertools.chain(self.running, self.waiting())

    def _is_rival(self, waiting: Entry, running: Entry) -> bool:
        """Whether a queue may be on an engine that another one is on."""
        if self._line(waiting) is not self._line(running):
            return False
        return any(waiting.reach >> engine.info.instance & 1 for engine in running.engines)

    def _send_back(self, queue: Entry) -> None:
        self._leave(queue)
        self.line_up(queue)

    def _leave(self, queue: Entry) -> None:
        queue.leave()
        self.running.remove(queue)
        self.may_fill = True

    def _leave_line(self, queue: Entry) -> None:
        queue.is_waiting = False
        self._line(queue)[queue.placement.priority].remove(queue)

    def _line(self, queue: Entry) -> dict[int, deque[Entry]]:
        place = queue.placement
        return self._lines.setdefault((place.gt_id, place.engine_class), {})

    def _free_engines(self, queue: Entry) -> list[Engine] | None:
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
