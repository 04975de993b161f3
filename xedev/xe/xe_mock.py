"""The mock's private ioctls: the driver's own gates, asked directly.

They stand in for calls that cannot reach a server of files: mmap(2) and the page faults after it.
They are no part of the driver's ioctl table, so a wedged device still answers them.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uapi import xe_mock
from uapi.base import Struct
from uapi.ioctl import IOC_SIZE
from xedev.drm.dma_buf import DmaBuf, DmaBufOps
from xedev.drm.drm_device import DrmDevice
from xedev.drm.drm_gem import drm_gem_object_lookup
from xedev.drm.drm_prime import drm_gem_prime_import_dma_buf
from xedev.drm.ttm import MemType
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError
from xedev.kernel.mm import PAGE_SIZE, mmap_by_ioctl
from xedev.kernel.user_memory import check_range
from xedev.xe.xe_bo import WILLNEED, XeBo, as_xe_bo
from xedev.xe.xe_drm_client import drm_show_fdinfo

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_mock_ioctl",)

FOREIGN_SIZE_MAX = 1 << 40


def xe_mock_ioctl(
    xe: XeDevice, file: DrmFile, cmd: int, data: int, caller: Caller
) -> int | Deferred[int] | None:
    """Run a private ioctl; None when ``cmd`` is none of them (it is ``ENOTTY`` then)."""
    row = _IOCTLS.get(cmd)
    if row is None:
        return None
    struct, handler = row
    if not data or IOC_SIZE(cmd) != ctypes.sizeof(struct):
        raise KernelError(errno.EFAULT, "the argument cannot be read")
    args = struct.from_address(data)
    if any(args.reserved):
        raise KernelError(errno.EINVAL, "reserved must be zero")
    return handler(xe, file, args, caller) or 0


def _mmap(xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_mmap, caller: Caller) -> None:
    """mmap(2) on the DRM descriptor: its errno, or what to map instead."""
    mmap_by_ioctl(file, args, xe.tokens, file, caller)


def _fault(xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_fault, caller: Caller) -> None:
    """What a CPU fault at a fake offset does (kernel: ``xe_bo_cpu_fault``)."""
    obj = xe.vma_offsets.exact_lookup(args.offset) if args.offset % PAGE_SIZE == 0 else None
    if obj is None:
        raise KernelError(errno.EINVAL, f"no BO begins at offset {args.offset:#x}")
    bo = as_xe_bo(obj)
    gone = xe.wedged or xe.unplugged
    with bo.resv:
        lost = bo.purgeable.state is not WILLNEED or bo.imported
    args.sigbus = int(lost and not gone)


class TestExporterOps(DmaBufOps):
    """The built-in exporter: memory of another device that nobody else can see."""

    def attach(self, dma_buf: DmaBuf, importer: DrmDevice) -> None:
        """Everybody may."""

    def release(self, dma_buf: DmaBuf) -> None:
        """Nothing to give back."""


TEST_EXPORTER_OPS = TestExporterOps()


def _import_foreign(
    xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_import_foreign, caller: Caller
) -> None:
    if not args.size or args.size % PAGE_SIZE or args.size > FOREIGN_SIZE_MAX:
        raise KernelError(errno.EINVAL, "size must be a multiple of 4 KiB up to 1 TiB")
    if args.flags:
        raise KernelError(errno.EINVAL, "flags must be zero")
    dma_buf = DmaBuf(TEST_EXPORTER_OPS, None, args.size, 0, None)
    try:
        args.handle = drm_gem_prime_import_dma_buf(xe, file, dma_buf)
    finally:
        dma_buf.fput()


def _bo_info(xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_bo_info, caller: Caller) -> None:
    if args.pad:
        raise KernelError(errno.EINVAL, "pad must be zero")
    bo = as_xe_bo(drm_gem_object_lookup(file, args.handle))
    try:
        with bo.resv:
            args.id, args.size = bo.id, bo.size
            args.state = bo.purgeable.state
            args.vma_count = bo.purgeable.vma_count
            args.willneed_count = bo.purgeable.willneed_count
            args.placement = _region_instance(bo)
            args.exported = int(xe.has_live_export(bo))
            args.imported = int(bo.imported)
    finally:
        bo.put()


def _region_instance(bo: XeBo) -> int:
    if bo.mem_type is None or not bo.populated:
        return xe_mock.XE_MOCK_BO_NOWHERE
    return bo.mem_type - MemType.TT if bo.mem_type.is_vram else 0


def _fdinfo(xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_fdinfo, caller: Caller) -> None:
    """What the kernel shows in ``/proc/PID/fdinfo`` (``f_op->show_fdinfo``)."""
    if args.pad:
        raise KernelError(errno.EINVAL, "pad must be zero")
    text = drm_show_fdinfo(xe, file).encode()[: xe_mock.XE_MOCK_FDINFO_MAX - 1]
    args.text = text
    args.length = len(text)


def _mmu_notify(
    xe: XeDevice, file: DrmFile, args: xe_mock.xe_mock_mmu_notify, caller: Caller
) -> int | Deferred[int]:
    """The caller's memory is about to change, or has."""
    if args.flags or args.pad:
        raise KernelError(errno.EINVAL, "flags and pad must be zero")
    mm = caller.mm()
    if args.cookie:
        xe.userptr_notifier.end(mm, args.cookie)
        return 0
    check_range(args.address, args.length)
    args.cookie, answer = xe.userptr_notifier.invalidate(
        mm, args.address, args.address + args.length
    )
    return answer


_Handler = Callable[["XeDevice", "DrmFile", Any, Caller], int | Deferred[int] | None]

_IOCTLS: dict[int, tuple[type[Struct], _Handler]] = {
    xe_mock.XE_MOCK_IOCTL_MMAP: (xe_mock.xe_mock_mmap, _mmap),
    xe_mock.XE_MOCK_IOCTL_FAULT: (xe_mock.xe_mock_fault, _fault),
    xe_mock.XE_MOCK_IOCTL_IMPORT_FOREIGN: (xe_mock.xe_mock_import_foreign, _import_foreign),
    xe_mock.XE_MOCK_IOCTL_BO_INFO: (xe_mock.xe_mock_bo_info, _bo_info),
    xe_mock.XE_MOCK_IOCTL_FDINFO: (xe_mock.xe_mock_fdinfo, _fdinfo),
    xe_mock.XE_MOCK_IOCTL_MMU_NOTIFY: (xe_mock.xe_mock_mmu_notify, _mmu_notify),
}
