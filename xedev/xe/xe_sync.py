"""Syncs that come with a bind (kernel: drivers/gpu/drm/xe/xe_sync.c)."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.drm_syncobj import DrmSyncobj, drm_syncobj_find
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import (
    DmaFence,
    DmaFenceArray,
    DmaFenceChain,
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


@dataclass(frozen=True, slots=True)
class UserFence:
    """Eight bytes to write into the caller's memory when the bind is done."""

    addr: int
    value: int

    def write(self, memory: UserMemory) -> None:
        """Write them; a fault is nobody's error any more (kernel: ``user_fence_worker``)."""
        try:
            memory.write_u64(self.addr, self.value)
        except KernelError:
            return


class XeSyncs:
    """What one ioctl waits for, and what it signals (kernel: ``struct xe_sync_entry[]``).

    It holds references until `put`.
    """

    __slots__ = ("_signals", "user_fence", "waits")

    def __init__(self) -> None:
        self.waits: list[DmaFence] = []
        """As they were when the array was read."""
        self._signals: list[tuple[DrmSyncobj, int]] = []
        self.user_fence: UserFence | None = None

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
            self.waits.append(_wait_fence(syncobj, point))
        finally:
            syncobj.put()

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


def _wait_fence(syncobj: DrmSyncobj, point: int) -> DmaFence:
    """The fence to wait for; ``EINVAL`` when there is none, since nobody waits for a submission
    here."""
    fence = syncobj.search(point)
    if fence is None:
        raise KernelError(errno.EINVAL, f"the syncobj has no fence for point {point}")
    if point and not isinstance(syncobj.fence, DmaFenceChain):
        raise KernelError(errno.EINVAL, "the syncobj is no timeline")
    return fence


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
    fence = _parse_user_fence(caller, sync, allow_user_fence)
    if syncs.user_fence is not None:
        raise KernelError(errno.EINVAL, "one user fence is all that a bind may have")
    syncs.user_fence = fence


def _parse_user_fence(caller: Caller, sync: xe_drm.drm_xe_sync, allowed: bool) -> UserFence:
    if not allowed:
        raise KernelError(errno.EOPNOTSUPP, "a user fence needs a bind to follow")
    if not sync.flags & SIGNAL:
        raise KernelError(errno.EOPNOTSUPP, "a user fence can only be signalled")
    if sync.addr % 8:
        raise KernelError(errno.EINVAL, f"user fence {sync.addr:#x} is not 8-byte aligned")
    caller.memory.read(sync.addr, 8)
    return UserFence(sync.addr, sync.timeline_value)


class BindQueue:
    """Binds of one VM take effect in the order in which they were asked for (kernel: the VM's
    own bind queue, ``vm->q``).

    The map of the VM changes in the ioctl; what waits for fences is the effect on the GPU, and so
    whoever is told of it.  Guarded by ``vm->lock``.
    """

    __slots__ = ("_context", "_last", "_seqno")

    def __init__(self) -> None:
        self._context = 0
        self._seqno = 0
        self._last: DmaFence | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no bind has had to wait lately."""
        return self._last is None

    def pending(self, waits: Iterable[DmaFence] = ()) -> list[DmaFence]:
        """What the next bind has to wait for: its own fences, and the bind before it."""
        if self._last is not None and self._last.is_signaled():
            self._last = None
        last = [] if self._last is None else [self._last]
        return [fence for fence in (*waits, *last) if not fence.is_signaled()]

    def submit(self, syncs: XeSyncs, caller: Caller, waiters: WaitQueue) -> DmaFence | None:
        """A bind was made: signal its syncs, now or when it may take effect.

        Returns the fence of a bind that has to wait.  ``waiters`` are woken when a user fence was
        written.
        """
        pending = self.pending(syncs.waits)
        if not pending:
            syncs.signal(signalled_fence())
            _tell(syncs.user_fence, caller.memory, waiters)
            return None
        fence = self._last = self._next_fence()
        user_fence = syncs.user_fence
        memory = caller.mm() if user_fence is not None else caller.memory

        def done() -> None:
            _tell(user_fence, memory, waiters)
            fence.signal()

        syncs.signal(fence)
        if not DmaFenceArray(pending).add_callback(done):
            done()
        return fence

    def signal_without_bind(self, syncs: XeSyncs) -> None:
        """No op was given: the syncs hear of what there is (kernel:
        ``vm_bind_ioctl_signal_fences``)."""
        pending = self.pending(syncs.waits)
        syncs.signal(DmaFenceArray(pending) if pending else signalled_fence())

    def _next_fence(self) -> DmaFence:
        if not self._context:
            self._context = dma_fence_context_alloc()
        self._seqno += 1
        return DmaFence(self._context, self._seqno)


def _tell(fence: UserFence | None, memory: UserMemory, waiters: WaitQueue) -> None:
    if fence is not None:
        fence.write(memory)
        waiters.wake_up()
