"""Syncs that come with a bind or an exec (kernel: drivers/gpu/drm/xe/xe_sync.c)."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.drm_sched import DrmSchedEntity, DrmSchedJob
from xedev.drm.drm_syncobj import DrmSyncobj, drm_syncobj_find
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import (
    DmaFence,
    dma_fence_chain_find_seqno,
    dma_fence_context_alloc,
    signalled_fence,
)
from xedev.kernel.errors import KernelError
from xedev.kernel.user_memory import UserMemory

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.kernel.wait import WaitQueue
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_pt import PtUpdate

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
    """Eight bytes to write when the work is done: of a bind, into the caller's memory; of an exec,
    to a GPU address."""

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
    allow_user_fence: bool = True,
    of_exec: bool = False,
) -> XeSyncs:
    """Check ``count`` entries at the user address, in order.

    ``of_exec``: a user fence is a GPU address, which is not looked at.
    Nothing is signalled here, so a failure has no effect.  ``EFAULT`` unreadable, ``EINVAL``
    malformed or nothing to wait for, ``ENOENT`` unknown syncobj, ``EOPNOTSUPP`` not on this VM or
    in this place.
    """
    syncs = XeSyncs()
    try:
        for index in range(count):
            raw = caller.memory.read(address + index * SYNC_SIZE, SYNC_SIZE)
            sync = xe_drm.drm_xe_sync.from_buffer_copy(raw)
            _parse_one(syncs, file, caller, sync, lr_mode, allow_user_fence, of_exec)
        if syncs.user_fences > 1:
            raise KernelError(errno.EINVAL, "one user fence is all that there may be")
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
    of_exec: bool,
) -> None:
    if sync.flags & ~SIGNAL or any(sync.reserved):
        raise KernelError(errno.EINVAL, "unknown sync flags, or reserved is not zero")
    if sync.type in (SYNCOBJ, TIMELINE):
        syncs.parse(file, sync, lr_mode)
        return
    if sync.type != USER_FENCE:
        raise KernelError(errno.EINVAL, f"no sync of type {sync.type}")
    syncs.user_fence = _parse_user_fence(caller, sync, allow_user_fence, of_exec)
    syncs.user_fences += 1


def _parse_user_fence(
    caller: Caller, sync: xe_drm.drm_xe_sync, allowed: bool, of_exec: bool
) -> UserFence:
    if not allowed:
        raise KernelError(errno.EOPNOTSUPP, "a user fence needs a bind to follow")
    if not sync.flags & SIGNAL:
        raise KernelError(errno.EOPNOTSUPP, "a user fence can only be signalled")
    if sync.addr % 8:
        raise KernelError(errno.EINVAL, f"user fence {sync.addr:#x} is not 8-byte aligned")
    if not of_exec:
        caller.memory.read(sync.addr, 8)
    return UserFence(sync.addr, sync.timeline_value)


class _Bind(DrmSchedJob):
    """A bind that has to wait: for its fences, for the binds before it, or for the GPU."""

    __slots__ = ("_memory", "_update", "_user_fence", "_xe", "fence")

    def __init__(
        self,
        xe: XeDevice,
        fence: DmaFence,
        user_fence: UserFence | None,
        memory: UserMemory | None,
        update: PtUpdate | None,
    ) -> None:
        super().__init__()
        self._xe = xe
        self.fence = fence
        """Signalled when it takes effect."""
        self._user_fence = user_fence
        self._memory = memory
        self._update = update

    def run(self) -> None:
        """Its turn has come: change the page tables, if there are any, and tell."""
        if self._update is None:
            self._complete()
        else:
            self._update.apply(self._complete)

    def _complete(self) -> None:
        """It has taken effect.  Whoever says so must not wait for a client's memory."""
        trace = self._xe.trace
        if trace.enabled:
            trace.emit("bind_end", context=self.fence.context, seqno=self.fence.seqno)
        # In this order: a user fence that is seen promises that the others are signalled.
        self.fence.signal()
        if self._user_fence is not None:
            self._xe.ordered_wq.queue_work(self._write_user_fence)

    def _write_user_fence(self) -> None:
        assert self._user_fence is not None and self._memory is not None
        self._user_fence.signal(self._memory, self._xe.ufence_wq)


class BindQueue:
    """Binds of one queue take effect in the order in which they were asked for (kernel: the VM's
    own queue ``vm->q``, or one that a client made).

    The map of the VM changes in the ioctl; what waits for fences is the effect on the GPU, and so
    whoever is told of it.  The binds of a VM that was closed go on.
    """

    __slots__ = ("_context", "_entity", "_last", "_seqno")

    def __init__(self) -> None:
        self._context = 0
        self._seqno = 0
        self._entity = DrmSchedEntity()
        self._last: DmaFence | None = None

    @property
    def is_idle(self) -> bool:
        """Whether all binds have taken effect (kernel: ``xe_exec_queue_is_idle``)."""
        return self._last is None or self._last.is_signaled()

    def submit(
        self,
        xe: XeDevice,
        syncs: XeSyncs,
        caller: Caller,
        update: PtUpdate | None = None,
        waits: Sequence[DmaFence] = (),
    ) -> DmaFence | None:
        """A bind was made: signal its syncs, now or when it may take effect.  It may be one of
        nothing, whose syncs hear of what there was (kernel: ``vm_bind_ioctl_signal_fences``).

        ``update`` is what the GPU has to be told, ``waits`` for what besides the in-fences.
        Returns the fence of a bind that is not done yet.  Needs ``vm->lock`` for writing.
        """
        pending = [fence for fence in (*syncs.waits, *waits) if not fence.is_signaled()]
        user_fence = syncs.user_fence
        is_now = not pending and self.is_idle
        if is_now and update is None:
            if syncs.has_signals:
                syncs.signal(signalled_fence())
            if user_fence is not None:
                user_fence.signal(caller.memory, xe.ufence_wq)
            return None
        if is_now and not syncs.has_signals and user_fence is None:
            assert update is not None
            update.apply_now()
            return None
        if self._last is not None and not self._last.is_signaled():
            pending.append(self._last)
        if update is not None:
            update.defer()
        memory = caller.mm() if user_fence is not None else None
        bind = _Bind(xe, self._next_fence(), user_fence, memory, update)
        self._last = bind.fence
        if xe.trace.enabled:
            _trace_submit(xe, bind.fence, caller, pending)
        syncs.signal(bind.fence)
        self._entity.push_job(bind, pending)
        return bind.fence

    def _next_fence(self) -> DmaFence:
        if not self._context:
            self._context = dma_fence_context_alloc()
        self._seqno += 1
        return DmaFence(self._context, self._seqno)


def _trace_submit(
    xe: XeDevice, fence: DmaFence, caller: Caller, pending: Sequence[DmaFence]
) -> None:
    xe.trace.emit(
        "bind_submit",
        context=fence.context,
        seqno=fence.seqno,
        pid=caller.tgid,
        waits=[f"{wait.context}:{wait.seqno}" for wait in pending],
    )
