"""Page tables: what the GPU is told of a VM (kernel: drivers/gpu/drm/xe/xe_pt.c).

The map of VMAs is what clients asked for; the page tables follow when a bind takes effect.  The GPU
has those of a VM from its first job on; before, nobody looks at them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.gpu import abi
from xedev.gpu.abi import Range, RangeKind
from xedev.xe.xe_gt_stats import GtStat
from xedev.xe.xe_svm import xe_svm_bound_entries

if TYPE_CHECKING:
    from xedev.drm.drm_gpuvm import DrmGpuvm, DrmGpuvmBo
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("PtUpdate", "XePt", "needs_invalidation", "rfence_interval")

READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
SCRATCH_PAGE = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
TABLE_SHIFTS = (21, 30, 39)
"""Address bits that a page table of each level covers, from the lowest one on."""
_keys = itertools.count(1)


class XePt:
    """The page tables of one VM (kernel: ``struct xe_pt`` of a root)."""

    __slots__ = (
        *("_clients", "_generation", "_lock", "_pending", "_xe"),
        *("is_faulting", "is_lr", "serial"),
    )

    def __init__(self, xe: XeDevice, serial: int, *, is_faulting: bool, is_lr: bool) -> None:
        self._xe = xe
        self.serial = serial
        """Of the VM, by which the GPU knows it."""
        self.is_faulting = is_faulting
        self.is_lr = is_lr
        self._generation = 0
        self._clients: dict[UserMemory, int] = {}
        self._lock = threading.Lock()
        """Guards the two that follow, for who has no lock of the VM."""
        self._pending: dict[PtUpdate, None] = {}
        """What binds will change that have to wait, in their order."""

    @property
    def generation(self) -> int:
        """Of the GPU's process that has them; 0 for none that lives."""
        generation = self._generation
        return generation if generation == self._xe.guc.ct.generation else 0

    @property
    def is_live(self) -> bool:
        """Whether the GPU has them."""
        return self.generation != 0

    def attach(self, vm: XeVm) -> None:
        """Give them to the GPU; needs ``vm->lock`` for writing."""
        ct = self._xe.guc.ct
        ct.enable()
        if self.is_live:
            return
        generation = ct.generation
        scratch = bool(vm.flags & SCRATCH_PAGE)
        bits = self._xe.platform.va_bits
        ct.send((abi.VM, self.serial, bits, scratch, self.is_faulting, self.is_lr), generation)
        with self._lock:
            # Only now: evictions, which take no lock of the VM, are told to those that are live.
            self._generation = generation
            self.update([*(self.entry(vma) for vma in vm.gpuvm), *xe_svm_bound_entries(vm)])
            for pending in reversed(self._pending):
                self.update(pending.undo)

    def defer(self, update: PtUpdate) -> None:
        """A bind has to wait: until then its changes are not there."""
        with self._lock:
            self._pending[update] = None

    def apply(self, update: PtUpdate, done: Callable[[], None]) -> None:
        """The bind's turn has come; ``done`` is called when the GPU uses it."""
        with self._lock:
            self._pending.pop(update, None)
            self.count_invalidations(update.needs_invalidation)
            is_sent = self._send(update.ranges, done)
        if not is_sent:
            done()

    def detach(self) -> None:
        """The VM ends."""
        generation, self._generation = self.generation, 0
        if generation:
            ct = self._xe.guc.ct
            ct.send((abi.VM_END, self.serial), generation)
            ct.send((abi.FORGET, (), tuple(self._clients.values())), generation)
        self._forget_clients()

    def count_invalidations(self, count: int = 1) -> None:
        """So often the GTs had to drop what they knew of the page tables.  They do that by
        themselves here, so it is only told (kernel: ``xe_tlb_inval_range``)."""
        if count:
            for gt in self._xe.gts:
                gt.stats.incr(GtStat.TLB_INVAL, count)

    def clear(self) -> None:
        """Nothing is mapped any more (kernel: ``xe_pt_clear``)."""
        self.count_invalidations()
        self.update([Range(0, 1 << self._xe.platform.va_bits, RangeKind.NONE)])

    def update(self, ranges: Iterable[Range], done: Callable[[], None] | None = None) -> None:
        """Have the GPU use these entries; ``done`` is called when it does."""
        if not self._send(ranges, done) and done is not None:
            done()

    def _send(self, ranges: Iterable[Range], done: Callable[[], None] | None) -> bool:
        """The same; False when the GPU does not have them, and ``done`` is not called."""
        generation = self.generation
        if not generation:
            return False
        ct = self._xe.guc.ct
        message = (abi.MAP, self.serial, tuple(tuple(map(int, entry)) for entry in ranges))
        if done is None:
            return ct.send((*message, 0), generation)
        return ct.send_with_token(message, done, generation)

    def unmap_bo(self, vm_bo: DrmGpuvmBo) -> None:
        """The pages of a BO move: have faults of its VMAs look for them
        (kernel: ``xe_vm_invalidate_vma``)."""
        if not self.is_faulting:
            return
        vmas = list(vm_bo.vmas)
        self.count_invalidations(sum(vma.tile_present for vma in vmas))  # type: ignore[attr-defined]
        for vma in vmas:
            vma.tile_present = False  # type: ignore[attr-defined]
        self.update([Range(vma.start, vma.end, RangeKind.UNBOUND) for vma in vmas])

    def entry(self, vma: XeVma) -> Range:
        """What the GPU shall see of a VMA.  A faulting VM is bound where somebody asked for it, by
        a fault, a prefetch or with the bind, and else finds out at its first access."""
        kind, key, offset = RangeKind.UNBOUND, 0, 0
        if vma.is_null:
            kind = RangeKind.NULL
        elif vma.is_mirror or (self.is_faulting and not vma.tile_present):
            pass
        elif vma.bo is not None:
            kind, key, offset = RangeKind.BO, vma.bo.id, vma.offset
            vma.bo.is_on_gpu = True
        elif vma.mm is not None:
            kind, key, offset = RangeKind.CLIENT, self.client(vma.mm), vma.offset
        read_only = bool(vma.flags & READ_ONLY)
        pat_index, atomic = vma.attr.pat_index, self._allows_atomics(vma)
        return Range(vma.start, vma.end, kind, key, offset, read_only, pat_index, atomic)

    def _allows_atomics(self, vma: XeVma) -> bool:
        """Kernel: ``xe_atomic_for_vram``, ``xe_atomic_for_system``.  Of what may be in VRAM but is
        not, an atomic makes a fault, which brings it there."""
        advice, bo = vma.attr.atomic_access, vma.bo
        if advice == xe_drm.DRM_XE_ATOMIC_CPU:
            return False
        if vma.is_null or (bo is not None and bo.mem_type is not None and bo.mem_type.is_vram):
            return True
        if not self._xe.platform.has_device_atomics_on_smem:
            return False
        if advice == xe_drm.DRM_XE_ATOMIC_DEVICE or not self._xe.platform.is_dgfx:
            return True
        return not self.is_lr or (bo is not None and len(bo.places) == 1)

    def invalidate(self, vmas: Iterable[XeVma]) -> None:
        """The advice on VMAs changed: have faults look at it, or change the entries
        (kernel: ``xe_vm_invalidate_madvise_range``)."""
        vmas = list(vmas)
        self.count_invalidations(self.is_faulting and any(vma.tile_present for vma in vmas))
        if not self.is_live:
            return
        for vma in vmas:
            vma.tile_present = vma.tile_present and not self.is_faulting
        self.update([self.entry(vma) for vma in vmas])

    def client(self, mm: UserMemory) -> int:
        """The GPU's key for the memory of a process."""
        key = self._clients.get(mm)
        if key is None:
            key = self._clients[mm] = next(_keys)
            self._xe.guc.requests.clients[key] = mm
        return key

    def _forget_clients(self) -> None:
        clients, self._clients = self._clients, {}
        for key in clients.values():
            self._xe.guc.requests.clients.pop(key, None)


def rfence_interval(gpuvm: DrmGpuvm[XeVma], changed: Sequence[XeVma]) -> tuple[int, int]:
    """Which addresses a bind of these VMAs may disturb, in the greedy way of the kernel: where a
    page table is made or dropped, all that the entry above it stands for.

    Kernel: ``xe_pt_update_ops_rfence_interval``.
    """
    start, end = min(vma.start for vma in changed), max(vma.end for vma in changed)
    for shift in TABLE_SHIFTS:
        first, last = start >> shift << shift, -(-end >> shift) << shift
        others = (vma for vma in gpuvm.find_range(first, last) if vma not in changed)
        if next(others, None) is not None:
            break
        start, end = first, last
    return start, end


class PtUpdate:
    """Entries that one bind changes, and what was there before.

    Made before the old VMAs let go of their BOs.  Until the bind has taken effect it holds these
    BOs: what runs may still use them (kernel: ``xe_vma_destroy_late``).
    """

    __slots__ = ("_old_bos", "_pt", "needs_invalidation", "ranges", "undo")

    def __init__(
        self, pt: XePt, journal: Sequence[tuple[bool, XeVma]], fetched: Sequence[Range] = ()
    ) -> None:
        """``journal``: VMAs that were made (True) and removed, in this order; ``fetched``: ranges
        of mirrors."""
        self._pt = pt
        self._old_bos = [vma.bo for made, vma in journal if not made and vma.bo is not None]
        for bo in self._old_bos:
            bo.get()
        entries = [(made, pt.entry(vma)) for made, vma in journal]
        self.ranges = [*_changes(entries, journal), *fetched]
        self.undo = [_nothing(entry) if made else entry for made, entry in reversed(entries)]
        self.needs_invalidation = needs_invalidation(journal)

    def defer(self) -> None:
        """It has to wait."""
        self._pt.defer(self)

    def apply_now(self) -> None:
        """Nobody waits for it."""
        self._pt.count_invalidations(self.needs_invalidation)
        self._pt.update(self.ranges)
        self._put_bos()

    def apply(self, done: Callable[[], None]) -> None:
        """After `defer`: its turn has come; ``done`` is called when the GPU uses it."""

        def applied() -> None:
            self._put_bos()
            done()

        self._pt.apply(self, applied)

    def _put_bos(self) -> None:
        for bo in self._old_bos:
            bo.put()


def needs_invalidation(journal: Sequence[tuple[bool, XeVma]]) -> bool:
    """Whether the GPU may know by heart what goes (kernel: ``unbind_op_prepare``)."""
    return any(not made and vma.tile_present and not vma.is_mirror for made, vma in journal)


def _changes(
    entries: Sequence[tuple[bool, Range]], journal: Sequence[tuple[bool, XeVma]]
) -> list[Range]:
    """What the GPU is told.  A mirror that takes the place of a mirror leaves alone what the GPU
    has mapped of either."""
    changes: list[Range] = []
    mirrors: list[tuple[int, int]] = []
    """Where mirrors were removed and nothing was made yet."""
    for (made, entry), (_, vma) in zip(entries, journal, strict=True):
        if vma.is_mirror and not made:
            mirrors.append((entry.start, entry.end))
            continue
        bounds = [(entry.start, entry.end)]
        if vma.is_mirror:
            fresh = _subtract(bounds, mirrors)
            changes += [Range(start, end, RangeKind.UNBOUND) for start, end in fresh]
        else:
            changes.append(entry if made else _nothing(entry))
        mirrors = _subtract(mirrors, bounds)
    return changes + [Range(start, end, RangeKind.NONE) for start, end in mirrors]


def _subtract(
    pieces: Sequence[tuple[int, int]], others: Iterable[tuple[int, int]]
) -> list[tuple[int, int]]:
    """What is left of some ranges when others are taken away."""
    left = list(pieces)
    for low, high in others:
        left = [
            bounds
            for start, end in left
            for bounds in ((start, min(end, low)), (max(start, high), end))
            if bounds[0] < bounds[1]
        ]
    return left


def _nothing(entry: Range) -> Range:
    return Range(entry.start, entry.end, RangeKind.NONE)
