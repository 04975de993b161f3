"""Buffer objects (kernel: drivers/gpu/drm/xe/xe_bo.c, xe_bo.h, xe_bo_types.h)."""

from __future__ import annotations

import errno
from collections.abc import Collection
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.dma_buf import DmaBuf
from xedev.drm.drm_gem import DrmGemObject, drm_gem_handle_create, drm_gem_object_lookup
from xedev.drm.ttm import MemType, OperationCtx, Place, PlaceFlag, TtmBuffer, retry_on_contention
from xedev.drm.ttm_bo_vm import check_not_cow, ttm_bo_mmap_obj
from xedev.gpu import abi
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelBug, KernelError, warn_on
from xedev.kernel.locking import Mutex, lockdep_assert_held
from xedev.kernel.mm import CpuMapping, VmArea
from xedev.kernel.refcount import Refcounted
from xedev.kernel.shmem import ShmemFile
from xedev.kernel.user_memory import copy_struct_from_user

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm

__all__ = (
    "BARRIER_OFFSET",
    "XeBo",
    "XeBoPurgeable",
    "XeMadvPurgeableState",
    "purgeable_gate",
    "xe_bo_create_user",
    "xe_bo_migrate",
    "xe_bo_resvs",
    "xe_bo_set_purgeable_state",
    "xe_bo_validate",
    "xe_bo_vma_count_dec_locked",
    "xe_bo_vma_count_inc_locked",
    "xe_bo_willneed_get_locked",
    "xe_bo_willneed_put_locked",
    "xe_gem_create_ioctl",
    "xe_gem_mmap_offset_ioctl",
)

PAGE_SIZE = 4096
MAX_USER_EXTENSIONS = 16
BARRIER_OFFSET = 0x50000
"""Fake offset of the page that orders PCI writes (kernel: ``XE_PCI_BARRIER_MMAP_OFFSET``)."""

CREATE_FLAGS = (
    xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
    | xe_drm.DRM_XE_GEM_CREATE_FLAG_SCANOUT
    | xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
    | xe_drm.DRM_XE_GEM_CREATE_FLAG_NO_COMPRESSION
)


class XeMadvPurgeableState(IntEnum):
    """What may happen to a BO's contents (kernel: ``enum xe_madv_purgeable_state``)."""

    WILLNEED = 0
    DONTNEED = 1
    PURGED = 2


WILLNEED = XeMadvPurgeableState.WILLNEED
DONTNEED = XeMadvPurgeableState.DONTNEED
PURGED = XeMadvPurgeableState.PURGED


class XeBoPurgeable:
    """Purgeability of one BO, guarded by its reservation (kernel: ``bo->purgeable``).

    Since "drm/xe/madvise: Track purgeability with BO-local counters" both counts are kept as
    VMAs and dma-bufs come and go, so that the state follows in O(1).
    """

    __slots__ = ("state", "vma_count", "willneed_count")

    def __init__(self) -> None:
        self.state = WILLNEED
        self.vma_count = 0
        """VMAs of the BO in all VMs."""
        self.willneed_count = 0
        """Those of them advised WILLNEED, and one more while a dma-buf of the BO lives."""


class XeBo(TtmBuffer):
    """One buffer object (kernel: ``struct xe_bo``)."""

    __slots__ = (
        "atomic_access",
        "cpu_caching",
        "create_flags",
        "desired_types",
        "exporter",
        "importers",
        "is_on_gpu",
        "mmap_offset",
        "placement",
        "places",
        "purgeable",
        "pxp_key_instance",
        "vm",
        "xe",
    )

    def __init__(
        self,
        xe: XeDevice,
        size: int,
        *,
        placement: int,
        places: tuple[Place, ...],
        cpu_caching: int,
        create_flags: int,
        vm: XeVm | None,
        exporter: XeBo | None = None,
    ) -> None:
        # A private BO and its VM have one reservation, and so have an import and its exporter.
        shares = exporter if exporter is not None else vm
        super().__init__(xe, size, shares.resv if shares is not None else None)
        self.xe = xe
        self.vm = vm
        self.placement = placement
        """Mask of allowed memory regions, as in GEM_CREATE; 0 for an imported BO."""
        self.places = places
        self.desired_types = frozenset(
            place.mem_type for place in places if place.flags is not PlaceFlag.FALLBACK
        )
        """Where it stays when it is there."""
        self.cpu_caching = cpu_caching
        self.create_flags = create_flags
        self.atomic_access = xe_drm.DRM_XE_ATOMIC_UNDEFINED
        self.pxp_key_instance = 0
        self.exporter = exporter
        """The BO of another device whose pages it has; None where that cannot be known."""
        self.importers: dict[XeBo, None] = {}
        """The BOs of other devices that have mapped its pages."""
        self.mmap_offset = 0
        self.is_on_gpu = False
        """Whether the GPU has heard of it."""
        self.purgeable = XeBoPurgeable()

    @property
    def internal_64k(self) -> bool:
        """Whether it is mapped only in 64 KiB pieces (kernel: ``XE_BO_FLAG_INTERNAL_64K``)."""
        return self.xe.platform.needs_64k_vram and self.has_vram

    @property
    def imported(self) -> bool:
        """True for a foreign dma-buf; one of the same device is the same BO, not an import."""
        return self.import_attach is not None

    @property
    def has_system(self) -> bool:
        """Whether system memory is among its places (kernel: ``XE_BO_FLAG_SYSTEM``)."""
        return bool(self.placement & 1) or self.imported

    @property
    def has_vram(self) -> bool:
        """Whether VRAM is among its places."""
        return bool(self.placement & ~1)

    def is_busy(self) -> bool:
        """Whether jobs run that may use it (kernel: fences of its reservation)."""
        return any(vm_bo.gpuvm.job_fences.is_busy for vm_bo in list(self.gpuva_list.values()))

    def is_dontneed(self) -> bool:
        """Kernel: ``xe_bo_madv_is_dontneed``."""
        return self.purgeable.state is DONTNEED

    def eviction_valuable(self, place: Place, ctx: OperationCtx) -> bool:
        """Not while BOs of a VM are made resident that maps it too
        (kernel: ``xe_bo_eviction_valuable``)."""
        if not super().eviction_valuable(place, ctx):
            return False
        return ctx.validating not in self.gpuva_list

    def ttm_move_notify(self, evict: bool) -> None:
        """Kernel: ``xe_bo_move_notify``; mappings find out at their next use.

        Importers lose the pages until their next use (``xe_dma_buf_move_notify``).
        """
        if self.pin_count:
            raise KernelError(errno.EINVAL, "the BO is pinned")
        for importer in list(self.importers):
            self.importers.pop(importer, None)
            importer.xe.ttm.unmap_foreign(importer)
            importer.trigger_rebind()
        if evict:
            self.trigger_rebind()

    def trigger_rebind(self) -> None:
        """Its pages move: VMs whose work takes faults unmap it, the others bring it back before
        their next job (kernel: ``xe_bo_trigger_rebind``)."""
        for vm_bo in list(self.gpuva_list.values()):
            gpuvm = vm_bo.gpuvm
            gpuvm.evicted[self] = None
            if gpuvm.on_evict is not None:
                gpuvm.on_evict(vm_bo)

    def ttm_purged(self) -> None:
        """The pages went: from now on only closing helps."""
        xe_bo_set_purgeable_state(self, PURGED)

    def ttm_moved(self, target: MemType) -> None:
        """Tell the trace."""
        trace = self.xe.trace
        if trace.enabled:
            trace.emit("bo_move", bo=self.id, to=self.xe.region_name(target))

    def gem_mmap(self, start: int, area: VmArea, file: Refcounted) -> CpuMapping:
        """See `xe_gem_object_mmap`."""
        return xe_gem_object_mmap(self, start, area, file)

    def gem_export(self, file: DrmFile, flags: int) -> DmaBuf:
        """See `xedev.xe.xe_dma_buf.xe_gem_prime_export`."""
        return self.xe.prime_export(self, flags)

    def free(self) -> None:
        """The last reference went (kernel: ``xe_ttm_bo_destroy``)."""
        warn_on(bool(self.gpuva_list), f"bo {self.id} ends with mappings")
        xe = self.xe
        xe.ttm.forget(self)
        self.drop_pages()
        if self.mmap_offset:
            xe.vma_offsets.remove(self.mmap_offset, self.size // PAGE_SIZE)
        with xe.bos_lock:
            del xe.bos[self.id]
        if self.is_on_gpu:
            xe.guc.ct.send((abi.FORGET, (self.id,), ()))
        if xe.trace.enabled:
            xe.trace.emit("bo_free", bo=self.id)
        if self.exporter is not None:
            self.exporter.importers.pop(self, None)
        attach, vm = self.import_attach, self.vm
        if attach is not None:
            attach.fput()
        if vm is not None:
            vm.put()


# ---- purgeability: the four helpers of the counters, and the only setter of the state ----


def xe_bo_assert_held(bo: XeBo) -> None:
    """The BO's reservation must be held."""
    lockdep_assert_held(bo.resv)


def xe_bo_resvs(bos: Collection[XeBo]) -> list[Mutex]:
    """Each reservation of external BOs once, in an order that is the same on all cards: an import
    has its exporter's, so that two cards could wait for each other."""
    if len(bos) < 2:
        return [bo.resv for bo in bos]
    owners = {(owner.xe.index, owner.id): owner for owner in map(_resv_owner, bos)}
    return [owners[key].resv for key in sorted(owners)]


def _resv_owner(bo: XeBo) -> XeBo:
    return bo if bo.exporter is None else bo.exporter


def xe_bo_set_purgeable_state(bo: XeBo, state: XeMadvPurgeableState) -> None:
    """Change the state; PURGED is left never (kernel: ``xe_bo_set_purgeable_state``)."""
    lockdep_assert_held(bo.resv)
    old = bo.purgeable.state
    if old is state:
        return
    if old is PURGED:
        raise KernelBug(f"bo {bo.id} leaves PURGED")
    bo.purgeable.state = state
    xe = bo.xe
    if state is not PURGED:
        xe.ttm.set_purgeable(bo)
    if xe.trace.enabled:
        xe.trace.emit("bo_state", bo=bo.id, old=old.name, new=state.name)


def purgeable_gate(bo: XeBo) -> None:
    """Refuse new uses of a BO: ``EBUSY`` DONTNEED, ``EINVAL`` PURGED."""
    state = bo.purgeable.state
    if state is DONTNEED:
        raise KernelError(errno.EBUSY, f"bo {bo.id} is DONTNEED")
    if state is PURGED:
        raise KernelError(errno.EINVAL, f"bo {bo.id} is PURGED")


def xe_bo_vma_count_inc_locked(bo: XeBo) -> None:
    """A VMA of the BO was linked.  Imported BOs are not tracked."""
    lockdep_assert_held(bo.resv)
    if bo.import_attach is not None:
        return
    bo.purgeable.vma_count += 1


def xe_bo_vma_count_dec_locked(bo: XeBo) -> None:
    """A VMA of the BO was unlinked.  Imported BOs are not tracked."""
    lockdep_assert_held(bo.resv)
    if bo.import_attach is not None:
        return
    if not bo.purgeable.vma_count:
        raise KernelBug(f"bo {bo.id} has no VMA to lose")
    bo.purgeable.vma_count -= 1


def xe_bo_willneed_get_locked(bo: XeBo) -> None:
    """One more holder wants the contents; the first one takes the BO out of DONTNEED.

    Imported BOs are not tracked.
    """
    lockdep_assert_held(bo.resv)
    if bo.import_attach is not None:
        return
    purgeable = bo.purgeable
    purgeable.willneed_count += 1
    if purgeable.willneed_count == 1 and purgeable.state is DONTNEED:
        xe_bo_set_purgeable_state(bo, WILLNEED)


def xe_bo_willneed_put_locked(bo: XeBo) -> None:
    """One holder stops wanting the contents.

    With the last one the BO becomes DONTNEED, but only while it has VMAs: DONTNEED means that
    VMAs exist and all active ones are DONTNEED.  A BO without any VMA keeps its state.
    Imported BOs are not tracked.
    """
    lockdep_assert_held(bo.resv)
    if bo.import_attach is not None:
        return
    purgeable = bo.purgeable
    if not purgeable.willneed_count:
        raise KernelBug(f"bo {bo.id} has no holder to lose")
    purgeable.willneed_count -= 1
    if purgeable.willneed_count or not purgeable.vma_count or purgeable.state is PURGED:
        return
    xe_bo_set_purgeable_state(bo, DONTNEED)


# ---- creation and placement ----


def xe_bo_places(xe: XeDevice, placement: int, needs_visible: bool) -> tuple[Place, ...]:
    """The placement list of a region mask: VRAM regions in order, then system memory, which is
    only a fallback when VRAM was asked for too (kernel: ``__xe_bo_placement_for_flags``)."""
    places = [
        Place(MemType(MemType.VRAM0 + index), visible=needs_visible)
        for index in range(len(xe.vram_managers))
        if placement & (2 << index)
    ]
    if placement & 1:
        places.append(Place(MemType.TT, PlaceFlag.FALLBACK if places else PlaceFlag.NONE))
    return tuple(places)


def xe_bo_validate(bo: XeBo, vm: XeVm | None, allow_res_evict: bool) -> None:
    """Bring a BO to one of its places, with pages (kernel: ``xe_bo_validate``).

    ``ENOMEM`` no room.  Purged BOs have nothing to bring.
    """
    xe_bo_assert_held(bo)
    if bo.purgeable.state is PURGED:
        return
    ctx = OperationCtx()
    if vm is not None:
        validating = None if allow_res_evict else vm.gpuvm
        ctx = OperationCtx(vm.resv, allow_res_evict, validating)
    mapped = bo.populated
    bo.xe.ttm.validate(bo, bo.places, ctx)
    if bo.exporter is not None and not mapped:
        _map_dma_buf(bo, bo.exporter)


def _map_dma_buf(bo: XeBo, exporter: XeBo) -> None:
    """Have the exporter bring the pages to where other devices reach them.

    Both BOs have the same reservation.  Kernel: ``xe_bo_move_dmabuf``, ``xe_dma_buf_map``.
    """
    try:
        xe_bo_migrate(exporter, MemType.TT)
    except KernelError:
        bo.xe.ttm.unmap_foreign(bo)
        raise
    exporter.importers[bo] = None


def xe_bo_migrate(bo: XeBo, target: MemType) -> None:
    """Move a BO to one of its places; BOs that the caller has locked are not evicted for it.

    ``EBUSY`` pinned elsewhere, ``EINVAL`` not among its places, ``ENOMEM`` no room.
    Kernel: ``xe_bo_migrate``.
    """
    xe_bo_assert_held(bo)
    if bo.mem_type is target:
        return
    if bo.pin_count:
        raise KernelError(errno.EBUSY, "the BO is pinned")
    if not any(place.mem_type is target for place in bo.places):
        name = bo.xe.region_name(target)
        raise KernelError(errno.EINVAL, f"{name} is not among the places of bo {bo.id}")
    bo.xe.ttm.validate(bo, (Place(target),), OperationCtx())


def xe_bo_create_user(
    xe: XeDevice, vm: XeVm | None, size: int, placement: int, cpu_caching: int, create_flags: int
) -> XeBo:
    """Make a BO with one reference (kernel: ``xe_bo_create_user``, ``xe_bo_init_locked``).

    ``EINVAL`` not whole pages of VRAM, ``ENOSPC`` no mmap offset, ``E2BIG`` never fits,
    ``ENOMEM`` no room.  The caller holds the VM's reservation when there is a ``vm``.
    """
    xe.faults.check("xe_bo_create_user")
    if placement & ~1 and size % xe.vram_page_size:
        raise KernelError(errno.EINVAL, f"size {size:#x} is not a multiple of 64 KiB")
    needs_visible = bool(create_flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM)
    bo = XeBo(
        xe,
        size,
        placement=placement,
        places=xe_bo_places(xe, placement, needs_visible),
        cpu_caching=cpu_caching,
        create_flags=create_flags,
        vm=vm,
    )
    if vm is not None:
        vm.get()
    _register(xe, bo)
    try:
        bo.mmap_offset = xe.vma_offsets.add(bo, size // PAGE_SIZE)
        _first_placement(bo, vm)
    except BaseException:
        bo.put()
        raise
    return bo


def _register(xe: XeDevice, bo: XeBo) -> None:
    with xe.bos_lock:
        xe.bos[bo.id] = bo
    if xe.trace.enabled:
        xe.trace.emit("bo_create", bo=bo.id, size=bo.size)


def _first_placement(bo: XeBo, vm: XeVm | None) -> None:
    if bo.create_flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING:
        bo.xe.ttm.init_without_pages(bo)
        return
    private = vm is not None
    if not private:
        bo.resv.lock()
    try:
        # A new BO may push out others of its own VM (xe_bo_init_locked: no NO_RESV_EVICT).
        xe_bo_validate(bo, vm, allow_res_evict=private)
    finally:
        if not private:
            bo.resv.unlock()


def xe_bo_create_foreign(xe: XeDevice, dma_buf: DmaBuf, exporter: XeBo | None) -> XeBo:
    """The BO of another device's dma-buf: system memory that is never tracked for purging.

    ``exporter`` is the BO behind it, if that is known.  Kernel: ``xe_dma_buf_init_obj``.  Takes
    over one reference of ``dma_buf``.
    """
    bo = XeBo(
        xe,
        dma_buf.size,
        placement=0,
        places=(Place(MemType.TT),),
        cpu_caching=0,
        create_flags=0,
        vm=None,
        exporter=exporter,
    )
    bo.import_attach = dma_buf
    _register(xe, bo)
    try:
        bo.mmap_offset = xe.vma_offsets.add(bo, bo.size // PAGE_SIZE)
        # The exporter has the pages; room in gtt is taken when the GPU first maps them.
        xe.ttm.init_without_pages(bo)
    except BaseException:
        bo.put()
        raise
    return bo


def xe_gem_create_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_gem_create, file: DrmFile, caller: Caller
) -> None:
    """``GEM_CREATE``: a BO and its handle.

    ``EINVAL`` malformed, ``EOPNOTSUPP`` no compression control, ``ENOENT`` unknown VM, ``ENOSPC``,
    ``E2BIG``, ``ENOMEM`` no room, ``E2BIG``, ``EFAULT``, ``ENODEV`` by the extensions.
    Kernel: ``xe_gem_create_ioctl``.
    """
    _check_create_args(xe, args)
    vm = _lookup_vm(file, args.vm_id) if args.vm_id else None
    if vm is None:
        bo = retry_on_contention(lambda: _create(xe, None, args))
    else:
        try:
            bo = retry_on_contention(partial(_create_private, xe, vm, args))
        finally:
            vm.put()
    try:
        if args.extensions:
            gem_create_user_extensions(xe, bo, args.extensions, caller)
        args.handle = drm_gem_handle_create(file, bo)
    finally:
        bo.put()


def _create_private(xe: XeDevice, vm: XeVm, args: xe_drm.drm_xe_gem_create) -> XeBo:
    with vm.resv:
        return _create(xe, vm, args)


def _create(xe: XeDevice, vm: XeVm | None, args: xe_drm.drm_xe_gem_create) -> XeBo:
    size = args.size
    return xe_bo_create_user(xe, vm, size, args.placement, args.cpu_caching, args.flags)


def _lookup_vm(file: DrmFile, vm_id: int) -> XeVm:
    """The VM of ``vm_id`` with one more reference."""
    from xedev.xe.xe_vm import xe_vm_lookup

    vm = xe_vm_lookup(file, vm_id, errno.ENOENT)
    # A VM that is being closed right now counts as gone.
    if not vm.get_unless_zero():
        raise KernelError(errno.ENOENT, f"no VM {vm_id}")
    return vm


def _check_create_args(xe: XeDevice, args: xe_drm.drm_xe_gem_create) -> None:
    if any(args.pad) or any(args.reserved):
        raise KernelError(errno.EINVAL, "pad and reserved must be zero")
    placement, flags, size = args.placement, args.flags, args.size
    if not placement or placement & ~xe.mem_region_mask:
        raise KernelError(errno.EINVAL, f"placement {placement:#x} is not a set of regions")
    if flags & ~CREATE_FLAGS:
        raise KernelError(errno.EINVAL, f"unknown flags {flags & ~CREATE_FLAGS:#x}")
    if args.handle:
        raise KernelError(errno.EINVAL, "handle is an output, it must be zero")
    if not size:
        raise KernelError(errno.EINVAL, "size is zero")
    if size % PAGE_SIZE:
        raise KernelError(errno.EINVAL, f"size {size:#x} is not a multiple of 4 KiB")
    in_vram = placement & ~1
    _check_create_flags(xe, flags, bool(in_vram))
    _check_caching(args.cpu_caching, flags, bool(in_vram))


def _check_create_flags(xe: XeDevice, flags: int, in_vram: bool) -> None:
    no_compression = flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_NO_COMPRESSION
    if no_compression and xe.platform.graphics_ver < 20:
        raise KernelError(errno.EOPNOTSUPP, "compression cannot be switched off here")
    if flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM and not in_vram:
        raise KernelError(errno.EINVAL, "visible VRAM is wanted, but VRAM is not allowed")


def _check_caching(cpu_caching: int, flags: int, in_vram: bool) -> None:
    if not cpu_caching or cpu_caching > xe_drm.DRM_XE_GEM_CPU_CACHING_WC:
        raise KernelError(errno.EINVAL, f"cpu_caching {cpu_caching} is neither WB nor WC")
    if in_vram and cpu_caching != xe_drm.DRM_XE_GEM_CPU_CACHING_WC:
        raise KernelError(errno.EINVAL, "VRAM can only be write-combined")
    scanout = flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_SCANOUT
    if scanout and cpu_caching == xe_drm.DRM_XE_GEM_CPU_CACHING_WB:
        raise KernelError(errno.EINVAL, "a scanout buffer cannot be write-back")


def gem_create_user_extensions(xe: XeDevice, bo: XeBo, address: int, caller: Caller) -> None:
    """Walk the chain of extensions at the user address ``address``.

    ``E2BIG`` at the 17th link, ``EFAULT`` unreadable, ``EINVAL`` unknown, ``ENODEV`` no PXP.
    """
    for link in range(MAX_USER_EXTENSIONS + 1):
        if link >= MAX_USER_EXTENSIONS:
            raise KernelError(errno.E2BIG, "the chain of extensions is too long")
        head = copy_struct_from_user(caller.memory, address, xe_drm.drm_xe_user_extension)
        if head.pad or head.name != xe_drm.DRM_XE_GEM_CREATE_EXTENSION_SET_PROPERTY:
            raise KernelError(errno.EINVAL, f"no extension {head.name}, or pad is not zero")
        _set_property(xe, bo, address, caller)
        address = head.next_extension
        if not address:
            return


def _set_property(xe: XeDevice, bo: XeBo, address: int, caller: Caller) -> None:
    ext = copy_struct_from_user(caller.memory, address, xe_drm.drm_xe_ext_set_property)
    if ext.property != xe_drm.DRM_XE_GEM_CREATE_SET_PROPERTY_PXP_TYPE or ext.pad:
        raise KernelError(errno.EINVAL, f"no property {ext.property}, or pad is not zero")
    if ext.value == xe_drm.DRM_XE_PXP_TYPE_NONE:
        return
    if ext.value != xe_drm.DRM_XE_PXP_TYPE_HWDRM:
        raise KernelError(errno.EINVAL, f"no protected content of type {ext.value}")
    if not xe.platform.has_pxp:
        raise KernelError(errno.ENODEV, "the device has no protected content")
    bo.pxp_key_instance = xe.pxp_key_instance


def xe_gem_mmap_offset_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_gem_mmap_offset, file: DrmFile, caller: Caller
) -> None:
    """``GEM_MMAP_OFFSET``: where mmap(2) finds a BO, or the PCI barrier page.

    ``EINVAL`` malformed, ``ENOENT`` unknown handle.  DONTNEED and PURGED BOs have an offset too.
    """
    if args.extensions or any(args.reserved):
        raise KernelError(errno.EINVAL, "extensions and reserved must be zero")
    barrier = xe_drm.DRM_XE_MMAP_OFFSET_FLAG_PCI_BARRIER
    if args.flags & ~barrier:
        raise KernelError(errno.EINVAL, f"unknown flags {args.flags:#x}")
    if args.flags & barrier:
        if not xe.platform.is_dgfx:
            raise KernelError(errno.EINVAL, "an integrated GPU needs no barrier")
        if args.handle:
            raise KernelError(errno.EINVAL, "the barrier belongs to no BO")
        args.offset = BARRIER_OFFSET
        return
    obj = drm_gem_object_lookup(file, args.handle)
    args.offset = as_xe_bo(obj).mmap_offset
    obj.put()


def xe_gem_object_mmap(bo: XeBo, start: int, area: VmArea, file: Refcounted) -> CpuMapping:
    """Map a BO from byte ``start`` on, with pages.

    ``EBUSY`` DONTNEED, ``EINVAL`` PURGED or copy-on-write, ``ENOMEM`` no room or no file for the
    pages.  Kernel: ``xe_gem_object_mmap``.
    """
    with bo.resv:
        purgeable_gate(bo)
        check_not_cow(area)
        mapping = ttm_bo_mmap_obj(bo, _cpu_pages(bo, area.by_name), start, area, file)
    trace = bo.xe.trace
    if trace.enabled:
        trace.emit("bo_mmap", bo=bo.id, start=start, size=area.length)
    return mapping


def _cpu_pages(bo: XeBo, named: bool) -> ShmemFile:
    """What the CPU sees of the BO (kernel: ``xe_bo_cpu_fault``).

    The kernel decides page by page when one is touched; here nobody tells, so mmap(2) counts as
    the first touch.  Memory of another device, and VRAM outside of the CPU's window, cannot be
    reached: SIGBUS.
    """
    ttm = bo.xe.ttm
    if bo.imported:
        return ttm.shmem.empty(named=named)
    if not bo.populated:
        ttm.populate(bo)
    hidden = bo.mem_type is not None and bo.mem_type.is_vram and bo.visible_bytes < bo.size
    return ttm.shmem.empty(named=named) if hidden else ttm.pages(bo, named=named)


def as_xe_bo(obj: DrmGemObject) -> XeBo:
    """Every object of an Xe device is a BO."""
    assert isinstance(obj, XeBo)
    return obj
