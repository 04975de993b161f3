"""Syncs that come with a bind (kernel: drivers/gpu/drm/xe/xe_sync.c)."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.drm_syncobj import DrmSyncobj, drm_syncobj_find
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import (
    DmaFence,
    DmaFenceArray,
    dma_fence_chain_find_seqno,
    dma_fence_context_alloc,
    signalled_fence,
)
from xedev.kernel.errors import KernelError
from xedev.kernel.user_memory import UserMemory

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.kernel.wait import WaitQueue

__all__ = (
    "BindQueue",
    "UserFence",
    "XeSyncs",
    "xe_sync_entries_parse",
)

SYNC_SIZE = ctypes.sizeof(xe_drm.drm_xe_sync)
SIGNAL = xe_drm.DRM_XE_SYNC_FLAG_SIGNAL
SYNCOBJ = xe_drm.DRM_XE_SYNC_TYPE_SYNCOBJ
TIMELINE = xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ
USER_FENCE = xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE


@dataclass(slots=True, eq=False)
class UserFence:
    """Eight bytes to write into the caller's memory when the bind is done."""

    addr: int
    value: int
    is_signalled: bool = False

    def signal(self, memory: UserMemory, waiters: WaitQueue) -> None:
        """Write them, and wake ``waiters``; a fault is nobody's error any more
        (kernel: ``user_fence_worker``)."""
        # First of all: who sees the value may unbind at once.
        self.is_signalled = True
        with suppress(KernelError):
            memory.write_u64(self.addr, self.value)
        waiters.wake_up()


class XeSyncs:
    """What one ioctl waits for, and what it signals (kernel: ``struct xe_sync_entry[]``).

    It holds references until `put`.
    """

    __slots__ = ("_signals", "user_fence", "user_fences", "waits")

    def __init__(self) -> None:
        self.waits: list[DmaFence] = []
        """As they were when the array was read."""
        self._signals: list[tuple[DrmSyncobj, int]] = []
        self.user_fence: UserFence | None = None
        self.user_fences = 0
        """How many there were; more than one is an error."""

    def parse(self, file: DrmFile, sync: xe_drm.drm_xe_sync, lr_mode: bool) -> None:
        """Take a syncobj entry; see `xe_sync_entries_parse` for the errnos."""
        timeline = sync.type == TIMELINE
        if lr_mode and sync.flags & SIGNAL:
            raise KernelError(errno.EOPNOTSUPP, "a long-running VM signals no syncobj")
        if sync.addr >> 32:
            raise KernelError(errno.EINVAL, "the upper half of handle must be zero")
        if timeline and not sync.timeline_value:
            raise KernelError(errno.EINVAL, "a timeline point must not be zero")
        syncobj = drm_syncobj_find(file, sync.handle)
        if syncobj is None:
            raise KernelError(errno.ENOENT, f"no syncobj {sync.handle}")
        point = sync.timeline_value if timeline else 0
        if sync.flags & SIGNAL:
            self._signals.append((syncobj, point))
            return
        try:
            fence = _wait_fence(syncobj.fence, point)
        finally:
            syncobj.put()
        if fence is not None:
            self.waits.append(fence)

    @property
    def has_signals(self) -> bool:
        """Whether there are syncobjs to be signalled."""
        return bool(self._signals)

    def signal(self, fence: DmaFence) -> None:
        """Put ``fence`` into the objects to be signalled, in the order of the array
        (kernel: ``xe_sync_entry_signal``)."""
        for syncobj, point in self._signals:
            if point:
                syncobj.add_point(fence, point)
            else:
                syncobj.replace_fence(fence)

    def put(self) -> None:
        """Drop the references."""
        signals, self._signals = self._signals, []
        for syncobj, _ in signals:
            syncobj.put()


def _wait_fence(head: DmaFence | None, point: int) -> DmaFence | None:
    """What to wait for, None for a point that was long ago; ``EINVAL`` when there is no fence,
    since nobody waits for a submission here."""
    if head is None:
        raise KernelError(errno.EINVAL, "the syncobj has no fence")
    try:
        return dma_fence_chain_find_seqno(head, point)
    except LookupError as error:
        raise KernelError(errno.EINVAL, str(error)) from None


def xe_sync_entries_parse(
    file: DrmFile,
    caller: Caller,
    address: int,
    count: int,
    *,
    lr_mode: bool,
    allow_user_fence: bool,
) -> XeSyncs:
    """Check ``count`` entries at the user address, in order.

    Nothing is signalled here, so a failure has no effect.  ``EFAULT`` unreadable, ``EINVAL``
    malformed or nothing to wait for, ``ENOENT`` unknown syncobj, ``EOPNOTSUPP`` not on this VM or
    in this place.
    """
    syncs = XeSyncs()
    try:
        for index in range(count):
            raw = caller.memory.read(address + index * SYNC_SIZE, SYNC_SIZE)
            sync = xe_drm.drm_xe_sync.from_buffer_copy(raw)
            _parse_one(syncs, file, caller, sync, lr_mode, allow_user_fence)
        if syncs.user_fences > 1:
            raise KernelError(errno.EINVAL, "one user fence is all that a bind may have")
    except BaseException:
        syncs.put()
        raise
    return syncs


def _parse_one(
    syncs: XeSyncs,
    file: DrmFile,
    caller: Caller,
    sync: xe_drm.drm_xe_sync,
    lr_mode: bool,
    allow_user_fence: bool,
) -> None:
    if sync.flags & ~SIGNAL or any(sync.reserved):
        raise KernelError(errno.EINVAL, "unknown sync flags, or reserved is not zero")
    if sync.type in (SYNCOBJ, TIMELINE):
        syncs.parse(file, sync, lr_mode)
        return
    if sync.type != USER_FENCE:
        raise KernelError(errno.EINVAL, f"no sync of type {sync.type}")
    syncs.user_fence = _parse_user_fence(caller, sync, allow_user_fence)
    syncs.user_fences += 1


def _parse_user_fence(caller: Caller, sync: xe_drm.drm_xe_sync, allowed: bool) -> UserFence:
    if not allowed:
        raise KernelError(errno.EOPNOTSUPP, "a user fence needs a bind to follow")
    if not sync.flags & SIGNAL:
        raise KernelError(errno.EOPNOTSUPP, "a user fence can only be signalled")
    if sync.addr % 8:
        raise KernelError(errno.EINVAL, f"user fence {sync.addr:#x} is not 8-byte aligned")
    caller.memory.read(sync.addr, 8)
    return UserFence(sync.addr, sync.timeline_value)


class _Bind:
    """A bind that has to wait: for its fences, and for the binds before it."""

    __slots__ = ("_memory", "_queue", "_user_fence", "_waiters", "fence", "is_ready")

    def __init__(
        self,
        queue: BindQueue,
        fence: DmaFence,
        user_fence: UserFence | None,
        caller: Caller,
        waiters: WaitQueue,
    ) -> None:
        self._queue = queue
        self.fence = fence
        """Signalled when it takes effect."""
        self._user_fence = user_fence
        self._memory = caller.mm() if user_fence is not None else None
        self._waiters = waiters
        self.is_ready = False

    def wait_for(self, fences: list[DmaFence]) -> None:
        """Be ready when all of them are signalled, be it in failure."""
        if not fences or not DmaFenceArray(fences).add_callback(self._ready):
            self._ready()

    def _ready(self) -> None:
        self.is_ready = True
        self._queue.run()

    def complete(self) -> None:
        """Take effect, and tell.  In this order: a user fence that is seen promises that the
        others are signalled."""
        self.fence.signal()
        if self._user_fence is not None and self._memory is not None:
            self._user_fence.signal(self._memory, self._waiters)


class _Todo(threading.local):
    """Queues that this thread has to look at.  One after the other, never one within the other:
    binds that wait for each other in a long row would fill the stack."""

    def __init__(self) -> None:
        self.queues: deque[BindQueue] = deque()
        self.is_running = False


_todo = _Todo()


class BindQueue:
    """Binds of one queue take effect in the order in which they were asked for (kernel: the VM's
    own queue ``vm->q``, or one that a client made).

    The map of the VM changes in the ioctl; what waits for fences is the effect on the GPU, and so
    whoever is told of it.  The binds of a VM that was closed go on.
    """

    __slots__ = ("_binds", "_context", "_is_busy", "_lock", "_seqno")

    def __init__(self) -> None:
        self._context = 0
        self._seqno = 0
        self._lock = threading.Lock()
        self._binds: deque[_Bind] = deque()
        """Those that have not taken effect."""
        self._is_busy = False
        """Whether some thread completes the first of them."""

    def submit(self, syncs: XeSyncs, caller: Caller, waiters: WaitQueue) -> None:
        """A bind was made: signal its syncs, now or when it may take effect.  It may be one of
        nothing, whose syncs hear of what there was (kernel: ``vm_bind_ioctl_signal_fences``).

        ``waiters`` are woken when a user fence was written.  Needs ``vm->lock`` for writing.
        """
        waits = [fence for fence in syncs.waits if not fence.is_signaled()]
        user_fence = syncs.user_fence
        if not waits and not self._binds:
            if syncs.has_signals:
                syncs.signal(signalled_fence())
            if user_fence is not None:
                user_fence.signal(caller.memory, waiters)
            return
        bind = _Bind(self, self._next_fence(), user_fence, caller, waiters)
        with self._lock:
            self._binds.append(bind)
        syncs.signal(bind.fence)
        bind.wait_for(waits)

    def run(self) -> None:
        """Complete what can be completed, unless another thread is at it."""
        todo = _todo
        todo.queues.append(self)
        if todo.is_running:
            return
        todo.is_running = True
        try:
            while todo.queues:
                todo.queues.popleft()._complete_ready()
        finally:
            todo.is_running = False

    def _complete_ready(self) -> None:
        while (bind := self._take_first()) is not None:
            try:
                bind.complete()
            finally:
                self._drop_first()

    def _take_first(self) -> _Bind | None:
        with self._lock:
            if self._is_busy or not self._binds or not self._binds[0].is_ready:
                return None
            self._is_busy = True
            return self._binds[0]

    def _drop_first(self) -> None:
        with self._lock:
            self._is_busy = False
            self._binds.popleft()

    def _next_fence(self) -> DmaFence:
        if not self._context:
            self._context = dma_fence_context_alloc()
        self._seqno += 1
        return DmaFence(self._context, self._seqno)
