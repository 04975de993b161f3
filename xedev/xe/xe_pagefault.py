"""What the GPU asks of the driver: pages, faults, memory of clients
(kernel: drivers/gpu/drm/xe/xe_pagefault.c; the rest is the mock's own)."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from uapi import xe_drm
from xedev.drm.ttm import MemType, retry_on_contention
from xedev.gpu.abi import Ask, Range, RangeKind
from xedev.gpu.ports import Access
from xedev.kernel.errors import KernelError
from xedev.xe.xe_bo import WILLNEED, XeBo, xe_bo_migrate, xe_bo_resvs, xe_bo_validate
from xedev.xe.xe_gt_stats import GtStat
from xedev.xe.xe_svm import xe_svm_garbage_collector, xe_svm_handle_pagefault

if TYPE_CHECKING:
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_gt import XeGt
    from xedev.xe.xe_guc_submit import XeGuc
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = (
    "XeGpuRequests",
    "save_fault",
)

MAX_FAULTS_SAVED_PER_VM = 50
SETTLE_TIME = 0.005
"""Seconds without a message to the GPU after which none is on its way."""
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
SCRATCH_PAGE = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
_SWAP_LOCKS = [threading.Lock() for _ in range(16)]
"""By the client whose memory it is."""


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
            Ask.SETTLE: self._settle,
            Ask.PROCESS: self._process,
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
        vm, gt = queue.vm, self._xe.gt(queue.gt_id)
        vm.lock.down_write()
        try:
            xe_pagefault_service(vm, gt, address, Access(access))
        except KernelError as error:
            save_fault(vm, address, access, error.errno or 0)
            raise
        finally:
            vm.lock.up_write()
        return True

    # ---- memory of clients ----

    def _read(self, key: int, address: int, length: int) -> bytes:
        return self._client(key).read(address, length)

    def _write(self, key: int, address: int, data: bytes) -> bool:
        self._client(key).write(address, data)
        return True

    def _swap(self, key: int, address: int, old: bytes, new: bytes) -> bytes:
        """Atomic between engines, of all devices, not against the client's own threads."""
        client = self._client(key)
        with _SWAP_LOCKS[hash(client) % len(_SWAP_LOCKS)]:
            found = client.read(address, len(old))
            if found == old:
                client.write(address, new)
        return found

    def _process(self, key: int) -> int:
        return self._client(key).pid

    def _settle(self) -> None:
        """Messages that a thread of ours, or a client that was just woken, is about to cause."""
        sent = -1
        while sent != self._guc.ct.messages_sent:
            sent = self._guc.ct.messages_sent
            time.sleep(SETTLE_TIME)

    def _client(self, key: int) -> UserMemory:
        client = self.clients.get(key)
        if client is None:
            raise KernelError(errno.EFAULT, "the VM of that memory has ended")
        return client


def xe_pagefault_service(vm: XeVm, gt: XeGt, address: int, access: Access) -> None:
    """Give the GPU what it missed, or say why not: ``EINVAL`` nothing is mapped there, ``EPERM``
    read-only, ``EACCES`` the contents may go or are gone, or cannot be where atomics need them; of
    mirrors see `xe_svm_handle_pagefault`.

    Needs ``vm->lock`` for writing.  Kernel: ``xe_pagefault_service``, ``xe_pagefault_handle_vma``.
    """
    vm.assert_usable()
    xe_svm_garbage_collector(vm)
    vmas = vm.gpuvm.find_range(address, address + 1)
    if not vmas:
        raise KernelError(errno.EINVAL, f"nothing is mapped at {address:#x}")
    vma = vmas[0]
    if access is not Access.READ and vma.flags & READ_ONLY:
        raise KernelError(errno.EPERM, f"{address:#x} is mapped read-only")
    needs_vram = access is Access.ATOMIC and xe_vma_need_vram_for_atomic(vm, vma)
    if vma.is_mirror:
        xe_svm_handle_pagefault(vm, vma, gt, address, needs_vram=needs_vram)
        return
    if needs_vram and vma.mm is not None:
        raise KernelError(errno.EACCES, "atomics of this device need VRAM")
    gt.stats.incr(GtStat.VMA_PAGEFAULT_COUNT)
    gt.stats.incr(GtStat.VMA_PAGEFAULT_KB, (vma.end - vma.start) // 1024)
    if vma.bo is not None:
        retry_on_contention(partial(_handle_bo, vm, vma, vma.bo, needs_vram))
        return
    if vma.mm is not None:
        write = not vma.flags & READ_ONLY
        vma.mm.probe(vma.offset, vma.end - vma.start, write=write)
    _bind(vm, vma)


def xe_vma_need_vram_for_atomic(vm: XeVm, vma: XeVma) -> bool:
    """Whether an atomic access has to bring the memory to the card; ``EACCES`` when atomics there
    are the CPU's (kernel: ``xe_vma_need_vram_for_atomic``)."""
    platform = vm.xe.platform
    if not platform.is_dgfx:
        return False
    advice = vma.attr.atomic_access if vma.bo is None else vma.bo.atomic_access
    if advice == xe_drm.DRM_XE_ATOMIC_CPU:
        raise KernelError(errno.EACCES, "atomics are advised to be the CPU's")
    return advice != xe_drm.DRM_XE_ATOMIC_DEVICE or not platform.has_device_atomics_on_smem


def _handle_bo(vm: XeVm, vma: XeVma, bo: XeBo, needs_vram: bool) -> None:
    resvs = [vm.resv, *xe_bo_resvs([bo] if bo.vm is None else [])]
    for resv in resvs:
        resv.lock()
    try:
        if bo.purgeable.state is not WILLNEED:
            if not vm.flags & SCRATCH_PAGE:
                raise KernelError(errno.EACCES, f"bo {bo.id} is {bo.purgeable.state.name}")
            vm.pt.update([Range(vma.start, vma.end, RangeKind.NULL)])
            return
        if needs_vram:
            xe_bo_migrate(bo, MemType.VRAM0)
        else:
            # Whatever the VM was promised: xe_pagefault_begin lets it evict its own.
            xe_bo_validate(bo, vm, allow_res_evict=True)
        _bind(vm, vma)
    finally:
        for resv in resvs:
            resv.unlock()


def save_fault(vm: XeVm, address: int, access: int, error: int) -> None:
    """Keep it for VM_GET_PROPERTY, the first fifty of a VM
    (kernel: ``xe_vm_add_fault_entry_pf``)."""
    is_forbidden = error == errno.EPERM
    fault = xe_drm.xe_vm_fault(
        address=_canonical(vm, address & ~0xFFF),
        address_precision=0x1000,
        access_type=access,
        fault_type=_FORBIDDEN[Access(access)] if is_forbidden else xe_drm.FAULT_TYPE_NOT_PRESENT,
        fault_level=xe_drm.FAULT_LEVEL_PTE,
    )
    with vm.resv:
        if len(vm.faults) < MAX_FAULTS_SAVED_PER_VM:
            vm.faults.append(fault)


def _canonical(vm: XeVm, address: int) -> int:
    """With the highest bit repeated above (kernel: ``xe_device_canonicalize_addr``)."""
    top = 1 << vm.xe.platform.va_bits - 1
    return address | -top & (1 << 64) - 1 if address & top else address


_FORBIDDEN = {
    Access.READ: xe_drm.FAULT_TYPE_NOT_PRESENT,
    Access.WRITE: xe_drm.FAULT_TYPE_WRITE_ACCESS,
    Access.ATOMIC: xe_drm.FAULT_TYPE_ATOMIC_ACCESS,
}


def _bind(vm: XeVm, vma: XeVma) -> None:
    vma.tile_present = True
    vm.pt.update([vm.pt.entry(vma)])
