"""The Xe driver's memory ioctls: buffer objects, address spaces, binds, advice."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from uapi import xe_drm
from uapi.base import Struct
from xedev.client.ioctls import Ioctls
from xedev.client.transport import IN, OUT, Buffer

__all__ = (
    "PAT_INDEX_WB",
    "ExecSync",
    "GpuUserFence",
    "MemoryIoctls",
    "Sync",
    "UserFence",
    "address_of",
    "chain_extensions",
    "default_cpu_caching",
    "op_map",
    "op_map_null",
    "op_map_userptr",
    "op_prefetch",
    "op_unmap",
    "op_unmap_all",
    "sync_buffers",
    "sync_signal",
    "sync_wait",
)

#: Row of the page attribute table for write-back memory on graphics version 20 and 30
#: (Lunar Lake, Battlemage, Panther Lake); coherent, so that any BO may use it.
PAT_INDEX_WB = 2

_SYSTEM_MEMORY = 1 << 0

NS_PER_S = 1_000_000_000
ALL_BITS = (1 << 64) - 1


class UserFence:
    """A cell of this process that VM_BIND writes a value to when its work is done.

    Keep the fence until it is signaled: the driver knows the address, and writes there.
    """

    def __init__(self, value: int = 1) -> None:
        self.value = value
        self._cell = ctypes.c_uint64()

    @property
    def signaled(self) -> bool:
        """Whether the value has been written."""
        return self._cell.value == self.value

    def sync(self) -> xe_drm.drm_xe_sync:
        """The fence as an element of a sync array."""
        return xe_drm.drm_xe_sync(
            type=xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE,
            flags=xe_drm.DRM_XE_SYNC_FLAG_SIGNAL,
            addr=ctypes.addressof(self._cell),
            timeline_value=self.value,
        )

    @property
    def buffer(self) -> Buffer:
        """The cell, for the list of buffers."""
        return Buffer(self._cell, IN | OUT)

    def wait(self, timeout: float = 10.0, device: MemoryIoctls | None = None) -> None:
        """Sleep in ``device``, or without one look again and again, until the value is there;
        ETIME after ``timeout`` seconds."""
        if device is not None:
            address = ctypes.addressof(self._cell)
            device.wait_user_fence(address, self.value, timeout=int(timeout * NS_PER_S))
            return
        end = time.monotonic() + timeout
        while not self.signaled:
            if time.monotonic() > end:
                raise OSError(errno.ETIME, os.strerror(errno.ETIME), "user fence")
            time.sleep(0.0005)


@dataclass(frozen=True, slots=True)
class GpuUserFence:
    """A cell that EXEC writes a value to when its batches are done: eight bytes of the VM.

    Who waits for it needs a mapping of the BO: `MemoryIoctls.wait_user_fence` takes an address
    of this process.
    """

    address: int  # the GPU's
    value: int = 1

    def sync(self) -> xe_drm.drm_xe_sync:
        """The fence as an element of a sync array."""
        return xe_drm.drm_xe_sync(
            type=xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE,
            flags=xe_drm.DRM_XE_SYNC_FLAG_SIGNAL,
            addr=self.address,
            timeline_value=self.value,
        )


#: What VM_BIND waits for or signals.
Sync: TypeAlias = "xe_drm.drm_xe_sync | UserFence"
#: What EXEC waits for or signals.
ExecSync: TypeAlias = "xe_drm.drm_xe_sync | GpuUserFence"


def sync_wait(handle: int, point: int = 0) -> xe_drm.drm_xe_sync:
    """Wait for the fence of a syncobj, or for a point of its timeline."""
    return _syncobj(handle, point, 0)


def sync_signal(handle: int, point: int = 0) -> xe_drm.drm_xe_sync:
    """Give a syncobj the fence of the work, or put it on its timeline as a point."""
    return _syncobj(handle, point, xe_drm.DRM_XE_SYNC_FLAG_SIGNAL)


def _syncobj(handle: int, point: int, flags: int) -> xe_drm.drm_xe_sync:
    timeline, binary = xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ, xe_drm.DRM_XE_SYNC_TYPE_SYNCOBJ
    return xe_drm.drm_xe_sync(
        type=timeline if point else binary, flags=flags, handle=handle, timeline_value=point
    )


def sync_buffers(syncs: Sequence[Sync | ExecSync]) -> list[Buffer]:
    """The array that an argument's ``syncs`` points to, then the cells that the array does;
    nothing without syncs."""
    if not syncs:
        return []
    entries = [sync if isinstance(sync, xe_drm.drm_xe_sync) else sync.sync() for sync in syncs]
    cells = [sync.buffer for sync in syncs if isinstance(sync, UserFence)]
    return [Buffer((xe_drm.drm_xe_sync * len(entries))(*entries), IN), *cells]


def address_of(buffers: Sequence[Buffer]) -> int:
    """Where the first of several buffers is; NULL when there is none."""
    return buffers[0].address if buffers else 0


def default_cpu_caching(placement: int, flags: int = 0) -> int:
    """The DRM_XE_GEM_CPU_CACHING_* that GEM_CREATE accepts: WC for VRAM and scanout, else WB."""
    needs_wc = placement & ~_SYSTEM_MEMORY or flags & xe_drm.DRM_XE_GEM_CREATE_FLAG_SCANOUT
    return xe_drm.DRM_XE_GEM_CPU_CACHING_WC if needs_wc else xe_drm.DRM_XE_GEM_CPU_CACHING_WB


# --- bind operations -----------------------------------------------------------------------


def op_map(
    handle: int,
    obj_offset: int,
    addr: int,
    range_: int,
    *,
    pat_index: int = PAT_INDEX_WB,
    flags: int = 0,
) -> xe_drm.drm_xe_vm_bind_op:
    """Map ``range_`` bytes of a BO from ``obj_offset`` on at GPU address ``addr``."""
    return xe_drm.drm_xe_vm_bind_op(
        op=xe_drm.DRM_XE_VM_BIND_OP_MAP,
        obj=handle,
        obj_offset=obj_offset,
        addr=addr,
        range=range_,
        pat_index=pat_index,
        flags=flags,
    )


def op_map_null(addr: int, range_: int, *, flags: int = 0) -> xe_drm.drm_xe_vm_bind_op:
    """Let reads of a range give zeros and drop writes to it."""
    return op_map(0, 0, addr, range_, flags=flags | xe_drm.DRM_XE_VM_BIND_FLAG_NULL)


def op_map_userptr(
    userptr: int, addr: int, range_: int, *, pat_index: int = PAT_INDEX_WB, flags: int = 0
) -> xe_drm.drm_xe_vm_bind_op:
    """Map ``range_`` bytes of this process's memory at ``userptr``."""
    return xe_drm.drm_xe_vm_bind_op(
        op=xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR,
        userptr=userptr,
        addr=addr,
        range=range_,
        pat_index=pat_index,
        flags=flags,
    )


def op_unmap(addr: int, range_: int) -> xe_drm.drm_xe_vm_bind_op:
    """Unmap whatever lies in a range; mappings that stick out keep the rest."""
    return xe_drm.drm_xe_vm_bind_op(
        op=xe_drm.DRM_XE_VM_BIND_OP_UNMAP, addr=addr, range=range_, pat_index=PAT_INDEX_WB
    )


def op_unmap_all(handle: int) -> xe_drm.drm_xe_vm_bind_op:
    """Unmap a BO wherever it is mapped in the VM."""
    return xe_drm.drm_xe_vm_bind_op(
        op=xe_drm.DRM_XE_VM_BIND_OP_UNMAP_ALL, obj=handle, pat_index=PAT_INDEX_WB
    )


def op_prefetch(addr: int, range_: int, region: int = 0) -> xe_drm.drm_xe_vm_bind_op:
    """Move what is mapped in a range to memory region ``region`` (its instance)."""
    return xe_drm.drm_xe_vm_bind_op(
        op=xe_drm.DRM_XE_VM_BIND_OP_PREFETCH,
        addr=addr,
        range=range_,
        pat_index=PAT_INDEX_WB,
        prefetch_mem_region_instance=region,
    )


# --- extension chains ----------------------------------------------------------------------


def chain_extensions(extensions: Sequence[xe_drm.drm_xe_ext_set_property]) -> int:
    """Link extensions in order; returns the address of the first."""
    address = 0
    for extension in reversed(extensions):
        extension.base.next_extension = address
        address = ctypes.addressof(extension)
    return address


def _inputs(objects: Sequence[Struct]) -> list[Buffer]:
    return [Buffer(obj, IN) for obj in objects]


def _userptrs(ops: Sequence[xe_drm.drm_xe_vm_bind_op]) -> list[Buffer]:
    userptr = xe_drm.DRM_XE_VM_BIND_OP_MAP_USERPTR
    return [Buffer.at(op.userptr, op.range) for op in ops if op.op == userptr]


class MemoryIoctls(Ioctls):
    """BOs, VMs, binds and advice. Sizes, ranges and offsets are bytes, addresses the GPU's."""

    # --- buffer objects -------------------------------------------------------------------

    def gem_create(
        self,
        size: int,
        placement: int,
        *,
        cpu_caching: int | None = None,
        flags: int = 0,
        vm_id: int = 0,
        extensions: Sequence[xe_drm.drm_xe_ext_set_property] = (),
    ) -> int:
        """Make a BO and return its handle (GEM_CREATE, kernel: ``xe_gem_create_ioctl``).

        ``placement`` is a mask of memory region instances, ``vm_id`` the only VM it may be
        mapped in (0: any). Without ``cpu_caching`` it is `default_cpu_caching`.

        EINVAL: size, placement, caching or flags that do not go together. ENOENT: unknown VM.
        E2BIG: larger than the region. ENOSPC: no mmap offset left. ENOMEM: no room.
        EOPNOTSUPP: NO_COMPRESSION before graphics version 20. ENODEV: no protected content.
        """
        if cpu_caching is None:
            cpu_caching = default_cpu_caching(placement, flags)
        arg = xe_drm.drm_xe_gem_create(
            size=size,
            placement=placement,
            flags=flags,
            vm_id=vm_id,
            cpu_caching=cpu_caching,
            extensions=chain_extensions(extensions),
        )
        self.ioctl(xe_drm.DRM_IOCTL_XE_GEM_CREATE, arg, _inputs(extensions))
        return arg.handle

    def gem_mmap_offset(self, handle: int, flags: int = 0) -> int:
        """The offset to mmap(2) a BO at (GEM_MMAP_OFFSET, kernel: ``xe_gem_mmap_offset_ioctl``).

        Works in any purgeable state: only mmap(2) itself looks at that. ENOENT: unknown handle.
        EINVAL: flags.
        """
        arg = xe_drm.drm_xe_gem_mmap_offset(handle=handle, flags=flags)
        self.ioctl(xe_drm.DRM_IOCTL_XE_GEM_MMAP_OFFSET, arg)
        return arg.offset

    # --- address spaces -------------------------------------------------------------------

    def vm_create(self, flags: int = 0) -> int:
        """Make an address space and return its id (VM_CREATE, kernel: ``xe_vm_create_ioctl``).

        ``flags``: DRM_XE_VM_CREATE_FLAG_*. EINVAL: flags that do not go together.
        """
        arg = xe_drm.drm_xe_vm_create(flags=flags)
        self.ioctl(xe_drm.DRM_IOCTL_XE_VM_CREATE, arg)
        return arg.vm_id

    def vm_destroy(self, vm_id: int) -> None:
        """Destroy an address space with its mappings (VM_DESTROY, kernel:
        ``xe_vm_destroy_ioctl``).

        ENOENT: unknown VM. EBUSY: a preempt-fence VM that still has queues.
        """
        self.ioctl(xe_drm.DRM_IOCTL_XE_VM_DESTROY, xe_drm.drm_xe_vm_destroy(vm_id=vm_id))

    # --- binds ----------------------------------------------------------------------------

    def vm_bind(
        self,
        vm_id: int,
        ops: Sequence[xe_drm.drm_xe_vm_bind_op],
        syncs: Sequence[Sync] = (),
        *,
        exec_queue_id: int = 0,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        """Run bind operations; all of them or, after an error, none (VM_BIND, kernel:
        ``xe_vm_bind_ioctl``).

        Build ``ops`` with `op_map` and its like. ``buffers``: memory that ``ops`` or ``syncs``
        point to, beyond the cells of `UserFence` and what MAP_USERPTR maps.

        EINVAL: unknown VM; an operation that makes no sense; mapping a PURGED BO. EBUSY: mapping
        a DONTNEED BO. ENOENT: unknown handle or queue; the VM was closed. EFAULT: unreadable
        arrays. ENOBUFS: array too large. ENOMEM. ENOSPC. ENOEXEC: stale protected content.
        """
        sync_memory = sync_buffers(syncs)
        op_array = (xe_drm.drm_xe_vm_bind_op * len(ops))(*ops)
        arg = xe_drm.drm_xe_vm_bind(
            vm_id=vm_id,
            exec_queue_id=exec_queue_id,
            num_binds=len(ops),
            num_syncs=len(syncs),
            syncs=address_of(sync_memory),
        )
        arrays: list[Buffer] = []
        if len(ops) == 1:
            arg.bind = op_array[0]
        elif ops:
            arg.vector_of_binds = ctypes.addressof(op_array)
            arrays.append(Buffer(op_array, IN))
        memory = [*sync_memory, *arrays, *_userptrs(ops), *buffers]
        self.ioctl(xe_drm.DRM_IOCTL_XE_VM_BIND, arg, memory)

    def wait_user_fence(
        self,
        addr: int,
        value: int,
        *,
        op: int = xe_drm.DRM_XE_UFENCE_WAIT_OP_EQ,
        mask: int = ALL_BITS,
        timeout: int = -1,
        flags: int = 0,
        exec_queue_id: int = 0,
    ) -> int:
        """Sleep until the ``u64`` at ``addr``, masked, relates to the masked ``value`` as ``op``
        says (WAIT_USER_FENCE, kernel: ``xe_wait_user_fence_ioctl``).

        The sleeper looks when the driver has written a fence; a plain store does not wake it.
        ``timeout`` is nanoseconds: negative for ever, 0 one look, with ABSTIME in ``flags`` a time
        of CLOCK_MONOTONIC. Returns it as the driver left it: of a relative one, what was left.

        ETIME: not in time. EIO: the queue was reset. EINVAL: ``op``, ``flags``, ``addr`` not a
        multiple of 8. ENOENT: unknown queue. EFAULT: nothing is mapped at ``addr``.
        """
        arg = xe_drm.drm_xe_wait_user_fence(
            addr=addr,
            op=op,
            flags=flags,
            value=value,
            mask=mask,
            timeout=timeout,
            exec_queue_id=exec_queue_id,
        )
        self.ioctl(xe_drm.DRM_IOCTL_XE_WAIT_USER_FENCE, arg, [Buffer.at(addr, 8)])
        return arg.timeout

    # --- advice ---------------------------------------------------------------------------

    def madvise(self, arg: xe_drm.drm_xe_madvise, buffers: Sequence[Buffer] = ()) -> None:
        """Set one attribute of a range (MADVISE, kernel: ``xe_vm_madvise_ioctl``).

        EINVAL: unknown VM, unaligned range, unknown type or value. ENOENT: the VM was closed.
        """
        self.ioctl(xe_drm.DRM_IOCTL_XE_MADVISE, arg, buffers)

    def madvise_preferred_loc(
        self,
        vm_id: int,
        start: int,
        range_: int,
        devmem_fd: int,
        *,
        migration_policy: int = xe_drm.DRM_XE_MIGRATE_ALL_PAGES,
        region_instance: int = 0,
    ) -> None:
        """Say where the pages of mirrored memory should live (kernel:
        ``madvise_preferred_mem_loc``).

        ``devmem_fd``: a device's descriptor, or DRM_XE_PREFERRED_LOC_DEFAULT_*. As `madvise`,
        and ENOENT: no Xe device, or no such VRAM there. ENODEV: it is gone. ENOLINK: out of
        this device's reach.
        """
        value = {
            "devmem_fd": devmem_fd,
            "migration_policy": migration_policy,
            "region_instance": region_instance,
        }
        self.madvise(
            xe_drm.drm_xe_madvise(
                vm_id=vm_id,
                start=start,
                range=range_,
                type=xe_drm.DRM_XE_MEM_RANGE_ATTR_PREFERRED_LOC,
                preferred_mem_loc=value,
            )
        )

    def madvise_atomic(self, vm_id: int, start: int, range_: int, val: int) -> None:
        """Say who does atomic accesses, DRM_XE_ATOMIC_* (kernel: ``madvise_atomic``).

        As `madvise`, and EINVAL: a BO in the range cannot live where that needs it.
        """
        self.madvise(
            xe_drm.drm_xe_madvise(
                vm_id=vm_id,
                start=start,
                range=range_,
                type=xe_drm.DRM_XE_MEM_RANGE_ATTR_ATOMIC,
                atomic={"val": val},
            )
        )

    def madvise_pat(self, vm_id: int, start: int, range_: int, pat_index: int) -> None:
        """Choose a row of the page attribute table (kernel: ``madvise_pat_index``).

        As `madvise`, and EINVAL: the row is not coherent enough for something in the range.
        """
        self.madvise(
            xe_drm.drm_xe_madvise(
                vm_id=vm_id,
                start=start,
                range=range_,
                type=xe_drm.DRM_XE_MEM_RANGE_ATTR_PAT,
                pat_index={"val": pat_index},
            )
        )

    def madvise_purgeable(
        self, vm_id: int, start: int, range_: int, state: int, *, retained: bool = True
    ) -> int | None:
        """Say whether the contents are still needed (kernel: ``madvise_purgeable``).

        ``state``: DRM_XE_VMA_PURGEABLE_STATE_*. Returns 1 when all BOs in the range still have
        their pages, 0 when one was purged; None when ``retained`` is False, which leaves
        ``retained_ptr`` NULL. As `madvise`.
        """
        cell = ctypes.c_uint32()
        value = {"val": state, "retained_ptr": ctypes.addressof(cell) if retained else 0}
        self.madvise(
            xe_drm.drm_xe_madvise(
                vm_id=vm_id,
                start=start,
                range=range_,
                type=xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE,
                purge_state_val=value,
            ),
            [Buffer(cell, IN | OUT)] if retained else [],
        )
        return cell.value if retained else None

    # --- what a VM knows ------------------------------------------------------------------

    def vm_query_mem_range_attrs(
        self, vm_id: int, start: int, range_: int
    ) -> list[xe_drm.drm_xe_mem_range_attr]:
        """Attributes of the mappings in a range, one element per mapping
        (VM_QUERY_MEM_RANGE_ATTRS, kernel: ``xe_vm_query_vmas_attrs_ioctl``).

        EINVAL: unknown VM. ENOBUFS: too many mappings.
        """
        while True:
            arg = xe_drm.drm_xe_vm_query_mem_range_attr(vm_id=vm_id, start=start, range=range_)
            self.ioctl(xe_drm.DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS, arg)
            if not arg.num_mem_ranges:
                return []
            array = (xe_drm.drm_xe_mem_range_attr * arg.num_mem_ranges)()
            arg.vector_of_mem_attr = ctypes.addressof(array)
            try:
                self.ioctl(
                    xe_drm.DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS, arg, [Buffer(array, IN | OUT)]
                )
            except OSError as error:
                # Another thread mapped more in between: count again.
                if error.errno == errno.ENOSPC:
                    continue
                raise
            return list(array[: arg.num_mem_ranges])

    def vm_get_faults(self, vm_id: int) -> list[xe_drm.xe_vm_fault]:
        """GPU page faults that could not be served, oldest first (VM_GET_PROPERTY, kernel:
        ``xe_vm_get_property_ioctl``).

        ENOENT: unknown VM.
        """
        arg = xe_drm.drm_xe_vm_get_property(
            vm_id=vm_id, property=xe_drm.DRM_XE_VM_GET_PROPERTY_FAULTS
        )
        self.ioctl(xe_drm.DRM_IOCTL_XE_VM_GET_PROPERTY, arg)
        count = arg.size // ctypes.sizeof(xe_drm.xe_vm_fault)
        if not count:
            return []
        array = (xe_drm.xe_vm_fault * count)()
        arg.data = ctypes.addressof(array)
        self.ioctl(xe_drm.DRM_IOCTL_XE_VM_GET_PROPERTY, arg, [Buffer(array, IN | OUT)])
        return list(array)
