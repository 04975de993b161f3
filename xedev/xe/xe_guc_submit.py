"""Jobs on their way to the engines and back; resets, bans and kills
(kernel: drivers/gpu/drm/xe/xe_guc_submit.c)."""

from __future__ import annotations

import errno
import itertools
import logging
import threading
from typing import TYPE_CHECKING

from xedev.gpu import abi
from xedev.gpu.abi import Failure
from xedev.kernel.workqueue import Workqueue
from xedev.xe.xe_guc_ct import Handler, XeGucCt
from xedev.xe.xe_pagefault import XeGpuRequests
from xedev.xe.xe_sched_job import XeSchedJob

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_exec_queue import XeExecQueue

__all__ = ("XeGuc",)

logger = logging.getLogger("xedev")

REQUEST_THREADS = 32
"""Answers that the GPU may await at the same time; each may hang in the memory of a client."""

_ERRORS = {
    Failure.FAULT: errno.EIO,
    Failure.HANG: errno.EIO,
    Failure.TIMEOUT: errno.ETIME,
    Failure.RESET: errno.ETIME,
}
"""What the fence of the job that failed gets; those after it get ECANCELED
(kernel: ``guc_exec_queue_timedout_job``)."""


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

    def kill(self, queue: XeExecQueue) -> None:
        """It ends: what runs is dropped, what waits will never run
        (kernel: ``guc_exec_queue_kill``)."""
        with queue.jobs_lock:
            jobs = list(queue.jobs)
            queue.jobs.clear()
            known = queue.generation and queue.generation == self.ct.generation
            queue.generation = 0
        queue.entity.kill()

        def forget() -> None:
            _end_all(jobs, errno.ETIME)
            with self._lock:
                if self._queues.pop(queue.number, None) is not None:
                    self.ct.users -= 1

        if known:
            # Its fences promise that it writes no more.
            self.ct.send_with_token((abi.QUEUE_END, queue.number), forget)
        else:
            forget()

    # ---- jobs ----

    def run_job(self, job: XeSchedJob) -> None:
        """Hand a job to the GPU, and the queue with its first one."""
        queue = job.queue
        ct = self.ct
        with queue.jobs_lock:
            if job not in queue.jobs:
                return  # the queue ended meanwhile, and with it the job
            if not queue.generation:
                queue.generation = ct.generation
                ct.send((abi.QUEUE, queue.number, queue.vm.serial, tuple(queue.placement())))
            is_sent = queue.generation == ct.generation and ct.send(
                (abi.JOB, queue.number, job.seqno, job.batches, job.user_fence)
            )
        if not is_sent:
            self._ban(queue, errno.EIO)

    def _started(
        self, number: int, seqno: int, engine: tuple[int, int, int], nanoseconds: int
    ) -> None:
        queue = self._queues.get(number)
        if queue is None:
            return
        with queue.jobs_lock:
            if queue.jobs and queue.jobs[0].seqno == seqno:
                queue.jobs[0].has_begun = True
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
        with queue.jobs_lock:
            spent, queue.ticks = ticks - queue.ticks, ticks
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
        if why is Failure.FAULT:
            self.requests.note_fault(queue.vm, address, access)
        self._ban(queue, _ERRORS[why])

    def _ban(self, queue: XeExecQueue, error: int) -> None:
        """It runs nothing more."""
        queue.is_banned = True
        with queue.jobs_lock:
            jobs = list(queue.jobs)
            queue.jobs.clear()
        queue.entity.kill()
        _end_all(jobs, error)
        self._xe.ufence_wq.wake_up()

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

    def _asked(self, request: int, what: int, *details: object) -> None:
        def answer() -> None:
            reply = self.requests.answer(what, details)
            self.ct.send((abi.REPLY, request, reply))

        self._request_wq.queue_work(answer)

    def reset(self) -> None:
        """Reset all engines: what they had begun is lost (kernel: ``xe_gt_reset``)."""
        self.ct.send((abi.RESET,))

    def shutdown(self) -> None:
        """The device ends."""
        self.ct.disable()
        self._request_wq.destroy()

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
