"""What the GPU asks of the driver: pages, faults, memory of clients
(kernel: drivers/gpu/drm/xe/xe_pagefault.c; the rest is the mock's own)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uapi import xe_drm
from xedev.gpu.abi import Ask, Range, RangeKind
from xedev.gpu.ports import Access
from xedev.kernel.errors import KernelError
from xedev.xe.xe_bo import WILLNEED, XeBo, xe_bo_resvs, xe_bo_validate
from xedev.xe.xe_svm import xe_svm_handle_pagefault

if TYPE_CHECKING:
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_guc_submit import XeGuc
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("XeGpuRequests",)

MAX_FAULTS_SAVED_PER_VM = 50
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
SCRATCH_PAGE = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE


class XeGpuRequests:
    """Answers what the GPU asks.  Runs in threads of its own, so it may take locks and sleep."""

    def __init__(self, xe: XeDevice, guc: XeGuc) -> None:
        self._xe = xe
        self._guc = guc
        self.clients: dict[int, UserMemory] = {}
        """Memory of processes, by the keys that the GPU has for them."""
        self._answers: dict[int, Callable[..., object]] = {
            Ask.PAGES: self._pages,
            Ask.FAULT: self._fault,
            Ask.READ: self._read,
            Ask.WRITE: self._write,
            Ask.SWAP: self._swap,
        }

    def answer(self, what: int, details: tuple[Any, ...]) -> object:
        """The answer, None or False for what cannot be had; see `Ask`."""
        try:
            return self._answers[what](*details)
        except KernelError as error:
            if self._xe.trace.enabled:
                self._xe.trace.emit("gpu_refused", what=Ask(what).name.lower(), reason=error.reason)
            return None

    # ---- the contents of BOs ----

    def _pages(self, bo_id: int) -> tuple[str, int] | None:
        """Where they are; made at the first touch."""
        with self._xe.bos_lock:
            bo = self._xe.bos.get(bo_id)
            if bo is None or not bo.get_unless_zero():
                return None
        try:
            return self._pages_of(bo)
        finally:
            bo.put()

    def _pages_of(self, bo: XeBo) -> tuple[str, int] | None:
        owner = bo.exporter or bo
        if owner.imported:
            return None  # memory of something that is not ours
        with owner.resv:
            if not owner.populated:
                return None
            pages = owner.xe.ttm.pages(owner)
            return pages.path, pages.ino

    # ---- page faults ----

    def _fault(self, number: int, address: int, access: int) -> bool:
        queue = self._guc.find_queue(number)
        if queue is None:
            return False
        vm = queue.vm
        vm.lock.down_write()
        try:
            xe_pagefault_service(vm, address, Access(access))
        finally:
            vm.lock.up_write()
        return True

    def note_fault(self, vm: XeVm, address: int, access: int) -> None:
        """Keep it for VM_GET_PROPERTY, the first fifty of a VM
        (kernel: ``xe_vm_add_fault_entry_pf``)."""
        if not vm.is_faulting:
            return
        fault = xe_drm.xe_vm_fault(
            address=address & ~0xFFF,
            address_precision=0x1000,
            access_type=access,
            fault_type=xe_drm.FAULT_TYPE_NOT_PRESENT,
            fault_level=xe_drm.FAULT_LEVEL_PTE,
        )
        with vm.resv:
            if len(vm.faults) < MAX_FAULTS_SAVED_PER_VM:
                vm.faults.append(fault)

    # ---- memory of clients ----

    def _read(self, key: int, address: int, length: int) -> bytes:
        return self._client(key).read(address, length)

    def _write(self, key: int, address: int, data: bytes) -> bool:
        self._client(key).write(address, data)
        return True

    def _swap(self, key: int, address: int, old: bytes, new: bytes) -> bytes:
        """Not atomic against the client's own threads."""
        client = self._client(key)
        found = client.read(address, len(old))
        if found == old:
            client.write(address, new)
        return found

    def _client(self, key: int) -> UserMemory:
        client = self.clients.get(key)
        if client is None:
            raise KernelError(errno.EFAULT, "the VM of that memory has ended")
        return client


def xe_pagefault_service(vm: XeVm, address: int, access: Access) -> None:
    """Give the GPU what it missed, or say why not: ``EINVAL`` nothing is mapped there, ``EPERM``
    read-only, ``EACCES`` the contents may go or are gone.

    Needs ``vm->lock`` for writing.  Kernel: ``xe_pagefault_service``, ``xe_pagefault_handle_vma``.
    """
    vm.assert_usable()
    vmas = vm.gpuvm.find_range(address, address + 1)
    if not vmas:
        raise KernelError(errno.EINVAL, f"nothing is mapped at {address:#x}")
    vma = vmas[0]
    if access is not Access.READ and vma.flags & READ_ONLY:
        raise KernelError(errno.EPERM, f"{address:#x} is mapped read-only")
    if vma.is_mirror:
        xe_svm_handle_pagefault(vm, vma, address, access)
        return
    if vma.bo is not None:
        _handle_bo(vm, vma, vma.bo)
        return
    if vma.mm is not None:
        write = not vma.flags & READ_ONLY
        vma.mm.probe(vma.offset, vma.end - vma.start, write=write)
    _bind(vm, vma)


def _handle_bo(vm: XeVm, vma: XeVma, bo: XeBo) -> None:
    resvs = [vm.resv, *xe_bo_resvs([bo] if bo.vm is None else [])]
    for resv in resvs:
        resv.lock()
    try:
        if bo.purgeable.state is not WILLNEED:
            if not vm.flags & SCRATCH_PAGE:
                raise KernelError(errno.EACCES, f"bo {bo.id} is {bo.purgeable.state.name}")
            vm.pt.update([Range(vma.start, vma.end, RangeKind.NULL)])
            return
        xe_bo_validate(bo, vm, vm.allows_resident_eviction())
        _bind(vm, vma)
    finally:
        for resv in resvs:
            resv.unlock()


def _bind(vm: XeVm, vma: XeVma) -> None:
    vma.tile_present = True
    vm.pt.update([vm.pt.entry(vma)])
