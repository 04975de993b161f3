"""Page tables: what the GPU is told of a VM (kernel: drivers/gpu/drm/xe/xe_pt.c).

The map of VMAs is what clients asked for; the page tables follow when a bind takes effect.  The GPU
has those of a VM from its first job on; before, nobody looks at them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.gpu import abi
from xedev.gpu.abi import Range, RangeKind

if TYPE_CHECKING:
    from xedev.drm.drm_gpuvm import DrmGpuvmBo
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("XePt",)

READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
SCRATCH_PAGE = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
_keys = itertools.count(1)


class XePt:
    """The page tables of one VM (kernel: ``struct xe_pt`` of a root)."""

    __slots__ = ("_clients", "_generation", "_xe", "is_faulting", "serial")

    def __init__(self, xe: XeDevice, serial: int, is_faulting: bool) -> None:
        self._xe = xe
        self.serial = serial
        """Of the VM, by which the GPU knows it."""
        self.is_faulting = is_faulting
        self._generation = 0
        self._clients: dict[UserMemory, int] = {}

    @property
    def is_live(self) -> bool:
        """Whether the GPU has them."""
        return bool(self._generation) and self._generation == self._xe.guc.ct.generation

    def attach(self, vm: XeVm) -> None:
        """Give them to the GPU; needs ``vm->lock`` for writing."""
        ct = self._xe.guc.ct
        ct.enable()
        if self.is_live:
            return
        self._forget_clients()
        self._generation = ct.generation
        scratch = bool(vm.flags & SCRATCH_PAGE)
        ct.send((abi.VM, self.serial, self._xe.platform.va_bits, scratch, self.is_faulting))
        self.update([self.entry(vma) for vma in vm.gpuvm if vma.tile_present or self.is_faulting])

    def detach(self) -> None:
        """The VM ends."""
        if self.is_live:
            self._xe.guc.ct.send((abi.VM_END, self.serial))
            self._xe.guc.ct.send((abi.FORGET, (), tuple(self._clients.values())))
        self._generation = 0
        self._forget_clients()

    def clear(self) -> None:
        """Nothing is mapped any more (kernel: ``xe_pt_clear``)."""
        self.update([Range(0, 1 << self._xe.platform.va_bits, RangeKind.NONE)])

    def update(self, ranges: Iterable[Range], done: Callable[[], None] | None = None) -> None:
        """Have the GPU use these entries; ``done`` is called when it does."""
        if not self.is_live:
            if done is not None:
                done()
            return
        ct = self._xe.guc.ct
        message = (abi.MAP, self.serial, tuple(tuple(map(int, entry)) for entry in ranges))
        if done is None:
            ct.send((*message, 0))
        else:
            ct.send_with_token(message, done)

    def unmap_bo(self, vm_bo: DrmGpuvmBo) -> None:
        """The pages of a BO move: have faults of its VMAs look for them
        (kernel: ``xe_vm_invalidate_vma``)."""
        if not self.is_faulting:
            return
        vmas = list(vm_bo.vmas)
        for vma in vmas:
            vma.tile_present = False  # type: ignore[attr-defined]
        self.update([Range(vma.start, vma.end, RangeKind.UNBOUND) for vma in vmas])

    def changes(self, journal: Iterable[tuple[bool, XeVma]]) -> list[Range]:
        """The entries for VMAs that were made (True) and removed, in this order."""
        return [
            self.entry(vma) if made else Range(vma.start, vma.end, RangeKind.NONE)
            for made, vma in journal
        ]

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
        return Range(vma.start, vma.end, kind, key, offset, read_only, vma.attr.pat_index)

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
