"""GPU virtual memory: VMs, VMAs, VM_BIND (kernel: drivers/gpu/drm/xe/xe_vm.c)."""

from __future__ import annotations

import ctypes
import errno
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any

from uapi import xe_drm
from xedev.drm.drm_gem import drm_gem_object_lookup
from xedev.drm.drm_gpuvm import DrmGpuva, DrmGpuvm, Unmap
from xedev.drm.ttm import MemType, retry_on_contention
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_fence import DmaFence
from xedev.kernel.dma_resv import ResvFences, dma_resv_wait
from xedev.kernel.errors import KernelError
from xedev.kernel.idr import Idr
from xedev.kernel.locking import LockLevel, Mutex, RwSem, lockdep_assert_held
from xedev.kernel.refcount import Refcounted
from xedev.xe.xe_bo import (
    WILLNEED,
    XeBo,
    XeMadvPurgeableState,
    as_xe_bo,
    purgeable_gate,
    xe_bo_migrate,
    xe_bo_resvs,
    xe_bo_validate,
)
from xedev.xe.xe_exec_queue import XeExecQueue, xe_exec_queue_lookup
from xedev.xe.xe_pat import CohMode
from xedev.xe.xe_preempt_fence import XePreempt
from xedev.xe.xe_pt import PtUpdate, XePt, needs_invalidation, rfence_interval
from xedev.xe.xe_svm import XeSvm, xe_svm_flush, xe_svm_garbage_collector, xe_svm_prefetch
from xedev.xe.xe_sync import BindQueue, UserFence, XeSyncs, xe_sync_entries_parse
from xedev.xe.xe_userptr import XeUserptr

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.gpu.abi import Range
    from xedev.kernel.user_memory import UserMemory
    from xedev.xe.xe_device import XeDevice

__all__ = (
    "VmMode",
    "XeVm",
    "XeVma",
    "XeVmaJob",
    "XeVmaMemAttr",
    "check_l2_flush",
    "xe_vm_bind_ioctl",
    "xe_vm_close_and_put",
    "xe_vm_create_ioctl",
    "xe_vm_destroy_ioctl",
    "xe_vm_get_property_ioctl",
    "xe_vm_lookup",
    "xe_vm_query_vmas_attrs_ioctl",
)

PAGE_SIZE = 4096
PAGE_MASK = PAGE_SIZE - 1
U64_MASK = (1 << 64) - 1
SZ_64K_MASK = 64 * 1024 - 1
MAX_FAULTS_SAVED_PER_VM = 50
MAX_BIND_ARRAY_BYTES = 16 << 20
"""Largest op array, bytes; the kernel's own limit is 2 GiB.  Beyond it: ``ENOBUFS``."""
MAX_RANGE_ATTR_BYTES = 64 << 20
"""Largest array of VM_QUERY_MEM_RANGE_ATTRS, bytes.  Beyond it: ``ENOBUFS``."""

BIND_OP_SIZE = ctypes.sizeof(xe_drm.drm_xe_vm_bind_op)
FAULT_SIZE = ctypes.sizeof(xe_drm.xe_vm_fault)

OP_MAP = xe_drm.DRM_XE_VM_BIND_OP_MAP
OP_UNMAP = xe_drm.DRM_XE_VM_BIND_OP_UNMAP
OP_MAP_USERPTR = xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR
OP_UNMAP_ALL = xe_drm.DRM_XE_VM_BIND_OP_UNMAP_ALL
OP_PREFETCH = xe_drm.DRM_XE_VM_BIND_OP_PREFETCH

FLAG_READONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
FLAG_IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
FLAG_NULL = xe_drm.DRM_XE_VM_BIND_FLAG_NULL
FLAG_DUMPABLE = xe_drm.DRM_XE_VM_BIND_FLAG_DUMPABLE
FLAG_CHECK_PXP = xe_drm.DRM_XE_VM_BIND_FLAG_CHECK_PXP
FLAG_MIRROR = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
FLAG_AUTORESET = xe_drm.DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET
FLAG_DECOMPRESS = xe_drm.DRM_XE_VM_BIND_FLAG_DECOMPRESS

BIND_FLAGS = (
    FLAG_READONLY
    | FLAG_IMMEDIATE
    | FLAG_NULL
    | FLAG_DUMPABLE
    | FLAG_CHECK_PXP
    | FLAG_MIRROR
    | FLAG_AUTORESET
    | FLAG_DECOMPRESS
)
FORCE_OP_ERROR = 1 << 31
"""A debug kernel's own flag: the bind fails late, to try the unwinding.  Not in the header."""
VMA_CREATE_FLAGS = FLAG_READONLY | FLAG_NULL | FLAG_DUMPABLE | FLAG_MIRROR | FLAG_AUTORESET
"""Flags that a VMA keeps, and hands on to what a split leaves of it."""

CONSULT_PREF_LOC = 0xFFFF_FFFF

VM_FLAGS = (
    xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
    | xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
    | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
    | xe_drm.DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT
)

WA_ALWAYS_SCRATCH = 22014953428
"""The workaround that gives every VM scratch pages."""


class VmMode(Enum):
    """How a VM gives memory back while work may run on it."""

    NON_LR = "non-lr"
    """Jobs end; dma-fences say when."""
    PREEMPT = "preempt"
    """Long-running jobs are preempted."""
    FAULT = "fault"
    """Long-running jobs take page faults."""


class XeVmaMemAttr:
    """Advice on one VMA (kernel: ``struct xe_vma_mem_attr``)."""

    __slots__ = (
        "atomic_access",
        "default_pat_index",
        "devmem_fd",
        "migration_policy",
        "pat_index",
        "purgeable_state",
    )

    def __init__(self, pat_index: int) -> None:
        self.devmem_fd = 0
        self.migration_policy = 0
        self.atomic_access = 0
        self.pat_index = pat_index
        self.default_pat_index = pat_index
        self.purgeable_state: XeMadvPurgeableState = WILLNEED

    def copy(self) -> XeVmaMemAttr:
        """What a remnant of a split inherits: everything."""
        twin = XeVmaMemAttr(self.pat_index)
        twin.devmem_fd = self.devmem_fd
        twin.migration_policy = self.migration_policy
        twin.atomic_access = self.atomic_access
        twin.default_pat_index = self.default_pat_index
        twin.purgeable_state = self.purgeable_state
        return twin

    def is_default(self) -> bool:
        """Whether nobody has advised anything (kernel: ``xe_vma_has_default_mem_attrs``)."""
        return (
            self.devmem_fd == 0
            and self.migration_policy == 0
            and self.atomic_access == 0
            and self.pat_index == self.default_pat_index
        )

    def is_like(self, other: XeVmaMemAttr) -> bool:
        """Whether nobody has advised anything on either, and they have the same PAT index."""
        return self.is_default() and other.is_default() and self.pat_index == other.pat_index


class XeVma(DrmGpuva):
    """One mapping (kernel: ``struct xe_vma``): of a BO, of user memory, of nothing, or a mirror.

    ``offset`` is bytes into the BO, or the user address of a userptr.
    """

    __slots__ = ("attr", "flags", "mm", "tile_present", "ufence", "userptr")

    def __init__(
        self,
        start: int,
        end: int,
        bo: XeBo | None,
        offset: int,
        flags: int,
        attr: XeVmaMemAttr,
        userptr: bool,
    ) -> None:
        super().__init__(start, end, bo, offset)
        self.flags = flags
        self.attr = attr
        self.userptr = userptr
        self.mm: UserMemory | None = None
        """Of a userptr: the memory of who bound it."""
        self.tile_present = True
        """Of a faulting VM: whether it is in the page tables, or only faults are."""
        self.ufence: UserFence | None = None
        """Of the bind that made or prefetched it, unless that was done at once."""

    @property
    def bo(self) -> XeBo | None:
        """The BO, None for all other kinds."""
        return self.obj  # type: ignore[return-value]

    @property
    def is_null(self) -> bool:
        """Reads give zero, writes vanish."""
        return bool(self.flags & FLAG_NULL)

    @property
    def is_mirror(self) -> bool:
        """GPU addresses stand for the same CPU addresses."""
        return bool(self.flags & FLAG_MIRROR)

    @property
    def kind(self) -> str:
        """``bo``, ``userptr``, ``mirror`` or ``null``."""
        if self.obj is not None:
            return "bo"
        if self.userptr:
            return "userptr"
        return "mirror" if self.is_mirror else "null"


class XeVm(Refcounted):
    """One GPU address space (kernel: ``struct xe_vm``).

    References: the id in its file, and each private BO.
    """

    __slots__ = (
        "banned",
        "bind_fences",
        "bind_queue",
        "client_id",
        "exec_queues",
        "faults",
        "flags",
        "gpuvm",
        "id",
        "kernel_fences",
        "lock",
        "mm",
        "mode",
        "preempt",
        "pt",
        "resv",
        "rftree",
        "serial",
        "svm",
        "userptr",
        "xe",
    )

    serials = itertools.count(1)

    def __init__(
        self, xe: XeDevice, flags: int, client_id: int, mm: UserMemory | None = None
    ) -> None:
        super().__init__()
        self.xe = xe
        self.mm = mm
        """The memory that mirrors show: of the process that made a faulting VM."""
        self.flags = flags
        self.client_id = client_id
        self.id = 0
        self.serial = next(self.serials)
        self.mode = _vm_mode(flags)
        self.gpuvm: DrmGpuvm[XeVma] = DrmGpuvm(1 << xe.platform.va_bits)
        self.lock = RwSem(f"vm->lock of vm {self.serial}", LockLevel.VM)
        self.resv = Mutex(f"resv of vm {self.serial}", LockLevel.RESV)
        self.banned = False
        self.bind_queue = BindQueue()
        self.pt = XePt(xe, self.serial, is_faulting=self.is_faulting, is_lr=self.is_lr)
        if self.is_faulting:
            self.gpuvm.on_evict = self.pt.unmap_bo
        self.preempt = XePreempt(xe, self.serial)
        if self.mode is VmMode.PREEMPT:
            self.gpuvm.on_evict = self.preempt.evicted
        self.svm = XeSvm()
        self.userptr = XeUserptr()
        self.bind_fences = ResvFences()
        """Of binds (kernel: usage BOOKKEEP, as for jobs)."""
        self.kernel_fences = ResvFences()
        """Of binds that every job waits for (kernel: usage KERNEL)."""
        self.rftree: list[tuple[int, int, DmaFence]] = []
        """Ranges that pending binds change, and their fences (kernel: ``vm->rftree``)."""
        self.exec_queues = 0
        """Living queues of work for it; those for binds do not count."""
        self.faults: list[xe_drm.xe_vm_fault] = []

    @property
    def size(self) -> int:
        """Bytes of address space; 0 once closed."""
        return self.gpuvm.size

    @property
    def is_lr(self) -> bool:
        """Whether jobs may run for ever (kernel: ``xe_vm_in_lr_mode``)."""
        return self.mode is not VmMode.NON_LR

    @property
    def is_faulting(self) -> bool:
        """Whether its work may take page faults (kernel: ``xe_vm_in_fault_mode``)."""
        return self.mode is VmMode.FAULT

    def assert_usable(self) -> None:
        """``ENOENT`` when closed or banned (kernel: ``xe_vm_is_closed_or_banned``)."""
        if not self.gpuvm.size or self.banned:
            raise KernelError(errno.ENOENT, "the VM is closed or banned")

    def allows_resident_eviction(self) -> bool:
        """Whether binding may evict BOs of this very VM (``xe_vm_allow_vm_eviction``)."""
        if self.mode is VmMode.NON_LR:
            return True
        overcommit = not self.flags & xe_drm.DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT
        return self.mode is VmMode.FAULT and overcommit

    def bookkeep_fences(self) -> tuple[ResvFences, ...]:
        """Of its binds and jobs (kernel: its reservation's, of all usages)."""
        return self.kernel_fences, self.bind_fences, self.gpuvm.job_fences

    def reset_mirror(self, vma: XeVma, start: int, end: int) -> None:
        """Take the advice on a part of a mirror back, or on all of it if nobody advised anything,
        and make it one with mirrors beside it that are like it.  Needs ``vm->lock`` for writing.

        Kernel: ``xe_svm_range_set_default_attr``.
        """
        if vma.attr.is_default():
            start, end = vma.start, vma.end
        old = {vma: None}
        attr = XeVmaMemAttr(vma.attr.default_pat_index)
        first, last = start, end
        for other in self.gpuvm.find_range(max(start - 1, 0), end + 1):
            if other.is_mirror and other.flags == vma.flags and other.attr.is_like(attr):
                old[other] = None
                first, last = min(first, other.start), max(last, other.end)
        if vma.attr.is_default() and len(old) == 1:
            return
        for mirror in old:
            self.gpuvm.remove(mirror)
        for low, high, advice in (
            (vma.start, first, vma.attr.copy()),
            (first, last, attr),
            (last, vma.end, vma.attr.copy()),
        ):
            if low < high:
                xe_vma_create(self, low, high, None, 0, vma.flags, advice, False)

    def kill(self) -> None:
        """Nothing of it will run again (kernel: ``xe_vm_kill``)."""
        self.banned = True
        for queue in self.xe.guc.queues_of(self):
            queue.is_banned = True
            self.xe.guc.kill(queue)
        self.xe.ufence_wq.wake_up()

    def free(self) -> None:
        """The last reference went."""
        self.pt.detach()
        if self.xe.trace.enabled:
            self.xe.trace.emit("vm_free", vm=self.serial)


def _vm_mode(flags: int) -> VmMode:
    if flags & xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE:
        return VmMode.FAULT
    if flags & xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE:
        return VmMode.PREEMPT
    return VmMode.NON_LR


# ---- create, destroy, look up ----


def xe_vm_lookup(file: DrmFile, vm_id: int, error: int) -> XeVm:
    """The VM of ``vm_id``; ``error`` is the errno when there is none.

    Unlike the kernel's, it takes no reference: the object cannot vanish under its user, who finds
    out under ``vm->lock`` whether it was closed meanwhile (`XeVm.assert_usable`).
    """
    vms: Idr[XeVm] = file.driver_priv.vms  # type: ignore[attr-defined]
    vm = vms.entries.get(vm_id)
    if vm is None:
        raise KernelError(error, f"no VM {vm_id}")
    return vm


def xe_vm_create_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_vm_create, file: DrmFile, caller: Caller
) -> None:
    """``VM_CREATE``: an address space of ``1 << va_bits`` bytes; ``EINVAL`` malformed."""
    if args.extensions:
        raise KernelError(errno.EINVAL, "extensions must be zero")
    flags = args.flags
    if WA_ALWAYS_SCRATCH in xe.platform.workarounds:
        # The kernel changes the argument, and so copies the flag back to the caller.
        flags = args.flags = flags | xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
    fault = flags & xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
    if fault and not xe.platform.has_usm:
        raise KernelError(errno.EINVAL, "the device cannot take page faults")
    if any(args.reserved):
        raise KernelError(errno.EINVAL, "reserved must be zero")
    if flags & ~VM_FLAGS:
        raise KernelError(errno.EINVAL, f"unknown flags {flags & ~VM_FLAGS:#x}")
    scratch = flags & xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
    if scratch and fault and not xe.platform.needs_scratch:
        raise KernelError(errno.EINVAL, "no scratch pages on a faulting VM here")
    if fault and not flags & xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE:
        raise KernelError(errno.EINVAL, "FAULT_MODE needs LR_MODE")
    if flags & xe_drm.DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT and not fault:
        raise KernelError(errno.EINVAL, "NO_VM_OVERCOMMIT needs FAULT_MODE")
    xe.faults.check("xe_vm_create")
    vm = XeVm(xe, flags, file.client_id, caller.mm() if fault else None)
    xef = file.driver_priv
    with xef.vm_lock:  # type: ignore[attr-defined]
        vm.id = args.vm_id = xef.vms.alloc(vm)  # type: ignore[attr-defined]
        # Before another thread can destroy it by its id.
        xe.note_vm(vm)


def xe_vm_destroy_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_vm_destroy, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``VM_DESTROY``: ``EINVAL`` malformed, ``ENOENT`` unknown, ``EBUSY`` queues of a VM whose
    work has to be preempted."""
    if args.pad or any(args.reserved):
        raise KernelError(errno.EINVAL, "pad and reserved must be zero")
    xef = file.driver_priv
    with xef.vm_lock:  # type: ignore[attr-defined]
        vm = xef.vms.find(args.vm_id)  # type: ignore[attr-defined]
        if vm is None:
            raise KernelError(errno.ENOENT, f"no VM {args.vm_id}")
        if vm.mode is VmMode.PREEMPT and vm.exec_queues:
            raise KernelError(errno.EBUSY, f"VM {args.vm_id} has queues")
        xef.vms.remove(args.vm_id)  # type: ignore[attr-defined]
    vm.lock.down_write()
    vm.gpuvm.size = 0
    vm.lock.up_write()

    def finish() -> int:
        xe_vm_close_and_put(vm)
        return 0

    # Nobody adds to them any more; what runs is done, or too late, in a few seconds.  The kernel
    # waits for binds too.
    return dma_resv_wait([vm.gpuvm.job_fences], finish)


def xe_vm_close_and_put(vm: XeVm) -> None:
    """Close a VM whose id is gone: all VMAs end in ascending order, those of external BOs last.

    Kernel: ``xe_vm_close_and_put``.
    """
    vm.lock.down_write()
    try:
        vm.gpuvm.size = 0
        vm.pt.clear()
        external = []
        for vma in list(vm.gpuvm):
            vm.gpuvm.remove(vma)
            if vma.bo is not None and vma.bo.vm is None:
                external.append(vma)
                continue
            with vm.resv:
                xe_vma_destroy(vm, vma)
        for vma in external:
            assert vma.bo is not None
            bo = vma.bo
            with bo.resv:
                dropped = xe_vma_unlink(vm, vma)
            if dropped is not None:
                dropped.put()
    finally:
        vm.lock.up_write()
    vm.xe.forget_vm(vm)
    vm.put()


# ---- VMAs ----


def xe_vma_create(
    vm: XeVm,
    start: int,
    end: int,
    bo: XeBo | None,
    offset: int,
    flags: int,
    attr: XeVmaMemAttr,
    userptr: bool,
) -> XeVma:
    """Make a VMA, link it to its BO and put it into the map; the range must be free.

    ``EBUSY`` or ``EINVAL`` when the BO's purgeable state forbids it.  Needs ``vm->lock`` for
    writing and the BO's reservation.
    """
    vm.xe.faults.check("xe_vma_create")
    vma = XeVma(start, end, bo, offset, flags & VMA_CREATE_FLAGS, attr, userptr)
    if bo is not None:
        vm.xe.policy.vma_create(bo, vma)
        bo.get()
        vm.gpuvm.link(vma)
    vm.gpuvm.insert(vma)
    return vma


def xe_vma_unlink(vm: XeVm, vma: XeVma) -> XeBo | None:
    """Take a VMA that left the map off its BO; the caller drops the returned BO's reference
    once no reservation is held."""
    bo = vma.bo
    if bo is None:
        return None
    lockdep_assert_held(bo.resv)
    vm.gpuvm.unlink(vma)
    vma.obj = None
    vm.xe.policy.vma_destroy(bo, vma)
    return bo


def xe_vma_destroy(vm: XeVm, vma: XeVma) -> None:
    """As `xe_vma_unlink`, and drop the BO.  Freeing takes no reservation, so one may be held."""
    bo = xe_vma_unlink(vm, vma)
    if bo is not None:
        bo.put()


# ---- VM_BIND: arguments ----


@dataclass(slots=True)
class BindOp:
    """One op of a VM_BIND, copied out of the caller's struct."""

    op: int
    flags: int
    obj: int
    offset: int
    range: int
    addr: int
    end: int
    """First byte address behind the range."""
    pat_index: int
    region: int
    bo: XeBo | None = None


def _bind_op(xe: XeDevice, op: xe_drm.drm_xe_vm_bind_op) -> BindOp:
    addr = xe.canonical_to_va(op.addr)
    length = op.range
    return BindOp(
        op.op,
        op.flags,
        op.obj,
        op.obj_offset,
        length,
        addr,
        addr + length,
        op.pat_index,
        op.prefetch_mem_region_instance,
    )


def xe_vm_bind_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_vm_bind, file: DrmFile, caller: Caller
) -> None:
    """``VM_BIND``: map, unmap, prefetch; all of an array or nothing.

    ``EINVAL`` malformed or unknown VM, ``ENOBUFS`` too many ops, ``EFAULT`` unreadable, ``ENOENT``
    unknown queue or handle or closed VM, ``EBUSY``/``EINVAL`` purgeable state, ``ENOEXEC`` stale
    protected content, ``ENOMEM`` no room, ``EOPNOTSUPP`` an in-fence with nothing to do; syncs:
    see `xe_sync_entries_parse`.
    """
    vm = xe_vm_lookup(file, args.vm_id, errno.EINVAL)
    ops = _vm_bind_ioctl_check_args(xe, vm, args, caller)
    queue = _bind_exec_queue(file, vm, args.exec_queue_id) if args.exec_queue_id else None
    binds = vm.bind_queue if queue is None else queue.binds
    assert binds is not None
    bos: list[XeBo] = []
    try:
        vm.lock.down_write()
        try:
            vm.assert_usable()
            xe_svm_garbage_collector(vm)
            _vm_bind_ioctl_check_ranges(vm, ops)
            _lookup_bos(xe, file, vm, ops, bos)
            syncs = _NO_SYNCS
            if args.num_syncs:
                syncs = xe_sync_entries_parse(
                    file,
                    caller,
                    args.syncs,
                    args.num_syncs,
                    lr_mode=vm.is_lr,
                    allow_user_fence=bool(ops),
                )
            try:
                _vm_bind_ioctl_execute(xe, vm, binds, ops, syncs, caller)
            finally:
                syncs.put()
        finally:
            vm.lock.up_write()
    finally:
        for bo in bos:
            bo.put()
        if queue is not None:
            queue.put()


def _bind_exec_queue(file: DrmFile, vm: XeVm, queue_id: int) -> XeExecQueue:
    """The queue for binds of an id, with one more reference: ``ENOENT`` unknown, ``EINVAL`` not
    for binds, or of another VM."""
    queue = xe_exec_queue_lookup(file, queue_id)
    if queue is None:
        raise KernelError(errno.ENOENT, f"no exec queue {queue_id}")
    if queue.binds is None or queue.vm is not vm:
        queue.put()
        raise KernelError(errno.EINVAL, f"exec queue {queue_id} is not for binds of this VM")
    return queue


_NO_SYNCS = XeSyncs()


def _vm_bind_ioctl_execute(
    xe: XeDevice,
    vm: XeVm,
    binds: BindQueue,
    ops: list[BindOp],
    syncs: XeSyncs,
    caller: Caller,
) -> None:
    """Change the map, then tell the syncs, or have them told."""
    job = None
    if ops:
        execute = partial(_vm_bind_ioctl_ops_execute, xe, vm, ops, caller, syncs, binds)
        job = retry_on_contention(execute)
    update = job.update if job is not None else None
    if syncs is _NO_SYNCS and update is None:
        return  # it comes after what is pending, but there is nobody to tell
    if syncs.waits and (job is None or job.is_empty):
        # As in the kernel's xe_sync_in_fence_get.
        raise KernelError(errno.EOPNOTSUPP, "nothing to do, and so nothing that could wait")
    waits = job.dependencies() if job is not None else ()
    fence = binds.submit(xe, syncs, caller, update, waits)
    if fence is not None and job is not None:
        (vm.kernel_fences if job.has_remnants else vm.bind_fences).add(fence)
        vm.rftree.append((*job.interval(), fence))
    ufence = syncs.user_fence
    if job is not None and ufence is not None and not ufence.is_signalled:
        for vma in job.fenced():
            vma.ufence = ufence


def _vm_bind_ioctl_check_args(
    xe: XeDevice, vm: XeVm, args: xe_drm.drm_xe_vm_bind, caller: Caller
) -> list[BindOp]:
    reserved = args.reserved
    if args.pad or args.pad2 or reserved[0] or reserved[1]:
        raise KernelError(errno.EINVAL, "pad and reserved must be zero")
    if args.extensions:
        raise KernelError(errno.EINVAL, "extensions must be zero")
    if args.num_syncs > xe_drm.DRM_XE_MAX_SYNCS:
        raise KernelError(errno.EINVAL, f"{args.num_syncs} syncs are too many")
    count = args.num_binds
    if count == 1:
        ops = [_bind_op(xe, args.bind)]
    else:
        ops = _read_bind_array(xe, args.vector_of_binds, count, caller)
    for op in ops:
        _check_bind_op(xe, vm, op)
    return ops


def _read_bind_array(xe: XeDevice, address: int, count: int, caller: Caller) -> list[BindOp]:
    if not count:
        return []
    size = count * BIND_OP_SIZE
    if size > MAX_BIND_ARRAY_BYTES:
        raise KernelError(errno.ENOBUFS, f"an array of {count} ops is too long")
    xe.faults.check("xe_vm_bind_array")
    raw = caller.memory.read(address, size)
    array = (xe_drm.drm_xe_vm_bind_op * count).from_buffer_copy(raw)
    return [_bind_op(xe, op) for op in array]


def _check_bind_op(xe: XeDevice, vm: XeVm, op: BindOp) -> None:
    """Everything that can be said of an op without its BO.  One failing condition hides the
    order of the others, as they are one expression in the kernel."""
    flags, kind = op.flags, op.op
    if flags & FLAG_MIRROR and vm.mode is not VmMode.FAULT:
        raise KernelError(errno.EINVAL, "CPU_ADDR_MIRROR needs a VM in FAULT_MODE")
    if op.pat_index >= len(xe.platform.pat):
        raise KernelError(errno.EINVAL, f"no PAT index {op.pat_index}")
    pat = xe.platform.pat[op.pat_index]
    if not pat.coh_mode:
        raise KernelError(errno.EINVAL, f"PAT index {op.pat_index} is reserved")
    if kind > OP_PREFETCH:
        raise KernelError(errno.EINVAL, f"no op {kind}")
    unknown = flags & ~BIND_FLAGS
    if unknown and not (unknown == FORCE_OP_ERROR and xe.config.debug_kernel):
        raise KernelError(errno.EINVAL, f"unknown flags {unknown:#x}")
    plain = OP_MAP if op.obj else OP_UNMAP
    if flags & ~FLAG_IMMEDIATE or kind != plain or op.region:
        _check_special_bind_op(xe, op, flags, kind)
    if (op.offset | op.addr | op.range) & PAGE_MASK:
        raise KernelError(errno.EINVAL, "obj_offset, addr and range must be multiples of 4 KiB")
    if not op.range and kind != OP_UNMAP_ALL:
        raise KernelError(errno.EINVAL, "range is zero")
    if flags & FLAG_DECOMPRESS and not _can_decompress(xe):
        raise KernelError(errno.EOPNOTSUPP, "the device cannot decompress in place")


def _can_decompress(xe: XeDevice) -> bool:
    platform = xe.platform
    return platform.has_flat_ccs and platform.graphics_ver >= 20 and platform.is_dgfx


def _check_special_bind_op(xe: XeDevice, op: BindOp, flags: int, kind: int) -> None:
    """The checks that a plain MAP of a BO, and a plain UNMAP, pass by their looks."""
    no_bo = flags & (FLAG_NULL | FLAG_MIRROR)
    if op.obj and no_bo:
        raise KernelError(errno.EINVAL, "NULL and mirror mappings have no BO")
    if op.offset and no_bo:
        raise KernelError(errno.EINVAL, "NULL and mirror mappings have no offset")
    if flags & (FLAG_NULL | FLAG_MIRROR | FLAG_DECOMPRESS) and kind != OP_MAP:
        raise KernelError(errno.EINVAL, "NULL, mirror and DECOMPRESS belong to MAP")
    pat = xe.platform.pat[op.pat_index]
    if flags & FLAG_DECOMPRESS and pat.comp_en:
        raise KernelError(errno.EINVAL, "DECOMPRESS with a compressing PAT index")
    if kind == OP_MAP and not op.obj and not no_bo:
        raise KernelError(errno.EINVAL, "MAP without a BO")
    if kind == OP_UNMAP_ALL and (not op.obj or op.addr or op.range):
        raise KernelError(errno.EINVAL, "UNMAP_ALL takes a BO and no range")
    if kind == OP_MAP_USERPTR:
        _check_userptr_op(xe, op)
    if flags & FLAG_MIRROR:
        _check_mirror_op(xe, op)
    if kind in (OP_PREFETCH, OP_UNMAP) and op.obj:
        raise KernelError(errno.EINVAL, "UNMAP and PREFETCH take no BO")
    if op.region and kind != OP_PREFETCH:
        raise KernelError(errno.EINVAL, "a prefetch region without PREFETCH")
    if kind == OP_PREFETCH and not _is_prefetch_region(xe, op.region):
        raise KernelError(errno.EINVAL, f"no memory region {op.region}")
    if flags & FLAG_AUTORESET and not flags & FLAG_MIRROR:
        raise KernelError(errno.EINVAL, "MADVISE_AUTORESET needs CPU_ADDR_MIRROR")


def _is_prefetch_region(xe: XeDevice, region: int) -> bool:
    if region == CONSULT_PREF_LOC:
        return True
    return region < 32 and bool(1 << region & xe.mem_region_mask)


def _check_userptr_op(xe: XeDevice, op: BindOp) -> None:
    pat = xe.platform.pat[op.pat_index]
    if op.obj:
        raise KernelError(errno.EINVAL, "MAP_USERPTR takes no BO")
    if pat.coh_mode is CohMode.NONE:
        raise KernelError(errno.EINVAL, "user memory needs a coherent PAT index")
    if pat.comp_en:
        raise KernelError(errno.EINVAL, "user memory cannot be compressed")
    check_l2_flush(xe, op.pat_index)


def _check_mirror_op(xe: XeDevice, op: BindOp) -> None:
    pat = xe.platform.pat[op.pat_index]
    if not xe.platform.is_dgfx and pat.coh_mode is CohMode.NONE:
        raise KernelError(errno.EINVAL, "a mirror needs a coherent PAT index here")
    check_l2_flush(xe, op.pat_index)


L2_FLUSH_PAT_INDEX = 19


def check_l2_flush(xe: XeDevice, pat_index: int) -> None:
    """``EINVAL`` where memory of others must be flushed with the L2 and this index would not."""
    if not xe.platform.l2_flush_optimised or pat_index == L2_FLUSH_PAT_INDEX:
        return
    if xe.platform.pat[pat_index].coh_mode is not CohMode.TWO_WAY:
        raise KernelError(errno.EINVAL, f"PAT index {pat_index} is not coherent both ways")


def _vm_bind_ioctl_check_ranges(vm: XeVm, ops: list[BindOp]) -> None:
    for op in ops:
        if not vm.gpuvm.range_valid(op.addr, op.range):
            raise KernelError(
                errno.EINVAL, f"{op.addr:#x}+{op.range:#x} is outside the VM of {vm.size:#x}"
            )


def _lookup_bos(xe: XeDevice, file: DrmFile, vm: XeVm, ops: list[BindOp], bos: list[XeBo]) -> None:
    """Fill in the BOs, with references that the caller drops through ``bos``."""
    xe.faults.check("xe_vma_ops_alloc")
    for op in ops:
        if op.obj:
            bo = as_xe_bo(drm_gem_object_lookup(file, op.obj))
            bos.append(bo)
            op.bo = bo
            _vm_bind_ioctl_validate_bo(xe, vm, bo, op)


def _vm_bind_ioctl_validate_bo(xe: XeDevice, vm: XeVm, bo: XeBo, op: BindOp) -> None:
    pat = xe.platform.pat[op.pat_index]
    if bo.create_flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_NO_COMPRESSION and pat.comp_en:
        raise KernelError(errno.EINVAL, "the BO was made without compression")
    if op.range > bo.size or op.offset > bo.size - op.range:
        raise KernelError(errno.EINVAL, "the range reaches beyond the BO")
    if bo.vm is not None and bo.vm is not vm:
        # The kernel has no check here and would take the wrong lock; this errno is the mock's.
        raise KernelError(errno.EINVAL, "the BO belongs to another VM")
    if bo.internal_64k and (op.offset | op.addr | op.range) & SZ_64K_MASK:
        raise KernelError(errno.EINVAL, "this BO is mapped in multiples of 64 KiB")
    if pat.coh_mode is CohMode.NONE and bo.cpu_caching != xe_drm.DRM_XE_GEM_CPU_CACHING_WC:
        raise KernelError(errno.EINVAL, "a CPU-cached BO needs a coherent PAT index")
    if bo.imported:
        if pat.comp_en:
            raise KernelError(errno.EINVAL, "an imported BO cannot be compressed")
        check_l2_flush(xe, op.pat_index)
    if not op.flags & FLAG_CHECK_PXP or op.op in (OP_UNMAP, OP_UNMAP_ALL):
        return
    if bo.pxp_key_instance and bo.pxp_key_instance != xe.pxp_key_instance:
        raise KernelError(errno.ENOEXEC, "the BO's protected content is stale")


# ---- VM_BIND: doing it ----


_LateStep = tuple[Callable[..., None], tuple[Any, ...]]


class XeVmaJob:
    """The changes of one VM_BIND, or of one split, so that all of them can be taken back.

    Old VMAs leave the map at once but stay linked, and counted, until the whole bind is done; new
    ones are counted when made.  So a BO never looks unused in between.
    """

    __slots__ = (
        *("_journal", "caller", "has_remnants", "inject_error", "late", "op_count", "prefetched"),
        *("svm_entries", "update", "vm", "xe"),
    )

    def __init__(self, xe: XeDevice, vm: XeVm, ops: list[BindOp], caller: Caller) -> None:
        self.xe = xe
        self.vm = vm
        self.op_count = len(ops)
        self.inject_error = False
        self.caller = caller
        self._journal: list[tuple[bool, XeVma]] = []
        self.has_remnants = False
        """Whether something of an old mapping is left: then no job may see it in between, and
        the bind waits for all that run (kernel: ``wait_vm_bookkeep``)."""
        self.prefetched: Sequence[XeVma] = ()
        self.svm_entries: Sequence[Range] = ()
        """Of ranges of mirrors that were prefetched."""
        self.update: PtUpdate | None = None
        self.late: list[_LateStep] = []
        """What is done after all ops changed the map: gates, placement, prefetch.  Functions
        with their arguments, not closures: these would hold the job, and the job them."""

    def insert(
        self,
        start: int,
        end: int,
        bo: XeBo | None,
        offset: int,
        flags: int,
        attr: XeVmaMemAttr,
        userptr: bool,
    ) -> XeVma:
        """Make a VMA."""
        vma = xe_vma_create(self.vm, start, end, bo, offset, flags, attr, userptr)
        self._journal.append((True, vma))
        return vma

    def remove(self, vma: XeVma) -> None:
        """Take a VMA out of the map, for now."""
        self.vm.gpuvm.remove(vma)
        self._journal.append((False, vma))

    def keep(self, vma: XeVma, bounds: tuple[int, int]) -> None:
        """Make what a split leaves of a removed VMA."""
        start, end = bounds
        bo = vma.bo
        offset = vma.offset + (start - vma.start) if bo is not None or vma.userptr else 0
        flags = vma.flags
        remnant = self.insert(start, end, bo, offset, flags, vma.attr.copy(), vma.userptr)
        remnant.mm = vma.mm
        remnant.tile_present = vma.tile_present
        self.has_remnants = True
        if bo is not None:
            self.late.append((_prepare_remnant, (remnant,)))

    def clear(self, start: int, end: int, *, is_mirror: bool = False) -> None:
        """Make ``[start, end)`` a hole, for a new mirror if ``is_mirror``.

        ``EBUSY`` a mirror that the GPU has looked into (kernel: ``xe_svm_has_mapping``)."""
        for change in self.vm.gpuvm.sm_unmap_ops(start, end):
            if change.va.is_mirror and not is_mirror:
                self._check_mirror(max(start, change.va.start), min(end, change.va.end))
            self.remove(change.va)
            if isinstance(change, Unmap):
                continue
            for bounds in (change.prev, change.next):
                if bounds is not None:
                    self.keep(change.va, bounds)

    def _check_mirror(self, start: int, end: int) -> None:
        vm = self.vm
        if vm.svm.has_mapping(vm.mm, start, end):
            raise KernelError(errno.EBUSY, "the GPU has mapped memory of the process there")

    def validate(self, bo: XeBo) -> None:
        """Bring the BO to its place, unless it is there."""
        if bo.populated and bo.mem_type in bo.desired_types:
            return
        allow = self.op_count == 1 and self.vm.allows_resident_eviction()
        xe_bo_validate(bo, self.vm, allow)

    def run_late(self) -> None:
        """Everything that needs all BOs locked (kernel: ``vm_bind_ioctl_ops_lock_and_prep``)."""
        self.xe.faults.check("vm_bind_ioctl_ops_lock_and_prep")
        self.check_user_fences()
        if self.inject_error:
            raise KernelError(errno.ENOSPC, "the error that the op asked for")
        for step, args in self.late:
            step(self, *args)

    def check_user_fences(self) -> None:
        """``EBUSY`` while the user fence of an old mapping is not written yet
        (kernel: ``check_ufence``)."""
        for inserted, vma in self._journal:
            if not inserted and vma.ufence is not None and not vma.ufence.is_signalled:
                raise KernelError(errno.EBUSY, "the user fence of an old mapping is pending")

    @property
    def is_empty(self) -> bool:
        """Whether the ops met only holes."""
        return not self._journal and not self.prefetched

    def fenced(self) -> list[XeVma]:
        """The VMAs that the user fence of this bind stands for: the new ones but mirrors, and
        those prefetched (kernel: ``op_add_ufence``)."""
        made = [vma for inserted, vma in self._journal if inserted and not vma.is_mirror]
        return [*made, *self.prefetched]

    def stage_update(self, binds: BindQueue, syncs: XeSyncs) -> None:
        """Note what the GPU has to be told: at once if it knows the VM, or when the bind has
        waited, as it may know it then."""
        if self.vm.pt.is_live or syncs.waits or not binds.is_idle or self.dependencies():
            fetched = [(True, vma) for vma in self.prefetched if not vma.is_mirror]
            self.update = PtUpdate(self.vm.pt, [*self._journal, *fetched], self.svm_entries)
        else:
            self.vm.pt.count_invalidations(needs_invalidation(self._journal))

    def dependencies(self) -> list[DmaFence]:
        """What it waits for besides its in-fences (kernel: ``xe_pt_vm_dependencies``)."""
        vm = self.vm
        waits = vm.kernel_fences.pending()
        if vm.rftree:
            vm.rftree = [entry for entry in vm.rftree if not entry[2].is_signaled()]
            start, end = self.interval()
            waits += [fence for first, last, fence in vm.rftree if first < end and start < last]
        if self.has_remnants:
            waits += vm.gpuvm.job_fences.pending() + vm.bind_fences.pending()
        return waits

    def interval(self) -> tuple[int, int]:
        """The addresses that it may disturb; none for a bind of nothing."""
        changed = [*(vma for _, vma in self._journal), *self.prefetched]
        return rfence_interval(self.vm.gpuvm, changed) if changed else (0, 0)

    def commit(self) -> list[XeBo]:
        """The old VMAs end; returns the BOs that lost a reference by it."""
        dropped = []
        for inserted, vma in self._journal:
            if not inserted:
                bo = xe_vma_unlink(self.vm, vma)
                if bo is not None:
                    dropped.append(bo)
        return dropped

    def unwind(self) -> list[XeBo]:
        """Take everything back, last change first; returns BOs as `commit` does."""
        dropped = []
        for inserted, vma in reversed(self._journal):
            if not inserted:
                self.vm.gpuvm.insert(vma)
                continue
            self.vm.gpuvm.remove(vma)
            bo = xe_vma_unlink(self.vm, vma)
            if bo is not None:
                dropped.append(bo)
        return dropped


def _vm_bind_ioctl_ops_execute(
    xe: XeDevice,
    vm: XeVm,
    ops: list[BindOp],
    caller: Caller,
    syncs: XeSyncs,
    binds: BindQueue,
) -> XeVmaJob:
    """Change the map op by op, then prepare the BOs, then let go of the old VMAs."""
    resvs = _resvs_of(vm, ops)
    dropped: list[XeBo] = []
    for resv in resvs:
        resv.lock()
    try:
        job = XeVmaJob(xe, vm, ops, caller)
        try:
            for op in ops:
                if op.flags & FORCE_OP_ERROR:
                    job.inject_error = True
                _OPS[op.op](job, op)
            job.run_late()
            if syncs.waits:
                _check_batch_size(xe, ops, syncs)
            job.stage_update(binds, syncs)
        except BaseException:
            dropped = job.unwind()
            raise
        dropped = job.commit()
        return job
    finally:
        for resv in resvs:
            resv.unlock()
        for bo in dropped:
            bo.put()


BATCH_LIMIT_DISCRETE, BATCH_LIMIT_INTEGRATED = 2 << 20, 1 << 20
"""Bytes of page-table entries that the GPU can be made to write by one bind.  The kernel's limit
is that of a suballocation; these lie between what IGT's bind-array-enobufs has fail and succeed."""
SZ_2M = 2 << 20


def _check_batch_size(xe: XeDevice, ops: list[BindOp], syncs: XeSyncs) -> None:
    """``ENOBUFS`` when a bind that has to wait, and so is left to the GPU, is too large a batch
    (kernel: ``xe_migrate_update_pgtables``)."""
    if all(fence.is_signaled() for fence in syncs.waits):
        return  # the CPU writes them
    limit = BATCH_LIMIT_DISCRETE if xe.platform.is_dgfx else BATCH_LIMIT_INTEGRATED
    if sum(8 * _entries(op) for op in ops) > limit:
        raise KernelError(errno.ENOBUFS, "these are too many page-table entries to be written late")


def _entries(op: BindOp) -> int:
    """How many page-table entries a MAP takes; large pages where both addresses allow them."""
    if op.op not in (OP_MAP, OP_MAP_USERPTR) or op.flags & (FLAG_NULL | FLAG_MIRROR):
        return 0
    if (op.addr - op.offset) % SZ_2M:
        return op.range // PAGE_SIZE
    large = max(0, (op.end & -SZ_2M) - (op.addr + SZ_2M - 1 & -SZ_2M))
    return large // SZ_2M + (op.range - large) // PAGE_SIZE


def _resvs_of(vm: XeVm, ops: list[BindOp]) -> list[Mutex]:
    """The reservations of the VM and of all external BOs whose VMAs an op may make or end
    (kernel: ``struct drm_exec``).  Private BOs share the VM's."""
    external = []
    for op in ops:
        if op.bo is not None and op.bo.vm is None:
            external.append(op.bo)
        if op.range:
            for vma in vm.gpuvm.find_range(op.addr, op.end):
                bo = vma.bo
                if bo is not None and bo.vm is None:
                    external.append(bo)
    return [vm.resv, *xe_bo_resvs(external)]


def _op_map(job: XeVmaJob, op: BindOp) -> None:
    start, end = op.addr, op.end
    if op.flags & FLAG_MIRROR:
        job.vm.svm.has_autoreset |= bool(op.flags & FLAG_AUTORESET)
        start, end = _with_default_mirrors(job.vm, op, start, end)
    job.clear(start, end, is_mirror=bool(op.flags & FLAG_MIRROR))
    bo = op.bo
    vma = job.insert(start, end, bo, op.offset, op.flags, XeVmaMemAttr(op.pat_index), False)
    vma.tile_present = not job.vm.is_faulting or bool(op.flags & FLAG_IMMEDIATE)
    if bo is not None:
        validate = job.vm.mode is not VmMode.FAULT or bool(op.flags & FLAG_IMMEDIATE)
        job.late.append((_prepare_map, (bo, validate)))


def _prepare_map(job: XeVmaJob, bo: XeBo, validate: bool) -> None:
    """Late part of a MAP: the gate of the older policies, then a place for the BO."""
    job.xe.policy.late_gate(bo)
    if validate:
        job.validate(bo)


def _prepare_remnant(job: XeVmaJob, vma: XeVma) -> None:
    """The same for what a split left, unless a later op of the array took it."""
    bo = vma.bo
    if bo is None:
        return
    job.xe.policy.late_gate(bo)
    if vma.attr.purgeable_state is WILLNEED and job.vm.mode is not VmMode.FAULT:
        job.validate(bo)


def _with_default_mirrors(vm: XeVm, op: BindOp, start: int, end: int) -> tuple[int, int]:
    """A new mirror swallows mirrors beside it that nobody advised and that are like it."""
    for vma in vm.gpuvm.find_range(max(start - 1, 0), end + 1):
        alike = vma.flags == op.flags & VMA_CREATE_FLAGS and vma.attr.pat_index == op.pat_index
        if vma.is_mirror and alike and vma.attr.is_default():
            start, end = min(start, vma.start), max(end, vma.end)
    return start, end


def _op_map_userptr(job: XeVmaJob, op: BindOp) -> None:
    job.caller.memory.probe(op.offset, op.range, write=not op.flags & FLAG_READONLY)
    job.clear(op.addr, op.end)
    vma = job.insert(op.addr, op.end, None, op.offset, op.flags, XeVmaMemAttr(op.pat_index), True)
    vma.mm = job.caller.mm()
    job.vm.userptr.mms.add(vma.mm)
    vma.tile_present = not job.vm.is_faulting or bool(op.flags & FLAG_IMMEDIATE)


def _op_unmap(job: XeVmaJob, op: BindOp) -> None:
    job.clear(op.addr, op.end)


def _op_unmap_all(job: XeVmaJob, op: BindOp) -> None:
    assert op.bo is not None
    vm_bo = job.vm.gpuvm.vm_bos.get(op.bo)
    vmas: list[XeVma] = list(vm_bo.vmas) if vm_bo is not None else []  # type: ignore[arg-type]
    for vma in vmas:
        if _is_mapped(job.vm, vma):
            job.remove(vma)


def _is_mapped(vm: XeVm, vma: XeVma) -> bool:
    """An earlier op of the array may have taken the VMA out already."""
    return vma in vm.gpuvm.find_range(vma.start, vma.end)


def _op_prefetch(job: XeVmaJob, op: BindOp) -> None:
    vmas = job.vm.gpuvm.find_range(op.addr, op.end)
    job.prefetched = [*job.prefetched, *vmas]
    job.late.append((_prefetch, (vmas, op.region)))
    for vma in vmas:
        if vma.is_mirror:
            fetched = xe_svm_prefetch(job.vm, vma, op.addr, op.end, op.region)
            job.svm_entries = [*job.svm_entries, *fetched]


def _prefetch(job: XeVmaJob, vmas: list[XeVma], region: int) -> None:
    for vma in vmas:
        bo = vma.bo
        vma.tile_present = True
        if vma.userptr:
            job.caller.memory.probe(
                vma.offset, vma.end - vma.start, write=not vma.flags & FLAG_READONLY
            )
        if bo is None:
            continue
        purgeable_gate(bo)
        if region != CONSULT_PREF_LOC:
            xe_bo_migrate(bo, MemType.TT if region == 0 else MemType(MemType.VRAM0 + region - 1))


_OPS: dict[int, Callable[[XeVmaJob, BindOp], None]] = {
    OP_MAP: _op_map,
    OP_UNMAP: _op_unmap,
    OP_MAP_USERPTR: _op_map_userptr,
    OP_UNMAP_ALL: _op_unmap_all,
    OP_PREFETCH: _op_prefetch,
}


# ---- queries ----


def xe_vm_query_vmas_attrs_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_vm_query_mem_range_attr, file: DrmFile, caller: Caller
) -> None:
    """``VM_QUERY_MEM_RANGE_ATTRS``: how many VMAs touch a range, or their bounds and advice.

    ``EINVAL`` malformed or unknown VM, ``ENOBUFS`` array too long, ``ENOSPC`` array too short,
    ``EFAULT``.
    """
    count, size = args.num_mem_ranges, args.sizeof_mem_range_attr
    item = ctypes.sizeof(xe_drm.drm_xe_mem_range_attr)
    if not count and (args.vector_of_mem_attr or size):
        raise KernelError(errno.EINVAL, "an array without a length")
    if count and (not args.vector_of_mem_attr or size != item):
        raise KernelError(errno.EINVAL, f"no array, or items of {size} instead of {item} bytes")
    vm = xe_vm_lookup(file, args.vm_id, errno.EINVAL)
    xe_svm_flush(vm)
    vm.lock.down_read()
    try:
        start = args.start
        vmas = vm.gpuvm.find_range(start, (start + args.range) & U64_MASK)
        if not count:
            args.num_mem_ranges, args.sizeof_mem_range_attr = len(vmas), item
            return
        if count * item > MAX_RANGE_ATTR_BYTES:
            raise KernelError(errno.ENOBUFS, f"an array of {count} items is too long")
        if len(vmas) > count:
            raise KernelError(errno.ENOSPC, f"{len(vmas)} VMAs, room for {count}")
        data = b"".join(bytes(_mem_range_attr(vma)) for vma in vmas)
        caller.memory.write(args.vector_of_mem_attr, data)
        args.num_mem_ranges = len(vmas)
    finally:
        vm.lock.up_read()


def _mem_range_attr(vma: XeVma) -> xe_drm.drm_xe_mem_range_attr:
    out = xe_drm.drm_xe_mem_range_attr(start=vma.start, end=vma.end)
    out.preferred_mem_loc.devmem_fd = vma.attr.devmem_fd
    out.preferred_mem_loc.migration_policy = vma.attr.migration_policy
    out.atomic.val = vma.attr.atomic_access
    out.pat_index.val = vma.attr.pat_index
    return out


def xe_vm_get_property_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_vm_get_property, file: DrmFile, caller: Caller
) -> None:
    """``VM_GET_PROPERTY``: the faults that a VM saw, with size 0 only how many bytes they take.

    ``EINVAL`` malformed or a wrong size, ``ENOENT`` unknown VM, ``EFAULT``.
    """
    if any(args.reserved) or args.extensions or args.pad:
        raise KernelError(errno.EINVAL, "extensions, pad and reserved must be zero")
    vm = xe_vm_lookup(file, args.vm_id, errno.ENOENT)
    if args.property != xe_drm.DRM_XE_VM_GET_PROPERTY_FAULTS:
        raise KernelError(errno.EINVAL, f"no property {args.property}")
    with vm.resv:
        data = b"".join(bytes(fault) for fault in vm.faults)
    if not args.size:
        args.size = len(data)
        return
    if args.size > len(data) or args.size % FAULT_SIZE:
        raise KernelError(errno.EINVAL, f"size {args.size}, {len(data)} bytes are there")
    caller.memory.write(args.data, data[: args.size])
