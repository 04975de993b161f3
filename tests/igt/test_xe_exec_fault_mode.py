"""Subtests of IGT's xe_exec_fault_mode: VMs that may fault, and faults that nothing mends."""

from __future__ import annotations

import errno

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    FAULT_MODE,
    SCRATCH_PAGE,
    Engine,
    banned,
)
from tests.igt.long_running import COUNTS, Count, How, LongRunning, run_long_running
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, UserFence
from xedev.client.xe_ioctl import xe_exec_sync
from xedev.client.xe_query import xe_engine, xe_for_each_engine, xe_supports_faults

pytestmark = pytest.mark.fuse

NOWHERE = 0x7_0000_0000

SECTIONS = {
    "basic": How.BASIC,
    "userptr": How.USERPTR,
    "rebind": How.REBIND,
    "userptr-rebind": How.USERPTR | How.REBIND,
    "userptr-invalidate": How.USERPTR | How.INVALIDATE,
    "bindexecqueue": How.BIND_EXEC_QUEUE,
    "basic-imm": How.IMMEDIATE,
    "rebind-imm": How.IMMEDIATE | How.REBIND,
    "userptr-imm": How.IMMEDIATE | How.USERPTR,
    "basic-prefetch": How.PREFETCH,
    "rebind-prefetch": How.PREFETCH | How.REBIND,
    "userptr-prefetch": How.PREFETCH | How.USERPTR,
}


@pytest.fixture(autouse=True)
def _needs_faults(fd: Device) -> None:
    assert xe_supports_faults(fd) == 0


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("how", SECTIONS.values(), ids=SECTIONS.keys())
def test_exec(fd: Device, count: Count, how: How) -> None:
    for eci in xe_for_each_engine(fd):
        run_long_running(fd, eci, FAULT_MODE, how, count)


# --- faults that nothing mends -------------------------------------------------------------


def once(fd: Device, how: How = How.BASIC, flags: int = FAULT_MODE, bind: int = 0) -> LongRunning:
    engine: Engine = xe_engine(fd, 0).instance
    return LongRunning(fd, engine, flags, how, Count(1, 2), bind)


def expect_reset(fd: Device, run: LongRunning, index: int) -> None:
    """The fence never comes, but the wait ends; the queue takes nothing more."""
    with pytest.raises(OSError) as reset:
        run.data.wait_exec(fd, index, run.exec_queues[0])
    assert reset.value.errno == errno.EIO
    assert run.data.exec_sync(index) == 0
    assert banned(fd, run.exec_queues[0])
    with pytest.raises(OSError) as refused:
        run.submit(index)
    assert refused.value.errno == errno.ECANCELED


def test_invalid_fault(fd: Device) -> None:
    """A store to where nothing is bound."""
    run = once(fd)
    run.data.write_batch(0, BatchBuilder().store_dword(NOWHERE, DATA_MAGIC).end())
    run.submit(0)
    expect_reset(fd, run, 0)
    faults = fd.vm_get_faults(run.vm)
    assert [fault.address for fault in faults] == [NOWHERE]
    run.close()


def test_invalid_userptr_fault(fd: Device) -> None:
    """A batch in memory that the process has unmapped."""
    run = once(fd, How.USERPTR)
    run.exec(0)
    run.wait(0)
    run.data.memory.close()
    xe_exec_sync(fd, run.exec_queues[0], run.data.batch_addr(0))
    wait_until_banned(fd, run.exec_queues[0])


def wait_until_banned(fd: Device, exec_queue: int) -> None:
    """WAIT_USER_FENCE sleeps until the queue is reset, for want of a fence that can come."""
    cell = UserFence().buffer
    with pytest.raises(OSError) as reset:
        fd.wait_user_fence(cell.address, 1, timeout=5_000_000_000, exec_queue_id=exec_queue)
    assert reset.value.errno == errno.EIO
    assert banned(fd, exec_queue)


def test_write_to_read_only_memory(fd: Device) -> None:
    """A bind that lets the engine only read."""
    run = once(fd, bind=xe_drm.DRM_XE_VM_BIND_FLAG_READONLY)
    run.exec(0)
    expect_reset(fd, run, 0)
    assert run.data.data(0) == 0


def test_scratch_fault(fd: Device) -> None:
    """Where there are scratch pages, a store to nowhere gets lost, and that is all."""
    run = once(fd, flags=FAULT_MODE | SCRATCH_PAGE)
    batch = BatchBuilder().store_dword(NOWHERE, 1).copy_dword(run.data.data_addr(1), NOWHERE)
    run.data.write_batch(0, batch.store_dword(run.data.data_addr(0), DATA_MAGIC).end())
    run.data.set_data(1, 77)
    run.submit(0)
    run.wait(0)
    assert run.data.data(1) == 0
    assert not banned(fd, run.exec_queues[0])


def test_the_other_queue_goes_on(fd: Device) -> None:
    """One VM, two queues: a fault of the one is none of the other's."""
    run = LongRunning(fd, xe_engine(fd, 0).instance, FAULT_MODE, How.BASIC, Count(2, 2))
    run.data.write_batch(0, BatchBuilder().store_dword(NOWHERE, DATA_MAGIC).end())
    run.submit(0)
    run.exec(1)
    run.wait(1)
    expect_reset(fd, run, 0)
    assert not banned(fd, run.exec_queues[1])
