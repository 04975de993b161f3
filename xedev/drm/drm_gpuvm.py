"""GPU address spaces: an ordered map of mappings that splits them (kernel: drm_gpuvm.c).

A mapping (VMA) is an object with ``start`` and ``end`` (exclusive), both byte addresses.  VMAs of
one space never overlap, so ordering them by end is ordering them by start; the map is keyed by
the end because then the first VMA that touches a range is the first key above the range's start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sortedcontainers import SortedDict

from xedev.drm.drm_gem import DrmGemObject
from xedev.kernel.dma_resv import ResvFences
from xedev.kernel.errors import KernelBug

__all__ = ("DrmGpuva", "DrmGpuvm", "DrmGpuvmBo", "Remap", "Unmap")


class DrmGpuva:
    """One mapping (kernel: ``struct drm_gpuva``).

    ``offset`` is where in the BO the mapping begins, bytes.  ``vm_bo`` is set while the mapping
    is linked to its BO.
    """

    __slots__ = ("end", "obj", "offset", "start", "vm_bo")

    def __init__(self, start: int, end: int, obj: DrmGemObject | None, offset: int) -> None:
        self.start = start
        self.end = end
        self.obj = obj
        self.offset = offset
        self.vm_bo: DrmGpuvmBo | None = None


V = TypeVar("V", bound=DrmGpuva)


class DrmGpuvmBo:
    """A BO in one address space: all VMAs of the pair (kernel: ``struct drm_gpuvm_bo``).

    Exists while the pair has a VMA.
    """

    __slots__ = ("gpuvm", "obj", "vmas")

    def __init__(self, gpuvm: DrmGpuvm[Any], obj: DrmGemObject) -> None:
        self.gpuvm = gpuvm
        self.obj = obj
        # An ordered set: linking and unlinking are O(1), and a walk is in the order of linking.
        self.vmas: dict[DrmGpuva, None] = {}


@dataclass(slots=True)
class Unmap(Generic[V]):
    """The whole VMA goes."""

    va: V


@dataclass(slots=True)
class Remap(Generic[V]):
    """The VMA goes, and what the request does not cover stays: ``[start, end)`` or None."""

    va: V
    prev: tuple[int, int] | None
    next: tuple[int, int] | None


class DrmGpuvm(Generic[V]):
    """The VMAs of one GPU address space of ``size`` bytes from 0."""

    __slots__ = ("_by_end", "evicted", "job_fences", "on_evict", "size", "vm_bos")

    def __init__(self, size: int) -> None:
        self.size = size
        self._by_end: SortedDict[int, V] = SortedDict()
        self.vm_bos: dict[DrmGemObject, DrmGpuvmBo] = {}
        self.evicted: dict[DrmGemObject, None] = {}
        """Objects to be brought back before work runs (kernel: ``drm_gpuvm_bo_evict``)."""
        self.on_evict: Callable[[DrmGpuvmBo], None] | None = None
        """Called when an object is moved away."""
        self.job_fences = ResvFences()
        """Of the work that runs in the space (kernel: usage BOOKKEEP of its reservation)."""

    def __len__(self) -> int:
        return len(self._by_end)

    def __iter__(self) -> Iterator[V]:
        return iter(self._by_end.values())

    def range_valid(self, addr: int, length: int) -> bool:
        """Whether ``[addr, addr + length)`` lies in the space."""
        return length <= self.size and addr <= self.size - length

    def find_range(self, start: int, end: int) -> list[V]:
        """All VMAs that overlap ``[start, end)``, ascending
        (kernel: ``drm_gpuvm_for_each_va_range``)."""
        by_end = self._by_end
        found = []
        for key in by_end.irange(start, None, (False, True)):
            va = by_end[key]
            if va.start >= end:
                break
            found.append(va)
        return found

    def sm_unmap_ops(self, start: int, end: int) -> list[Unmap[V] | Remap[V]]:
        """What must happen to the present VMAs so that ``[start, end)`` becomes a hole
        (kernel: ``drm_gpuvm_sm_unmap_ops_create``; the same serves ``sm_map``)."""
        ops: list[Unmap[V] | Remap[V]] = []
        for va in self.find_range(start, end):
            prev = (va.start, start) if va.start < start else None
            after = (end, va.end) if va.end > end else None
            ops.append(Remap(va, prev, after) if prev or after else Unmap(va))
        return ops

    def insert(self, va: V) -> None:
        """Put a VMA into the map; its range must be free (kernel: ``drm_gpuva_insert``)."""
        above = next(self._by_end.irange(va.start, None, (False, True)), None)
        if above is not None and self._by_end[above].start < va.end:
            raise KernelBug("two VMAs overlap")
        self._by_end[va.end] = va

    def remove(self, va: V) -> None:
        """Take a VMA out of the map (kernel: ``drm_gpuva_remove``)."""
        if self._by_end.get(va.end) is not va:
            raise KernelBug("the map holds another VMA there")
        del self._by_end[va.end]

    def link(self, va: V) -> None:
        """Enter a VMA in its BO's list (kernel: ``drm_gpuva_link``)."""
        obj = va.obj
        if obj is None:
            return
        vm_bo = self.vm_bos.get(obj)
        if vm_bo is None:
            vm_bo = self.vm_bos[obj] = DrmGpuvmBo(self, obj)
            obj.gpuva_list[self] = vm_bo
        vm_bo.vmas[va] = None
        va.vm_bo = vm_bo

    def unlink(self, va: V) -> None:
        """Take a VMA off its BO's list (kernel: ``drm_gpuva_unlink``)."""
        vm_bo = va.vm_bo
        if vm_bo is None:
            return
        del vm_bo.vmas[va]
        va.vm_bo = None
        if not vm_bo.vmas:
            del self.vm_bos[vm_bo.obj]
            self.evicted.pop(vm_bo.obj, None)
            del vm_bo.obj.gpuva_list[self]
