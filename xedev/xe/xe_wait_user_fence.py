"""Waiting for a cell of memory to change (kernel: drivers/gpu/drm/xe/xe_wait_user_fence.c)."""

from __future__ import annotations

import errno
import operator
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_wait_user_fence_ioctl",)

LONG_MAX = (1 << 63) - 1
NS_PER_S = 1_000_000_000
JIFFY = NS_PER_S // 1000
"""The shortest sleep, nanoseconds."""
ABSTIME = xe_drm.DRM_XE_UFENCE_WAIT_FLAG_ABSTIME

_OPS: dict[int, Callable[[int, int], bool]] = {
    xe_drm.DRM_XE_UFENCE_WAIT_OP_EQ: operator.eq,
    xe_drm.DRM_XE_UFENCE_WAIT_OP_NEQ: operator.ne,
    xe_drm.DRM_XE_UFENCE_WAIT_OP_GT: operator.gt,
    xe_drm.DRM_XE_UFENCE_WAIT_OP_GTE: operator.ge,
    xe_drm.DRM_XE_UFENCE_WAIT_OP_LT: operator.lt,
    xe_drm.DRM_XE_UFENCE_WAIT_OP_LTE: operator.le,
}


def xe_wait_user_fence_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_wait_user_fence, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``WAIT_USER_FENCE``: until ``(*addr & mask) op (value & mask)``, unsigned.

    ``EINVAL`` malformed, ``ENOENT`` unknown queue, ``EFAULT``, ``ETIME``, ``EINTR``.  A relative
    timeout comes back as the time left.  Kernel: ``xe_wait_user_fence_ioctl``.
    """
    _check_args(args)
    if args.exec_queue_id:
        raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
    if args.timeout < 0:
        args.timeout = LONG_MAX
    return _UserFenceWait(xe, args, caller).run()


def _check_args(args: xe_drm.drm_xe_wait_user_fence) -> None:
    if args.extensions or args.pad or args.pad2 or any(args.reserved):
        raise KernelError(errno.EINVAL, "extensions, pads and reserved must be zero")
    if args.flags & ~ABSTIME:
        raise KernelError(errno.EINVAL, f"unknown flags {args.flags:#x}")
    if args.op not in _OPS:
        raise KernelError(errno.EINVAL, f"no op {args.op}")
    if args.addr % 8:
        raise KernelError(errno.EINVAL, f"{args.addr:#x} is not 8-byte aligned")


class _UserFenceWait:
    """One wait.  The cell is looked at first, and then whenever the driver has written one."""

    def __init__(self, xe: XeDevice, args: xe_drm.drm_xe_wait_user_fence, caller: Caller) -> None:
        self._xe = xe
        self._args = args
        self._memory = caller.memory
        self._compare = _OPS[args.op]
        self._begin = time.monotonic_ns()

    def run(self) -> int | Deferred[int]:
        """Answer now or later."""
        left = self._time_left()
        if not left or self._is_met_or_fails():
            return self._finish()
        return Deferred(
            self._xe.ufence_wq, self._is_met_or_fails, self._finish, left, self._write_back
        )

    def _time_left(self) -> float:
        """Seconds to sleep; 0 for a single look."""
        timeout = self._args.timeout
        if not timeout:
            return 0.0
        if self._args.flags & ABSTIME:
            timeout -= self._begin
        return min(max(timeout, JIFFY) / NS_PER_S, threading.TIMEOUT_MAX)

    def _is_met(self) -> bool:
        """``EFAULT`` when the cell cannot be read."""
        args = self._args
        cell = self._memory.read_u64(args.addr)
        return self._compare(cell & args.mask, args.value & args.mask)

    def _is_met_or_fails(self) -> bool:
        try:
            return self._is_met()
        except KernelError:
            return True  # which the end finds again

    def _finish(self) -> int:
        try:
            if not self._is_met():
                raise KernelError(errno.ETIME, "the time is up")
        finally:
            self._write_back()
        return 0

    def _write_back(self) -> None:
        """A relative timeout becomes what is left of it, also after a failure."""
        if not self._args.flags & ABSTIME:
            left = self._args.timeout - (time.monotonic_ns() - self._begin)
            self._args.timeout = max(0, left)
