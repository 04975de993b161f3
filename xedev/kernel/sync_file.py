"""Fences that descriptors name (kernel: drivers/dma-buf/sync_file.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from uapi import sync_file as uapi_sync_file
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import DmaFence, DmaFenceArray, dma_fence_unwrap, signalled_fence
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, FdTokens, File, run_file_ioctl

__all__ = ("SyncFile", "dma_fence_unwrap_merge")

_NAME_BYTES = 31


def dma_fence_unwrap_merge(*fences: DmaFence) -> DmaFence:
    """One fence for all that is still pending in several."""
    pending = [part for fence in fences for part in dma_fence_unwrap(fence)]
    pending = [fence for fence in dict.fromkeys(pending) if not fence.is_signaled()]
    if not pending:
        return signalled_fence(next((fence.error for fence in fences if fence.error), 0))
    return pending[0] if len(pending) == 1 else DmaFenceArray(pending)


class SyncFile(File):
    """One descriptor of a fence, which never changes (kernel: ``struct sync_file``)."""

    def __init__(self, fence: DmaFence, tokens: FdTokens, name: str = "") -> None:
        self.fence = fence
        self.name = name or f"{fence.driver}-{fence.context}:{fence.seqno}"
        self.tokens = tokens
        """Where the files wait that MERGE makes."""
        self._waiter: Callable[[], None] | None = None
        self._is_watched = False

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """``MERGE``, ``FILE_INFO``, ``SET_DEADLINE``; everything else is ``ENOTTY``."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable once the fence is signalled."""
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


def _merge(file: SyncFile, data: int, caller: Caller) -> None:
    """``EINVAL`` flags or pad, ``ENOENT`` the other one is no sync_file."""
    args = uapi_sync_file.sync_merge_data.from_address(data)
    if args.flags or args.pad:
        raise KernelError(errno.EINVAL, "flags and pad must be zero")
    other = _fget(args.fd2, caller)
    fence = dma_fence_unwrap_merge(file.fence, other.fence)
    merged = SyncFile(fence, file.tokens, args.name.decode("utf-8", "replace"))
    args.fence = file.tokens.install(merged, file, caller.tgid)


def _fget(fd: int, caller: Caller) -> SyncFile:
    try:
        found = caller.fget(fd)
    except KernelError:
        found = None
    if not isinstance(found, SyncFile):
        raise KernelError(errno.ENOENT, f"descriptor {fd} is no sync_file")
    return found


def _status(fence: DmaFence) -> int:
    """1 signalled, 0 active, ``-errno`` failed (kernel: ``dma_fence_get_status``)."""
    if not fence.is_signaled():
        return 0
    return -fence.error or 1


def _file_info(file: SyncFile, data: int, caller: Caller) -> None:
    """``EINVAL`` flags or pad, or room for too few fences; ``EFAULT``."""
    args = uapi_sync_file.sync_file_info.from_address(data)
    if args.flags or args.pad:
        raise KernelError(errno.EINVAL, "flags and pad must be zero")
    fences = list(dma_fence_unwrap(file.fence))
    if args.num_fences:
        if args.num_fences < len(fences):
            raise KernelError(errno.EINVAL, f"{len(fences)} fences, room for {args.num_fences}")
        infos = b"".join(bytes(_fence_info(fence)) for fence in fences)
        args.status = min((_status(fence) for fence in fences), default=1)
        caller.memory.write(args.sync_fence_info, infos)
    else:
        args.status = _status(file.fence)
    args.name = file.name.encode()[:_NAME_BYTES]
    args.num_fences = len(fences)


def _fence_info(fence: DmaFence) -> uapi_sync_file.sync_fence_info:
    return uapi_sync_file.sync_fence_info(
        obj_name=f"{fence.driver}-{fence.context}".encode()[:_NAME_BYTES],
        driver_name=fence.driver.encode()[:_NAME_BYTES],
        status=_status(fence),
        timestamp_ns=fence.timestamp,
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
