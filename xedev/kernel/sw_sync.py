"""Timelines that a program moves by hand, to test with (kernel: drivers/dma-buf/sw_sync.c)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from uapi import sync_file as uapi_sync_file
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import DmaFence, dma_fence_context_alloc, dma_fence_is_later
from xedev.kernel.files import POLLIN, POLLOUT, FdTokens, File, run_file_ioctl
from xedev.kernel.sync_file import SyncFile

__all__ = ("SwSyncTimeline",)

_INT_MAX = 0x7FFF_FFFF


class SwSyncTimeline(File):
    """One open of ``sw_sync``: a counter, and fences for values that it will reach."""

    def __init__(self, tokens: FdTokens, name: str = "") -> None:
        self.tokens = tokens
        self.name = name
        """Of the process that opened it."""
        self.context = dma_fence_context_alloc()
        self.value = 0
        self._lock = threading.Lock()
        self._pending: dict[int, DmaFence] = {}

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """``CREATE_FENCE``, ``INC``; everything else is ``ENOTTY``."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Always ready, as what has no poll is."""
        return POLLIN | POLLOUT

    def create_fence(self, value: int) -> DmaFence:
        """The fence that is signalled when the timeline is at ``value``, perhaps at once."""
        with self._lock:
            found = self._pending.get(value)
            if found is not None:
                return found
            fence = DmaFence(self.context, value, "sw_sync", self.name)
            if not self._is_reached(value):
                self._pending[value] = fence
                return fence
        fence.signal()
        return fence

    def inc(self, step: int) -> None:
        """Move on, and signal what is reached, the lowest value first."""
        with self._lock:
            before = self.value
            self.value = (before + step) & 0xFFFF_FFFF
            pending = sorted(self._pending.items(), key=lambda item: item[0] - before & 0xFFFF_FFFF)
            reached = [fence for value, fence in pending if self._is_reached(value)]
            for fence in reached:
                del self._pending[fence.seqno]
        for fence in reached:
            fence.signal()

    def _is_reached(self, value: int) -> bool:
        return not dma_fence_is_later(value, self.value)

    def release(self) -> None:
        """The file was closed: what was not reached fails with ``ENOENT``."""
        with self._lock:
            pending = list(self._pending.values())
            self._pending.clear()
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
