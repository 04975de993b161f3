"""GPU addresses that stand for the same CPU addresses (kernel: drivers/gpu/drm/xe/xe_svm.c).

A mirror is filled by page faults, in ranges: the largest of a few sizes that fits into the mirror
and into what the process has mapped.  Nobody tells the mock of an munmap, so a range is looked at
again when it matters.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from uapi import xe_drm
from xedev.gpu.abi import Range, RangeKind
from xedev.gpu.ports import Access
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("XeSvm", "xe_svm_handle_pagefault")

RANGE_SIZES = (2 << 20, 64 << 10, 4 << 10)
"""Bytes, as in the kernel's ``fault_chunk_sizes``."""


class XeSvm:
    """The ranges of one VM that the GPU has mapped (kernel: ``vm->svm``)."""

    __slots__ = ("_ranges",)

    def __init__(self) -> None:
        self._ranges: SortedDict[int, int] = SortedDict()
        """Start to end."""

    def add(self, start: int, end: int) -> None:
        """The GPU has mapped ``[start, end)``."""
        self._ranges[start] = max(end, self._ranges.get(start, 0))

    def has_mapping(self, mm: UserMemory | None, start: int, end: int) -> bool:
        """Whether the GPU has mapped anything there that the process still has
        (kernel: ``xe_svm_has_mapping``).  Ranges that are gone are forgotten."""
        first = start - RANGE_SIZES[0]
        for at in list(self._ranges.irange(first, end, inclusive=(True, False))):
            if self._ranges[at] > start:
                if mm is not None and _is_mapped(mm, at, self._ranges[at] - at, write=False):
                    return True
                del self._ranges[at]
        return False


def xe_svm_handle_pagefault(vm: XeVm, vma: XeVma, address: int, access: Access) -> None:
    """Map a range around ``address``: ``EFAULT`` the process has nothing there, ``EPERM`` nothing
    that may be written.  Kernel: ``xe_svm_handle_pagefault``."""
    mm = vm.mm
    if mm is None:
        raise KernelError(errno.EFAULT, "the memory of the VM's process is out of reach")
    if not _is_mapped(mm, address & -RANGE_SIZES[-1], RANGE_SIZES[-1], write=False):
        raise KernelError(errno.EFAULT, f"the process has nothing at {address:#x}")
    for size in RANGE_SIZES:
        start = address & -size
        end = start + size
        if start < vma.start or end > vma.end:
            continue
        writable = _is_mapped(mm, start, size, write=True)
        if writable or (access is Access.READ and _is_mapped(mm, start, size, write=False)):
            break
    else:
        raise KernelError(errno.EPERM, f"the process may not write at {address:#x}")
    vm.svm.add(start, end)
    key = vm.pt.client(mm)
    pat_index = vma.attr.pat_index
    atomic = vma.attr.atomic_access != xe_drm.DRM_XE_ATOMIC_CPU
    vm.pt.update([Range(start, end, RangeKind.CLIENT, key, start, not writable, pat_index, atomic)])


def _is_mapped(mm: UserMemory, start: int, size: int, *, write: bool) -> bool:
    try:
        mm.probe(start, size, write=write)
    except KernelError:
        return False
    return True
