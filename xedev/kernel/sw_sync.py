"""Timelines that a program moves by hand, to test with (kernel: drivers/dma-buf/sw_sync.c)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from uapi import sync_file as uapi_sync_file
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import DmaFence, dma_fence_context_alloc
from xedev.kernel.files import FdTokens, File, run_file_ioctl
from xedev.kernel.sync_file import SyncFile

__all__ = ("SwSyncTimeline",)

_INT_MAX = 0x7FFF_FFFF


class SwSyncTimeline(File):
    """One open of ``sw_sync``: a counter, and fences for values that it will reach."""

    def __init__(self, tokens: FdTokens) -> None:
        self.tokens = tokens
        self.context = dma_fence_context_alloc()
        self.value = 0
        self._lock = threading.Lock()
        self._pending: list[DmaFence] = []

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """``CREATE_FENCE``, ``INC``; everything else is ``ENOTTY``."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def create_fence(self, value: int) -> DmaFence:
        """A fence that is signalled when the timeline is at ``value``, perhaps at once."""
        fence = DmaFence(self.context, value, "sw_sync")
        with self._lock:
            done = self._is_reached(value)
            if not done:
                self._pending.append(fence)
        if done:
            fence.signal()
        return fence

    def inc(self, step: int) -> None:
        """Move on, and signal what is reached, the lowest value first."""
        with self._lock:
            self.value = (self.value + step) & 0xFFFF_FFFF
            reached = [fence for fence in self._pending if self._is_reached(fence.seqno)]
            self._pending = [fence for fence in self._pending if fence not in reached]
        for fence in sorted(reached, key=lambda fence: fence.seqno):
            fence.signal()

    def _is_reached(self, value: int) -> bool:
        """Values wrap around (kernel: ``__dma_fence_is_later``)."""
        return (self.value - value) & 0xFFFF_FFFF <= _INT_MAX

    def release(self) -> None:
        """The file was closed: what was not reached fails with ``ENOENT``."""
        with self._lock:
            pending, self._pending = self._pending, []
        for fence in pending:
            fence.signal(errno.ENOENT)
        self.tokens.drop_owner(self)


def _create_fence(file: SwSyncTimeline, data: int, caller: Caller) -> None:
    args = uapi_sync_file.sw_sync_create_fence_data.from_address(data)
    made = SyncFile(file.create_fence(args.value), file.tokens)
    args.fence = file.tokens.install(made, file, caller.tgid)


def _inc(file: SwSyncTimeline, data: int, caller: Caller) -> None:
    step = uapi_sync_file.sw_sync_inc.from_address(data).value
    while step > _INT_MAX:
        file.inc(_INT_MAX)
        step -= _INT_MAX
    file.inc(step)


_IOCTLS: dict[int, Callable[[SwSyncTimeline, int, Caller], None]] = {
    uapi_sync_file.SW_SYNC_IOC_CREATE_FENCE: _create_fence,
    uapi_sync_file.SW_SYNC_IOC_INC: _inc,
}
