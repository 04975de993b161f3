"""Fences: work that will be done, and who wants to know (kernel: drivers/dma-buf/dma-fence.c).

A fence is signalled once and stays so.  Callbacks run in the thread that signals, with no lock
held, and must not sleep.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from xedev.kernel.errors import report_bug

__all__ = (
    "DmaFence",
    "DmaFenceArray",
    "DmaFenceChain",
    "dma_fence_chain_find_seqno",
    "dma_fence_chain_value",
    "dma_fence_chain_walk",
    "dma_fence_context_alloc",
    "dma_fence_unwrap",
    "signalled_fence",
)

_contexts = itertools.count(1)
# One lock for all: it is held for a few instructions, and a fence costs none of its own.
_lock = threading.Lock()

Callback = Callable[[], None]


def dma_fence_context_alloc() -> int:
    """A number for a new row of fences that signal in order."""
    return next(_contexts)


class DmaFence:
    """One fence (kernel: ``struct dma_fence``): number ``seqno`` of its ``context``."""

    __slots__ = ("_callbacks", "_signalled", "context", "driver", "error", "seqno", "timestamp")

    def __init__(self, context: int, seqno: int, driver: str = "xe") -> None:
        self.context = context
        self.seqno = seqno
        self.driver = driver
        """Who will signal it, for people."""
        self.error = 0
        """0, or the errno (positive) that the work ended with."""
        self.timestamp = 0
        """When it was signalled, CLOCK_MONOTONIC in nanoseconds."""
        self._signalled = False
        self._callbacks: dict[Callback, None] = {}

    def is_signaled(self) -> bool:
        """Whether the work is done (kernel: ``dma_fence_is_signaled``)."""
        return self._signalled

    def signal(self, error: int = 0) -> None:
        """The work is done, or failed with ``error``; a second time nothing happens."""
        with _lock:
            if self._signalled:
                return
            self.error = error
            self.timestamp = time.monotonic_ns()
            self._signalled = True
            callbacks, self._callbacks = self._callbacks, {}
        for callback in callbacks:
            _run(callback)

    def add_callback(self, callback: Callback) -> bool:
        """Have ``callback`` called when it is signalled; False if it is already, and then
        nobody calls (kernel: ``dma_fence_add_callback``)."""
        with _lock:
            if self._signalled:
                return False
            self._callbacks[callback] = None
        return True

    def remove_callback(self, callback: Callback) -> None:
        """Forget a callback; it may be running just now."""
        with _lock:
            self._callbacks.pop(callback, None)

    def __repr__(self) -> str:
        state = "signalled" if self._signalled else "pending"
        return f"<{type(self).__name__} {self.context}:{self.seqno} {state}>"


def _run(callback: Callback) -> None:
    try:
        callback()
    except Exception:  # noqa: BLE001 - the others must hear of it all the same
        report_bug("a callback of a fence")


def signalled_fence(error: int = 0) -> DmaFence:
    """A new fence that is signalled (kernel: ``dma_fence_allocate_private_stub``)."""
    fence = DmaFence(dma_fence_context_alloc(), 1, "stub")
    fence.signal(error)
    return fence


class DmaFenceArray(DmaFence):
    """All of several fences (kernel: drivers/dma-buf/dma-fence-array.c)."""

    __slots__ = ("_left", "fences")

    def __init__(self, fences: Iterable[DmaFence]) -> None:
        super().__init__(dma_fence_context_alloc(), 1, "dma_fence_array")
        self.fences = tuple(fences)
        self._left = len(self.fences) + 1
        for fence in self.fences:
            if not fence.add_callback(self._one_done):
                self._one_done()
        self._one_done()

    def _one_done(self) -> None:
        with _lock:
            self._left -= 1
            done = self._left == 0
        if done:
            self.signal(next((fence.error for fence in self.fences if fence.error), 0))


class DmaFenceChain(DmaFence):
    """A point of a timeline (kernel: drivers/dma-buf/dma-fence-chain.c).

    It contains a fence and stands on the chain so far, ``prev``; it is signalled when all of that
    is.  Points that come in order share a context; one that does not begins a new one.
    """

    __slots__ = ("_armed", "fence", "prev", "prev_seqno")

    def __init__(self, prev: DmaFence | None, fence: DmaFence, seqno: int) -> None:
        before = prev if isinstance(prev, DmaFenceChain) else None
        if before is not None and seqno > before.seqno:
            super().__init__(before.context, seqno, "dma_fence_chain")
            self.prev_seqno = before.seqno
        else:
            # Out of order: nothing of the old stream may come out later than this.
            highest = max(seqno, before.seqno) if before is not None else seqno
            super().__init__(dma_fence_context_alloc(), highest, "dma_fence_chain")
            self.prev_seqno = 0
        self.fence = fence
        self.prev = prev
        self._armed = False

    def is_signaled(self) -> bool:
        """Whether this point and all below it are done."""
        if not self._signalled and self._first_pending() is None:
            self.signal(self.fence.error)
        return self._signalled

    def add_callback(self, callback: Callback) -> bool:
        """As for every fence; from the first one on the chain is watched."""
        if self.is_signaled() or not super().add_callback(callback):
            return False
        with _lock:
            arm, self._armed = not self._armed, True
        if arm:
            self._watch()
        return True

    def _watch(self) -> None:
        """Be called again when the first pending fence is done, until none is."""
        while True:
            pending = self._first_pending()
            if pending is None:
                self.signal(self.fence.error)
                return
            if pending.add_callback(self._watch):
                return

    def _first_pending(self) -> DmaFence | None:
        node: DmaFence | None = self
        while node is not None:
            own = _own(node)
            if not own.is_signaled():
                return own
            node = dma_fence_chain_walk(node)
        return None


def _own(fence: DmaFence) -> DmaFence:
    """What a node itself waits for."""
    return fence.fence if isinstance(fence, DmaFenceChain) else fence


def dma_fence_chain_walk(fence: DmaFence) -> DmaFence | None:
    """One step back: the next older node whose own fence is pending, None at the end.

    Nodes in between are unlinked, so that a timeline of any age stays short.
    """
    if not isinstance(fence, DmaFenceChain):
        return None
    prev = fence.prev
    while prev is not None and _own(prev).is_signaled():
        prev = prev.prev if isinstance(prev, DmaFenceChain) else None
        fence.prev = prev
    return prev


def _steps_back(fence: DmaFence) -> Iterator[DmaFence]:
    node: DmaFence | None = fence
    while node is not None:
        yield node
        node = dma_fence_chain_walk(node)


def dma_fence_chain_find_seqno(head: DmaFence, seqno: int) -> DmaFence | None:
    """The fence to wait for so that point ``seqno`` is done; None if it was long ago.

    LookupError: the point is not there yet.
    """
    if not seqno:
        return head
    if not isinstance(head, DmaFenceChain) or head.seqno < seqno:
        raise LookupError(f"there is no point {seqno} yet")
    for node in _steps_back(head):
        if node.context != head.context:
            return node
        if isinstance(node, DmaFenceChain) and node.prev_seqno < seqno:
            return node
    return None


def dma_fence_chain_value(head: DmaFence) -> int:
    """The highest point below the oldest pending one of the newest stream; 0 for a plain fence
    (kernel: ``drm_syncobj_query_ioctl``)."""
    if not isinstance(head, DmaFenceChain):
        return 0
    last = head
    for node in _steps_back(head):
        if node.context != head.context or not isinstance(node, DmaFenceChain):
            break
        last = node
    return last.seqno if last.is_signaled() else last.prev_seqno


def dma_fence_unwrap(fence: DmaFence) -> Iterator[DmaFence]:
    """The plain fences that a fence consists of, pending ones at least
    (kernel: ``dma_fence_unwrap_for_each``)."""
    for node in _steps_back(fence):
        own = _own(node)
        if isinstance(own, DmaFenceChain):
            yield from dma_fence_unwrap(own)
        elif isinstance(own, DmaFenceArray):
            for part in own.fences:
                yield from dma_fence_unwrap(part)
        else:
            yield own
