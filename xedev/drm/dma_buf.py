"""dma-bufs: memory that descriptors name (kernel: drivers/dma-buf/dma-buf.c)."""

from __future__ import annotations

import errno
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import dma_buf as uapi_dma_buf
from uapi import xe_mock
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import (
    DmaFence,
    DmaFenceArray,
    dma_fence_unwrap,
    dma_fence_unwrap_merge,
    signalled_fence,
)
from xedev.kernel.dma_resv import ResvFences
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, FdTokens, File, run_file_ioctl
from xedev.kernel.mm import CpuMapping, VmArea, mmap_by_ioctl, page_align
from xedev.kernel.refcount import Refcounted
from xedev.kernel.sync_file import SyncFile
from xedev.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice

__all__ = ("DmaBuf", "DmaBufFile", "DmaBufOps")


class DmaBufOps(ABC):
    """What the exporter of a dma-buf does (kernel: ``struct dma_buf_ops``)."""

    @abstractmethod
    def release(self, dma_buf: DmaBuf) -> None:
        """The last reference went."""

    def mmap(self, dma_buf: DmaBuf, area: VmArea) -> CpuMapping:
        """Map a part of the memory; ``EINVAL`` where the exporter cannot."""
        raise KernelError(errno.EINVAL, "this dma-buf cannot be mapped")

    def begin_cpu_access(self, dma_buf: DmaBuf, reads: bool) -> None:  # noqa: B027 - may do nothing
        """A CPU is about to touch the memory; ``reads``: what the GPU wrote matters."""

    @abstractmethod
    def attach(self, dma_buf: DmaBuf, importer: DrmDevice) -> None:
        """Another device wants to use the memory; an errno refuses it."""


class DmaBuf(Refcounted):
    """Shared memory of ``size`` bytes.  References: descriptors, importers, PRIME tables, and
    the link from the exported object while that has a handle."""

    __slots__ = (
        *("device", "exp_name", "mode", "name", "ops", "priv", "readers", "size", "writers"),
    )

    def __init__(
        self, ops: DmaBufOps, priv: object, size: int, mode: int, device: DrmDevice | None
    ) -> None:
        super().__init__()
        self.ops = ops
        self.priv = priv
        self.size = size
        self.mode = mode
        self.device = device
        self.name = ""
        self.exp_name = "drm"
        self.writers = ResvFences()
        """What a reader waits for: fences that clients put in for writers."""
        self.readers = ResvFences()
        """What a writer waits for besides."""

    def pending(self, flags: int) -> list[DmaFence]:
        """The fences that an access of ``DMA_BUF_SYNC_*`` waits for
        (kernel: ``dma_resv_usage_rw``)."""
        writes = flags & uapi_dma_buf.DMA_BUF_SYNC_WRITE
        return self.writers.pending() + (self.readers.pending() if writes else [])

    def fput(self) -> None:
        """Drop one reference (kernel: ``dma_buf_put``)."""
        self.put()

    def free(self) -> None:
        """Run the exporter's release."""
        self.ops.release(self)


class DmaBufFile(File):
    """One descriptor of a dma-buf; it owns the reference that it was made with."""

    seekable = True

    def __init__(self, dma_buf: DmaBuf) -> None:
        self.dma_buf = dma_buf
        self.tokens: FdTokens | None = None
        """Where leases of mappings made through this descriptor may wait."""
        self._waiter: Callable[[], None] | None = None
        self._watched: set[DmaFence] = set()
        self._watch_lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the dma-buf, for fstat(2) and lseek(2)."""
        return self.dma_buf.size

    @property
    def device(self) -> DrmDevice | None:
        """Of the exporter."""
        return self.dma_buf.device

    @property
    def access(self) -> int:
        """The access mode that the first export fixed for all descriptors."""
        return self.dma_buf.mode & os.O_ACCMODE

    def mmap(self, area: VmArea) -> CpuMapping:
        """mmap(2): ``EINVAL`` beyond the end, else what the exporter says
        (kernel: ``dma_buf_mmap_internal``)."""
        if area.offset + area.length > page_align(self.dma_buf.size):
            raise KernelError(errno.EINVAL, "the mapping reaches beyond the dma-buf")
        return self.dma_buf.ops.mmap(self.dma_buf, area)

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """``SYNC``, ``EXPORT_SYNC_FILE``, ``IMPORT_SYNC_FILE``, and the mock's own MMAP; everything
        else is ``ENOTTY`` (kernel: ``dma_buf_ioctl``)."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable when writers are done, writable when all are (kernel: ``dma_buf_poll``)."""
        if waiter is not None:
            self._waiter = waiter
            for fence in self.dma_buf.pending(uapi_dma_buf.DMA_BUF_SYNC_RW):
                self._watch(fence)
        readable = not self.dma_buf.writers.is_busy
        writable = not self.dma_buf.pending(uapi_dma_buf.DMA_BUF_SYNC_RW)
        return (POLLIN if readable else 0) | (POLLOUT if writable else 0)

    def _watch(self, fence: DmaFence) -> None:
        """Once for each fence, however often a client looks."""
        with self._watch_lock:
            if fence in self._watched:
                return
            self._watched.add(fence)
        if not fence.add_callback(self._wake):
            with self._watch_lock:
                self._watched.discard(fence)

    def _wake(self) -> None:
        with self._watch_lock:
            self._watched = {fence for fence in self._watched if not fence.is_signaled()}
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    def release(self) -> None:
        """The descriptor was closed."""
        with self._watch_lock:
            watched, self._watched = self._watched, set()
        for fence in watched:
            fence.remove_callback(self._wake)
        tokens, self.tokens = self.tokens, None
        if tokens is not None:
            tokens.drop_owner(self)
        self.dma_buf.fput()


def _dma_buf_sync(file: DmaBufFile, data: int, caller: Caller) -> None:
    sync = uapi_dma_buf.dma_buf_sync.from_address(data)
    if sync.flags & ~uapi_dma_buf.DMA_BUF_SYNC_VALID_FLAGS_MASK:
        raise KernelError(errno.EINVAL, f"unknown sync flags {sync.flags:#x}")
    if not sync.flags & uapi_dma_buf.DMA_BUF_SYNC_RW:
        raise KernelError(errno.EINVAL, "neither READ nor WRITE")
    if not sync.flags & uapi_dma_buf.DMA_BUF_SYNC_END:
        _wait(file.dma_buf.pending(sync.flags), caller)
        reads = bool(sync.flags & uapi_dma_buf.DMA_BUF_SYNC_READ)
        file.dma_buf.ops.begin_cpu_access(file.dma_buf, reads)


def _wait(fences: list[DmaFence], caller: Caller) -> None:
    """``EINTR``."""
    if not fences:
        return
    done = WaitQueue()
    all_of_them = DmaFenceArray(fences)
    if all_of_them.add_callback(done.wake_up):
        try:
            done.wait_event(all_of_them.is_signaled, caller)
        finally:
            all_of_them.remove_callback(done.wake_up)


def _export_sync_file(file: DmaBufFile, data: int, caller: Caller) -> None:
    """A sync_file of what is pending now.  ``EINVAL`` flags (kernel:
    ``dma_buf_export_sync_file``)."""
    args = uapi_dma_buf.dma_buf_export_sync_file.from_address(data)
    _check_access(args.flags)
    device = file.device
    if device is None:
        raise KernelError(errno.EINVAL, "the memory belongs to no device")
    fences = file.dma_buf.pending(args.flags)
    fence = dma_fence_unwrap_merge(*fences) if fences else signalled_fence()
    file.tokens = device.tokens
    args.fd = device.tokens.install(SyncFile(fence, device.tokens), file, caller.tgid)


def _import_sync_file(file: DmaBufFile, data: int, caller: Caller) -> None:
    """Have later accesses wait for a sync_file.  ``EINVAL`` flags, or no sync_file (kernel:
    ``dma_buf_import_sync_file``)."""
    args = uapi_dma_buf.dma_buf_import_sync_file.from_address(data)
    _check_access(args.flags)
    try:
        found = caller.fget(args.fd)
    except KernelError:
        found = None
    if not isinstance(found, SyncFile):
        raise KernelError(errno.EINVAL, f"descriptor {args.fd} is no sync_file")
    dma_buf = file.dma_buf
    writes = args.flags & uapi_dma_buf.DMA_BUF_SYNC_WRITE
    for fence in dma_fence_unwrap(found.fence):
        (dma_buf.writers if writes else dma_buf.readers).add(fence)


def _check_access(flags: int) -> None:
    if flags & ~uapi_dma_buf.DMA_BUF_SYNC_RW or not flags:
        raise KernelError(errno.EINVAL, f"no such access: {flags:#x}")


def _mmap(file: DmaBufFile, data: int, caller: Caller) -> None:
    device = file.device
    if device is None:
        raise KernelError(errno.EINVAL, "this dma-buf cannot be mapped")
    file.tokens = device.tokens
    mmap_by_ioctl(file, xe_mock.xe_mock_mmap.from_address(data), device.tokens, file, caller)


_IOCTLS: dict[int, Callable[[DmaBufFile, int, Caller], None]] = {
    uapi_dma_buf.DMA_BUF_IOCTL_SYNC: _dma_buf_sync,
    uapi_dma_buf.DMA_BUF_IOCTL_EXPORT_SYNC_FILE: _export_sync_file,
    uapi_dma_buf.DMA_BUF_IOCTL_IMPORT_SYNC_FILE: _import_sync_file,
    xe_mock.XE_MOCK_IOCTL_MMAP: _mmap,
}
