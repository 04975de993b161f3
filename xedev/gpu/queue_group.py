"""Queues that share one context (kernel: a multi-queue group, xe_exec_queue.c).

To the engines the group is one queue.  Of its members one runs at a time, until its job is done or
comes to a semaphore that it has to wait for; then the next one is chosen by priority, then in line.
A batch that spins without a semaphore keeps the others out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from xedev.gpu.abi import Placement
from xedev.gpu.lane import Lane, LaneState

if TYPE_CHECKING:
    from xedev.gpu.engine import Engine, Job, Queue
    from xedev.gpu.ppgtt import Ppgtt

__all__ = ("QueueGroup",)


class QueueGroup:
    """Its place in line and on an engine, and whose turn it is."""

    def __init__(self, first: Queue) -> None:
        self.placement: Placement = first.placement
        self.number = first.placement.group
        self.ppgtt: Ppgtt = first.ppgtt
        self.reach = first.reach
        self.engine_group = first.engine_group
        self.is_waiting = False
        self.is_dead = False
        self.slice_end = 0
        self.members: list[Queue] = []
        self.current = first
        """Who runs when the group is on an engine."""
        self._line: list[Queue] = []
        """Members that have something to run, in the order in which they came."""
        self._tried: set[Queue] = set()
        """Members that were found to wait for a semaphore since any of them has moved."""

    # ---- as a queue ----

    @property
    def engines(self) -> list[Engine]:
        """That which it is on."""
        return self.current.engines

    @property
    def is_running(self) -> bool:
        """Whether it is on its engine."""
        return self.current.is_running

    @property
    def jobs(self) -> deque[Job]:
        """What begins, or goes on, when the group is on its engine."""
        return self.current.jobs

    @property
    def lanes(self) -> list[Lane]:
        """Those that may run."""
        return self.current.lanes

    @property
    def has_next_job(self) -> bool:
        """Whether it is on its engine with a job that has not begun."""
        return self.current.has_next_job

    @property
    def is_asleep(self) -> bool:
        """Whether all that may run only looks at memory now and then."""
        return self.current.is_asleep

    def enter(self, engines: list[Engine]) -> None:
        """Get on an engine."""
        self.current.enter(engines)
        self.slice_end = self.current.slice_end

    def leave(self) -> None:
        """Get off it."""
        self.current.leave()

    # ---- its members ----

    def add(self, queue: Queue) -> None:
        """A queue belongs to it from now on."""
        self.members.append(queue)
        queue.is_dead = self.is_dead

    def remove(self, queue: Queue) -> bool:
        """A member ended, or has nothing more to run; whether others have."""
        if queue not in self._line:
            return bool(self._line)
        self._line.remove(queue)
        self._tried.clear()
        if self._line and self.current is queue:
            self._go_on_with(self._order()[0])
        return bool(self._line)

    def line_up(self, queue: Queue) -> None:
        """A member has something to run."""
        if queue in self._line:
            return
        self._line.append(queue)
        if len(self._line) == 1:
            self._go_on_with(queue)
        elif _is_blocked(self.current):
            self.current.lanes[0].wake_at = 0  # and so give way to who has come

    def job_done(self, queue: Queue) -> bool:
        """The current member is done with a job; whether anybody has another one."""
        self._line.remove(queue)
        if queue.jobs:
            self._line.append(queue)
        self._tried.clear()
        if self._line:
            self._go_on_with(self._order()[0])
        return bool(self._line)

    def gave_way(self, queue: Queue) -> None:
        """A member has had its turn: if it waits for a semaphore, others come first."""
        if queue is not self.current:
            return
        lane = queue.lanes[0]
        is_blocked = _is_blocked(queue)
        if lane.has_moved or not is_blocked:
            self._tried.clear()
        lane.has_moved = False
        if not is_blocked:
            return
        self._tried.add(queue)
        rest = [member for member in self._order() if member not in self._tried]
        if rest:
            self._go_on_with(rest[0])
            return
        self._tried.clear()
        self._go_on_with(self._order()[0], wake_at=lane.wake_at)

    def _order(self) -> list[Queue]:
        return sorted(self._line, key=lambda member: -member.group_priority)

    def _go_on_with(self, queue: Queue, wake_at: int = 0) -> None:
        """It is a member's turn; one that waits looks at its semaphore at ``wake_at``."""
        lane = queue.lanes[0]
        if lane.state is LaneState.ASLEEP:
            lane.wake_at = wake_at
        if queue is self.current:
            return
        engines = self.engines
        if engines:
            self.current.leave()
            queue.enter(engines)
        self.current = queue


def _is_blocked(queue: Queue) -> bool:
    lane = queue.lanes[0]
    return lane.is_blocked and lane.state is LaneState.ASLEEP
