"""GPU address spaces: an ordered map of mappings that splits them (kernel: drm_gpuvm.c).

A mapping (VMA) is an object with ``start`` and ``end`` (exclusive), both byte addresses.  VMAs of
one space never overlap, so ordering them by end is ordering them by start; the map is ordered by
the end because then the first VMA that touches a range is the first end above the range's start.

The map is a list of leaves: a tree of two levels, each of them searched by bisection.  A million
VMAs are a few thousand leaves, so that an insertion moves a few kilobytes.  It is written out here
since every bind looks, inserts or removes several times: a general sorted dictionary takes a
sixth of a bind more, and now and then stops all clients to hash all VMAs anew.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from xedev.drm.drm_gem import DrmGemObject
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

LEAF_MAX = 512
"""Most VMAs of a leaf; a fuller one is halved."""
LAST_BOUND = 1 << 64
"""Above every address."""


class DrmGpuvmBo:
    """A BO in one address space: all VMAs of the pair (kernel: ``struct drm_gpuvm_bo``).

    Exists while the pair has a VMA.
    """

    __slots__ = ("gpuvm", "obj", "vmas")

    def __init__(self, gpuvm: object, obj: DrmGemObject) -> None:
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


class _Leaf(Generic[V]):
    """Neighbours in the map: their ends, ascending, and the VMAs themselves."""

    __slots__ = ("ends", "vas")

    def __init__(self, ends: list[int], vas: list[V]) -> None:
        self.ends = ends
        self.vas = vas


class DrmGpuvm(Generic[V]):
    """The VMAs of one GPU address space of ``size`` bytes from 0."""

    __slots__ = ("_bounds", "_leaves", "size", "vm_bos")

    def __init__(self, size: int) -> None:
        self.size = size
        # No end in a leaf is above the leaf's bound, and all ends in later leaves are.
        self._leaves: list[_Leaf[V]] = [_Leaf([], [])]
        self._bounds = [LAST_BOUND]
        self.vm_bos: dict[DrmGemObject, DrmGpuvmBo] = {}

    def __len__(self) -> int:
        return sum(len(leaf.vas) for leaf in self._leaves)

    def __iter__(self) -> Iterator[V]:
        for leaf in self._leaves:
            yield from leaf.vas

    def range_valid(self, addr: int, length: int) -> bool:
        """Whether ``[addr, addr + length)`` lies in the space."""
        return length <= self.size and addr <= self.size - length

    def find_range(self, start: int, end: int) -> list[V]:
        """All VMAs that overlap ``[start, end)``, ascending
        (kernel: ``drm_gpuvm_for_each_va_range``)."""
        found: list[V] = []
        index = bisect_right(self._bounds, start)
        while index < len(self._leaves):
            leaf = self._leaves[index]
            for at in range(bisect_right(leaf.ends, start), len(leaf.ends)):
                va = leaf.vas[at]
                if va.start >= end:
                    return found
                found.append(va)
            index += 1
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
        end = va.end
        index = bisect_left(self._bounds, end)
        leaf = self._leaves[index]
        ends = leaf.ends
        at = bisect_left(ends, end)
        if at < len(ends) and leaf.vas[at].start < end:
            raise KernelBug("two VMAs overlap")
        ends.insert(at, end)
        leaf.vas.insert(at, va)
        if len(ends) > LEAF_MAX:
            self._split_leaf(index)

    def _split_leaf(self, index: int) -> None:
        """Move the lower half of a leaf to a new one before it."""
        leaf = self._leaves[index]
        half = len(leaf.ends) // 2
        self._leaves.insert(index, _Leaf(leaf.ends[:half], leaf.vas[:half]))
        self._bounds.insert(index, leaf.ends[half - 1])
        del leaf.ends[:half], leaf.vas[:half]

    def remove(self, va: V) -> None:
        """Take a VMA out of the map (kernel: ``drm_gpuva_remove``)."""
        index = bisect_left(self._bounds, va.end)
        leaf = self._leaves[index]
        at = bisect_left(leaf.ends, va.end)
        if at == len(leaf.ends) or leaf.vas[at] is not va:
            raise KernelBug("the map holds another VMA there")
        del leaf.ends[at], leaf.vas[at]
        if not leaf.ends and len(self._leaves) > 1:
            self._drop_leaf(index)

    def _drop_leaf(self, index: int) -> None:
        """Take an empty leaf away; its neighbour is in charge of its addresses from then on."""
        del self._leaves[index]
        # The last bound stays the last.
        del self._bounds[min(index, len(self._bounds) - 2)]

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
            del vm_bo.obj.gpuva_list[self]
