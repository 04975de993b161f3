"""MADVISE (kernel: drivers/gpu/drm/xe/xe_vm_madvise.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.drm_file import DrmFile
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_resv import dma_resv_wait
from xedev.kernel.errors import KernelError
from xedev.kernel.locking import Mutex
from xedev.xe.xe_bo import DONTNEED, WILLNEED, XeBo, xe_bo_resvs
from xedev.xe.xe_pat import CohMode
from xedev.xe.xe_svm import xe_svm_garbage_collector, xe_svm_unmap_address_range
from xedev.xe.xe_vm import (
    PAGE_MASK,
    PAGE_SIZE,
    XeVm,
    XeVma,
    XeVmaJob,
    check_l2_flush,
    xe_vm_lookup,
)

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_vm_madvise_ioctl",)

Args = xe_drm.drm_xe_madvise

PREFERRED_LOC = xe_drm.DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC
ATOMIC = xe_drm.DRM_XE_MEM_RANGE_ATTR_ATOMIC
PAT = xe_drm.DRM_XE_MEM_RANGE_ATTR_PAT
PURGEABLE_STATE = xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE

_STATES = {
    xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED: WILLNEED,
    xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED: DONTNEED,
}


def xe_vm_madvise_ioctl(
    xe: XeDevice, args: Args, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``MADVISE``: advice on all VMAs of a range of GPU addresses.

    ``EINVAL`` malformed or unknown VM, ``EFAULT`` ``retained_ptr``, ``ENOENT`` closed VM or no
    such device memory, ``ENODEV``/``ENOLINK`` unusable device memory.  For the purgeable state,
    the ``u32`` at ``retained_ptr`` becomes 1 when no BO of the range was purged, else 0; an
    ``EFAULT`` at that last step leaves the advice in force.
    """
    vm = xe_vm_lookup(file, args.vm_id, errno.EINVAL)
    kind = args.type
    _madvise_args_are_sane(xe, args, kind)
    retained_ptr = 0
    if kind == PURGEABLE_STATE:
        retained_ptr = args.purge_state_val.retained_ptr
        if retained_ptr and caller.memory.read_u32(retained_ptr):
            raise KernelError(errno.EINVAL, "the retained value must be 0 before the call")
    vm.lock.down_write()
    try:
        purged = _madvise(xe, vm, args, kind, caller)
    finally:
        vm.lock.up_write()

    def finish() -> int:
        if retained_ptr:
            caller.memory.write_u32(retained_ptr, 0 if purged else 1)
        return 0

    # xe_vm_invalidate_madvise_range does so for any advice, under vm->lock.
    return dma_resv_wait(vm.bookkeep_fences(), finish)


def _madvise(xe: XeDevice, vm: XeVm, args: Args, kind: int, caller: Caller) -> bool:
    """Under ``vm->lock``; True when the range has a purged BO."""
    vm.assert_usable()
    xe_svm_garbage_collector(vm)
    if kind == PREFERRED_LOC:
        _check_devmem_fd(xe, args, caller)
    start = xe.canonical_to_va(args.start)
    length = args.range
    if not vm.gpuvm.range_valid(start, length):
        raise KernelError(errno.EINVAL, f"{start:#x}+{length:#x} is outside the VM")
    vmas = _vmas_of_range(vm, start, start + length, caller)
    if not vmas:
        return False
    if kind == PAT:
        _check_pat_range(xe, vmas, args.pat_index.val)
    elif kind == ATOMIC:
        _check_atomic_range(xe, vmas, args.atomic.val)
    resvs = _lock_bos(vmas)
    try:
        if kind == PAT:
            _check_pat_imported(xe, vmas, args.pat_index.val)
        if kind == PURGEABLE_STATE:
            return _madvise_purgeable(xe, vmas, args)
        _invalidate(vm, _MADVISE_FUNCS[kind](xe, vmas, args))
        return False
    finally:
        for resv in resvs:
            resv.unlock()


def _invalidate(vm: XeVm, vmas: list[XeVma]) -> None:
    """Have the GPU look anew at VMAs whose advice changed
    (kernel: ``xe_vm_invalidate_madvise_range``)."""
    for vma in vmas:
        if vma.is_mirror and vm.svm.invalidate(vma.start, vma.end):
            vm.pt.count_invalidations()
    if vmas:
        vm.pt.invalidate(vmas)


def _lock_bos(vmas: list[XeVma]) -> list[Mutex]:
    """Lock every BO of the range, each reservation once."""
    if len(vmas) == 1:
        bo = vmas[0].bo
        if bo is None:
            return []
        bo.resv.lock()
        return [bo.resv]
    private: dict[Mutex, None] = {}
    external: list[XeBo] = []
    for vma in vmas:
        bo = vma.bo
        if bo is None:
            continue
        if bo.vm is not None:
            private[bo.resv] = None
        else:
            external.append(bo)
    resvs = [*private, *xe_bo_resvs(external)]
    for resv in resvs:
        resv.lock()
    return resvs


# ---- arguments ----


def _madvise_args_are_sane(xe: XeDevice, args: Args, kind: int) -> None:
    length = args.range
    if args.start & PAGE_MASK:
        raise KernelError(errno.EINVAL, "start is not a multiple of 4 KiB")
    if length & PAGE_MASK:
        raise KernelError(errno.EINVAL, "range is not a multiple of 4 KiB")
    if length < PAGE_SIZE:
        raise KernelError(errno.EINVAL, "range is less than 4 KiB")
    check = _ARGS_CHECKS.get(kind)
    if check is None:
        raise KernelError(errno.EINVAL, f"no advice of type {kind}")
    check(xe, args)
    reserved = args.reserved
    if reserved[0] or reserved[1]:
        raise KernelError(errno.EINVAL, "reserved must be zero")


def _signed32(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def _preferred_loc_is_sane(xe: XeDevice, args: Args) -> None:
    loc = args.preferred_mem_loc
    fd = _signed32(loc.devmem_fd)
    if fd < xe_drm.DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM:
        raise KernelError(errno.EINVAL, f"devmem_fd {fd} is below -1")
    if fd <= xe_drm.DRM_XE_PREFERRED_LOC_DEFAULT_DEVICE and loc.region_instance:
        raise KernelError(errno.EINVAL, "a region instance without a device")
    if loc.migration_policy > xe_drm.DRM_XE_MIGRATE_ONLY_SYSTEM_PAGES:
        raise KernelError(errno.EINVAL, f"no migration policy {loc.migration_policy}")
    if loc.reserved:
        raise KernelError(errno.EINVAL, "preferred_mem_loc.reserved must be zero")


def _atomic_is_sane(xe: XeDevice, args: Args) -> None:
    atomic = args.atomic
    if atomic.val > xe_drm.DRM_XE_ATOMIC_CPU:
        raise KernelError(errno.EINVAL, f"no atomic mode {atomic.val}")
    if atomic.pad or atomic.reserved:
        raise KernelError(errno.EINVAL, "atomic.pad and atomic.reserved must be zero")


def _pat_is_sane(xe: XeDevice, args: Args) -> None:
    pat_index = args.pat_index
    if pat_index.val >= len(xe.platform.pat):
        raise KernelError(errno.EINVAL, f"no PAT index {pat_index.val}")
    if not xe.platform.pat[pat_index.val].coh_mode:
        raise KernelError(errno.EINVAL, f"PAT index {pat_index.val} is reserved")
    if pat_index.pad or pat_index.reserved:
        raise KernelError(errno.EINVAL, "pat_index.pad and pat_index.reserved must be zero")


def _purge_state_is_sane(xe: XeDevice, args: Args) -> None:
    purge = args.purge_state_val
    if purge.val not in _STATES:
        raise KernelError(errno.EINVAL, f"state {purge.val} cannot be asked for")
    if purge.pad:
        raise KernelError(errno.EINVAL, "purge_state_val.pad must be zero")


_ARGS_CHECKS: dict[int, Callable[[XeDevice, Args], None]] = {
    PREFERRED_LOC: _preferred_loc_is_sane,
    ATOMIC: _atomic_is_sane,
    PAT: _pat_is_sane,
    PURGEABLE_STATE: _purge_state_is_sane,
}


def _check_devmem_fd(xe: XeDevice, args: Args, caller: Caller) -> None:
    """Resolve the device that memory shall live on (kernel: ``xe_drm_pagemap_from_fd``)."""
    loc = args.preferred_mem_loc
    fd = _signed32(loc.devmem_fd)
    if fd <= 0:
        return
    try:
        found = caller.fget(fd)
    except KernelError as error:
        raise KernelError(errno.ENOENT, error.reason) from None
    if not isinstance(found, DrmFile):
        raise KernelError(errno.ENOENT, f"descriptor {fd} is not an Xe device")
    if not 1 <= loc.region_instance <= found.device.vram_region_count:
        raise KernelError(errno.ENOENT, f"that device has no VRAM {loc.region_instance}")
    if found.device.unplugged:
        raise KernelError(errno.ENODEV, "that device is unplugged")
    if found.device is not xe:
        raise KernelError(errno.ENOLINK, "no fast link between the two devices")


# ---- the range ----


def _vmas_of_range(vm: XeVm, start: int, end: int, caller: Caller) -> list[XeVma]:
    """The VMAs of a range, after those without a BO were split at its edges.

    BO VMAs take advice as a whole.  So do userptr VMAs: what the kernel makes of their offset is
    in doubt.  Kernel: ``xe_vm_alloc_madvise_vma``.
    """
    vmas = vm.gpuvm.find_range(start, end)
    if not vmas or not (_crosses(vmas[0], start) or _crosses(vmas[-1], end)):
        return vmas
    job = XeVmaJob(vm.xe, vm, [], caller)
    try:
        for edge in (start, end):
            for vma in vm.gpuvm.find_range(edge, edge + 1):
                if _crosses(vma, edge):
                    _split(job, vma, edge)
    except KernelError:
        job.unwind()
        raise
    job.commit()
    xe_svm_unmap_address_range(vm, start, end)
    return vm.gpuvm.find_range(start, end)


def _crosses(vma: XeVma, edge: int) -> bool:
    """Whether a VMA that can be split lies on both sides of an address."""
    return vma.start < edge < vma.end and (vma.is_mirror or vma.is_null)


def _split(job: XeVmaJob, vma: XeVma, edge: int) -> None:
    """Make two VMAs of one without a BO."""
    job.remove(vma)
    for start, end in ((vma.start, edge), (edge, vma.end)):
        job.insert(start, end, None, 0, vma.flags, vma.attr.copy(), False)


def _check_pat_range(xe: XeDevice, vmas: list[XeVma], pat_index: int) -> None:
    if any(vma.is_mirror or vma.userptr for vma in vmas):
        check_l2_flush(xe, pat_index)
    if xe.platform.pat[pat_index].coh_mode is not CohMode.NONE or xe.platform.is_dgfx:
        return
    for vma in vmas:
        bo = vma.bo
        if bo is None:
            if vma.is_mirror or vma.userptr:
                raise KernelError(errno.EINVAL, "system memory needs a coherent PAT index")
        elif bo.cpu_caching != xe_drm.DRM_XE_GEM_CPU_CACHING_WC:
            raise KernelError(errno.EINVAL, "a CPU-cached BO needs a coherent PAT index")


def _check_pat_imported(xe: XeDevice, vmas: list[XeVma], pat_index: int) -> None:
    if any(vma.bo is not None and vma.bo.imported for vma in vmas):
        check_l2_flush(xe, pat_index)


def _check_atomic_range(xe: XeDevice, vmas: list[XeVma], value: int) -> None:
    for vma in vmas:
        if vma.bo is not None and not _atomic_fits(xe, vma.bo, value):
            raise KernelError(errno.EINVAL, f"bo {vma.bo.id} cannot be placed for that mode")


def _atomic_fits(xe: XeDevice, bo: XeBo, value: int) -> bool:
    if value == xe_drm.DRM_XE_ATOMIC_CPU:
        return bo.has_system
    if value == xe_drm.DRM_XE_ATOMIC_DEVICE:
        return bo.has_vram or (bo.has_system and xe.platform.has_device_atomics_on_smem)
    if value == xe_drm.DRM_XE_ATOMIC_GLOBAL:
        return bo.has_system and bo.has_vram
    return True


# ---- the effects; each returns the VMAs that the GPU has to look at anew ----


def _madvise_preferred_mem_loc(xe: XeDevice, vmas: list[XeVma], args: Args) -> list[XeVma]:
    loc = args.preferred_mem_loc
    advice = loc.devmem_fd, loc.migration_policy
    changed = []
    for vma in vmas:
        if vma.is_mirror and (vma.attr.devmem_fd, vma.attr.migration_policy) != advice:
            vma.attr.devmem_fd, vma.attr.migration_policy = advice
            changed.append(vma)
    return changed


def _madvise_atomic(xe: XeDevice, vmas: list[XeVma], args: Args) -> list[XeVma]:
    value = args.atomic.val
    for_userptr = value == xe_drm.DRM_XE_ATOMIC_DEVICE and xe.platform.has_device_atomics_on_smem
    changed = []
    for vma in vmas:
        if vma.userptr and not for_userptr:
            continue
        bo = vma.bo
        if vma.attr.atomic_access != value or (bo is not None and bo.atomic_access != value):
            changed.append(vma)
        vma.attr.atomic_access = value
        if bo is not None:
            bo.atomic_access = value
    return changed


def _madvise_pat_index(xe: XeDevice, vmas: list[XeVma], args: Args) -> list[XeVma]:
    pat_index = args.pat_index.val
    changed = [vma for vma in vmas if vma.attr.pat_index != pat_index]
    for vma in changed:
        vma.attr.pat_index = pat_index
    return changed


def _madvise_purgeable(xe: XeDevice, vmas: list[XeVma], args: Args) -> bool:
    """Whether the range has a purged BO.  Nothing is unmapped: the pages live until somebody purges
    them."""
    state = _STATES[args.purge_state_val.val]
    madvise = xe.policy.madvise
    has_purged = False
    for vma in vmas:
        bo = vma.bo
        if bo is not None and madvise(bo, vma, state):
            has_purged = True
    return has_purged


_MADVISE_FUNCS: dict[int, Callable[[XeDevice, list[XeVma], Args], list[XeVma]]] = {
    PREFERRED_LOC: _madvise_preferred_mem_loc,
    ATOMIC: _madvise_atomic,
    PAT: _madvise_pat_index,
}
