"""Fences that descriptors name (kernel: drivers/dma-buf/sync_file.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from uapi import sync_file as uapi_sync_file
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import DmaFence, dma_fence_unwrap, dma_fence_unwrap_merge
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, FdTokens, File, run_file_ioctl

__all__ = ("SyncFile",)

_NAME_BYTES = 31


class SyncFile(File):
    """One descriptor of a fence, which never changes (kernel: ``struct sync_file``)."""

    def __init__(self, fence: DmaFence, tokens: FdTokens, name: bytes = b"") -> None:
        self.fence = fence
        self.name = name or _name_of(fence)
        self.tokens = tokens
        """Where the files wait that MERGE makes."""
        self._waiter: Callable[[], None] | None = None
        self._is_watched = False

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """``MERGE``, ``FILE_INFO``, ``SET_DEADLINE``; everything else is ``ENOTTY``."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable once the fence is signalled."""
        if waiter is not None:  # a mere look leaves those who sleep alone
            self._waiter = waiter
        if self.fence.is_signaled():
            return POLLIN
        if not self._is_watched:
            self._is_watched = self.fence.add_callback(self._wake)
        return POLLIN if self.fence.is_signaled() else 0

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    def release(self) -> None:
        """The descriptor was closed."""
        self.fence.remove_callback(self._wake)
        self.tokens.drop_owner(self)


def _name_of(fence: DmaFence) -> bytes:
    """Kernel: ``sync_file_get_name``."""
    return f"{fence.driver}-{fence.timeline}{fence.context}-{fence.seqno}".encode()


def _merge(file: SyncFile, data: int, caller: Caller) -> None:
    """``EINVAL`` flags or pad, ``ENOENT`` the other one is no sync_file."""
    args = uapi_sync_file.sync_merge_data.from_address(data)
    if args.flags or args.pad:
        raise KernelError(errno.EINVAL, "flags and pad must be zero")
    other = _fget(args.fd2, caller)
    fence = dma_fence_unwrap_merge(file.fence, other.fence)
    merged = SyncFile(fence, file.tokens, args.name[:_NAME_BYTES])
    args.fence = file.tokens.install(merged, file, caller.tgid)


def _fget(fd: int, caller: Caller) -> SyncFile:
    try:
        found = caller.fget(fd)
    except KernelError:
        found = None
    if not isinstance(found, SyncFile):
        raise KernelError(errno.ENOENT, f"descriptor {fd} is no sync_file")
    return found


def _file_info(file: SyncFile, data: int, caller: Caller) -> None:
    """``EINVAL`` flags or pad, or room for too few fences; ``EFAULT``."""
    args = uapi_sync_file.sync_file_info.from_address(data)
    if args.flags or args.pad:
        raise KernelError(errno.EINVAL, "flags and pad must be zero")
    fences = list(dma_fence_unwrap(file.fence))
    status = file.fence.get_status()
    if args.num_fences:
        if args.num_fences < len(fences):
            raise KernelError(errno.EINVAL, f"{len(fences)} fences, room for {args.num_fences}")
        infos = [_fence_info(fence) for fence in fences]
        # The first that is not done, or failed, speaks for all.
        status = next((info.status for info in infos if info.status != 1), 1)
        caller.memory.write(args.sync_fence_info, b"".join(map(bytes, infos)))
    args.status = status
    args.name = file.name[:_NAME_BYTES]
    args.num_fences = len(fences)


def _fence_info(fence: DmaFence) -> uapi_sync_file.sync_fence_info:
    status = fence.get_status()
    return uapi_sync_file.sync_fence_info(
        obj_name=fence.timeline.encode()[:_NAME_BYTES],
        driver_name=fence.driver.encode()[:_NAME_BYTES],
        status=status,
        timestamp_ns=fence.timestamp if status else 0,
    )


def _set_deadline(file: SyncFile, data: int, caller: Caller) -> None:
    """A hint that nobody here needs; ``EINVAL`` pad."""
    if uapi_sync_file.sync_set_deadline.from_address(data).pad:
        raise KernelError(errno.EINVAL, "pad must be zero")


_IOCTLS: dict[int, Callable[[SyncFile, int, Caller], None]] = {
    uapi_sync_file.SYNC_IOC_MERGE: _merge,
    uapi_sync_file.SYNC_IOC_FILE_INFO: _file_info,
    uapi_sync_file.SYNC_IOC_SET_DEADLINE: _set_deadline,
}
