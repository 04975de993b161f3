"""The Xe device: its ioctl table, its memory, its files (kernel: xe_device.c, xe_pci.c)."""

from __future__ import annotations

import errno
import mmap
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import IntEnum

from uapi import registry
from uapi import xe_drm as uapi_xe_drm
from xedev.drm.dma_buf import DmaBuf
from xedev.drm.drm_core_ioctls import core_ioctl_rows
from xedev.drm.drm_device import DebugfsFile, DrmDevice, DrmMinor
from xedev.drm.drm_file import DrmFile, drm_open
from xedev.drm.drm_gem import DrmGemObject, drm_gem_handle_create, drm_gem_mmap
from xedev.drm.drm_ioctl import DRM_RENDER_ALLOW, Handler, IoctlDesc, IoctlTable
from xedev.drm.ttm import MemType, TtmDevice, TtmManager
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError
from xedev.kernel.idr import Idr
from xedev.kernel.locking import Mutex
from xedev.kernel.mm import PAGE_SIZE, CpuMapping, VmArea
from xedev.kernel.shmem import ShmemConfig, ShmemStore
from xedev.kernel.sysfs import Attribute, BinAttribute, Link
from xedev.kernel.wait import WaitQueue
from xedev.kernel.workqueue import Workqueue
from xedev.xe import xe_debugfs
from xedev.xe.platforms import PLATFORMS, Platform
from xedev.xe.xe_bo import (
    BARRIER_OFFSET,
    XeBo,
    as_xe_bo,
    xe_bo_create_user,
    xe_gem_create_ioctl,
    xe_gem_mmap_offset_ioctl,
)
from xedev.xe.xe_devcoredump import XeDevcoredump
from xedev.xe.xe_dma_buf import xe_gem_prime_export, xe_gem_prime_import
from xedev.xe.xe_drm_client import client_debugfs_files
from xedev.xe.xe_exec import xe_exec_ioctl
from xedev.xe.xe_exec_queue import (
    XeExecQueue,
    xe_exec_queue_create_ioctl,
    xe_exec_queue_destroy_ioctl,
    xe_exec_queue_get_property_ioctl,
    xe_exec_queue_kill_and_put,
    xe_exec_queue_set_property_ioctl,
)
from xedev.xe.xe_gt import XeGt
from xedev.xe.xe_gt_debugfs import gt_debugfs_files
from xedev.xe.xe_guc_submit import XeGuc
from xedev.xe.xe_hw_engine_class_sysfs import XeHwEngineClass
from xedev.xe.xe_mock import xe_mock_ioctl
from xedev.xe.xe_observation import xe_observation_ioctl
from xedev.xe.xe_purgeability import POLICIES, PurgePolicy
from xedev.xe.xe_query import xe_query_ioctl
from xedev.xe.xe_shrinker import xe_drop_caches
from xedev.xe.xe_sysfs import xe_pci_device, xe_sysfs
from xedev.xe.xe_tile_debugfs import gt_links, memory_files
from xedev.xe.xe_userptr import XeUserptrNotifier
from xedev.xe.xe_vm import (
    XeVm,
    xe_vm_bind_ioctl,
    xe_vm_close_and_put,
    xe_vm_create_ioctl,
    xe_vm_destroy_ioctl,
    xe_vm_get_property_ioctl,
    xe_vm_query_vmas_attrs_ioctl,
)
from xedev.xe.xe_vm_madvise import xe_vm_madvise_ioctl
from xedev.xe.xe_wait_user_fence import xe_wait_user_fence_ioctl

__all__ = ("XeConfig", "XeDevice", "XeFile", "xe_probe", "xe_probe_again")


GT_NS_PER_S = 1_000_000_000

XE_IOCTLS: dict[str, Handler] = {
    "DRM_IOCTL_XE_DEVICE_QUERY": xe_query_ioctl,
    "DRM_IOCTL_XE_GEM_CREATE": xe_gem_create_ioctl,
    "DRM_IOCTL_XE_GEM_MMAP_OFFSET": xe_gem_mmap_offset_ioctl,
    "DRM_IOCTL_XE_VM_CREATE": xe_vm_create_ioctl,
    "DRM_IOCTL_XE_VM_DESTROY": xe_vm_destroy_ioctl,
    "DRM_IOCTL_XE_VM_BIND": xe_vm_bind_ioctl,
    "DRM_IOCTL_XE_EXEC_QUEUE_CREATE": xe_exec_queue_create_ioctl,
    "DRM_IOCTL_XE_EXEC_QUEUE_DESTROY": xe_exec_queue_destroy_ioctl,
    "DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY": xe_exec_queue_get_property_ioctl,
    "DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY": xe_exec_queue_set_property_ioctl,
    "DRM_IOCTL_XE_EXEC": xe_exec_ioctl,
    "DRM_IOCTL_XE_OBSERVATION": xe_observation_ioctl,
    "DRM_IOCTL_XE_WAIT_USER_FENCE": xe_wait_user_fence_ioctl,
    "DRM_IOCTL_XE_MADVISE": xe_vm_madvise_ioctl,
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": xe_vm_query_vmas_attrs_ioctl,
    "DRM_IOCTL_XE_VM_GET_PROPERTY": xe_vm_get_property_ioctl,
}
"""The driver's rows (kernel: ``xe_ioctls``); all of them are DRM_RENDER_ALLOW."""

FAULT_POINTS = (
    "drm_gem_handle_create",
    "drm_gem_prime_export",
    "ttm_bo_setup_export",
    "ttm_bo_validate",
    "vm_bind_ioctl_ops_lock_and_prep",
    "xe_bo_create_user",
    "xe_vm_bind_array",
    "xe_vm_create",
    "xe_vma_create",
    "xe_vma_ops_alloc",
)


@dataclass(frozen=True, slots=True)
class XeConfig:
    """What is chosen when a device is made.

    ``vram`` and ``system`` are bytes; None takes the profile's VRAM and the machine's memory.
    """

    profile: str = "bmg"
    vram: int | None = None
    system: int | None = None
    purgeability: str = "counters"
    debug_kernel: bool = False
    visible_vram: int | None = None
    """Bytes of VRAM that the CPU reaches; None for all of it."""
    memory: ShmemConfig = field(default_factory=ShmemConfig)
    job_timeout_ms: int = 5000
    """How long a job may be on an engine (kernel: ``job_timeout_ms``), unless the VM is for
    long-running ones."""
    deterministic: int | None = None
    """A seed: jobs run one at a time, in an order that it decides, under a virtual clock."""
    index: int = 0
    """Which card of the machine: its minors and its PCI slot follow."""


class WedgedMode(IntEnum):
    """When a device is declared wedged (kernel: ``enum xe_wedged_mode``)."""

    NEVER = 0
    UPON_CRITICAL_ERROR = 1
    UPON_ANY_HANG_NO_RESET = 2


class XeFile:
    """The driver's part of an open file (kernel: ``struct xe_file``).  One lock for both tables."""

    __slots__ = ("exec_queues", "run_ticks", "vm_lock", "vms")

    def __init__(self) -> None:
        self.vm_lock = Mutex("xef->vm.lock")
        self.vms: Idr[XeVm] = Idr()
        self.exec_queues: Idr[XeExecQueue] = Idr()
        self.run_ticks: Counter[int] = Counter()
        """Ticks of the GT's clock that its queues spent on engines, by class."""


class XeDevice(DrmDevice):
    """One mocked GPU."""

    driver_name = "xe"
    driver_desc = "Intel Xe Graphics"
    driver_version = (1, 1, 0)

    def __init__(self, config: XeConfig | None = None, peer: XeDevice | None = None) -> None:
        """``peer`` is another card of the same machine: ids of clients and tokens are counted
        over all of them."""
        self.config = config or XeConfig()
        self.platform: Platform = PLATFORMS[self.config.profile]
        self.policy: PurgePolicy = POLICIES[self.config.purgeability]()
        self.index = self.config.index
        self.unique = _pci_slot(self.platform, self.index)
        self.minors = _minors(self.index)
        super().__init__(_ioctl_table())
        if peer is not None:
            self.client_ids, self.tokens = peer.client_ids, peer.tokens
        self.faults.declare(*FAULT_POINTS)
        self.shmem: ShmemStore = ShmemStore(self.config.memory) if peer is None else peer.shmem
        self._make_memory()
        self.wedged_mode = WedgedMode.UPON_CRITICAL_ERROR
        self.pxp_key_instance = 1
        self.bos_lock = threading.Lock()
        self.bos: dict[int, XeBo] = {}
        self.live_exports: set[XeBo] = set()
        self.gts = tuple(XeGt(self, info) for info in self.platform.gts)
        self._bind_eclass = XeHwEngineClass("bind", self.config.job_timeout_ms)
        self.pci = xe_pci_device(self)
        self.devcoredump = XeDevcoredump(self)
        self.guc = XeGuc(self)
        self.ordered_wq = Workqueue("xe-ordered-wq")
        """Writes the user fences of binds, one after the other."""
        self.preempt_wq = Workqueue("xe-preempt-fence-wq")
        """Brings back what was evicted from VMs of long-running work."""
        self.ufence_wq = WaitQueue()
        """Who waits for a user fence (kernel: ``xe->ufence_wq``)."""
        self.userptr_notifier = XeUserptrNotifier(self)
        self.vms_lock = threading.Lock()
        self.vms: dict[int, XeVm] = {}
        self.debugfs: dict[str, DebugfsFile] = {
            file.name: file
            for file in (
                *xe_debugfs.debugfs_files(self),
                *gt_debugfs_files(self),
                *memory_files(self),
            )
        }
        self.debugfs_links = gt_links(self)

    def _make_memory(self) -> None:
        vram = self.platform.vram_size if self.config.vram is None else self.config.vram
        if vram and not self.platform.vram_size:
            raise ValueError(f"{self.platform.name} has no VRAM to set a size of")
        self.system_size = self.config.system or _machine_memory()
        self.tt_manager = TtmManager("gtt", MemType.TT, self.system_size, self.system_size)
        system = TtmManager("system", MemType.SYSTEM, self.system_size, self.system_size)
        visible = vram if self.config.visible_vram is None else self.config.visible_vram
        if visible > vram:
            raise ValueError(f"{visible} bytes of {vram} bytes of VRAM cannot be visible")
        self.vram_managers = [TtmManager("vram0", MemType.VRAM0, vram, visible)] if vram else []
        self.vram_region_count = len(self.vram_managers)
        self.vram_page_size = 64 * 1024 if self.platform.needs_64k_vram else 4096
        self.dumb_alignment = self.vram_page_size
        self.mem_region_mask = (2 << self.vram_region_count) - 1
        managers = [system, self.tt_manager, *self.vram_managers]
        self.ttm = TtmDevice(managers, self.system_size, self.faults.check, self.shmem)

    # ---- what the DRM core calls ----

    def open(self, minor: DrmMinor, flags: int, caller: Caller) -> DrmFile:
        """Open one of the device's nodes; ``ENODEV``, ``EBUSY`` (see `drm_open`)."""
        return drm_open(self, minor, flags, caller)

    def postopen(self, file: DrmFile, caller: Caller) -> None:
        """Kernel: ``xe_file_open``."""
        file.driver_priv = XeFile()

    def postclose(self, file: DrmFile) -> None:
        """Kill the queues, then close the VMs, each in ascending order
        (kernel: ``xe_file_close``)."""
        xef = file.driver_priv
        assert isinstance(xef, XeFile)
        for queue_id, queue in xef.exec_queues.ascending():
            xef.exec_queues.remove(queue_id)
            xe_exec_queue_kill_and_put(queue)
        for vm_id, vm in xef.vms.ascending():
            xef.vms.remove(vm_id)
            xe_vm_close_and_put(vm)

    def gem_prime_import(self, dma_buf: DmaBuf, file: DrmFile) -> DrmGemObject:
        """Kernel: ``xe_gem_prime_import``."""
        return xe_gem_prime_import(self, dma_buf)

    def prime_export(self, bo: XeBo, flags: int) -> DmaBuf:
        """Kernel: ``xe_gem_prime_export``."""
        return xe_gem_prime_export(bo, flags)

    def private_ioctl(
        self, file: DrmFile, cmd: int, data: int, caller: Caller
    ) -> int | Deferred[int] | None:
        """The mock's own ioctls."""
        return xe_mock_ioctl(self, file, cmd, data, caller)

    def dumb_create(self, file: DrmFile, size: int) -> int:
        """Kernel: ``xe_bo_dumb_create``."""
        placement = 2 if self.vram_managers else 1
        bo = xe_bo_create_user(
            self,
            None,
            size,
            placement,
            uapi_xe_drm.DRM_XE_GEM_CPU_CACHING_WC,
            uapi_xe_drm.DRM_XE_GEM_CREATE_FLAG_SCANOUT,
        )
        try:
            return drm_gem_handle_create(file, bo)
        finally:
            bo.put()

    def mmap(self, file: DrmFile, area: VmArea) -> CpuMapping:
        """mmap(2): the page of the PCI barrier, or an object.

        ``ENODEV`` unplugged, else see `drm_gem_mmap` and `_mmap_barrier`.  Kernel: ``xe_mmap``.
        """
        if self.unplugged:
            raise KernelError(errno.ENODEV, "the device is unplugged")
        if area.offset == BARRIER_OFFSET:
            return self._mmap_barrier(file, area)
        return drm_gem_mmap(file, area)

    def _mmap_barrier(self, file: DrmFile, area: VmArea) -> CpuMapping:
        """A page that can only be written (kernel: ``xe_pci_barrier_mmap``).  ``EINVAL``."""
        if not self.platform.is_dgfx:
            raise KernelError(errno.EINVAL, "an integrated GPU needs no barrier")
        if area.length > PAGE_SIZE:
            raise KernelError(errno.EINVAL, "the barrier is one page")
        if area.is_cow or area.prot & (mmap.PROT_READ | mmap.PROT_EXEC):
            raise KernelError(errno.EINVAL, "the barrier can only be written, and only shared")
        pages = self.shmem.create(PAGE_SIZE, named=area.by_name)
        return CpuMapping(pages, 0, pages.drop, file)

    def mmap_offset(self, obj: DrmGemObject) -> int:
        """Kernel: ``drm_vma_node_offset_addr``."""
        return as_xe_bo(obj).mmap_offset

    @property
    def wedges_upon_hang(self) -> bool:
        """Whether a job that takes too long is the end (kernel: ``guc_submit_hint_wedged``)."""
        return self.wedged_mode is WedgedMode.UPON_ANY_HANG_NO_RESET

    def set_wedged_mode(self, mode: int) -> None:
        """``EINVAL`` there is no such mode (kernel: ``xe_device_validate_wedged_mode``)."""
        if mode not in tuple(WedgedMode):
            raise KernelError(errno.EINVAL, f"no wedged mode {mode}")
        self.wedged_mode = WedgedMode(mode)

    def declare_wedged(self) -> None:
        """Also all work ends (kernel: ``xe_device_declare_wedged``)."""
        super().declare_wedged()
        self.guc.declare_wedged()

    # ---- small facts ----

    def canonical_to_va(self, address: int) -> int:
        """Fold a sign-extended address to the VM's width; others stay as they are
        (kernel: ``xe_device_uncanonicalize_addr``)."""
        bits = self.platform.va_bits
        if address >> (bits - 1) == (1 << (65 - bits)) - 1:
            return address & ((1 << bits) - 1)
        return address

    def eclass(self, gt_id: int, engine_class: int) -> XeHwEngineClass:
        """Limits of the scheduler; binds have those that nobody can change."""
        return self.gt(gt_id & 0xFF).eclass.get(engine_class, self._bind_eclass)

    def gt(self, gt_id: int) -> XeGt:
        """One of its GTs (kernel: ``xe_device_get_gt``)."""
        return next(gt for gt in self.gts if gt.info.gt_id == gt_id)

    def gt_timestamp(self, now_ns: int) -> int:
        """The GT's counter at ``now_ns`` of CLOCK_MONOTONIC."""
        return now_ns * self.platform.reference_clock // GT_NS_PER_S

    def region_name(self, mem_type: MemType | None) -> str:
        """``system``, ``gtt``, ``vram0``; ``none`` for a BO without a place."""
        return "none" if mem_type is None else self.ttm.managers[mem_type].name

    def has_live_export(self, bo: XeBo) -> bool:
        """Whether a dma-buf that this device made of the BO is alive."""
        return bo in self.live_exports

    def note_vm(self, vm: XeVm) -> None:
        """A VM was made."""
        with self.vms_lock:
            self.vms[vm.serial] = vm
        if self.trace.enabled:
            self.trace.emit("vm_create", vm=vm.serial, id=vm.id, client=vm.client_id)

    def forget_vm(self, vm: XeVm) -> None:
        """A VM was closed."""
        with self.vms_lock:
            self.vms.pop(vm.serial, None)
        if self.trace.enabled:
            self.trace.emit("vm_close", vm=vm.serial, id=vm.id, client=vm.client_id)

    def show(self) -> dict[str, object]:
        """The device's state for `xe-mock show`."""
        return xe_debugfs.show(self)

    def client_files(self, file: DrmFile) -> list[DebugfsFile]:
        """What debugfs tells of one open file, in its own directory."""
        return client_debugfs_files(self, file)

    def sysfs(self) -> list[Attribute | BinAttribute | Link]:
        """What its directory of /sys holds."""
        return xe_sysfs(self, self.pci)

    def drop_caches(self) -> None:
        """The administrator wants all memory back that can be had."""
        xe_drop_caches(self)

    def remove(self) -> None:
        """The driver lets go of the device: no open file gets an answer any more
        (kernel: ``xe_pci_remove``)."""
        self.unplug()
        self.guc.declare_wedged()
        self.guc.shutdown()
        self.ordered_wq.destroy()
        self.preempt_wq.destroy()

    def shutdown(self) -> None:
        """The mock ends."""
        self.remove()
        self.shmem.close()


def xe_probe_again(gone: XeDevice) -> XeDevice:
    """The driver takes up a device anew, after `XeDevice.remove`; nothing of the old one is left
    but what is the mock's own (kernel: ``xe_pci_probe``)."""
    return XeDevice(gone.config, gone)


def xe_probe(config: XeConfig, count: int) -> tuple[XeDevice, ...]:
    """The ``count`` equal cards of one machine (kernel: ``xe_pci_probe`` of each)."""
    first = XeDevice(config)
    others = (XeDevice(replace(config, index=index), first) for index in range(1, count))
    return first, *others


def _pci_slot(platform: Platform, index: int) -> str:
    """A discrete card has a bus of its own, an integrated one is the next device."""
    domain, bus, device, function = re.split("[:.]", platform.pci_slot)
    bus_step, device_step = (index, 0) if platform.is_dgfx else (0, index)
    place = f"{int(bus, 16) + bus_step:02x}:{int(device, 16) + device_step:02x}"
    return f"{domain}:{place}.{function}"


def _minors(index: int) -> tuple[DrmMinor, ...]:
    render = 128 + index
    return (
        DrmMinor(f"card{index}", "primary", index, 0o660),
        DrmMinor(f"renderD{render}", "render", render, 0o666),
        DrmMinor(f"xe-mock{index or ''}", "render", render, 0o666, frames=True),
    )


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _ioctl_table() -> IoctlTable:
    rows = core_ioctl_rows()
    rows += [
        IoctlDesc.of(registry.BY_NAME[name], DRM_RENDER_ALLOW, func)
        for name, func in XE_IOCTLS.items()
    ]
    return IoctlTable(rows, registry.CORE_IOCTL_COUNT, registry.XE_IOCTL_COUNT)
