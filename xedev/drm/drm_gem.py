"""GEM objects and handles (kernel: drivers/gpu/drm/drm_gem.c)."""

from __future__ import annotations

import errno
from abc import abstractmethod
from typing import TYPE_CHECKING

from uapi.drm import drm_gem_close, drm_gem_flink, drm_gem_open
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.refcount import Refcounted

if TYPE_CHECKING:
    from xedev.drm.dma_buf import DmaBuf
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile
    from xedev.drm.drm_gpuvm import DrmGpuvmBo
    from xedev.kernel.mm import CpuMapping, VmArea

__all__ = (
    "DrmGemObject",
    "drm_gem_close_ioctl",
    "drm_gem_flink_ioctl",
    "drm_gem_handle_create",
    "drm_gem_handle_delete",
    "drm_gem_mmap",
    "drm_gem_object_lookup",
    "drm_gem_open_ioctl",
    "drm_gem_release",
)


class DrmGemObject(Refcounted):
    """Memory that handles name (kernel: ``struct drm_gem_object``).

    References are held by handles, VMAs, dma-bufs and mappings.
    """

    __slots__ = (
        "device",
        "dma_buf",
        "gpuva_list",
        "handle_count",
        "import_attach",
        "name",
        "size",
    )

    def __init__(self, device: DrmDevice, size: int) -> None:
        super().__init__()
        self.device = device
        self.size = size
        self.handle_count = 0
        self.name = 0
        self.dma_buf: DmaBuf | None = None
        self.import_attach: DmaBuf | None = None
        self.gpuva_list: dict[object, DrmGpuvmBo] = {}
        """The VMAs of this object by address space (kernel: ``obj->gpuva.list``)."""

    @abstractmethod
    def gem_export(self, file: DrmFile, flags: int) -> DmaBuf:
        """Make the dma-buf of this object; returned with one reference."""

    @abstractmethod
    def gem_mmap(self, start: int, area: VmArea, file: Refcounted) -> CpuMapping:
        """Map the object from byte ``start`` on; the mapping keeps ``file``
        (kernel: ``drm_gem_object_funcs.mmap``)."""

    def gem_open(self, file: DrmFile) -> None:
        """A handle of ``file`` is about to name the object."""

    def gem_close(self, file: DrmFile) -> None:
        """A handle of ``file`` stops naming the object."""


def drm_gem_object_lookup(file: DrmFile, handle: int) -> DrmGemObject:
    """The object under ``handle`` with one more reference; ``ENOENT`` for none."""
    obj = file.object_idr.entries.get(handle)
    # An object whose last reference goes right now counts as gone.
    if obj is None or not obj.get_unless_zero():
        raise KernelError(errno.ENOENT, f"no GEM handle {handle}")
    return obj


def drm_gem_handle_create(file: DrmFile, obj: DrmGemObject) -> int:
    """Name ``obj`` by the lowest free handle of ``file`` (>= 1)."""
    with file.device.object_name_lock:
        return drm_gem_handle_create_tail(file, obj)


def drm_gem_handle_create_tail(file: DrmFile, obj: DrmGemObject) -> int:
    """As `drm_gem_handle_create`, under ``dev->object_name_lock``."""
    file.device.faults.check("drm_gem_handle_create")
    if obj.handle_count == 0:
        # All handles together hold one reference.
        obj.get()
    obj.handle_count += 1
    obj.gem_open(file)
    with file.table_lock:
        file.may_mmap[obj] = file.may_mmap.get(obj, 0) + 1
        return file.object_idr.alloc(obj)


def drm_gem_handle_delete(file: DrmFile, handle: int) -> None:
    """Free ``handle``; ``EINVAL`` when it names nothing."""
    # The number must not name another object before the PRIME table has forgotten this one.
    with file.table_lock:
        obj = file.object_idr.hold(handle)
        if obj is None:
            raise KernelError(errno.EINVAL, f"no GEM handle {handle}")
        file.may_mmap[obj] -= 1
        if not file.may_mmap[obj]:
            del file.may_mmap[obj]
    _object_release_handle(file, handle, obj)
    with file.table_lock:
        file.object_idr.remove(handle)


def _object_release_handle(file: DrmFile, handle: int, obj: DrmGemObject) -> None:
    obj.gem_close(file)
    dropped = file.prime.remove_handle(handle)
    with file.device.object_name_lock:
        obj.handle_count -= 1
        last = obj.handle_count == 0
        exported = None
        if last:
            _free_name(obj)
            exported, obj.dma_buf = obj.dma_buf, None
    # The release of a dma-buf takes locks of its own, so it runs with none of these held.
    if dropped is not None:
        dropped.fput()
    if exported is not None:
        exported.fput()
    if last:
        obj.put()


def _free_name(obj: DrmGemObject) -> None:
    if obj.name:
        obj.device.object_names.remove(obj.name)
        obj.name = 0


def drm_gem_mmap(file: DrmFile, area: VmArea) -> CpuMapping:
    """mmap(2) of the object whose fake offset ``area`` begins at.

    ``EINVAL`` none begins there or it is shorter, ``EACCES`` the file has no handle of it, else
    what the driver says.  Kernel: ``drm_gem_mmap``.
    """
    obj = file.device.vma_offsets.exact_lookup(area.offset)
    # An object whose last reference goes right now counts as gone.
    if obj is None or area.length > obj.size or not obj.get_unless_zero():
        raise KernelError(errno.EINVAL, f"no object of that length at offset {area.offset:#x}")
    try:
        if obj not in file.may_mmap:
            raise KernelError(errno.EACCES, "this file has no handle of that object")
        return obj.gem_mmap(0, area, file)
    finally:
        obj.put()


def drm_gem_release(file: DrmFile) -> None:
    """Close every handle of a file that ends, in ascending order."""
    for handle, _ in file.object_idr.ascending():
        drm_gem_handle_delete(file, handle)


def drm_gem_close_ioctl(
    device: DrmDevice, args: drm_gem_close, file: DrmFile, caller: Caller
) -> None:
    """``GEM_CLOSE``: ``EINVAL`` for an unknown handle; ``pad`` is not looked at."""
    drm_gem_handle_delete(file, args.handle)


def drm_gem_flink_ioctl(
    device: DrmDevice, args: drm_gem_flink, file: DrmFile, caller: Caller
) -> None:
    """``GEM_FLINK``: give the object a name that all of the device know; ``ENOENT``."""
    obj = drm_gem_object_lookup(file, args.handle)
    try:
        with device.object_name_lock:
            if obj.handle_count == 0:
                raise KernelError(errno.ENOENT, "the last handle has just been closed")
            if not obj.name:
                obj.name = device.object_names.alloc(obj)
            args.name = obj.name
    finally:
        obj.put()


def drm_gem_open_ioctl(
    device: DrmDevice, args: drm_gem_open, file: DrmFile, caller: Caller
) -> None:
    """``GEM_OPEN``: a new handle, and the size, of a named object; ``ENOENT``."""
    with device.object_name_lock:
        obj = device.object_names.find(args.name)
        if obj is None:
            raise KernelError(errno.ENOENT, f"no object is named {args.name}")
        args.handle = drm_gem_handle_create_tail(file, obj)
        args.size = obj.size
