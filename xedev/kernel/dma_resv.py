"""The fences of a reservation: what works on the objects under it (kernel: dma-resv.c)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_fence import DmaFence, DmaFenceArray
from xedev.kernel.wait import WaitQueue

__all__ = ("ResvFences", "dma_resv_wait")


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

    def _prune(self) -> None:
        self._fences = {c: fence for c, fence in self._fences.items() if not fence.is_signaled()}


def dma_resv_wait(usages: Iterable[ResvFences], finish: Callable[[], int]) -> int | Deferred[int]:
    """Answer with ``finish`` once all fences of now are signalled (kernel:
    ``dma_resv_wait_timeout``).

    The kernel does not let that be interrupted; here a signal ends the wait, and the work is done
    all the same.
    """
    pending = [fence for fences in usages for fence in fences.pending()]
    if not pending:
        return finish()
    done = WaitQueue()
    all_of_them = DmaFenceArray(pending)
    if not all_of_them.add_callback(done.wake_up):
        return finish()

    def finish_now() -> int:
        all_of_them.remove_callback(done.wake_up)
        return finish()

    def abandon() -> None:
        finish_now()

    return Deferred(
        *(done, all_of_them.is_signaled, finish_now, None, abandon), is_interruptible=False
    )
