"""dma-bufs: memory that descriptors name (kernel: drivers/dma-buf/dma-buf.c)."""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import dma_buf as uapi_dma_buf
from uapi import xe_mock
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, FdTokens, File, run_file_ioctl
from xedev.kernel.mm import CpuMapping, VmArea, mmap_by_ioctl, page_align
from xedev.kernel.refcount import Refcounted

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

    __slots__ = ("device", "exp_name", "mode", "name", "ops", "priv", "size")

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
        """``SYNC``, and the mock's own MMAP; everything else is ``ENOTTY``
        (kernel: ``dma_buf_ioctl``)."""
        return run_file_ioctl(_IOCTLS, self, cmd, data, caller)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable and writable while no fence is pending on the memory."""
        return POLLIN | POLLOUT

    def release(self) -> None:
        """The descriptor was closed."""
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
        reads = bool(sync.flags & uapi_dma_buf.DMA_BUF_SYNC_READ)
        file.dma_buf.ops.begin_cpu_access(file.dma_buf, reads)


def _mmap(file: DmaBufFile, data: int, caller: Caller) -> None:
    device = file.device
    if device is None:
        raise KernelError(errno.EINVAL, "this dma-buf cannot be mapped")
    file.tokens = device.tokens
    mmap_by_ioctl(file, xe_mock.xe_mock_mmap.from_address(data), device.tokens, file, caller)


_IOCTLS: dict[int, Callable[[DmaBufFile, int, Caller], None]] = {
    uapi_dma_buf.DMA_BUF_IOCTL_SYNC: _dma_buf_sync,
    xe_mock.XE_MOCK_IOCTL_MMAP: _mmap,
}
