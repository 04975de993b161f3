"""GPU addresses that stand for memory of a process: mirrors, and userptr."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, waits_for
from tests.xe.gpu_work import ADDR, FAULT, PAGE, RCS, Board
from tests.xe.mirrors import (
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    READ_ONLY,
    SIZE_2M,
    Mirror,
    Pages,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Device
from xedev.client.memory import UserFence, op_map, op_map_userptr
from xedev.testing.target import Target


@pytest.fixture
def mirror(device: Device) -> Iterator[Mirror]:
    mirror = Mirror(device)
    yield mirror
    mirror.board.memory.close()


# ---- mirrors ----


def test_the_gpu_stores_into_malloced_memory(mirror: Mirror) -> None:
    memory = ctypes.create_string_buffer(4096)
    address = -(-ctypes.addressof(memory) // 64) * 64
    assert mirror.store(address, 0xC0FFEE)
    assert ctypes.c_uint32.from_address(address).value == 0xC0FFEE


def test_the_gpu_loads_what_the_process_stored(mirror: Mirror, pages: Pages) -> None:
    pages.write(42, 3 * PAGE)
    assert mirror.load(pages.address + 3 * PAGE) == 42


def test_an_atomic_on_memory_of_the_process(mirror: Mirror, pages: Pages) -> None:
    pages.write(41)
    assert mirror.run(BatchBuilder().atomic_inc(pages.address))
    assert pages.read() == 42


def test_nothing_is_there(mirror: Mirror, pages: Pages) -> None:
    pages.unmap()
    assert mirror.load(pages.address) is None
    assert mirror.last_fault().address == pages.address


def test_unmapped_after_the_gpu_has_used_it(mirror: Mirror, pages: Pages) -> None:
    assert mirror.store(pages.address, 1)
    pages.unmap()
    assert not mirror.store(pages.address, 2)
    pages.map_again()
    assert mirror.store(pages.address, 3)
    assert pages.read() == 3


def test_other_memory_at_the_same_place(mirror: Mirror, pages: Pages) -> None:
    assert mirror.store(pages.address, 1)
    pages.map_again()
    assert mirror.load(pages.address) == 0


def test_protected_from_stores(mirror: Mirror, pages: Pages) -> None:
    pages.write(42)
    pages.protect(PROT_READ)
    assert not mirror.store(pages.address, 1)
    fault = mirror.last_fault()
    assert (fault.address, fault.access_type) == (pages.address, xe_drm.FAULT_ACCESS_TYPE_WRITE)
    assert fault.fault_type == xe_drm.FAULT_TYPE_WRITE_ACCESS
    assert pages.read() == 42
    assert mirror.load(pages.address) is None, "a mirror is mapped for writing, or not at all"
    pages.protect(PROT_READ | PROT_WRITE)
    assert mirror.store(pages.address, 2)
    assert pages.read() == 2


def test_protected_after_the_gpu_has_used_it(mirror: Mirror, pages: Pages) -> None:
    assert mirror.store(pages.address, 1)
    pages.protect(PROT_READ)
    assert not mirror.store(pages.address, 2)
    pages.protect(PROT_NONE)
    assert mirror.load(pages.address) is None


def test_a_read_only_mirror(mirror: Mirror, pages: Pages) -> None:
    mirror.bind(pages.address, pages.size, READ_ONLY)
    pages.write(42)
    pages.protect(PROT_READ)
    assert mirror.load(pages.address) == 42
    assert not mirror.store(pages.address, 1)
    assert pages.read() == 42


def test_a_page_that_may_be_written_beside_one_that_may_not(mirror: Mirror) -> None:
    large = Pages(SIZE_2M)
    large.protect(PROT_READ, 0, PAGE)
    assert mirror.store(large.address + PAGE, 42)
    assert large.read(PAGE) == 42
    assert not mirror.store(large.address, 1)
    large.close()


def test_a_hole_in_a_large_range(mirror: Mirror) -> None:
    large = Pages(SIZE_2M)
    assert mirror.store(large.address, 1)
    large.unmap(17 * PAGE, PAGE)
    assert mirror.store(large.address + 18 * PAGE, 2)
    assert mirror.load(large.address + 17 * PAGE) is None
    assert large.read(18 * PAGE) == 2
    large.close()


# ---- unbinding a mirror ----


def test_a_mirror_that_the_gpu_has_looked_into_is_busy(mirror: Mirror, pages: Pages) -> None:
    assert mirror.unbind(pages.address, pages.size) == ""
    mirror.bind(pages.address, pages.size)
    assert mirror.store(pages.address, 1)
    assert mirror.unbind(pages.address, pages.size) == "EBUSY"
    pages.unmap()
    assert mirror.unbind(pages.address, pages.size) == ""
    assert mirror.load(pages.address) is None


def test_a_bo_in_place_of_a_mirror_that_is_in_use(mirror: Mirror, pages: Pages) -> None:
    device, board = mirror.device, mirror.board
    over = op_map(board.bo, 0, pages.address, PAGE)
    assert mirror.store(pages.address, 1)
    assert error_of(lambda: device.vm_bind(board.vm, [over])) == "EBUSY"
    pages.unmap()
    device.vm_bind(board.vm, [over])
    board.write(77, ADDR + 8)
    assert mirror.load(pages.address + 8) == 77


def test_a_mirror_over_a_mirror_is_never_busy(mirror: Mirror, pages: Pages) -> None:
    assert mirror.store(pages.address, 1)
    mirror.bind(pages.address, pages.size)
    assert mirror.load(pages.address) == 1


# ---- userptr ----


@pytest.mark.parametrize("flags", [0, FAULT])
def test_userptr(device: Device, pages: Pages, flags: int) -> None:
    board = Board(device, flags)
    gpu_address = 0x4000_0000
    device.vm_bind(board.vm, [op_map_userptr(pages.address, gpu_address, pages.size)])
    pages.write(41, PAGE)
    batch = BatchBuilder().copy_dword(ADDR, gpu_address + PAGE).store_dword(gpu_address, 42)
    queue = board.queue()
    address = board.batch(batch.end())
    if flags:
        board.exec_lr(queue, address)
        device.wait_user_fence(board.fence_address, 1, exec_queue_id=queue)
    else:
        assert board.run(queue, address) == 1
    assert (board.read(), pages.read()) == (41, 42)


def test_userptr_that_was_unmapped_faults(device: Device, pages: Pages) -> None:
    board = Board(device, FAULT)
    device.vm_bind(board.vm, [op_map_userptr(pages.address, 0x4000_0000, pages.size)])
    queue = board.queue()
    pages.unmap()
    board.exec_lr(queue, board.storing(1, 0x4000_0000))
    fence = board.fence_address
    assert error_of(lambda: device.wait_user_fence(fence, 1, exec_queue_id=queue)) == "EIO"


def test_read_only_userptr(device: Device, pages: Pages) -> None:
    board = Board(device)
    pages.write(42)
    pages.protect(PROT_READ)
    bind = op_map_userptr(pages.address, 0x4000_0000, pages.size, flags=READ_ONLY)
    device.vm_bind(board.vm, [bind])
    loading = BatchBuilder().copy_dword(ADDR, 0x4000_0000)
    assert board.run(board.queue(), board.batch(loading.end())) == 1
    assert board.read() == 42
    assert board.run(board.queue(), board.storing(1, 0x4000_0000)) < 0


# ---- other processes ----


def in_child(action: Callable[[], None]) -> int:
    """Run in a fork that stays until it is killed; its id once the action is done."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            action()
            os.write(write_end, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write_end)
    told = os.read(read_end, 1)
    os.close(read_end)
    if told != b"1":
        os.waitpid(pid, 0)
        pytest.fail("the child failed")
    return pid


def end_child(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.fixture
def shared_device(xe_target: Callable[..., Target[Any]]) -> Device:
    """A device whose file a fork can use."""
    device: Device = xe_target("ioctl").device()
    return device


@pytest.mark.fuse
def test_a_userptr_is_memory_of_who_bound_it(shared_device: Device, pages: Pages) -> None:
    device = shared_device
    board = Board(device)
    pages.write(1)

    def bind() -> None:
        pages.write(2)
        device.vm_bind(board.vm, [op_map_userptr(pages.address, 0x4000_0000, pages.size)])

    child = in_child(bind)
    loading = board.batch(BatchBuilder().copy_dword(ADDR, 0x4000_0000).end())
    assert board.run(board.queue(), loading) == 1
    assert board.read() == 2
    storing = board.storing(3, 0x4000_0000)
    assert board.run(board.queue(), storing) == 1
    assert pages.read() == 1
    end_child(child)
    assert board.run(board.queue(), loading) < 0
    assert board.run(board.queue(), storing) < 0


@pytest.mark.fuse
def test_a_mirror_is_memory_of_who_made_the_vm(shared_device: Device, pages: Pages) -> None:
    device = shared_device
    mirror = Mirror(device)
    pages.write(1)

    def bind() -> None:
        pages.write(2)
        mirror.bind(pages.address, pages.size)

    child = in_child(bind)
    assert mirror.load(pages.address) == 1
    end_child(child)
    assert mirror.load(pages.address) == 1
    mirror.board.memory.close()


@pytest.mark.fuse
def test_a_user_fence_of_a_process_that_is_gone(shared_device: Device) -> None:
    """Its write is dropped, and nobody minds."""
    device = shared_device
    gate = Gate(device)
    start = gate.syncobj()
    vm = device.vm_create()
    bo = device.gem_create(PAGE, 1)

    def bind() -> None:
        device.vm_bind(vm, [op_map(bo, 0, ADDR, PAGE)], [waits_for(start), UserFence(7)])

    end_child(in_child(bind))
    gate.open()
    board = Board(device, vm=vm)
    assert board.run(board.queue([RCS]), board.storing(42)) == 1
    gate.close()
