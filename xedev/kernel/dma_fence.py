"""Fences: work that will be done, and who wants to know (kernel: drivers/dma-buf/dma-fence.c).

A fence is signalled once and stays so.  Callbacks run in the thread that signals, with no lock of
fences held, and must not sleep; those of a container may also run in the thread that adds one, so
they take no lock that is held while callbacks are added.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator

from xedev.kernel.errors import report_bug

__all__ = (
    "DmaFence",
    "DmaFenceArray",
    "DmaFenceChain",
    "dma_fence_chain_collect",
    "dma_fence_chain_find_seqno",
    "dma_fence_chain_value",
    "dma_fence_chain_walk",
    "dma_fence_context_alloc",
    "dma_fence_is_later",
    "dma_fence_unwrap",
    "dma_fence_unwrap_merge",
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

    __slots__ = (
        "_callbacks",
        "_signalled",
        "context",
        "driver",
        "error",
        "seqno",
        "timeline",
        "timestamp",
    )

    def __init__(self, context: int, seqno: int, driver: str = "xe", timeline: str = "") -> None:
        self.context = context
        self.seqno = seqno
        self.driver = driver
        """Who will signal it, for people."""
        self.timeline = timeline
        """What the row of fences is, for people."""
        self.error = 0
        """0, or the errno (positive) that the work ended with."""
        self.timestamp = 0
        """When it was signalled, CLOCK_MONOTONIC in nanoseconds."""
        self._signalled = False
        self._callbacks: dict[Callback, None] = {}

    def is_signaled(self) -> bool:
        """Whether the work is done (kernel: ``dma_fence_is_signaled``)."""
        return self._signalled

    def get_status(self) -> int:
        """1 done, 0 not yet, ``-errno`` failed (kernel: ``dma_fence_get_status``)."""
        if not self.is_signaled():
            return 0
        return -self.error or 1

    def signal(self, error: int = 0) -> None:
        """The work is done, or failed with ``error``; a second time nothing happens."""
        with _lock:
            if self._signalled:
                return
            self.error = error
            self.timestamp = self.timestamp or time.monotonic_ns()
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


def signalled_fence(timestamp: int = 0) -> DmaFence:
    """A new fence that is signalled, now or at ``timestamp`` in nanoseconds (kernel:
    ``dma_fence_allocate_private_stub``)."""
    fence = DmaFence(0, 0, "stub", "stub")
    fence.timestamp = timestamp
    fence.signal()
    return fence


class _Container(DmaFence, ABC):
    """A fence made of others.

    It watches one of them, the first that is pending, and only while somebody wants to be called:
    a container that nobody waits for is not kept alive by the work that it stands for.
    """

    __slots__ = ()

    @abstractmethod
    def _first_pending(self) -> DmaFence | None:
        """What is not done yet, None when all is."""

    @abstractmethod
    def _conclude(self) -> None:
        """Everything is done: set ``error`` and ``timestamp``."""

    def is_signaled(self) -> bool:
        """Whether all of it is done.  Only looks: callbacks come from who did the work, so that
        looking is allowed under any lock."""
        if self._signalled:
            return True
        if self._first_pending() is not None:
            return False
        self._conclude()
        return True

    def add_callback(self, callback: Callback) -> bool:
        """As for every fence; it may have been called already when this returns."""
        if self.is_signaled() or not super().add_callback(callback):
            return False
        self._watch()
        return True

    def remove_callback(self, callback: Callback) -> None:
        """Forget a callback, and what was watched for the last one."""
        super().remove_callback(callback)
        pending = None if self._callbacks else self._first_pending()
        if pending is None:
            return
        pending.remove_callback(self._watch)
        if self._callbacks:  # somebody else came meanwhile, and saw us watching
            self._watch()

    def _watch(self) -> None:
        """Be called again when the first pending fence is done, until none is."""
        while self._callbacks:
            pending = self._first_pending()
            if pending is None:
                self._conclude()
                self.signal(self.error)
                return
            if pending.add_callback(self._watch):
                return


class DmaFenceArray(_Container):
    """All of several fences (kernel: drivers/dma-buf/dma-fence-array.c).

    Made of plain fences only: containers among those given are taken apart.
    """

    __slots__ = ("fences",)

    def __init__(self, fences: Iterable[DmaFence]) -> None:
        super().__init__(dma_fence_context_alloc(), 1, "dma_fence_array", "unbound")
        parts = (part for fence in fences for part in dma_fence_unwrap(fence))
        self.fences = tuple(dict.fromkeys(parts))

    def _first_pending(self) -> DmaFence | None:
        return next((fence for fence in self.fences if not fence.is_signaled()), None)

    def _conclude(self) -> None:
        self.error = next((fence.error for fence in self.fences if fence.error), 0)
        self.timestamp = max((fence.timestamp for fence in self.fences), default=0)


class DmaFenceChain(_Container):
    """A point of a timeline (kernel: drivers/dma-buf/dma-fence-chain.c).

    It contains a fence and stands on the chain so far, ``prev``; it is signalled when all of that
    is.  Points that come in order share a context; one that does not begins a new one.  The
    contained fence is plain or an array.
    """

    __slots__ = ("fence", "prev", "prev_seqno")

    def __init__(self, prev: DmaFence | None, fence: DmaFence, seqno: int) -> None:
        before = prev if isinstance(prev, DmaFenceChain) else None
        if before is not None and seqno > before.seqno:
            super().__init__(before.context, seqno, "dma_fence_chain", "unbound")
            self.prev_seqno = before.seqno
        else:
            # Out of order: nothing of the old stream may come out later than this.
            highest = max(seqno, before.seqno) if before is not None else seqno
            super().__init__(dma_fence_context_alloc(), highest, "dma_fence_chain", "unbound")
            self.prev_seqno = 0
        # The kernel warns of a chain in a chain and goes on; here a client could nest them until
        # the interpreter's stack is full.
        self.fence = dma_fence_unwrap_merge(fence) if isinstance(fence, DmaFenceChain) else fence
        self.prev = prev

    def _first_pending(self) -> DmaFence | None:
        return next(
            (_own(node) for node in _steps_back(self) if not _own(node).is_signaled()), None
        )

    def _conclude(self) -> None:
        """A failure of the work is not handed on, as in the kernel."""
        self.timestamp = self.timestamp or self.fence.timestamp


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


def dma_fence_chain_collect(head: DmaFence) -> int:
    """Unlink every node whose own fence is signalled; how many are left."""
    return sum(1 for _ in _steps_back(head))


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
    """The plain fences that a fence consists of: of a chain the node's own and the pending ones
    (kernel: ``dma_fence_unwrap_for_each``)."""
    for node in _steps_back(fence):
        own = _own(node)
        if isinstance(own, DmaFenceArray):
            yield from own.fences
        else:
            yield own


def dma_fence_unwrap_merge(*fences: DmaFence) -> DmaFence:
    """One fence for all that is still pending in several, of each context the latest; a signalled
    one when nothing is (kernel: ``__dma_fence_unwrap_merge``)."""
    parts = [part for fence in fences for part in dma_fence_unwrap(fence)]
    pending: dict[int, DmaFence] = {}
    for part in parts:
        if not part.is_signaled():
            other = pending.setdefault(part.context, part)
            if dma_fence_is_later(part.seqno, other.seqno):
                pending[part.context] = part
    if not pending:
        return signalled_fence(max((part.timestamp for part in parts), default=0))
    in_order = [pending[context] for context in sorted(pending)]
    return in_order[0] if len(in_order) == 1 else DmaFenceArray(in_order)


def dma_fence_is_later(one: int, other: int) -> bool:
    """Whether a number of 32 bits that wraps around comes after another one
    (kernel: ``__dma_fence_is_later``)."""
    return 0 < (one - other) & 0xFFFF_FFFF < 1 << 31
