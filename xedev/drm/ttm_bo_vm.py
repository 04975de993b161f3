"""CPU mappings of memory objects (kernel: drivers/gpu/drm/ttm/ttm_bo_vm.c)."""

from __future__ import annotations

import errno

from xedev.drm.ttm import TtmBuffer
from xedev.kernel.errors import KernelError
from xedev.kernel.locking import lockdep_assert_held
from xedev.kernel.mm import CpuMapping, VmArea
from xedev.kernel.refcount import Refcounted
from xedev.kernel.shmem import ShmemFile

__all__ = ("ttm_bo_mmap_obj",)


def ttm_bo_mmap_obj(
    bo: TtmBuffer, pages: ShmemFile, start: int, area: VmArea, file: Refcounted
) -> CpuMapping:
    """Map ``pages`` from byte ``start`` of the BO on, until the mapping is released.

    ``EINVAL`` copy-on-write.  The caller holds ``resv``.  Kernel: ``ttm_bo_mmap_obj``.
    """
    lockdep_assert_held(bo.resv)
    check_not_cow(area)
    bo.get()
    bo.cpu_mappings += 1
    return CpuMapping(pages, start, lambda: _ttm_bo_vm_close(bo), file)


def check_not_cow(area: VmArea) -> None:
    """``EINVAL`` for a private mapping that may be written (kernel: ``is_cow_mapping``)."""
    if area.is_cow:
        raise KernelError(errno.EINVAL, "a BO cannot be mapped copy-on-write")


def _ttm_bo_vm_close(bo: TtmBuffer) -> None:
    with bo.resv:
        bo.cpu_mappings -= 1
    bo.put()
