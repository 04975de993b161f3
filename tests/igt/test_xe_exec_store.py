"""Subtests of IGT's xe_exec_store: stores of an engine, seen by the CPU through its own mapping."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    Engine,
    Slots,
    bo_slots,
    slots_size,
    visible_bo,
    wait_syncobjs,
)
from xedev.client import BatchBuilder, Compare, Device, sync_signal, sync_wait
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bb_size,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_exec_wait,
    xe_vm_bind_async,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_unbind_sync,
)
from xedev.client.xe_query import xe_engine, xe_for_each_engine

pytestmark = pytest.mark.fuse

ADDR = 0x100000
CACHELINE = 64
PAGE = 4096


@pytest.fixture(params=["bmg", "lnl"])
def fd(request: pytest.FixtureRequest, mounted_node: Callable[..., str]) -> Iterator[Device]:
    """A discrete device, and an integrated one."""
    directory = Path(mounted_node(profile=request.param))
    with Device.open(directory / "dev/dri/renderD128", "ioctl") as device:
        yield device


# --- basic ---------------------------------------------------------------------------------


def basic_inst(fd: Device, eci: Engine) -> None:
    """A store that waits for its bind."""
    vm = xe_vm_create(fd)
    bound, done = fd.syncobj_create(), fd.syncobj_create()
    bo, data = bo_slots(fd, vm, 1, ADDR)
    xe_vm_bind_async(fd, vm, 0, bo, 0, ADDR, slots_size(fd, 1), [sync_signal(bound)])
    value = random.getrandbits(31)
    data.write_store(0, value)
    exec_queue = xe_exec_queue_create(fd, vm, eci)

    xe_exec_sync(fd, exec_queue, data.batch_addr(0), [sync_wait(bound), sync_signal(done)])

    wait_syncobjs(fd, done)
    assert data.data(0) == value

    fd.syncobj_destroy(bound)
    fd.syncobj_destroy(done)
    data.memory.close()
    gem_close(fd, bo)
    xe_exec_queue_destroy(fd, exec_queue)
    xe_vm_destroy(fd, vm)


def test_basic_store(fd: Device) -> None:
    basic_inst(fd, xe_engine(fd, 1).instance)


def test_basic_all(fd: Device) -> None:
    for eci in xe_for_each_engine(fd):
        basic_inst(fd, eci)


# --- a loop that another engine, or the CPU, ends ------------------------------------------


def test_basic_cond_batch(fd: Device) -> None:
    """A batch counts up in a circle, until it finds the number that it was told."""
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, 1, ADDR)
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, slots_size(fd, 1))
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    rounds = 50
    batch = BatchBuilder(ADDR)
    loop = batch.here
    batch.atomic_inc(data.data_addr(0))
    batch.conditional_end(data.data_addr(0), rounds, Compare.NE).jump(loop)
    data.write_batch(0, batch)

    xe_exec_wait(fd, exec_queue, ADDR)

    assert data.data(0) == rounds


def test_the_cpu_ends_a_cond_batch(fd: Device) -> None:
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, 2, ADDR)
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, slots_size(fd, 2))
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    batch = BatchBuilder(ADDR)
    loop = batch.here
    batch.atomic_inc(data.data_addr(1))
    data.write_batch(0, batch.conditional_end(data.data_addr(0), 0, Compare.EQ).jump(loop))
    done = fd.syncobj_create()
    xe_exec_sync(fd, exec_queue, ADDR, [sync_signal(done)])
    with pytest.raises(OSError) as timeout:
        fd.syncobj_wait([done], deadline_ns(0.01))
    assert timeout.value.errno == errno.ETIME

    data.set_data(0, 1)

    wait_syncobjs(fd, done)
    assert data.data(1) > 0


# --- many stores of one batch --------------------------------------------------------------


def store_cachelines(fd: Device, eci: Engine, value_size: int) -> None:
    """A batch stores one number to each of many lines of memory; all of them, and nothing else,
    is there afterwards."""
    count = 32
    vm = xe_vm_create(fd)
    batch_size, data_size = xe_bb_size(fd, count * 16 + 4), xe_bb_size(fd, count * value_size)
    batch_bo = visible_bo(fd, vm, batch_size)
    data_bo = visible_bo(fd, vm, data_size)
    data_addr = ADDR + 0x100000
    xe_vm_bind_sync(fd, vm, batch_bo, 0, ADDR, batch_size)
    xe_vm_bind_sync(fd, vm, data_bo, 0, data_addr, data_size)
    exec_queue = xe_exec_queue_create(fd, vm, eci)

    batch, expected = BatchBuilder(), bytearray(data_size)
    for line in range(count):
        at = line * value_size + random.randrange(0, value_size, 4)
        value = random.getrandbits(32)
        batch.store_dword(data_addr + at, value)
        expected[at : at + 4] = value.to_bytes(4, "little")
    with xe_bo_map(fd, batch_bo, batch_size) as memory:
        memory.write(0, bytes(batch.end()))
    xe_exec_wait(fd, exec_queue, ADDR)

    with xe_bo_map(fd, data_bo, data_size) as memory:
        assert memory.read(0, data_size) == bytes(expected)
    xe_exec_queue_destroy(fd, exec_queue)
    gem_close(fd, batch_bo)
    gem_close(fd, data_bo)
    xe_vm_destroy(fd, vm)


def test_cachelines(fd: Device) -> None:
    for eci in xe_for_each_engine(fd):
        store_cachelines(fd, eci, CACHELINE)


def test_page_sized(fd: Device) -> None:
    for eci in xe_for_each_engine(fd):
        store_cachelines(fd, eci, PAGE)


def test_persistent(fd: Device) -> None:
    """A batch that stands in another BO than the first one, and is jumped to."""
    vm = xe_vm_create(fd)
    size = slots_size(fd, 1)
    bos, slots = [], []
    for index in range(2):
        bo, data = bo_slots(fd, vm, 1, ADDR + index * size)
        xe_vm_bind_sync(fd, vm, bo, 0, data.addr, size)
        bos.append(bo)
        slots.append(data)
    first, second = slots
    second.write_store(0)
    first.write_batch(0, BatchBuilder().jump(second.addr))
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    for _ in range(3):
        second.set_data(0, 0)
        xe_exec_wait(fd, exec_queue, first.addr)
        assert second.data(0) == DATA_MAGIC
    xe_vm_unbind_sync(fd, vm, 0, second.addr, size)
    for bo in bos:
        gem_close(fd, bo)


# --- several engines in one line of memory -------------------------------------------------


def test_false_sharing(fd: Device) -> None:
    """All engines count up dwords of one cacheline at the same time: no count is lost."""
    rounds = 100
    engines = list(xe_for_each_engine(fd))
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, len(engines) + 1, ADDR)
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, slots_size(fd, len(engines) + 1))
    gate = data.batch_addr(len(engines))
    line = gate + CACHELINE
    syncobjs, exec_queues = [], []
    for index, eci in enumerate(engines):
        batch = BatchBuilder(data.batch_addr(index))
        batch.semaphore_wait(gate, 1)
        loop = batch.here
        batch.atomic_inc(line + 4 * index)
        batch.conditional_end(line + 4 * index, rounds, Compare.NE).jump(loop)
        data.write_batch(index, batch)
        exec_queues.append(xe_exec_queue_create(fd, vm, eci))
        syncobjs.append(fd.syncobj_create())
        sync = [sync_signal(syncobjs[-1])]
        xe_exec_sync(fd, exec_queues[-1], data.batch_addr(index), sync)

    data.memory.write(gate - ADDR, (1).to_bytes(4, "little"))

    wait_syncobjs(fd, *syncobjs)
    assert dwords(data, line, len(engines)) == [rounds] * len(engines)


def dwords(data: Slots, addr: int, count: int) -> list[int]:
    words = memoryview(data.memory.read(addr - data.addr, 4 * count)).cast("I")
    return list(words)
