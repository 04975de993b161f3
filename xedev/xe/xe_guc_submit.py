"""Jobs on their way to the engines and back; resets, bans and kills
(kernel: drivers/gpu/drm/xe/xe_guc_submit.c)."""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from xedev.gpu import abi
from xedev.gpu.abi import Ask, Failure
from xedev.kernel.workqueue import Workqueue
from xedev.xe.xe_guc_ct import Handler, XeGucCt
from xedev.xe.xe_pagefault import XeGpuRequests, save_fault
from xedev.xe.xe_sched_job import XeSchedJob

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_exec_queue import XeExecQueue
    from xedev.xe.xe_vm import XeVm

__all__ = ("XeGuc",)

logger = logging.getLogger("xedev")

REQUEST_THREADS = 4
"""Answers that the GPU may await at the same time."""
CLIENT_REQUESTS = frozenset({Ask.READ, Ask.WRITE, Ask.SWAP})
"""They may hang in the memory of a client, and shall then stop only their like."""
CLIENT_THREADS = 32
FAILURE_THREADS = 2
"""One of them keeps the first failure, and may hang likewise."""

_ERRORS = {
    Failure.FAULT: errno.EIO,
    Failure.HANG: errno.EIO,
    Failure.TIMEOUT: errno.ETIME,
    Failure.RESET: errno.ETIME,
}
"""What the fence of the job that failed gets; those after it get ECANCELED
(kernel: ``guc_exec_queue_timedout_job``)."""
_ENGINE_RESETS = frozenset({Failure.FAULT, Failure.HANG})
"""They concern all queues of a group, busy or not."""


class XeGuc:
    """What stands between the queues of a device and its engines."""

    def __init__(self, xe: XeDevice) -> None:
        self._xe = xe
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._queues: dict[int, XeExecQueue] = {}
        """Those that the GPU knows, or will hear of."""
        self.requests = XeGpuRequests(xe, self)
        self._request_wq = Workqueue("guc-requests", REQUEST_THREADS)
        self._client_wq = Workqueue("guc-clients", CLIENT_THREADS)
        self._failure_wq = Workqueue("guc-failures", FAILURE_THREADS)
        handlers: dict[int, Handler] = {
            abi.STARTED: self._started,
            abi.DONE: self._done,
            abi.FAILED: self._failed,
            abi.ASK: self._asked,
            abi.ENDED: self._ended,
        }
        self.ct = XeGucCt(xe, handlers, self._gpu_died)

    # ---- queues ----

    def add_queue(self, queue: XeExecQueue) -> None:
        """A queue was made; the GPU hears of it with its first job
        (kernel: ``guc_exec_queue_init``)."""
        queue.number = next(self._numbers)
        with self._lock:
            self._queues[queue.number] = queue
            self.ct.users += 1

    def find_queue(self, number: int) -> XeExecQueue | None:
        """By the number that the GPU has for it."""
        return self._queues.get(number)

    def queues_of(self, vm: XeVm) -> list[XeExecQueue]:
        """Those that work for a VM."""
        with self._lock:
            return [queue for queue in self._queues.values() if queue.vm is vm]

    def kill(self, queue: XeExecQueue) -> None:
        """It ends: what runs is dropped, what waits will never run
        (kernel: ``guc_exec_queue_kill``)."""
        with queue.jobs_lock:
            jobs = list(queue.jobs)
            queue.jobs.clear()
            generation, queue.generation = queue.generation, 0
        waiting = queue.entity.kill()
        # What never got to the engines takes nobody with it.
        if queue.group is not None and not set(jobs) <= set(waiting):
            self._end_group(queue)

        def forget() -> None:
            _end_all(jobs, errno.ETIME)
            with self._lock:
                if self._queues.pop(queue.number, None) is not None:
                    self.ct.users -= 1

        # Its fences promise that it writes no more.
        end = (abi.QUEUE_END, queue.number)
        if not generation or not self.ct.send_with_token(end, forget, generation):
            forget()

    def _end_group(self, queue: XeExecQueue) -> None:
        """One of a group ends with work to do, which takes the work of all with it
        (kernel: ``xe_guc_exec_queue_group_trigger_cleanup``)."""

        def ban() -> None:
            self._ban(queue, errno.ETIME)

        end = (abi.GROUP_END, queue.primary.number)
        if not self.ct.send_with_token(end, ban):
            ban()

    def set_multi_queue_priority(self, queue: XeExecQueue, priority: int) -> None:
        """Among the queues of its group; nothing for one that runs nothing any more
        (kernel: ``guc_exec_queue_set_multi_queue_priority``)."""
        if queue.is_killed or queue.is_banned:
            return
        with queue.jobs_lock:
            queue.multi_queue_priority = priority
            if queue.generation:
                self.ct.send((abi.GROUP_PRIORITY, queue.number, priority), queue.generation)

    # ---- jobs ----

    def run_job(self, job: XeSchedJob) -> None:
        """Hand a job to the GPU, and the queue with its first one."""
        queue = job.queue
        if queue.group is not None and queue.group.is_banned:
            self._ban(queue, errno.ETIME)
            return
        if queue.is_secondary and queue.primary.is_reset:
            self._end_group(queue)  # others of it may be at work
            return
        ct = self.ct
        with queue.jobs_lock:
            if job not in queue.jobs:
                return  # the queue ended meanwhile, and with it the job
            is_sent = self._introduce(queue) and ct.send(
                (abi.JOB, queue.number, job.seqno, job.batches, job.user_fence), queue.generation
            )
        if not is_sent:
            self._ban(queue, errno.EIO)

    def _introduce(self, queue: XeExecQueue) -> bool:
        """Tell the GPU of a queue unless it knows it; False when the GPU that knew its VM is gone.
        Needs the queue's lock."""
        if queue.generation:
            return True
        generation = queue.vm.pt.generation
        place = tuple(queue.placement())
        if not generation or not self.ct.send(
            (abi.QUEUE, queue.number, queue.vm.serial, place), generation
        ):
            return False
        queue.generation = generation
        return True

    def _started(
        self, number: int, seqno: int, engine: tuple[int, int, int], nanoseconds: int
    ) -> None:
        queue = self._queues.get(number)
        if queue is None:
            return
        with queue.jobs_lock:
            if queue.jobs and queue.jobs[0].seqno == seqno:
                queue.jobs[0].has_begun = True
                queue.jobs[0].engine = engine
        if self._xe.trace.enabled:
            self._emit("job_begin", queue, seqno, engine=list(engine), monotonic=nanoseconds)

    def _done(self, number: int, seqno: int, ticks: int, nanoseconds: int) -> None:
        queue = self._queues.get(number)
        if queue is None:
            return
        with queue.jobs_lock:
            if not queue.jobs or queue.jobs[0].seqno != seqno:
                return  # it was killed while this was on its way
            job = queue.jobs.popleft()
        self.note_ticks(queue, ticks)
        if self._xe.trace.enabled:
            self._emit("job_end", queue, seqno, error=0, monotonic=nanoseconds)
        job.end()
        self._xe.ufence_wq.wake_up()

    def note_ticks(self, queue: XeExecQueue, ticks: int) -> None:
        """A queue has been on engines for so long
        (kernel: ``xe_exec_queue_update_run_ticks``)."""
        with self._lock:
            # An answer of `update_ticks` may be older than what came with a job.
            spent = max(0, ticks - queue.ticks)
            queue.ticks += spent
            queue.xef.run_ticks[queue.engine_class] += spent * queue.width

    def update_ticks(self, timeout: float) -> None:
        """Ask for those of the queues that run now."""
        for number, ticks in self.ct.query_ticks(timeout).items():
            queue = self._queues.get(number)
            if queue is not None:
                self.note_ticks(queue, ticks)

    def _failed(
        self,
        number: int,
        seqno: int,
        failure: int,
        address: int,
        access: int,
        lines: tuple[str, ...],
        ticks: int,
        nanoseconds: int,
    ) -> None:
        queue = self._queues.get(number)
        if queue is None:
            return
        why = Failure(failure)
        if self._xe.trace.enabled:
            self._emit(
                *("job_end", queue, seqno),
                error=_ERRORS[why],
                reason=why.name.lower(),
                address=address,
                dump=list(lines),
                monotonic=nanoseconds,
            )
        dump = "".join(f"\n  {line}" for line in lines)
        logger.warning("exec queue %d: %s at %#x%s", number, why.name.lower(), address, dump)
        self.note_ticks(queue, ticks)
        if why is Failure.FAULT and not queue.vm.is_faulting:
            # Others ask for the page first, and their fault is noted then.
            save_fault(queue.vm, address, access, errno.EFAULT)
        # Of a queue that somebody has ended nothing is kept, nor does anything follow.
        counts = why is not Failure.RESET and not queue.is_killed
        is_first = counts and self._xe.devcoredump.begin()
        wedges = counts and self._xe.wedges_upon_hang
        if not is_first and not wedges:
            self._ban(queue, _ERRORS[why], is_reset=why in _ENGINE_RESETS)
            return
        # Not here: the thread that brings what the GPU says must not sleep.
        queue.get()
        self._failure_wq.queue_work(
            partial(self._fail, queue, seqno, why, address, is_first=is_first, wedges=wedges)
        )

    def _fail(
        self,
        queue: XeExecQueue,
        seqno: int,
        why: Failure,
        address: int,
        *,
        is_first: bool,
        wedges: bool,
    ) -> None:
        """What is to be kept of a failure, and what follows of it, comes before anybody hears of
        it (kernel: ``guc_exec_queue_timedout_job``)."""
        try:
            if is_first:
                self._xe.devcoredump.capture(queue, seqno, address)
            if wedges:
                self._xe.declare_wedged()
        finally:
            self._ban(queue, _ERRORS[why], is_reset=why in _ENGINE_RESETS)
            queue.put()

    def _ban(self, queue: XeExecQueue, error: int, *, is_reset: bool = False) -> None:
        """It runs nothing more, nor does any other of its group that had something to run; after a
        reset of the engine none at all (kernel: ``xe_guc_exec_queue_reset_trigger_cleanup``)."""
        group = queue.group
        if group is None:
            self._end_jobs(queue, error)
            return
        group.is_banned = True
        for member in group.queues():
            if is_reset or member is queue or member.jobs:
                # The reset is the failure of the first that it finds at work.
                error = errno.ETIME if self._end_jobs(member, error) else error

    def _end_jobs(self, queue: XeExecQueue, error: int) -> bool:
        """Ban one queue; whether it had jobs."""
        queue.is_banned = True
        with queue.jobs_lock:
            jobs = list(queue.jobs)
            queue.jobs.clear()
        queue.entity.kill()
        _end_all(jobs, error)
        self._xe.ufence_wq.wake_up()
        return bool(jobs)

    def _gpu_died(self) -> None:
        """Nobody knows any more of what it was told."""
        for queue in list(self._queues.values()):
            if queue.generation and queue.generation != self.ct.generation:
                queue.generation = 0
                self._ban(queue, errno.EIO)

    # ---- the rest ----

    def _ended(self, number: int, ticks: int) -> None:
        """The GPU has dropped a queue, as it was told."""
        queue = self._queues.get(number)
        if queue is not None:
            self.note_ticks(queue, ticks)

    def _asked(self, reply: Callable[[object], None], what: int, *details: object) -> None:
        workqueue = self._client_wq if what in CLIENT_REQUESTS else self._request_wq
        workqueue.queue_work(lambda: reply(self.requests.answer(what, details)))

    def reset(self) -> None:
        """Reset all engines: what they had begun is lost (kernel: ``xe_gt_reset``)."""
        self.ct.send((abi.RESET,))

    def declare_wedged(self) -> None:
        """Nothing will run any more, and nobody shall wait for it
        (kernel: ``xe_guc_submit_wedge``)."""
        # First the engines: a fence promises that its work writes no more.
        self.ct.disable()
        with self._lock:
            queues = list(self._queues.values())
        for queue in queues:
            self._ban(queue, errno.ETIME)

    def shutdown(self) -> None:
        """The device ends."""
        self.ct.disable()
        self._request_wq.destroy()
        self._client_wq.destroy()
        self._failure_wq.destroy()

    def _emit(self, event: str, queue: XeExecQueue, seqno: int, **fields: object) -> None:
        self._xe.trace.emit(
            event,
            queue=queue.number,
            vm=queue.vm.serial,
            engine_class=queue.engine_class,
            seqno=seqno,
            **fields,
        )


def _end_all(jobs: list[XeSchedJob], error: int) -> None:
    """The first one failed with ``error``, and takes the others with it."""
    for index, job in enumerate(jobs):
        job.end(error if index == 0 else errno.ECANCELED)
