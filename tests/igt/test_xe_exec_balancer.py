"""Subtests of IGT's xe_exec_balancer: queues for several engines of a class.

A virtual queue's job runs on one of them, whichever is free; a parallel queue's job is a batch for
each of them, and they run at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    LR_MODE,
    Engine,
    Slots,
    anonymous,
    bo_slots,
    engines_of_class,
    slots_size,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Compare, Device, UserFence, sync_signal
from xedev.client.spinner import Cork
from xedev.client.xe_ioctl import (
    gem_close,
    xe_exec_queue_destroy,
    xe_vm_bind_async,
    xe_vm_bind_sync,
    xe_vm_bind_userptr_async,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_unbind_sync,
)

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
EXECS = 6

MODES = pytest.mark.parametrize("parallel", [False, True], ids=["virtual", "parallel"])


@pytest.fixture
def eci(fd: Device) -> Sequence[Engine]:
    """The engines of the class that can do it, of which there are two."""
    engines = engines_of_class(fd, xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE)
    assert len(engines) == 2
    return engines


def balanced_queue(fd: Device, vm: int, eci: Sequence[Engine], parallel: bool) -> int:
    width, placements = (len(eci), 1) if parallel else (1, len(eci))
    return fd.exec_queue_create(vm, eci, width, placements)


def submit(
    fd: Device, exec_queue: int, data: Slots, index: int, width: int, syncs: Sequence[object]
) -> None:
    """All engines of a parallel queue get the same batch."""
    fd.exec(exec_queue, [data.batch_addr(index)] * width, syncs)  # type: ignore[arg-type]


# --- which engine --------------------------------------------------------------------------


def test_virtual_all_active(fd: Device, eci: Sequence[Engine]) -> None:
    """As many spinners as engines, each of which could be on any: all of them run."""
    vm = xe_vm_create(fd)
    corks = [
        Cork(fd, eci, vm, 1, len(eci), addr=(index + 1) << 20, preempt=False)
        for index in range(len(eci))
    ]
    for cork in corks:
        cork.submit()
    for cork in corks:
        cork.spin.wait_started()
    for cork in corks:
        cork.sync_end()
        cork.destroy()


def test_virtual_finds_the_free_engine(fd: Device, eci: Sequence[Engine]) -> None:
    """While one engine is held without a break, jobs run on the other."""
    with Cork(fd, [eci[0]], preempt=False):
        run_execs(fd, eci, parallel=False)


def test_parallel_runs_at_the_same_time(fd: Device, eci: Sequence[Engine]) -> None:
    """Two batches that each wait for what the other stores: one after the other would hang."""
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, 2, ADDR)
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, slots_size(fd, 2))
    for index in range(2):
        batch = BatchBuilder().store_dword(data.data_addr(index), 1)
        batch.semaphore_wait(data.data_addr(1 - index), 1, Compare.EQ)
        data.write_batch(index, batch.end())
    exec_queue = balanced_queue(fd, vm, eci, parallel=True)
    done = fd.syncobj_create()

    fd.exec(exec_queue, [data.batch_addr(0), data.batch_addr(1)], [sync_signal(done)])

    wait_syncobjs(fd, done)
    assert data.all_data(2) == [1, 1]


# --- execs ---------------------------------------------------------------------------------


def run_execs(
    fd: Device, eci: Sequence[Engine], parallel: bool, *, queues: int = 1, rebind: bool = False
) -> None:
    vm = xe_vm_create(fd)
    size = slots_size(fd, EXECS)
    bo, data = bo_slots(fd, vm, EXECS, ADDR)
    xe_vm_bind_sync(fd, vm, bo, 0, data.addr, size)
    exec_queues = [balanced_queue(fd, vm, eci, parallel) for _ in range(queues)]
    syncobjs = [fd.syncobj_create() for _ in exec_queues]
    for index in range(EXECS):
        data.write_store(index)
        queue = index % queues
        width = len(eci) if parallel else 1
        submit(fd, exec_queues[queue], data, index, width, [sync_signal(syncobjs[queue])])
        if rebind:
            wait_syncobjs(fd, syncobjs[queue])
            xe_vm_unbind_sync(fd, vm, 0, data.addr, size)
            data.addr += size
            xe_vm_bind_sync(fd, vm, bo, 0, data.addr, size)
    wait_syncobjs(fd, *syncobjs)
    assert data.all_data(EXECS) == [DATA_MAGIC] * EXECS
    for exec_queue in exec_queues:
        xe_exec_queue_destroy(fd, exec_queue)
    data.memory.close()
    gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


@MODES
def test_many_basic(fd: Device, eci: Sequence[Engine], parallel: bool) -> None:
    run_execs(fd, eci, parallel)


@MODES
def test_many_execqueues_basic(fd: Device, eci: Sequence[Engine], parallel: bool) -> None:
    run_execs(fd, eci, parallel, queues=4)


@MODES
def test_many_rebind(fd: Device, eci: Sequence[Engine], parallel: bool) -> None:
    run_execs(fd, eci, parallel, rebind=True)


@MODES
def test_no_exec(fd: Device, eci: Sequence[Engine], parallel: bool) -> None:
    vm = xe_vm_create(fd)
    xe_exec_queue_destroy(fd, balanced_queue(fd, vm, eci, parallel))
    xe_vm_destroy(fd, vm)


@MODES
@pytest.mark.parametrize("userptr", [False, True], ids=["basic", "userptr"])
def test_cm(fd: Device, eci: Sequence[Engine], parallel: bool, userptr: bool) -> None:
    """In long-running mode."""
    vm = xe_vm_create(fd, LR_MODE)
    size = slots_size(fd, EXECS)
    fence = UserFence()
    if userptr:
        data = Slots(anonymous(size), ADDR)
        xe_vm_bind_userptr_async(fd, vm, 0, data.cpu_address, ADDR, size, [fence])
    else:
        bo, data = bo_slots(fd, vm, EXECS, ADDR)
        xe_vm_bind_async(fd, vm, 0, bo, 0, ADDR, size, [fence])
    fence.wait(device=fd)
    exec_queue = balanced_queue(fd, vm, eci, parallel)
    for index in range(EXECS):
        data.write_store(index)
        width = len(eci) if parallel else 1
        submit(fd, exec_queue, data, index, width, [data.fence(index)])
    for index in range(EXECS):
        data.wait_exec(fd, index, exec_queue)
    assert data.all_data(EXECS) == [DATA_MAGIC] * EXECS
