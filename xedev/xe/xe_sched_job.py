"""One job of a queue (kernel: drivers/gpu/drm/xe/xe_sched_job.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xedev.drm.drm_sched import DrmSchedJob
from xedev.kernel.dma_fence import DmaFence

if TYPE_CHECKING:
    from xedev.xe.xe_exec_queue import XeExecQueue

__all__ = ("XeSchedJob",)


class XeSchedJob(DrmSchedJob):
    """Batches to run, one on each engine of the queue.

    It holds its queue, and so the VM, until its fence is signalled.
    """

    __slots__ = ("batches", "engine", "fence", "has_begun", "queue", "seqno", "user_fence")

    def __init__(
        self,
        queue: XeExecQueue,
        fence: DmaFence,
        batches: tuple[int, ...],
        user_fence: tuple[int, int] | None,
    ) -> None:
        super().__init__()
        self.queue = queue
        self.seqno = fence.seqno
        self.fence = fence
        """Signalled when it is done, or with the errno that it failed with."""
        self.batches = batches
        """GPU addresses."""
        self.user_fence = user_fence
        """GPU address and value of 64 bits, written after the batches."""
        self.has_begun = False
        """Whether an engine has taken it up."""
        self.engine: tuple[int, int, int] | None = None
        """The first of those that did: class, instance, GT."""

    def run(self) -> None:
        """Its dependencies are done: hand it to the GPU (kernel: ``guc_exec_queue_run_job``)."""
        self.queue.vm.xe.guc.run_job(self)

    def end(self, error: int = 0) -> None:
        """It is done, or failed with ``error``; only who took it off its queue may call."""
        trace = self.queue.vm.xe.trace
        if trace.enabled:
            fence = self.fence
            trace.emit("job_done", context=fence.context, seqno=fence.seqno, error=error)
        self.fence.signal(error)
        self.queue.put()
