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
from xedev.xe.xe_exec_queue import XeExecQueue, xe_exec_queue_lookup

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

    ``EINVAL`` malformed, ``ENOENT`` unknown queue, ``EFAULT``, ``EIO`` the queue was reset,
    ``ETIME``, ``EINTR``.  A relative timeout comes back as the time left.
    Kernel: ``xe_wait_user_fence_ioctl``.
    """
    _check_args(args)
    queue = None
    if args.exec_queue_id:
        queue = xe_exec_queue_lookup(file, args.exec_queue_id)
        if queue is None:
            raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
    if args.timeout < 0:
        args.timeout = LONG_MAX
    return _UserFenceWait(xe, args, queue, caller).run()


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

    def __init__(
        self,
        xe: XeDevice,
        args: xe_drm.drm_xe_wait_user_fence,
        queue: XeExecQueue | None,
        caller: Caller,
    ) -> None:
        self._xe = xe
        self._args = args
        self._queue = queue
        self._caller = caller
        self._memory = caller.memory
        self._compare = _OPS[args.op]
        self._begin = time.monotonic_ns()
        self._failure = (errno.ETIME, "the time is up")
        """Errno and reason; 0 once the cell is as it should be."""

    def run(self) -> int | Deferred[int]:
        """Answer now or later."""
        left = self._seconds_to_sleep()
        if self._is_over() or not left:
            return self._finish()
        # What a frame brought never changes.
        self._memory = self._caller.mm()
        return Deferred(self._xe.ufence_wq, self._is_over, self._finish, left, self._end)

    def _seconds_to_sleep(self) -> float:
        """0 for a single look."""
        timeout = self._args.timeout
        if not timeout:
            return 0.0
        if self._args.flags & ABSTIME:
            timeout -= self._begin
        return min(max(timeout, JIFFY) / NS_PER_S, threading.TIMEOUT_MAX)

    def _is_over(self) -> bool:
        """One look.  What it found is the answer, even if the cell is something else again when
        the sleeper wakes."""
        try:
            met = self._is_met()
        except KernelError as error:
            self._failure = error.errno or errno.EFAULT, error.reason
            return True
        if met:
            self._failure = 0, ""
            return True
        if self._queue is not None and self._queue.is_reset:
            self._failure = errno.EIO, "the exec queue was reset"
            return True
        return False

    def _is_met(self) -> bool:
        """``EFAULT`` when the cell cannot be read."""
        args = self._args
        cell = self._memory.read_u64(args.addr)
        return self._compare(cell & args.mask, args.value & args.mask)

    def _finish(self) -> int:
        self._end()
        error, reason = self._failure
        if error:
            raise KernelError(error, reason)
        return 0

    def _end(self) -> None:
        """A relative timeout becomes what is left of it, also after a failure."""
        if not self._args.flags & ABSTIME:
            left = self._args.timeout - (time.monotonic_ns() - self._begin)
            self._args.timeout = max(0, left)
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.put()
