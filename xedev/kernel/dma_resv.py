"""The fences of a reservation: what works on the objects under it (kernel: dma-resv.c)."""

from __future__ import annotations

import threading

from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import DmaFence, DmaFenceArray
from xedev.kernel.wait import WaitQueue

__all__ = ("ResvFences",)


class ResvFences:
    """Fences of one usage; of each context only the last one, which stands for those before."""

    __slots__ = ("_fences", "_lock")

    def __init__(self) -> None:
        self._fences: dict[int, DmaFence] = {}
        self._lock = threading.Lock()

    def add(self, fence: DmaFence) -> None:
        """One more (kernel: ``dma_resv_add_fence``)."""
        with self._lock:
            if len(self._fences) > 8:
                self._prune()
            self._fences[fence.context] = fence

    def pending(self) -> list[DmaFence]:
        """Those that are not signalled."""
        if not self._fences:
            return []
        with self._lock:
            self._prune()
            return list(self._fences.values())

    @property
    def is_busy(self) -> bool:
        """Whether one is not signalled (kernel: not ``dma_resv_test_signaled``)."""
        return bool(self._fences) and bool(self.pending())

    def wait(self, caller: Caller) -> None:
        """Sleep until all are signalled; ``EINTR`` (kernel: ``dma_resv_wait_timeout``)."""
        pending = self.pending()
        if not pending:
            return
        done = WaitQueue()
        fences = DmaFenceArray(pending)
        if fences.add_callback(done.wake_up):
            try:
                done.wait_event(fences.is_signaled, caller)
            finally:
                fences.remove_callback(done.wake_up)

    def _prune(self) -> None:
        self._fences = {c: fence for c, fence in self._fences.items() if not fence.is_signaled()}
