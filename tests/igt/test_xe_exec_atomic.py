"""Subtests of IGT's xe_exec_atomic: MI_ATOMIC in memory of each kind."""

from __future__ import annotations

import pytest

from tests.igt.exec_data import VISIBLE_VRAM, Slots, slots_size
from xedev.client import AtomicOp, BatchBuilder, Device
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_wait,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import (
    all_memory_regions,
    system_memory,
    vram_memory,
    xe_engine,
    xe_for_each_engine,
)

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000


def placements(fd: Device) -> list[int]:
    """System memory, VRAM, and whatever fits."""
    return [system_memory(fd), vram_memory(fd, 0), all_memory_regions(fd)]


def run_atomics(fd: Device, op: AtomicOp, start: int, expected: int) -> None:
    for placement in placements(fd):
        vm = xe_vm_create(fd)
        size = slots_size(fd, 1)
        visible = VISIBLE_VRAM if placement != system_memory(fd) else 0
        bo = xe_bo_create(fd, vm, size, placement, visible)
        xe_vm_bind_sync(fd, vm, bo, 0, ADDR, size)
        data = Slots(xe_bo_map(fd, bo, size), ADDR)
        data.write_batch(0, BatchBuilder().atomic(op, data.data_addr(0)).end())
        for eci in xe_for_each_engine(fd):
            data.set_data(0, start)
            xe_exec_wait(fd, xe_exec_queue_create(fd, vm, eci), ADDR)
            assert data.data(0) == expected
        data.memory.close()
        gem_close(fd, bo)
        xe_vm_destroy(fd, vm)


def test_basic_inc_all(fd: Device) -> None:
    run_atomics(fd, AtomicOp.INC, 0, 1)


def test_basic_dec_all(fd: Device) -> None:
    run_atomics(fd, AtomicOp.DEC, 1, 0)


@pytest.mark.parametrize(
    ("op", "start", "operand", "expected"),
    [
        (AtomicOp.ADD, 40, 2, 42),
        (AtomicOp.SUB, 44, 2, 42),
        (AtomicOp.AND, 0b1100, 0b1010, 0b1000),
        (AtomicOp.OR, 0b1100, 0b1010, 0b1110),
        (AtomicOp.XOR, 0b1100, 0b1010, 0b0110),
        (AtomicOp.MOVE, 1, 42, 42),
        (AtomicOp.UMAX, 1, 0xFFFFFFFF, 0xFFFFFFFF),
        (AtomicOp.IMAX, 1, 0xFFFFFFFF, 1),
    ],
)
def test_operands(fd: Device, op: AtomicOp, start: int, operand: int, expected: int) -> None:
    vm = xe_vm_create(fd)
    size = slots_size(fd, 1)
    bo = xe_bo_create(fd, vm, size, system_memory(fd))
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, size)
    data = Slots(xe_bo_map(fd, bo, size), ADDR)
    data.set_data(0, start)
    data.write_batch(0, BatchBuilder().atomic(op, data.data_addr(0), operand).end())

    xe_exec_wait(fd, xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance), ADDR)

    assert data.data(0) == expected
