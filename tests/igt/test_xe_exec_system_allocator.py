"""Subtests of IGT's xe_exec_system_allocator: the VM mirrors the address space of the process.

A batch, its fence and its data stand in plain memory of ours, and the engine finds them at the
addresses that we have for them.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    FAULT_MODE,
    TIMEOUT,
    Slots,
    anonymous,
    banned,
    offset_of,
    renew,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, Mapping
from xedev.client.xe_ioctl import (
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_lr_sync,
    xe_vm_create,
    xe_vm_unbind_lr_sync,
)
from xedev.client.xe_query import xe_config, xe_engine, xe_for_each_engine, xe_va_bits

pytestmark = pytest.mark.fuse

MIRROR = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
PAGE = mmap.PAGESIZE


class ProcessSlots(Slots):
    """Slots in our own memory: one address for the CPU and the GPU."""

    def __init__(self, address: int) -> None:
        self.addr = address

    @property
    def cpu_address(self) -> int:
        return self.addr

    def read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self.addr + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self.addr + offset, data, len(data))


class Process:
    """A VM that mirrors this process."""

    def __init__(self, fd: Device) -> None:
        flags = xe_config(fd)[xe_drm.DRM_XE_QUERY_CONFIG_FLAGS]
        assert flags & xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_CPU_ADDR_MIRROR
        self.fd = fd
        self.vm = xe_vm_create(fd, FAULT_MODE)
        self.range = 1 << xe_va_bits(fd)
        xe_vm_bind_lr_sync(fd, self.vm, 0, 0, 0, self.range, MIRROR)
        self.exec_queue = xe_exec_queue_create(fd, self.vm, xe_engine(fd, 0).instance)

    def submit(self, data: Slots, index: int = 0) -> None:
        xe_exec_sync(self.fd, self.exec_queue, data.batch_addr(index), [data.fence(index)])

    def store(self, data: Slots, index: int = 0, value: int = DATA_MAGIC) -> None:
        """A store, and the CPU's look at it."""
        data.clear_exec_sync(index)
        data.write_store(index, value)
        self.submit(data, index)
        data.wait_exec(self.fd, index, self.exec_queue)
        assert data.data(index) == value


def slots_at(memory: Mapping) -> Slots:
    return Slots(memory, memory.address)


@pytest.fixture
def process(fd: Device) -> Process:
    return Process(fd)


# --- where the memory comes from -----------------------------------------------------------


def test_once_malloc(process: Process) -> None:
    room = ctypes.create_string_buffer(2 * PAGE)
    process.store(ProcessSlots(-(-ctypes.addressof(room) // 64) * 64))


def test_once_mmap(process: Process) -> None:
    process.store(slots_at(anonymous(PAGE)))


def test_many_mmap(process: Process) -> None:
    """Each exec has new memory, which is gone afterwards."""
    for _ in range(8):
        memory = anonymous(4 * PAGE)
        process.store(slots_at(memory))
        memory.close()


def test_many_stride_mmap(process: Process) -> None:
    data = slots_at(anonymous(64 * PAGE))
    for index in range(0, 64 * PAGE // 128, 97):
        process.store(data, index)


def test_all_engines(fd: Device) -> None:
    process = Process(fd)
    for eci in xe_for_each_engine(fd):
        process.exec_queue = xe_exec_queue_create(fd, process.vm, eci)
        process.store(slots_at(anonymous(PAGE)))


def test_file_mmap(process: Process) -> None:
    """Shared memory of a file: the store is in the file."""
    file = os.memfd_create("file")
    os.ftruncate(file, PAGE)
    with mmap.mmap(file, PAGE) as shared:
        address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
        process.store(ProcessSlots(address))
        found = os.pread(file, 4, offset_of("data"))
    os.close(file)
    assert int.from_bytes(found, "little") == DATA_MAGIC


def test_once_mmap_free(process: Process) -> None:
    """The bind can go once the process has unmapped what the engine has touched."""
    memory = anonymous(PAGE)
    process.store(slots_at(memory))
    memory.close()
    xe_vm_unbind_lr_sync(process.fd, process.vm, 0, 0, process.range)


def test_once_mmap_busy(process: Process) -> None:
    """Before, it cannot."""
    memory = anonymous(PAGE)
    process.store(slots_at(memory))
    with pytest.raises(OSError) as busy:
        xe_vm_unbind_lr_sync(process.fd, process.vm, 0, 0, process.range)
    assert busy.value.errno == errno.EBUSY
    process.store(slots_at(memory), value=2)


# --- memory that changes -------------------------------------------------------------------


def test_new_pages(process: Process) -> None:
    """mmap(2) over memory that the engine has seen: the next batch finds the new pages."""
    data = slots_at(anonymous(PAGE))
    process.store(data, value=1)
    renew(data.memory)
    assert data.data(0) == 0
    process.store(data, value=2)


def test_mremap(process: Process) -> None:
    """The pages move to another address, and the engine finds them there."""
    data = slots_at(anonymous(PAGE))
    process.store(data)
    target = anonymous(PAGE)
    mremap(data.memory.address, target.address)
    moved = slots_at(target)
    assert moved.data(0) == DATA_MAGIC
    process.store(moved, value=3)


def mremap(old: int, new: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    function = libc["mremap"]
    function.restype = ctypes.c_void_p
    function.argtypes = (
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_void_p),
    )
    may_move_to_a_fixed_place = 3
    assert function(old, PAGE, PAGE, may_move_to_a_fixed_place, new) == new


def test_the_cpu_and_the_engine_take_turns(process: Process) -> None:
    data = slots_at(anonymous(PAGE))
    data.write_batch(0, BatchBuilder().atomic_inc(data.data_addr(0)).end())
    for count in range(1, 9, 2):
        data.clear_exec_sync(0)
        process.submit(data)
        data.wait_exec(process.fd, 0, process.exec_queue)
        assert data.data(0) == count
        data.set_data(0, count + 1)


# --- memory that is not there --------------------------------------------------------------


def test_munmap_then_fault(fd: Device) -> None:
    """A batch that stores to what the process has unmapped."""
    process = Process(fd)
    gone = anonymous(PAGE)
    process.store(slots_at(gone))
    address = gone.address
    data = slots_at(anonymous(PAGE))  # not in its place
    gone.close()
    data.write_batch(0, BatchBuilder().store_dword(address, 1).end())
    process.submit(data)
    with pytest.raises(OSError) as reset:
        data.wait_exec(fd, 0, process.exec_queue, TIMEOUT)
    assert reset.value.errno == errno.EIO
    assert banned(fd, process.exec_queue)


def test_read_only_memory(fd: Device) -> None:
    """A store to memory that the process itself may only read."""
    process = Process(fd)
    data = slots_at(anonymous(PAGE))
    constant = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    address = address_of_read_only(constant)
    data.write_batch(0, BatchBuilder().store_dword(address, 1).end())
    process.submit(data)
    with pytest.raises(OSError) as reset:
        data.wait_exec(fd, 0, process.exec_queue, TIMEOUT)
    assert reset.value.errno == errno.EIO
    assert constant[:4] == bytes(4)


def address_of_read_only(memory: mmap.mmap) -> int:
    """ctypes gives no address of a buffer that cannot be written to; Python's C interface does."""

    class PyBuffer(ctypes.Structure):
        _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_char * 128))

    buffer = PyBuffer()
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
    get(memory, ctypes.addressof(buffer), 0)
    return int(buffer.buf)
