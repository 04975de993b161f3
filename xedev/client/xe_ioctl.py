"""IGT's ioctl helpers, by its names and in its order of arguments (lib/xe/xe_ioctl.c).

Tests of the kernel driver are written in this vocabulary, so that one can be carried over line by
line. The differences:

* the first argument is the `Device`, where IGT takes a descriptor;
* a list of syncs stands for IGT's pair of pointer and count;
* nothing asserts: an `OSError` with the errno fails the test, or is what the test looks for, so
  that IGT's second set of helpers, those with ``__`` in front, is not needed;
* the ``_sync`` binds wait for a user fence in our own memory, where IGT waits for a syncobj.

Addresses and sizes are bytes. All binds use the write-back row of the page attribute table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from uapi import xe_drm
from uapi.base import Struct
from xedev.client.device import Device
from xedev.client.mapping import Mapping
from xedev.client.memory import (
    PAT_INDEX_WB,
    ExecSync,
    Sync,
    UserFence,
    default_cpu_caching,
    sync_signal,
)
from xedev.client.transport import IN, OUT, Buffer
from xedev.client.xe_query import xe_get_default_alignment, xe_has_vram

__all__ = (
    "gem_close",
    "xe_bb_size",
    "xe_bind_exec_queue_create",
    "xe_bo_create",
    "xe_bo_create_caching",
    "xe_bo_map",
    "xe_bo_mmap_ext",
    "xe_bo_mmap_offset",
    "xe_cs_prefetch_size",
    "xe_default_cpu_caching",
    "xe_exec",
    "xe_exec_queue_create",
    "xe_exec_queue_create_class",
    "xe_exec_queue_destroy",
    "xe_exec_queue_set_property",
    "xe_exec_sync",
    "xe_exec_wait",
    "xe_vm_bind_array",
    "xe_vm_bind_async",
    "xe_vm_bind_async_flags",
    "xe_vm_bind_lr_sync",
    "xe_vm_bind_sync",
    "xe_vm_bind_userptr_async",
    "xe_vm_bind_userptr_async_flags",
    "xe_vm_create",
    "xe_vm_destroy",
    "xe_vm_get_mem_attr_values_in_range",
    "xe_vm_get_property",
    "xe_vm_madvise",
    "xe_vm_madvise_purgeable",
    "xe_vm_number_vmas_in_range",
    "xe_vm_prefetch_async",
    "xe_vm_unbind_all_async",
    "xe_vm_unbind_async",
    "xe_vm_unbind_lr_sync",
    "xe_vm_unbind_sync",
    "xe_wait_ufence",
    "xe_wait_ufence_abstime",
)

#: What a user fence of a bind that is waited for gets.
_BIND_DONE = 0x686868

#: How far an engine reads ahead in a batch, in bytes.
_CS_PREFETCH = 4096
_INT64_MAX = (1 << 63) - 1

#: Pairs of DRM_XE_EXEC_QUEUE_SET_PROPERTY_* and value, where IGT takes the address of a chain.
Properties: TypeAlias = "Literal[0] | Sequence[tuple[int, int]]"

_VISIBLE_VRAM = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM

# MADVISE type -> the struct's member, and the member's field that takes ``op_val``.
_MADVISE_VALUE = {
    xe_drm.DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC: ("preferred_mem_loc", "devmem_fd"),
    xe_drm.DRM_XE_MEM_RANGE_ATTR_ATOMIC: ("atomic", "val"),
    xe_drm.DRM_XE_MEM_RANGE_ATTR_PAT: ("pat_index", "val"),
    xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE: ("purge_state_val", "val"),
}


# --- buffer objects ------------------------------------------------------------------------


def xe_default_cpu_caching(device: Device, placement: int, flags: int) -> int:
    """The caching that `xe_bo_create` chooses (IGT: ``__xe_default_cpu_caching``)."""
    return default_cpu_caching(placement, flags)


def xe_bo_create(device: Device, vm: int, size: int, placement: int, flags: int = 0) -> int:
    """Handle of a new BO; ``vm`` 0 for one that any VM may map.

    An integrated device is not asked for visible VRAM: `vram_if_possible` named system memory.
    """
    caching = xe_default_cpu_caching(device, placement, flags)
    return xe_bo_create_caching(device, vm, size, placement, flags, caching)


def xe_bo_create_caching(
    device: Device, vm: int, size: int, placement: int, flags: int, cpu_caching: int
) -> int:
    """As `xe_bo_create`, with a caching mode of the caller's choice."""
    if flags & _VISIBLE_VRAM and not xe_has_vram(device):
        flags &= ~_VISIBLE_VRAM
    return device.gem_create(size, placement, cpu_caching=cpu_caching, flags=flags, vm_id=vm)


def xe_bo_mmap_offset(device: Device, bo: int) -> int:
    """The offset to mmap(2) a BO at."""
    return device.gem_mmap_offset(bo)


def xe_bo_map(device: Device, bo: int, size: int) -> Mapping:
    """Map a BO to read and write; IGT's gives a bare pointer, this ends with its object."""
    return device.map(bo, size)


def xe_bo_mmap_ext(device: Device, bo: int, size: int, prot: int) -> Mapping:
    """Map a BO with a protection."""
    return device.map(bo, size, prot=prot)


def gem_close(device: Device, handle: int) -> None:
    """Give a handle back."""
    device.gem_close(handle)


# --- address spaces ------------------------------------------------------------------------


def xe_vm_create(device: Device, flags: int = 0, ext: int = 0) -> int:
    """Id of a new VM; ``ext`` is the address of an extension, of which there are none yet."""
    arg = xe_drm.drm_xe_vm_create(flags=flags, extensions=ext)
    device.ioctl(xe_drm.DRM_IOCTL_XE_VM_CREATE, arg)
    return arg.vm_id


def xe_vm_destroy(device: Device, vm: int) -> None:
    """Destroy a VM with its mappings."""
    device.vm_destroy(vm)


def xe_vm_get_property(
    device: Device,
    vm: int,
    query: xe_drm.drm_xe_vm_get_property,
    buffer: Struct | None = None,
) -> None:
    """Run VM_GET_PROPERTY on ``query``; ``buffer`` is what its ``data`` points to."""
    query.vm_id = vm
    buffers = [] if buffer is None else [Buffer(buffer, IN | OUT)]
    device.ioctl(xe_drm.DRM_IOCTL_XE_VM_GET_PROPERTY, query, buffers)


# --- binds ---------------------------------------------------------------------------------


def _bind_one(
    device: Device,
    vm: int,
    exec_queue: int,
    syncs: Sequence[Sync],
    **fields: int,
) -> None:
    """A bind of one operation, whose fields are named as in the struct."""
    op = xe_drm.drm_xe_vm_bind_op(pat_index=PAT_INDEX_WB, **fields)
    device.vm_bind(vm, [op], syncs, exec_queue_id=exec_queue)


def xe_vm_bind_async(
    device: Device,
    vm: int,
    exec_queue: int,
    bo: int,
    offset: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync] = (),
) -> None:
    """Map a piece of a BO."""
    xe_vm_bind_async_flags(device, vm, exec_queue, bo, offset, addr, size, syncs, 0)


def xe_vm_bind_async_flags(
    device: Device,
    vm: int,
    exec_queue: int,
    bo: int,
    offset: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync],
    flags: int,
) -> None:
    """Map a piece of a BO with DRM_XE_VM_BIND_FLAG_*."""
    _bind_one(
        device,
        vm,
        exec_queue,
        syncs,
        op=xe_drm.DRM_XE_VM_BIND_OP_MAP,
        obj=bo,
        obj_offset=offset,
        addr=addr,
        range=size,
        flags=flags,
    )


def xe_vm_bind_userptr_async(
    device: Device,
    vm: int,
    exec_queue: int,
    userptr: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync] = (),
) -> None:
    """Map memory of this process."""
    xe_vm_bind_userptr_async_flags(device, vm, exec_queue, userptr, addr, size, syncs, 0)


def xe_vm_bind_userptr_async_flags(
    device: Device,
    vm: int,
    exec_queue: int,
    userptr: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync],
    flags: int,
) -> None:
    """Map memory of this process with DRM_XE_VM_BIND_FLAG_*."""
    _bind_one(
        device,
        vm,
        exec_queue,
        syncs,
        op=xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR,
        userptr=userptr,
        addr=addr,
        range=size,
        flags=flags,
    )


def xe_vm_unbind_async(
    device: Device,
    vm: int,
    exec_queue: int,
    offset: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync] = (),
) -> None:
    """Unmap a range."""
    _bind_one(
        device,
        vm,
        exec_queue,
        syncs,
        op=xe_drm.DRM_XE_VM_BIND_OP_UNMAP,
        obj_offset=offset,
        addr=addr,
        range=size,
    )


def xe_vm_unbind_all_async(
    device: Device, vm: int, exec_queue: int, bo: int, syncs: Sequence[Sync] = ()
) -> None:
    """Unmap a BO wherever it is mapped."""
    _bind_one(device, vm, exec_queue, syncs, op=xe_drm.DRM_XE_VM_BIND_OP_UNMAP_ALL, obj=bo)


def xe_vm_prefetch_async(
    device: Device,
    vm: int,
    exec_queue: int,
    offset: int,
    addr: int,
    size: int,
    syncs: Sequence[Sync],
    region: int,
) -> None:
    """Move what a range maps to memory region number ``region``."""
    _bind_one(
        device,
        vm,
        exec_queue,
        syncs,
        op=xe_drm.DRM_XE_VM_BIND_OP_PREFETCH,
        obj_offset=offset,
        addr=addr,
        range=size,
        prefetch_mem_region_instance=region,
    )


def xe_vm_bind_array(
    device: Device,
    vm: int,
    exec_queue: int,
    bind_ops: Sequence[xe_drm.drm_xe_vm_bind_op],
    syncs: Sequence[Sync] = (),
) -> None:
    """Run several operations, all or none of them."""
    device.vm_bind(vm, bind_ops, syncs, exec_queue_id=exec_queue)


def xe_vm_bind_sync(device: Device, vm: int, bo: int, offset: int, addr: int, size: int) -> None:
    """Map a piece of a BO and wait until that is done."""
    xe_vm_bind_lr_sync(device, vm, bo, offset, addr, size, 0)


def xe_vm_unbind_sync(device: Device, vm: int, offset: int, addr: int, size: int) -> None:
    """Unmap a range and wait until that is done."""
    xe_vm_unbind_lr_sync(device, vm, offset, addr, size)


def xe_vm_bind_lr_sync(
    device: Device, vm: int, bo: int, offset: int, addr: int, size: int, flags: int
) -> None:
    """As `xe_vm_bind_sync`, with flags; also for VMs in long-running mode."""
    fence = UserFence(_BIND_DONE)
    xe_vm_bind_async_flags(device, vm, 0, bo, offset, addr, size, [fence], flags)
    fence.wait()


def xe_vm_unbind_lr_sync(device: Device, vm: int, offset: int, addr: int, size: int) -> None:
    """As `xe_vm_unbind_sync`; also for VMs in long-running mode."""
    fence = UserFence(_BIND_DONE)
    xe_vm_unbind_async(device, vm, 0, offset, addr, size, [fence])
    fence.wait()


# --- queues --------------------------------------------------------------------------------


def xe_exec_queue_create(
    device: Device,
    vm: int,
    instance: xe_drm.drm_xe_engine_class_instance,
    ext: Properties = 0,
) -> int:
    """Id of a new queue for one engine. `Device.exec_queue_create` makes wide and balanced ones,
    as IGT's ``__xe_exec_queue_create`` does."""
    return device.exec_queue_create(vm, [instance], properties=ext or ())


def xe_exec_queue_create_class(device: Device, vm: int, class_: int) -> int:
    """The same for the first engine of a DRM_XE_ENGINE_CLASS_* of GT 0."""
    instance = xe_drm.drm_xe_engine_class_instance(engine_class=class_)
    return xe_exec_queue_create(device, vm, instance)


def xe_bind_exec_queue_create(device: Device, vm: int, ext: Properties = 0) -> int:
    """Id of a new queue for binds."""
    binds = xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND
    instance = xe_drm.drm_xe_engine_class_instance(engine_class=binds)
    return xe_exec_queue_create(device, vm, instance, ext)


def xe_exec_queue_set_property(device: Device, exec_queue: int, property_: int, value: int) -> None:
    """Change a property of a living queue."""
    device.exec_queue_set_property(exec_queue, property_, value)


def xe_exec_queue_destroy(device: Device, exec_queue: int) -> None:
    """Destroy a queue with what is still in it."""
    device.exec_queue_destroy(exec_queue)


# --- batches -------------------------------------------------------------------------------


def xe_cs_prefetch_size(device: Device) -> int:
    """Bytes behind its end that an engine may read of a batch."""
    return _CS_PREFETCH


def xe_bb_size(device: Device, reqsize: int) -> int:
    """Size of a BO for ``reqsize`` bytes with a batch at their end."""
    page = xe_get_default_alignment(device)
    return -(-(reqsize + xe_cs_prefetch_size(device)) // page) * page


def xe_exec(device: Device, exec_: xe_drm.drm_xe_exec, buffers: Sequence[Buffer] = ()) -> None:
    """Run EXEC as it stands; ``buffers`` is what its pointers point to."""
    device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC, exec_, buffers)


def xe_exec_sync(
    device: Device, exec_queue: int, addr: int, syncs: Sequence[ExecSync] = ()
) -> None:
    """Submit the batch at ``addr``."""
    device.exec(exec_queue, addr, syncs)


def xe_exec_wait(device: Device, exec_queue: int, addr: int) -> None:
    """Submit the batch at ``addr``, and wait until it is done."""
    syncobj = device.syncobj_create()
    try:
        xe_exec_sync(device, exec_queue, addr, [sync_signal(syncobj)])
        device.syncobj_wait([syncobj], _INT64_MAX)
    finally:
        device.syncobj_destroy(syncobj)


# --- user fences ---------------------------------------------------------------------------


def xe_wait_ufence(device: Device, addr: int, value: int, exec_queue: int, timeout: int) -> int:
    """Wait until ``value`` stands at ``addr``, for ``timeout`` nanoseconds, negative for ever;
    what was left of them. EIO needs ``exec_queue``."""
    return device.wait_user_fence(addr, value, timeout=timeout, exec_queue_id=exec_queue)


def xe_wait_ufence_abstime(
    device: Device, addr: int, value: int, exec_queue: int, timeout: int
) -> int:
    """The same until a moment of CLOCK_MONOTONIC, which is returned."""
    return device.wait_user_fence(
        addr,
        value,
        timeout=timeout,
        flags=xe_drm.DRM_XE_UFENCE_WAIT_FLAG_ABSTIME,
        exec_queue_id=exec_queue,
    )


# --- advice --------------------------------------------------------------------------------


def xe_vm_madvise(
    device: Device,
    vm: int,
    addr: int,
    range_: int,
    ext: int,
    type_: int,
    op_val: int,
    policy: int,
    instance: int,
) -> None:
    """Set one attribute of a range.

    ``op_val`` is the value, or with PREFERRED_LOC the descriptor; ``policy`` and ``instance`` are
    for PREFERRED_LOC alone. EINVAL for an unknown type comes from the driver.
    """
    arg = xe_drm.drm_xe_madvise(extensions=ext, vm_id=vm, start=addr, range=range_, type=type_)
    member, field = _MADVISE_VALUE.get(type_, ("atomic", "val"))
    value = getattr(arg, member)
    setattr(value, field, op_val)
    if type_ == xe_drm.DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC:
        value.migration_policy = policy
        value.region_instance = instance
    device.madvise(arg)


def xe_vm_madvise_purgeable(device: Device, vm: int, start: int, range_: int, state: int) -> int:
    """Advise a DRM_XE_VMA_PURGEABLE_STATE_*; 1 while all pages exist, 0 when some were purged."""
    retained = device.madvise_purgeable(vm, start, range_, state)
    assert retained is not None
    return retained


def xe_vm_number_vmas_in_range(
    device: Device, vmas_attr: xe_drm.drm_xe_vm_query_mem_range_attr
) -> None:
    """Count mappings: fills ``num_mem_ranges`` and ``sizeof_mem_range_attr``."""
    device.ioctl(xe_drm.DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS, vmas_attr)


def xe_vm_get_mem_attr_values_in_range(
    device: Device, vm: int, start: int, range_: int
) -> list[xe_drm.drm_xe_mem_range_attr]:
    """Attributes of all mappings in a range."""
    return device.vm_query_mem_range_attrs(vm, start, range_)
