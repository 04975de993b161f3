"""Export and import (kernel: drivers/gpu/drm/xe/xe_dma_buf.c)."""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from xedev.drm.dma_buf import DmaBuf, DmaBufOps
from xedev.drm.drm_device import DrmDevice
from xedev.drm.drm_gem import DrmGemObject
from xedev.drm.ttm import MemType
from xedev.kernel.errors import KernelError
from xedev.kernel.mm import CpuMapping, VmArea
from xedev.xe.xe_bo import (
    PURGED,
    XeBo,
    as_xe_bo,
    purgeable_gate,
    xe_bo_create_foreign,
    xe_bo_migrate,
)

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_gem_prime_export", "xe_gem_prime_import")


class XeDmaBufOps(DmaBufOps):
    """dma-bufs made of Xe BOs; each holds one reference and one WILLNEED holder."""

    def attach(self, dma_buf: DmaBuf, importer: DrmDevice) -> None:
        """Let another device in: it reads system memory, or VRAM that may go there, since no
        card reaches another one's VRAM here (kernel: ``xe_dma_buf_attach`` without PCI
        peer-to-peer).  ``EOPNOTSUPP`` for a BO that must stay in VRAM.

        Importers are told of moves, so nothing is pinned; the pages go to system memory when
        an importer first maps them (see `xedev.xe.xe_bo.xe_bo_validate`).
        """
        if not as_xe_bo(dma_buf.priv).has_system:  # type: ignore[arg-type]
            raise KernelError(errno.EOPNOTSUPP, "the BO may not live in system memory")

    def begin_cpu_access(self, dma_buf: DmaBuf, reads: bool) -> None:
        """Bring the pages to where the CPU reads fast, if they may go there; failing is no harm
        (kernel: ``xe_dma_buf_begin_cpu_access``)."""
        bo = as_xe_bo(dma_buf.priv)  # type: ignore[arg-type]
        if not reads:
            return
        with bo.resv, contextlib.suppress(KernelError):
            xe_bo_migrate(bo, MemType.TT)

    def mmap(self, dma_buf: DmaBuf, area: VmArea) -> CpuMapping:
        """Map the BO as through its own node (kernel: ``drm_gem_dmabuf_mmap``)."""
        bo = as_xe_bo(dma_buf.priv)  # type: ignore[arg-type]
        return bo.gem_mmap(area.offset, area, dma_buf)

    def release(self, dma_buf: DmaBuf) -> None:
        """Drop the holder, then the BO (kernel: ``xe_dma_buf_release``)."""
        bo = as_xe_bo(dma_buf.priv)  # type: ignore[arg-type]
        with bo.resv:
            bo.xe.live_exports.discard(bo)
            bo.xe.policy.unexport(bo)
        bo.put()


XE_DMABUF_OPS = XeDmaBufOps()


def xe_gem_prime_export(bo: XeBo, flags: int) -> DmaBuf:
    """Make the dma-buf of a BO; returned with one reference.

    ``EPERM`` private to a VM, ``EBUSY`` DONTNEED, ``EINVAL`` PURGED, else what populating the
    pages or making the dma-buf answers; then the holder is dropped again.
    """
    if bo.vm is not None:
        raise KernelError(errno.EPERM, "a BO that belongs to one VM cannot be shared")
    xe = bo.xe
    with bo.resv:
        purgeable_gate(bo)
        xe.policy.export(bo)
        xe.live_exports.add(bo)
    try:
        _setup_export(bo)
        xe.faults.check("drm_gem_prime_export")
        bo.get()
        return DmaBuf(XE_DMABUF_OPS, bo, bo.size, flags, xe)
    except KernelError:
        with bo.resv:
            xe.live_exports.discard(bo)
            xe.policy.unexport(bo)
        raise


def _setup_export(bo: XeBo) -> None:
    """Give the BO pages before others see it (kernel: ``ttm_bo_setup_export``)."""
    xe = bo.xe
    xe.faults.check("ttm_bo_setup_export")
    with bo.resv:
        if not bo.populated and bo.purgeable.state is not PURGED:
            xe.ttm.populate(bo)


def xe_gem_prime_import(xe: XeDevice, dma_buf: DmaBuf) -> DrmGemObject:
    """The BO behind a dma-buf with one reference: the same object if this device made it, else a
    new foreign one (kernel: ``xe_gem_prime_import``)."""
    if dma_buf.ops is XE_DMABUF_OPS and dma_buf.device is xe:
        bo = as_xe_bo(dma_buf.priv)  # type: ignore[arg-type]
        bo.get()
        return bo
    dma_buf.ops.attach(dma_buf, xe)
    dma_buf.get()
    is_xe = dma_buf.ops is XE_DMABUF_OPS
    exporter = as_xe_bo(dma_buf.priv) if is_xe else None  # type: ignore[arg-type]
    return xe_bo_create_foreign(xe, dma_buf, exporter)
