"""Subtests of IGT's xe_exec_compute_mode: VMs in long-running mode, whose work has no end that the
kernel knows of: user fences tell it.
"""

from __future__ import annotations

import errno

import pytest

from tests.igt.exec_data import (
    LR_MODE,
    Engine,
    bo_slots,
    offset_of,
    slots_size,
)
from tests.igt.long_running import COUNTS, Count, How, LongRunning, run_long_running
from xedev.client import Device, GpuUserFence, sync_signal
from xedev.client.spinner import SpinOpts, XeSpin, xe_spin_init, xe_spin_nsec_to_ticks
from xedev.client.xe_ioctl import (
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_lr_sync,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_wait_ufence,
)
from xedev.client.xe_query import xe_engine, xe_for_each_engine

pytestmark = pytest.mark.fuse

SECTIONS = {
    "basic": How.BASIC,
    "preempt-fence-early": How.EARLY,
    "userptr": How.USERPTR,
    "rebind": How.REBIND,
    "userptr-rebind": How.USERPTR | How.REBIND,
    "userptr-invalidate": How.USERPTR | How.INVALIDATE,
    "bindexecqueue": How.BIND_EXEC_QUEUE,
    "bindexecqueue-userptr-rebind": How.BIND_EXEC_QUEUE | How.USERPTR | How.REBIND,
}


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("how", SECTIONS.values(), ids=SECTIONS.keys())
def test_exec(fd: Device, count: Count, how: How) -> None:
    for eci in xe_for_each_engine(fd):
        run_long_running(fd, eci, LR_MODE, how, count)


def first_engine(fd: Device) -> Engine:
    return xe_engine(fd, 0).instance


def test_userptr_free(fd: Device) -> None:
    """The process unmaps memory that is bound: who does not touch it goes on undisturbed."""
    run = LongRunning(fd, first_engine(fd), LR_MODE, How.USERPTR, Count(1, 1))
    run.exec(0)
    run.wait(0)
    run.data.memory.close()

    bo, data = bo_slots(fd, run.vm, 1, 0x4000000)
    xe_vm_bind_sync(fd, run.vm, bo, 0, data.addr, slots_size(fd, 1))
    data.write_store(0)
    xe_exec_sync(fd, run.exec_queues[0], data.addr, [data.fence(0)])

    data.wait_exec(fd, 0, run.exec_queues[0])


def test_lr_mode_workload(fd: Device) -> None:
    """A batch that runs for a while, and ends by itself."""
    vm = xe_vm_create(fd, LR_MODE)
    bo, data = bo_slots(fd, vm, 8, 0x1A0000)
    xe_vm_bind_lr_sync(fd, vm, bo, 0, data.addr, slots_size(fd, 8), 0)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    ticks = xe_spin_nsec_to_ticks(fd, 0, 100_000_000)
    spin = xe_spin_init(data.memory, SpinOpts(data.addr, ctx_ticks=ticks))
    at = XeSpin.exec_sync.offset  # type: ignore[attr-defined]

    xe_exec_sync(fd, exec_queue, data.addr, [GpuUserFence(data.addr + at, 1)])

    with pytest.raises(OSError) as too_early:
        xe_wait_ufence(fd, data.memory.address + at, 1, exec_queue, 1_000_000)
    assert too_early.value.errno == errno.ETIME
    xe_wait_ufence(fd, data.memory.address + at, 1, exec_queue, 5_000_000_000)
    assert spin.started
    assert spin.ticks >= ticks


def test_syncobjs_cannot_tell_its_end(fd: Device) -> None:
    vm = xe_vm_create(fd, LR_MODE)
    bo, data = bo_slots(fd, vm, 1, 0x1A0000)
    xe_vm_bind_lr_sync(fd, vm, bo, 0, data.addr, slots_size(fd, 1), 0)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    data.write_store(0)

    with pytest.raises(OSError) as refused:
        xe_exec_sync(fd, exec_queue, data.addr, [sync_signal(fd.syncobj_create())])

    assert refused.value.errno == errno.EOPNOTSUPP
    assert data.memory.read(offset_of("data"), 4) == bytes(4)
