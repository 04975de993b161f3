"""What IGT's exec tests have in common: memory with a small batch, its fences and a number.

IGT declares the same struct in each of its tests. Here it is `Slots`: a row of them in one piece of
memory, which the CPU sees as a `Mapping` and the GPU at an address.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from typing import Annotated

from uapi import xe_drm
from uapi.base import Struct, c_array, layout, u32, u64
from xedev.client import BatchBuilder, Device, GpuUserFence, Mapping
from xedev.client.libc import mmap as libc_mmap
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import xe_bb_size, xe_bo_create, xe_bo_map, xe_wait_ufence
from xedev.client.xe_query import vram_if_possible, xe_for_each_engine

Engine = xe_drm.drm_xe_engine_class_instance

DATA_MAGIC = 0xC0FFEE
USER_FENCE_VALUE = 0xDEADBEEFDEADBEEF
ONE_SEC = 1_000_000_000
#: As long as a test waits for what must come; nothing that works takes a fraction of it.
TIMEOUT = 5 * ONE_SEC

_MAP_FIXED = 0x10

VISIBLE_VRAM = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
LR_MODE = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT_MODE = LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
SCRATCH_PAGE = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE


@layout
class Slot(Struct):
    """A batch and all that belongs to it."""

    batch: Annotated[c_array[ctypes.c_uint32], ctypes.c_uint32 * 24]
    vm_sync: u64  # user fence of a bind, written through the CPU's address
    exec_sync: u64  # user fence of an exec, written through the GPU's address
    data: u32
    pad: u32
    pad2: u64


SLOT = ctypes.sizeof(Slot)
BATCH_ROOM = ctypes.sizeof(ctypes.c_uint32) * 24


def offset_of(field: str) -> int:
    """Where a field stands in a `Slot`."""
    offset: int = getattr(Slot, field).offset
    return offset


def anonymous(size: int) -> Mapping:
    """Memory of this process alone, for userptr and the like; `Mapping.close` unmaps it."""
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    address = libc_mmap(size, prot, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    return Mapping(address, size, prot, None)


_mmap_fixed = ctypes.CDLL(None, use_errno=True).mmap
_mmap_fixed.restype = ctypes.c_void_p
_mmap_fixed.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)


def renew(memory: Mapping) -> None:
    """Put other, empty pages in the place of a process's own."""
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    if _mmap_fixed(memory.address, len(memory), prot, flags, -1, 0) != memory.address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def slots_size(fd: Device, count: int) -> int:
    """Size of a BO with so many slots."""
    return xe_bb_size(fd, count * SLOT)


def visible_bo(fd: Device, vm: int, size: int, flags: int = 0) -> int:
    """A BO in VRAM where there is some, that the CPU can reach."""
    return xe_bo_create(fd, vm, size, vram_if_possible(fd, 0), VISIBLE_VRAM | flags)


class Slots:
    """Slots in ``memory``, which the GPU sees at ``addr``."""

    def __init__(self, memory: Mapping, addr: int) -> None:
        self.memory = memory
        self.addr = addr

    # --- addresses of the GPU ---

    def batch_addr(self, index: int) -> int:
        return self.addr + index * SLOT

    def data_addr(self, index: int) -> int:
        return self.batch_addr(index) + offset_of("data")

    def fence(self, index: int) -> GpuUserFence:
        """For EXEC: says in the slot that the batch is done."""
        return GpuUserFence(self.batch_addr(index) + offset_of("exec_sync"), USER_FENCE_VALUE)

    # --- what the CPU does ---

    @property
    def cpu_address(self) -> int:
        return self.memory.address

    def read(self, offset: int, size: int) -> bytes:
        return self.memory.read(offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self.memory.write(offset, data)

    def write_batch(self, index: int, batch: BatchBuilder) -> None:
        commands = bytes(batch)
        assert len(commands) <= BATCH_ROOM
        self.write(index * SLOT, commands)

    def write_store(self, index: int, value: int = DATA_MAGIC, *, base: int | None = None) -> None:
        """A batch that stores to the slot's data, or to that of a slot based elsewhere."""
        target = self.data_addr(index) - self.addr + (self.addr if base is None else base)
        self.write_batch(index, BatchBuilder().store_dword(target, value).end())

    def data(self, index: int) -> int:
        return int.from_bytes(self.read(self._at(index, "data"), 4), "little")

    def set_data(self, index: int, value: int) -> None:
        self.write(self._at(index, "data"), value.to_bytes(4, "little"))

    def all_data(self, count: int) -> list[int]:
        return [self.data(index) for index in range(count)]

    def exec_sync(self, index: int) -> int:
        return int.from_bytes(self.read(self._at(index, "exec_sync"), 8), "little")

    def clear_exec_sync(self, index: int) -> None:
        self.write(self._at(index, "exec_sync"), bytes(8))

    def wait_exec(self, fd: Device, index: int, exec_queue: int, timeout: int = TIMEOUT) -> None:
        """Wait for the user fence of an exec."""
        address = self.cpu_address + self._at(index, "exec_sync")
        xe_wait_ufence(fd, address, USER_FENCE_VALUE, exec_queue, timeout)

    def _at(self, index: int, field: str) -> int:
        return index * SLOT + offset_of(field)


def bo_slots(fd: Device, vm: int, count: int, addr: int, flags: int = 0) -> tuple[int, Slots]:
    """A BO of so many slots, which is yet to be bound at ``addr``, and its mapping."""
    size = slots_size(fd, count)
    bo = visible_bo(fd, vm, size, flags)
    return bo, Slots(xe_bo_map(fd, bo, size), addr)


# --- waiting and engines -------------------------------------------------------------------


def wait_syncobjs(fd: Device, *syncobjs: int) -> None:
    """Wait until all are signalled."""
    wait_all = 1  # DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL
    fd.syncobj_wait(syncobjs, deadline_ns(TIMEOUT / ONE_SEC), wait_all)


def signalled(fd: Device, syncobj: int) -> bool:
    """Whether a syncobj with a fence is signalled by now."""
    try:
        fd.syncobj_wait([syncobj])
    except OSError as error:
        if error.errno != errno.ETIME:
            raise
        return False
    return True


def engines_of_class(fd: Device, engine_class: int) -> Sequence[Engine]:
    """All engines of a class, which are on the same GT."""
    return [eci for eci in xe_for_each_engine(fd) if eci.engine_class == engine_class]


def banned(fd: Device, exec_queue: int) -> bool:
    return fd.exec_queue_get_property(exec_queue) == 1
