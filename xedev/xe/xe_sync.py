"""Syncs that come with a bind (kernel: drivers/gpu/drm/xe/xe_sync.c)."""

from __future__ import annotations

import ctypes
import errno
from dataclasses import dataclass

from uapi import xe_drm
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError

__all__ = ("UserFence", "xe_sync_entries_parse", "xe_sync_entries_signal")

SYNC_SIZE = ctypes.sizeof(xe_drm.drm_xe_sync)
SIGNAL = xe_drm.DRM_XE_SYNC_FLAG_SIGNAL


@dataclass(frozen=True, slots=True)
class UserFence:
    """Eight bytes to write into the caller's memory when the bind is done."""

    addr: int
    value: int


def xe_sync_entries_parse(
    caller: Caller, address: int, count: int, *, lr_mode: bool, allow_user_fence: bool
) -> list[UserFence]:
    """Check ``count`` entries at the user address, in order; returns the user fences.

    Nothing is signalled here, so a failure has no effect.  Errno: see the checks below; in
    general ``EFAULT`` unreadable, ``EINVAL`` malformed, ``ENOENT`` unknown syncobj,
    ``EOPNOTSUPP`` not on this VM or in this place.
    """
    fences: list[UserFence] = []
    for index in range(count):
        raw = caller.memory.read(address + index * SYNC_SIZE, SYNC_SIZE)
        sync = xe_drm.drm_xe_sync.from_buffer_copy(raw)
        fence = _parse_one(caller, sync, lr_mode, allow_user_fence)
        if fence is None:
            continue
        if fences:
            raise KernelError(errno.EINVAL, "one user fence is all that a bind may have")
        fences.append(fence)
    return fences


def _parse_one(
    caller: Caller, sync: xe_drm.drm_xe_sync, lr_mode: bool, allow_user_fence: bool
) -> UserFence | None:
    if sync.flags & ~SIGNAL or any(sync.reserved):
        raise KernelError(errno.EINVAL, "unknown sync flags, or reserved is not zero")
    if sync.type == xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE:
        return _parse_user_fence(caller, sync, allow_user_fence)
    if sync.type not in (
        xe_drm.DRM_XE_SYNC_TYPE_SYNCOBJ,
        xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ,
    ):
        raise KernelError(errno.EINVAL, f"no sync of type {sync.type}")
    _parse_syncobj(sync, lr_mode)
    return None


def _parse_syncobj(sync: xe_drm.drm_xe_sync, lr_mode: bool) -> None:
    if lr_mode and sync.flags & SIGNAL:
        raise KernelError(errno.EOPNOTSUPP, "a long-running VM signals no syncobj")
    if sync.addr >> 32:
        raise KernelError(errno.EINVAL, "the upper half of handle must be zero")
    if sync.type == xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ and not sync.timeline_value:
        raise KernelError(errno.EINVAL, "a timeline point must not be zero")
    # No syncobj can be made yet, so every handle is unknown.
    raise KernelError(errno.ENOENT, f"no syncobj {sync.handle}")


def _parse_user_fence(caller: Caller, sync: xe_drm.drm_xe_sync, allowed: bool) -> UserFence:
    if not allowed:
        raise KernelError(errno.EOPNOTSUPP, "a user fence needs a bind to follow")
    if not sync.flags & SIGNAL:
        raise KernelError(errno.EOPNOTSUPP, "a user fence can only be signalled")
    if sync.addr % 8:
        raise KernelError(errno.EINVAL, f"user fence {sync.addr:#x} is not 8-byte aligned")
    caller.memory.read(sync.addr, 8)
    return UserFence(sync.addr, sync.timeline_value)


def xe_sync_entries_signal(caller: Caller, fences: list[UserFence]) -> None:
    """The bind is done: write the user fences.  A fault then is nobody's error any more
    (kernel: ``user_fence_worker``)."""
    for fence in fences:
        try:
            caller.memory.write_u64(fence.addr, fence.value)
        except KernelError:
            continue
