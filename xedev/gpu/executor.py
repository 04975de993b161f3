"""The process that is the GPU: it takes jobs from the driver, runs them, and tells.

One thread and one loop.  Each context that has something to run is a greenlet of its own; they take
turns, a fraction of a millisecond each, so engines run beside each other as far as anybody sees.
"""

from __future__ import annotations

import os
import resource
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial

from greenlet import getcurrent

from xedev.gpu import abi
from xedev.gpu.abi import Ask, EngineInfo, Failure, Hardware, Placement, Range, RangeKind
from xedev.gpu.channel import Channel, Closed, Message
from xedev.gpu.clock import Clock, VirtualClock
from xedev.gpu.engine import Engines, Job, Queue
from xedev.gpu.lane import Lane, LaneState
from xedev.gpu.pages import BoPages, ClientPages, NullPages, OpenFiles, Pages, UnboundPages
from xedev.gpu.ports import Access, GpuFault, GpuHang
from xedev.gpu.ppgtt import Ppgtt
from xedev.gpu.queue_group import QueueGroup
from xedev.gpu.turns import InParallel, OneByOne, Turns

__all__ = ("Executor", "main")

QUANTUM = 300_000
"""Nanoseconds that a context runs before others, and messages, have a turn."""
NS_PER_S = 1_000_000_000
FILES_MAX = 512
"""Contents of BOs that are open at the same time, at most."""


class Executor:
    """All engines of one device."""

    def __init__(self, channel: Channel, hardware: Hardware) -> None:
        self._channel = channel
        is_deterministic = hardware.seed >= 0
        make_clock = VirtualClock if is_deterministic else Clock
        self.clock = make_clock(hardware.reference_clock)
        self.deadline = 0
        """When the context that runs shall give way, nanoseconds."""
        self._engines = Engines([EngineInfo(*info) for info in hardware.engines])
        self._one_by_one = OneByOne(self._engines, hardware.seed) if is_deterministic else None
        self._turns: Turns = self._one_by_one or InParallel(self._engines)
        self._vms: dict[int, Ppgtt] = {}
        self._queues: dict[int, Queue] = {}
        self._groups: dict[int, QueueGroup] = {}
        """By the numbers of their primary queues."""
        self._files = OpenFiles(_files_limit())
        self._bos: dict[int, BoPages] = {}
        self._clients: dict[int, ClientPages] = {}
        self._requests: dict[int, Lane] = {}
        """Who waits for an answer, by its number."""
        self._request = 0
        self._settle_request = 0
        """The number of the question whether all is here; 0 for none."""
        self._loop = getcurrent()
        self._current: Lane | None = None
        self._handlers: dict[int, Callable[..., None]] = {
            abi.VM: self._vm,
            abi.VM_END: self._vm_end,
            abi.MAP: self._map,
            abi.QUEUE: self._queue,
            abi.QUEUE_END: self._queue_end,
            abi.GROUP_END: self._group_end,
            abi.GROUP_PRIORITY: self._group_priority,
            abi.JOB: self._job,
            abi.REPLY: self._reply,
            abi.STAT: self._stat,
            abi.RESET: self._reset,
            abi.FORGET: self._forget,
        }

    # ---- the loop ----

    def run(self) -> None:
        """Until the driver is gone."""
        try:
            while True:
                self._end_late_jobs()
                self._fill_engines()
                self._run_lanes()
                self._settle()
                self._channel.flush()
                if self._channel.wait(self._time_to_sleep()):
                    self._handle(self._channel.receive())
        except Closed:
            return

    def _handle(self, messages: list[Message]) -> None:
        for message in messages:
            self._handlers[message[0]](*message[1:])

    def _time_to_sleep(self) -> float | None:
        """Seconds until something is to be done; None for only when told."""
        running = [entry.current for entry in self._engines.running]
        if any(queue.has_next_job for queue in running):
            return 0.0
        now = self.real_now()
        times = [float("inf") if self._is_held() else self._turns.wake_at(now)]
        times += [now + left for queue in running if (left := queue.time_left()) is not None]
        wake_at = min(times)
        return None if wake_at == float("inf") else max(0.0, wake_at - now) / NS_PER_S

    def _is_held(self) -> bool:
        """Whether, one by one, all wait for what somebody has asked the driver."""
        return self._one_by_one is not None and bool(self._requests)

    def _fill_engines(self) -> None:
        if not self._is_held():
            self._turns.fill_engines(self.real_now())

    def _settle(self) -> None:
        """One by one, a choice is made among all that are released together."""
        turns = self._one_by_one
        if turns is None or self._settle_request or self._is_held():
            return
        if turns.has_choice() and not turns.is_settled:
            self._settle_request = self._ask(Ask.SETTLE)

    def _run_lanes(self) -> None:
        for entry in tuple(self._engines.running):
            if entry.has_next_job:
                self._start(entry.current)
        for lane in self._turns.lanes(self.real_now()):
            if self._is_held():
                return
            self._run_for_a_while(lane)

    def _run_for_a_while(self, lane: Lane) -> None:
        queue = lane.queue
        end = self.real_now() + QUANTUM
        # Others of its queue may have ended it.
        if queue.is_running and lane.state in (LaneState.READY, LaneState.ASLEEP):
            self._run(lane)
            if queue.group is not None:
                queue.group.gave_way(queue)
        # Short jobs follow each other without a look at messages in between.
        while queue.has_next_job and queue.placement.width == 1 and self.real_now() < end:
            self._start(queue)
            self._run(lane)
            if queue.group is not None:
                queue.group.gave_way(queue)

    def _run(self, lane: Lane) -> None:
        queue = lane.queue
        self.deadline = self.clock.now() + QUANTUM
        self._current = lane
        try:
            lane.resume()
        except GpuFault as fault:
            self._fail(queue, Failure.FAULT, lane, fault.address, int(fault.access))
        except GpuHang as hang:
            self._fail(queue, Failure.HANG, lane, lines=[str(hang)])
        except Exception:  # noqa: BLE001 - others go on; the driver makes it an error of the mock
            self._channel.post((abi.BUG, traceback.format_exc()))
            self._fail(queue, Failure.HANG, lane)
        finally:
            self._current = None

    # ---- jobs ----

    def _start(self, queue: Queue) -> None:
        job = queue.begin_job()
        info = queue.engines[0].info
        place = (info.engine_class, info.instance, info.gt_id)
        self._channel.post((abi.STARTED, queue.number, job.seqno, place, time.monotonic_ns()))
        for lane, batch in zip(queue.lanes, job.batches, strict=True):
            lane.start(batch, partial(self._lane_is_done, lane, job))

    def _lane_is_done(self, lane: Lane, job: Job) -> None:
        """In the lane: the lanes of a queue wait for each other, and the first one ends the job."""
        queue = lane.queue
        if lane.slot:
            lane.state = LaneState.IDLE
            self._wake_first(queue)
            return
        while any(other.state is not LaneState.IDLE for other in queue.lanes[1:]):
            lane.give_way_until_woken()
        if job.fence is not None:
            address, value = job.fence
            lane.memory.write(address, value.to_bytes(8, "little"))
        lane.state = LaneState.IDLE
        self._complete(queue, job)

    def _wake_first(self, queue: Queue) -> None:
        first = queue.lanes[0]
        if first.state is LaneState.WAITING and first not in self._requests.values():
            first.state = LaneState.READY

    def _complete(self, queue: Queue, job: Job) -> None:
        queue.jobs.popleft()
        ticks = self.clock.ticks(queue.time_on_engine())
        self._channel.post((abi.DONE, queue.number, job.seqno, ticks, time.monotonic_ns()))
        self._engines.job_done(queue, stays=self._one_by_one is None)

    def _fail(
        self,
        queue: Queue,
        failure: Failure,
        lane: Lane | None = None,
        address: int = 0,
        access: int = 0,
        lines: list[str] | None = None,
    ) -> None:
        """The queue runs nothing more.  Where no ``address`` is to blame, it is told which command
        it was at."""
        seqno = queue.jobs[0].seqno if queue.jobs else 0
        lane = lane or queue.lanes[0]
        address = address or lane.command_address
        dump = (lines or []) + lane.where()
        if queue.group is None:
            self._end(queue)
        else:
            self._end_group(queue.group)
        self._channel.post(
            (
                *(abi.FAILED, queue.number, seqno, int(failure), address, access),
                *(tuple(dump), self.clock.ticks(queue.time_on_engine()), time.monotonic_ns()),
            )
        )

    def _end_group(self, group: QueueGroup) -> None:
        """No queue goes on without the others."""
        group.is_dead = True
        for queue in group.members:
            self._end(queue)

    def _end(self, queue: Queue) -> None:
        self._engines.end(queue)
        for request in [r for r, lane in self._requests.items() if lane.queue is queue]:
            del self._requests[request]
        queue.drop()

    def _end_late_jobs(self) -> None:
        for entry in tuple(self._engines.running):
            queue = entry.current
            left = queue.time_left()
            if left is not None and left < 0:
                self._fail(queue, Failure.TIMEOUT)

    # ---- what lanes need ----

    def real_now(self) -> int:
        """Nanoseconds of CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def give_way(self) -> None:
        """In a lane: let the loop go on."""
        self._loop.switch()

    def ask(self, what: Ask, *details: object) -> object:
        """In a lane: the driver's answer."""
        lane = self._current
        assert lane is not None
        self._requests[self._ask(what, *details)] = lane
        with lane.queue.excused():
            return lane.give_way_until_answered()

    def _ask(self, what: Ask, *details: object) -> int:
        """Put a question; its number."""
        self._request += 1
        self._channel.post((abi.ASK, self._request, int(what), *details))
        return self._request

    def page_fault(self, lane: Lane, address: int, access: Access) -> bool:
        """In a lane: have the driver mend the page tables; whether it did."""
        queue = lane.queue
        return bool(self.ask(Ask.FAULT, queue.number, address, int(access)))

    # ---- messages ----

    def _vm(self, vm: int, bits: int, scratch: bool, faulting: bool, is_lr: bool) -> None:
        self._vms[vm] = Ppgtt(bits, scratch, faulting, is_lr)

    def _vm_end(self, vm: int) -> None:
        del self._vms[vm]

    def _map(self, vm: int, ranges: tuple[tuple[int, ...], ...], token: int) -> None:
        # A bind that had to wait may come after the end of its VM.
        ppgtt = self._vms.get(vm)
        if ppgtt is not None:
            pieces = [Range(*piece) for piece in ranges]  # type: ignore[arg-type]
            ppgtt.map([(piece, self._pages(piece)) for piece in pieces])
        if token:
            self._channel.post((abi.ACK, token))

    def _pages(self, piece: Range) -> Pages | None:
        if piece.kind == RangeKind.BO:
            pages = self._bos.get(piece.key)
            if pages is None:
                pages = self._bos[piece.key] = BoPages(piece.key, self.ask, self._files)
            return pages
        if piece.kind == RangeKind.CLIENT:
            return self._clients.setdefault(piece.key, ClientPages(piece.key, self.ask))
        return _SIMPLE_PAGES[piece.kind]

    def _queue(self, number: int, vm: int, placement: tuple[int, ...]) -> None:
        queue = self._queues[number] = Queue(self, number, self._vms[vm], Placement(*placement))
        primary = queue.placement.group
        if primary:
            queue.group = self._groups.setdefault(primary, QueueGroup(queue))
            queue.group.add(queue)

    def _queue_end(self, number: int, token: int) -> None:
        queue = self._queues.pop(number)
        self._end(queue)
        group = queue.group
        if group is not None:
            group.members.remove(queue)
            if not group.members:
                del self._groups[group.number]
        self._channel.post((abi.ENDED, number, self.clock.ticks(queue.time_on_engine())))
        self._channel.post((abi.ACK, token))

    def _group_end(self, number: int, token: int) -> None:
        group = self._groups.get(number)
        if group is not None:
            self._end_group(group)
        self._channel.post((abi.ACK, token))

    def _group_priority(self, number: int, priority: int) -> None:
        self._queues[number].group_priority = priority

    def _job(
        self, number: int, seqno: int, batches: tuple[int, ...], fence: tuple[int, int] | None
    ) -> None:
        queue = self._queues[number]
        if queue.is_dead:
            return  # the driver has not heard of it yet
        queue.jobs.append(Job(seqno, batches, fence))
        self._engines.add_job(queue)
        if self._one_by_one is not None:
            self._one_by_one.is_settled = False

    def _reply(self, request: int, answer: object) -> None:
        if request == self._settle_request and self._one_by_one is not None:
            self._settle_request = 0
            self._one_by_one.is_settled = True
        lane = self._requests.pop(request, None)
        if lane is not None:
            lane.answer = answer
            lane.state = LaneState.READY

    def _stat(self, token: int) -> None:
        ticks = tuple(
            (number, self.clock.ticks(queue.time_on_engine()))
            for number, queue in self._queues.items()
        )
        self._channel.post((abi.STATS, token, ticks))

    def _forget(self, bos: tuple[int, ...], clients: tuple[int, ...]) -> None:
        for bo in bos:
            pages = self._bos.pop(bo, None)
            if pages is not None:
                pages.end()
        for client in clients:
            memory = self._clients.pop(client, None)
            if memory is not None:
                memory.close()

    def _reset(self) -> None:
        for queue in tuple(self._queues.values()):
            if queue.jobs and queue.jobs[0].is_started:
                self._fail(queue, Failure.RESET)


_SIMPLE_PAGES: dict[int, Pages | None] = {
    RangeKind.NONE: None,
    RangeKind.NULL: NullPages(),
    RangeKind.UNBOUND: UnboundPages(),
}


def _files_limit() -> int:
    """What this process may open, less what it needs for itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(FILES_MAX, soft // 2))


def main(fd: int) -> None:
    """Be the GPU at the other end of socket ``fd``."""
    # The lowest number that is free: the driver's may be more than select(2) knows.
    low = os.dup(fd)
    os.close(fd)
    channel = Channel(socket.socket(fileno=low))
    try:
        first, *rest = channel.receive()
    except Closed:
        return
    assert first[0] == abi.HELLO
    executor = Executor(channel, Hardware(*first[1]))
    executor._handle(rest)
    executor.run()
