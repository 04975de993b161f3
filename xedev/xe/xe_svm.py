"""GPU addresses that stand for the same CPU addresses
(kernel: drivers/gpu/drm/xe/xe_svm.c, drivers/gpu/drm/drm_gpusvm.c).

A mirror is filled in ranges, by page faults and prefetches: the largest of a few sizes that fits
into the mirror and into one mapping of the process.  The kernel hears of each munmap; the mock does
not, so a range is looked at again when it matters.  Migration is told in words only: the contents
stay where the process has them.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from uapi import xe_drm
from xedev.gpu.abi import Range, RangeKind
from xedev.kernel.errors import KernelError
from xedev.xe.xe_gt_stats import GtStat, svm_stat

if TYPE_CHECKING:
    from xedev.kernel.user_memory import CpuVma, UserMemory
    from xedev.xe.xe_gt import XeGt
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = (
    "XeSvm",
    "XeSvmRange",
    "xe_svm_bound_entries",
    "xe_svm_flush",
    "xe_svm_garbage_collector",
    "xe_svm_handle_pagefault",
    "xe_svm_prefetch",
    "xe_svm_unmap_address_range",
)

FAULT_CHUNK_SIZES = (2 << 20, 64 << 10, 4 << 10)
"""Bytes."""
RANGES_MAX = 1 << 18
"""Of one VM.  Beyond it: ``ENOMEM``."""
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
AUTORESET = xe_drm.DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET
DEFAULT_SYSTEM = xe_drm.DRM_XE_PREFERRED_LOC_DEFAULT_SYSTEM & 0xFFFF_FFFF
CONSULT_PREF_LOC = 0xFFFF_FFFF


@dataclass(slots=True, eq=False)
class XeSvmRange:
    """A piece of a mirror that the GPU has looked at (kernel: ``struct xe_svm_range``)."""

    start: int
    end: int
    inode: int
    """Of the file that the process had there, by which other memory at this place is known."""
    migrate_devmem: bool
    """Whether it could be brought to the card: private memory without a file can."""
    in_vram: bool = False
    """Whether it counts as being there."""
    is_bound: bool = False
    """Whether the page tables have it (kernel: ``tile_present`` without ``tile_invalidated``)."""


class XeSvm:
    """The ranges of one VM (kernel: ``vm->svm``).  Needs ``vm->lock`` for writing."""

    __slots__ = ("_ranges", "has_autoreset")

    def __init__(self) -> None:
        self.has_autoreset = False
        """Whether a mirror was ever bound whose advice shall be reset."""
        self._ranges: SortedDict[int, XeSvmRange] = SortedDict()
        """By their first address; they do not overlap."""

    def __iter__(self) -> Iterator[XeSvmRange]:
        return iter(tuple(self._ranges.values()))

    def find(self, start: int, end: int) -> list[XeSvmRange]:
        """Those that touch ``[start, end)``, in ascending order."""
        ranges = self._ranges
        first = ranges.bisect_right(start) - 1
        keys = list(ranges.irange(start, end, inclusive=(False, False)))
        found = [ranges[key] for key in keys]
        if first >= 0:
            before = ranges.peekitem(first)[1]
            if before.end > start:
                found.insert(0, before)
        return found

    def add(self, svm_range: XeSvmRange) -> None:
        """One more; ``ENOMEM`` too many."""
        if len(self._ranges) >= RANGES_MAX:
            raise KernelError(errno.ENOMEM, "the mirrors of the VM are in too many pieces")
        self._ranges[svm_range.start] = svm_range

    def remove(self, svm_range: XeSvmRange) -> None:
        """It is over (kernel: ``drm_gpusvm_range_remove``)."""
        del self._ranges[svm_range.start]

    def has_mapping(self, mm: UserMemory | None, start: int, end: int) -> bool:
        """Whether the GPU has mapped anything there that the process still has
        (kernel: ``xe_svm_has_mapping``).  Ranges that are gone are forgotten."""
        cpu_vmas = _CpuVmas(mm) if mm is not None else None
        for svm_range in self.find(start, end):
            if cpu_vmas is not None and _is_there(cpu_vmas, svm_range):
                return True
            self.remove(svm_range)
        return False

    def invalidate(self, start: int, end: int) -> bool:
        """The page tables shall have none of it any more; whether they had
        (kernel: ``xe_svm_ranges_zap_ptes_in_range``)."""
        bound = [svm_range for svm_range in self.find(start, end) if svm_range.is_bound]
        for svm_range in bound:
            svm_range.is_bound = False
        return bool(bound)


class _CpuVmas:
    """The mappings of a process, each looked up once for ranges that are neighbours in it."""

    __slots__ = ("_last", "_mm")

    def __init__(self, mm: UserMemory) -> None:
        self._mm = mm
        self._last: CpuVma | None = None

    def find(self, address: int) -> CpuVma | None:
        """As `UserMemory.find_vma`."""
        last = self._last
        if last is None or not last.start <= address < last.end:
            last = self._last = self._mm.find_vma(address)
        return last


def _is_there(cpu_vmas: _CpuVmas, svm_range: XeSvmRange) -> bool:
    """Whether the process has all of it, and nothing else in its place."""
    at = svm_range.start
    while at < svm_range.end:
        cpu_vma = cpu_vmas.find(at)
        if cpu_vma is None or cpu_vma.start > at or cpu_vma.inode != svm_range.inode:
            return False
        at = cpu_vma.end
    return True


# ---- ranges ----


def xe_svm_range_find_or_insert(
    vm: XeVm, vma: XeVma, cpu_vma: CpuVma, address: int, zapped: list[Range]
) -> XeSvmRange:
    """The range around an address in ``cpu_vma``; adds to ``zapped`` what the GPU has to forget for
    it.

    ``EPERM`` the process may not write there, ``EINVAL`` no range fits, ``ENOMEM``.
    Kernel: ``drm_gpusvm_range_find_or_insert``.
    """
    if not (cpu_vma.readable if vma.flags & READ_ONLY else cpu_vma.writable):
        raise KernelError(errno.EPERM, f"the process may not access {address:#x}")
    for old in vm.svm.find(address, address + 1):
        if cpu_vma.start <= old.start and old.end <= cpu_vma.end and cpu_vma.inode == old.inode:
            return old
        # It, or a part of it, was unmapped or protected meanwhile.
        vm.svm.remove(old)
        zapped.append(Range(old.start, old.end, RangeKind.UNBOUND))
    start, end = _chunk(vm, vma, cpu_vma, address)
    can_migrate = vm.xe.platform.is_dgfx and cpu_vma.anonymous
    svm_range = XeSvmRange(start, end, cpu_vma.inode, can_migrate)
    vm.svm.add(svm_range)
    return svm_range


def _chunk(vm: XeVm, vma: XeVma, cpu_vma: CpuVma, address: int) -> tuple[int, int]:
    """Kernel: ``drm_gpusvm_range_chunk_size``."""
    first, last = max(vma.start, cpu_vma.start), min(vma.end, cpu_vma.end)
    for size in FAULT_CHUNK_SIZES:
        start = address & -size
        end = start + size
        if start < first or end > last:
            continue
        if size == FAULT_CHUNK_SIZES[-1] or not vm.svm.find(start, end):
            return start, end
    raise KernelError(errno.EINVAL, f"no range fits around {address:#x}")


def xe_svm_range_entry(vm: XeVm, vma: XeVma, mm: UserMemory, svm_range: XeSvmRange) -> Range:
    """What the GPU shall see of a range."""
    start, end = svm_range.start, svm_range.end
    atomic = _allows_atomics(vm, vma, svm_range)
    read_only, pat_index = bool(vma.flags & READ_ONLY), vma.attr.pat_index
    key = vm.pt.client(mm)
    return Range(start, end, RangeKind.CLIENT, key, start, read_only, pat_index, atomic)


def xe_svm_bound_entries(vm: XeVm) -> list[Range]:
    """Of all ranges that the page tables have."""
    if vm.mm is None:
        return []
    entries = []
    for svm_range in vm.svm:
        vmas = vm.gpuvm.find_range(svm_range.start, svm_range.start + 1)
        if svm_range.is_bound and vmas and vmas[0].is_mirror:
            entries.append(xe_svm_range_entry(vm, vmas[0], vm.mm, svm_range))
    return entries


def _allows_atomics(vm: XeVm, vma: XeVma, svm_range: XeSvmRange) -> bool:
    """Kernel: ``xe_atomic_for_vram``, ``xe_atomic_for_system``."""
    advice = vma.attr.atomic_access
    if advice == xe_drm.DRM_XE_ATOMIC_CPU:
        return False
    if svm_range.in_vram:
        return True
    platform = vm.xe.platform
    if not platform.has_device_atomics_on_smem:
        return False
    return advice == xe_drm.DRM_XE_ATOMIC_DEVICE or not platform.is_dgfx


def _migrate(vma: XeVma, svm_range: XeSvmRange, *, needs_vram: bool) -> bool:
    """Have it in VRAM if it belongs there and is not; whether it was brought there
    (kernel: ``xe_svm_range_needs_migrate_to_vram``)."""
    if svm_range.in_vram or not svm_range.migrate_devmem:
        return False
    svm_range.in_vram = needs_vram or vma.attr.devmem_fd != DEFAULT_SYSTEM
    return svm_range.in_vram


# ---- faults and prefetches ----


def xe_svm_handle_pagefault(
    vm: XeVm, vma: XeVma, gt: XeGt, address: int, *, needs_vram: bool
) -> None:
    """Map a range around ``address``: ``ENOENT`` the process has nothing there, ``EPERM`` nothing
    that may be written, ``EACCES`` nothing that could be brought to the card, as atomics need it.
    Kernel: ``xe_svm_handle_pagefault``."""
    gt.stats.incr(GtStat.SVM_PAGEFAULT_COUNT)
    mm = _mm_of(vm)
    cpu_vma = mm.find_vma(address)
    if cpu_vma is None or cpu_vma.start > address:
        raise KernelError(errno.ENOENT, f"the process has nothing at {address:#x}")
    entries: list[Range] = []
    svm_range = xe_svm_range_find_or_insert(vm, vma, cpu_vma, address, entries)
    size = svm_range.end - svm_range.start
    gt.stats.incr(svm_stat("pagefault_count", size))
    if needs_vram and not svm_range.migrate_devmem:
        raise KernelError(
            errno.EACCES, "atomics need VRAM, and this memory cannot be brought there"
        )
    if _migrate(vma, svm_range, needs_vram=needs_vram):
        gt.stats.incr(svm_stat("migrate_count", size))
    svm_range.is_bound = True
    entries.append(xe_svm_range_entry(vm, vma, mm, svm_range))
    vm.pt.update(entries)


def xe_svm_prefetch(vm: XeVm, vma: XeVma, start: int, end: int, region: int) -> list[Range]:
    """Have all ranges that the process has something for in ``[start, end)``, at ``region``: what
    the GPU has to be told of it.  ``EPERM``, ``ENOMEM``.

    Kernel: ``vm_bind_ioctl_ops_create``, ``prefetch_ranges``.
    """
    mm = _mm_of(vm)
    entries: list[Range] = []
    address, end = max(start, vma.start), min(end, vma.end)
    cpu_vmas = _CpuVmas(mm)
    while address < end:
        cpu_vma = cpu_vmas.find(address)
        if cpu_vma is None or cpu_vma.start >= end:
            break
        address = max(address, cpu_vma.start)
        svm_range = xe_svm_range_find_or_insert(vm, vma, cpu_vma, address, entries)
        svm_range.in_vram = svm_range.in_vram and region != 0
        if region != 0:
            _migrate(vma, svm_range, needs_vram=region != CONSULT_PREF_LOC)
        svm_range.is_bound = True
        entries.append(xe_svm_range_entry(vm, vma, mm, svm_range))
        address = svm_range.end
    return entries


def _mm_of(vm: XeVm) -> UserMemory:
    if vm.mm is None:
        raise KernelError(errno.EFAULT, "the memory of the VM's process is out of reach")
    return vm.mm


# ---- ranges that end ----


def xe_svm_unmap_address_range(vm: XeVm, start: int, end: int) -> None:
    """Forget the ranges that lie across one of two edges
    (kernel: ``xe_svm_unmap_address_range``)."""
    zapped = []
    for svm_range in vm.svm.find(start, end):
        if svm_range.start < start or svm_range.end > end:
            vm.svm.remove(svm_range)
            zapped.append(Range(svm_range.start, svm_range.end, RangeKind.UNBOUND))
    if zapped:
        vm.pt.update(zapped)


def xe_svm_flush(vm: XeVm) -> None:
    """As `xe_svm_garbage_collector`, for who has no lock (kernel: ``xe_svm_flush``)."""
    if not vm.svm.has_autoreset:
        return
    vm.lock.down_write()
    try:
        xe_svm_garbage_collector(vm)
    finally:
        vm.lock.up_write()


def xe_svm_garbage_collector(vm: XeVm) -> None:
    """Forget the ranges that the process has unmapped, and with them the advice on mirrors that
    shall then be reset: only these make it worth a look at all ranges.  ``ENOMEM`` for that is the
    end of the VM.

    Kernel: ``xe_svm_garbage_collector``, ``xe_svm_range_set_default_attr``.
    """
    mm = vm.mm
    if mm is None or not vm.svm.has_autoreset:
        return
    cpu_vmas = _CpuVmas(mm)
    for svm_range in vm.svm:
        vmas = vm.gpuvm.find_range(svm_range.start, svm_range.start + 1)
        if not vmas or not vmas[0].flags & AUTORESET or _is_there(cpu_vmas, svm_range):
            continue
        vm.svm.remove(svm_range)
        try:
            vm.reset_mirror(vmas[0], svm_range.start, svm_range.end)
        except KernelError:
            vm.kill()  # its mirrors have a hole now
            raise
