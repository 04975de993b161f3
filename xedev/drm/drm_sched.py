"""Jobs that begin in order, each when what it waits for is done.

Kernel: drivers/gpu/drm/scheduler.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable

from xedev.kernel.dma_fence import DmaFence, DmaFenceArray

__all__ = ("DrmSchedEntity", "DrmSchedJob")


class DrmSchedJob(ABC):
    """Something to be begun (kernel: ``struct drm_sched_job``)."""

    __slots__ = ("_entity", "_is_ready")

    def __init__(self) -> None:
        self._entity: DrmSchedEntity | None = None
        self._is_ready = False

    @abstractmethod
    def run(self) -> None:
        """Begin, in whatever thread made that possible; must not sleep."""

    def _ready(self) -> None:
        self._is_ready = True
        assert self._entity is not None
        self._entity.run()


class _Todo(threading.local):
    """Entities that this thread has to look at.  One after the other, never one within the other:
    jobs that wait for each other in a long row would fill the stack."""

    def __init__(self) -> None:
        self.entities: deque[DrmSchedEntity] = deque()
        self.is_running = False


_todo = _Todo()


class DrmSchedEntity:
    """A row of jobs (kernel: ``struct drm_sched_entity``)."""

    __slots__ = ("_is_busy", "_jobs", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: deque[DrmSchedJob] = deque()
        """Those that have not begun."""
        self._is_busy = False
        """Whether some thread begins the first of them."""

    @property
    def is_empty(self) -> bool:
        """Whether all jobs have begun."""
        return not self._jobs

    def push_job(self, job: DrmSchedJob, fences: Iterable[DmaFence]) -> None:
        """Append a job that waits for ``fences``, and goes on when they failed; it may begin
        before this returns (kernel: ``drm_sched_entity_push_job``)."""
        job._entity = self
        with self._lock:
            self._jobs.append(job)
        waits = [fence for fence in fences if not fence.is_signaled()]
        if not waits or not DmaFenceArray(waits).add_callback(job._ready):
            job._ready()

    def kill(self) -> list[DrmSchedJob]:
        """Drop the jobs that have not begun; they are the caller's
        (kernel: ``drm_sched_entity_kill``)."""
        with self._lock:
            first = [self._jobs[0]] if self._is_busy and self._jobs else []
            dropped = [job for job in self._jobs if job not in first]
            self._jobs = deque(first)
        return dropped

    def run(self) -> None:
        """Begin what can begin, unless another thread is at it."""
        todo = _todo
        todo.entities.append(self)
        if todo.is_running:
            return
        todo.is_running = True
        try:
            while todo.entities:
                todo.entities.popleft()._run_ready()
        finally:
            todo.is_running = False

    def _run_ready(self) -> None:
        while (job := self._take_first()) is not None:
            try:
                job.run()
            finally:
                self._drop_first()

    def _take_first(self) -> DrmSchedJob | None:
        with self._lock:
            if self._is_busy or not self._jobs or not self._jobs[0]._is_ready:
                return None
            self._is_busy = True
            return self._jobs[0]

    def _drop_first(self) -> None:
        with self._lock:
            self._is_busy = False
            self._jobs.popleft()
