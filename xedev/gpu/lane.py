"""One context on its engine: what runs there, and what it asks of the hardware."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from greenlet import greenlet

from xedev.gpu.command_streamer import CommandStreamer
from xedev.gpu.context import Context
from xedev.gpu.ports import Access, Watch
from xedev.gpu.ppgtt import VmMemory

if TYPE_CHECKING:
    from xedev.gpu.abi import EngineInfo
    from xedev.gpu.engine import Queue
    from xedev.gpu.executor import Executor

__all__ = ("Lane", "LaneState")

FIRST_NAP, LAST_NAP = 20_000, 500_000
"""Nanoseconds between two looks of a batch that spins: short at first, for who answers at once."""


class LaneState(Enum):
    """Why a lane does not run just now, if it does not."""

    IDLE = "idle"
    """It has nothing to run, or is done."""
    READY = "ready"
    ASLEEP = "asleep"
    """Until a time."""
    WAITING = "waiting"
    """For an answer of the driver, or for the other lanes of its queue."""


class Lane:
    """One of the contexts of a queue, each on an engine of its own (see `EnginePort`).

    Its commands run in a greenlet, which gives way to the executor's loop when it has run long
    enough, when it spins, and when it needs an answer.
    """

    def __init__(self, executor: Executor, queue: Queue, slot: int) -> None:
        self._executor = executor
        self._clock = executor.clock
        self.queue = queue
        self.slot = slot
        self.engine_class = queue.placement.engine_class
        self.mmio_base = 0
        self.state = LaneState.IDLE
        self.wake_at = 0
        """Nanoseconds of real time."""
        self.answer: object = None
        self.is_blocked = False
        """Whether it waits at a semaphore."""
        self.has_moved = False
        """Whether it has come to that since somebody asked."""
        self._nap = FIRST_NAP
        self._greenlet: greenlet | None = None
        self._memory = VmMemory(queue.ppgtt, self._page_fault, self.checkpoint)
        self._streamer = CommandStreamer(Context(), self._memory, self)

    @property
    def memory(self) -> VmMemory:
        """What its commands see."""
        return self._memory

    # ---- the loop's side ----

    def start(self, batch: int, then: Callable[[], None]) -> None:
        """Have a batch run, and ``then`` after it in the same greenlet."""

        def run() -> None:
            self._streamer.run(batch)
            then()

        self._greenlet = greenlet(run)
        self.state = LaneState.READY
        self._nap = FIRST_NAP

    def enter(self, engine: EngineInfo) -> None:
        """Get on an engine."""
        self.mmio_base = engine.mmio_base

    def resume(self) -> None:
        """Run on until it gives way, or is done; raises what the commands raise."""
        assert self._greenlet is not None
        self.state = LaneState.READY
        self._greenlet.switch()

    def drop(self) -> None:
        """Forget what it was at."""
        self.state = LaneState.IDLE
        running, self._greenlet = self._greenlet, None
        if running is not None and running:
            running.throw()

    @property
    def command_address(self) -> int:
        """Where the newest of the commands is; 0 before the first."""
        return self._streamer.command_address

    def where(self) -> list[str]:
        """What the commands were at, for people."""
        return self._streamer.where()

    # ---- the commands' side ----

    def timestamp(self) -> int:
        """Ticks of the GT's clock."""
        return self._clock.ticks(self._clock.now())

    def context_timestamp(self) -> int:
        """Ticks on an engine."""
        return self._clock.ticks(self.queue.time_on_engine())

    def checkpoint(self) -> None:
        """Give way if it was long enough."""
        self._clock.worked()
        if self._clock.now() >= self._executor.deadline:
            self._give_way(LaneState.READY)

    def spin(self, watches: Sequence[Watch]) -> None:
        """Sleep until one of the watches has changed, or for a while."""
        if not watches:
            self._wait_for_time()
            return
        read = self._memory.read
        while all(read(watch.address, len(watch.value)) == watch.value for watch in watches):
            self._sleep()
        self._nap = FIRST_NAP

    def wait(self, watches: Sequence[Watch]) -> None:
        """The same at a semaphore."""
        self.is_blocked = self.has_moved = True
        try:
            self.spin(watches)
        finally:
            self.is_blocked = False

    def give_way_until_answered(self) -> object:
        """Wait; what came."""
        self._give_way(LaneState.WAITING)
        answer, self.answer = self.answer, None
        return answer

    def give_way_until_woken(self) -> None:
        """Wait for the other lanes."""
        self._give_way(LaneState.WAITING)

    def _wait_for_time(self) -> None:
        if self._clock.is_virtual:
            self._nap = FIRST_NAP  # as long as time needs to pass, which is none
            self._clock.pass_time(LAST_NAP)
        self._sleep()

    def _sleep(self) -> None:
        nap = self._nap
        # At a multiple of the nap: many sleepers wake together, and cost little more than one.
        self.wake_at = -(-(self._executor.real_now() + nap // 2) // nap) * nap
        self._nap = min(self._nap * 2, LAST_NAP)
        self._give_way(LaneState.ASLEEP)

    def _give_way(self, state: LaneState) -> None:
        self.state = state
        self._executor.give_way()

    def _page_fault(self, address: int, access: Access) -> bool:
        return self._executor.page_fault(self, address, access)
