"""Subtests of IGT's xe_exec_reset: batches that hang, fault, or lose their queue or file."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    LR_MODE,
    TIMEOUT,
    Engine,
    Slots,
    banned,
    bo_slots,
    engines_of_class,
    signalled,
    slots_size,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import Device, sync_signal
from xedev.client.spinner import Cork, SpinOpts, xe_spin_init, xe_spin_nsec_to_ticks
from xedev.client.xe_ioctl import (
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_vm_bind_lr_sync,
    xe_vm_bind_sync,
    xe_vm_create,
)
from xedev.client.xe_query import xe_engine, xe_for_each_engine

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
NOWHERE = 0x7_0000_0000
#: Slots that a spinner takes.
SPIN_SLOTS = 5


def first_engine(fd: Device) -> Engine:
    return xe_engine(fd, 0).instance


def new_vm(fd: Device, flags: int = 0, slots: int = 8) -> tuple[int, Slots]:
    """A VM with a few slots."""
    vm = xe_vm_create(fd, flags)
    bo, data = bo_slots(fd, vm, slots, ADDR)
    xe_vm_bind_lr_sync(fd, vm, bo, 0, ADDR, slots_size(fd, slots), 0)
    return vm, data


def store_works(fd: Device, vm: int, data: Slots, eci: Engine) -> None:
    """A new queue of the same VM stores."""
    done = fd.syncobj_create()
    data.write_store(0)
    xe_exec_sync(fd, xe_exec_queue_create(fd, vm, eci), data.batch_addr(0), [sync_signal(done)])
    wait_syncobjs(fd, done)
    assert data.data(0) == DATA_MAGIC


# --- spinners ------------------------------------------------------------------------------


def test_spin(fd: Device) -> None:
    for eci in xe_for_each_engine(fd):
        with Cork(fd, [eci]) as cork:
            assert not signalled(fd, cork.syncobj)


def test_long_spin_many_preempt(fd: Device) -> None:
    """A spinner keeps its engine for long; short jobs of another queue run between."""
    eci = first_engine(fd)
    vm, data = new_vm(fd)
    with Cork(fd, [eci]):
        for _ in range(4):
            data.set_data(0, 0)
            store_works(fd, vm, data, eci)


def test_long_spin_reuse_many_preempt(fd: Device) -> None:
    """The same with one queue for all of the short ones."""
    eci = first_engine(fd)
    vm, data = new_vm(fd)
    exec_queue = xe_exec_queue_create(fd, vm, eci)
    done = fd.syncobj_create()
    with Cork(fd, [eci]):
        for index in range(8):
            data.write_store(index)
            xe_exec_sync(fd, exec_queue, data.batch_addr(index), [sync_signal(done)])
        wait_syncobjs(fd, done)
    assert data.all_data(8) == [DATA_MAGIC] * 8


# --- time that is up -----------------------------------------------------------------------


@pytest.mark.slow
def test_cancel(fd: Device) -> None:
    """A spinner that nobody ends is ended by the driver, and what comes behind it with it."""
    eci = first_engine(fd)
    vm, data = new_vm(fd)
    cork = Cork(fd, [eci])
    cork.sync_start()
    behind = fd.syncobj_create()
    fd.exec(cork.exec_queue, cork.addr, [sync_signal(behind)])

    cork.wait(timeout=15)
    wait_syncobjs(fd, behind)

    assert banned(fd, cork.exec_queue)
    with pytest.raises(OSError) as refused:
        fd.exec(cork.exec_queue, cork.addr)
    assert refused.value.errno == errno.ECANCELED
    store_works(fd, vm, data, eci)
    cork.destroy()


@pytest.mark.slow
def test_long_running_work_has_no_end(fd: Device) -> None:
    """In long-running mode a batch may take as long as it likes."""
    vm, data = new_vm(fd, LR_MODE)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    ticks = xe_spin_nsec_to_ticks(fd, 0, 6_500_000_000)
    spin = xe_spin_init(data.memory, SpinOpts(ADDR, preempt=True, ctx_ticks=ticks))
    xe_exec_sync(fd, exec_queue, ADDR, [data.fence(SPIN_SLOTS)])
    data.wait_exec(fd, SPIN_SLOTS, exec_queue, 15 * TIMEOUT)
    assert spin.ticks >= ticks
    assert not banned(fd, exec_queue)


# --- faults --------------------------------------------------------------------------------


def queues_of_each_kind(fd: Device, vm: int) -> dict[str, tuple[int, int]]:
    """Queues and their widths: of one engine, virtual and parallel ones."""
    vcs: Sequence[Engine] = engines_of_class(fd, xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE)
    return {
        "": (xe_exec_queue_create(fd, vm, first_engine(fd)), 1),
        "virtual": (fd.exec_queue_create(vm, vcs, 1, len(vcs)), 1),
        "parallel": (fd.exec_queue_create(vm, vcs, len(vcs), 1), len(vcs)),
    }


@pytest.mark.parametrize("kind", ["", "virtual", "parallel"], ids=["one", "virtual", "parallel"])
def test_cat_error(fd: Device, kind: str) -> None:
    """A batch where nothing is bound: its syncobj is signalled, and its queue banned for ever;
    a batch behind it does not run."""
    vm, data = new_vm(fd)
    exec_queue, width = queues_of_each_kind(fd, vm)[kind]
    done, behind = fd.syncobj_create(), fd.syncobj_create()
    data.write_store(1)
    fd.exec(exec_queue, [NOWHERE] * width, [sync_signal(done), data.fence(0)])
    if exec_unless_banned(fd, exec_queue, [data.batch_addr(1)] * width, behind):
        wait_syncobjs(fd, behind)
    wait_syncobjs(fd, done)
    with pytest.raises(OSError) as reset:
        data.wait_exec(fd, 0, exec_queue)
    assert reset.value.errno == errno.EIO
    assert banned(fd, exec_queue)
    with pytest.raises(OSError) as refused:
        fd.exec(exec_queue, [data.batch_addr(1)] * width)
    assert refused.value.errno == errno.ECANCELED
    assert data.data(1) == 0
    store_works(fd, vm, data, first_engine(fd))


def exec_unless_banned(fd: Device, exec_queue: int, batches: list[int], syncobj: int) -> bool:
    """Whether the queue still took them."""
    try:
        fd.exec(exec_queue, batches, [sync_signal(syncobj)])
    except OSError as error:
        if error.errno != errno.ECANCELED:
            raise
        return False
    return True


def test_cm_cat_error(fd: Device) -> None:
    vm, data = new_vm(fd, LR_MODE)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    xe_exec_sync(fd, exec_queue, NOWHERE, [data.fence(0)])
    with pytest.raises(OSError) as reset:
        data.wait_exec(fd, 0, exec_queue)
    assert reset.value.errno == errno.EIO
    assert banned(fd, exec_queue)


def test_a_store_to_nowhere(fd: Device) -> None:
    """The batch is there, what it writes to is not; without scratch pages that is the same."""
    vm, data = new_vm(fd)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    data.write_store(0, base=NOWHERE)
    xe_exec_sync(fd, exec_queue, data.batch_addr(0), [data.fence(0)])
    with pytest.raises(OSError) as reset:
        data.wait_exec(fd, 0, exec_queue)
    assert reset.value.errno == errno.EIO


# --- queues and files that go --------------------------------------------------------------


def spin_in(fd: Device, execs: int) -> tuple[int, list[int]]:
    """A VM whose queues spin, each on another engine, with work behind the spinner."""
    vm, data = new_vm(fd, slots=16)
    spin = xe_spin_init(data.memory, SpinOpts(ADDR, preempt=True))
    exec_queues = []
    for eci in xe_for_each_engine(fd):
        exec_queue = xe_exec_queue_create(fd, vm, eci)
        for _ in range(execs):
            xe_exec_sync(fd, exec_queue, ADDR)
        exec_queues.append(exec_queue)
    if execs:
        spin.wait_started()
    return vm, exec_queues


@pytest.mark.parametrize("execs", [0, 4], ids=["no-exec", "many"])
def test_close_fd(node: str, execs: int) -> None:
    """All that runs ends with its file; who comes then has the engines."""
    with Device.open(node, "ioctl") as device:
        spin_in(device, execs)
    works_on_all(node)


@pytest.mark.parametrize("execs", [0, 4], ids=["no-exec", "many"])
def test_close_execqueues_close_fd(node: str, execs: int) -> None:
    with Device.open(node, "ioctl") as device:
        _, exec_queues = spin_in(device, execs)
        for exec_queue in exec_queues:
            xe_exec_queue_destroy(device, exec_queue)
    works_on_all(node)


def works_on_all(node: str) -> None:
    with Device.open(node, "ioctl") as device:
        vm, data = new_vm(device)
        for eci in xe_for_each_engine(device):
            data.set_data(0, 0)
            store_works(device, vm, data, eci)


def test_close_execqueues_signals_what_was_pending(fd: Device) -> None:
    cork = Cork(fd, [first_engine(fd)])
    cork.sync_start()
    xe_exec_queue_destroy(fd, cork.exec_queue)
    cork.wait()


# --- all engines at once -------------------------------------------------------------------


def test_gt_reset(fd: Device, mounted_node: Callable[..., str]) -> None:
    """What runs at the reset is lost; what came after is not."""
    reset = Path(mounted_node(profile="bmg")) / "debug/dri/0/gt0/force_reset_sync"
    eci = first_engine(fd)
    vm, data = new_vm(fd)
    cork = Cork(fd, [eci])
    cork.sync_start()
    reset.read_text()
    cork.wait()
    assert banned(fd, cork.exec_queue)
    store_works(fd, vm, data, eci)
    cork.destroy()


def test_another_files_reset(fd: Device, node: str) -> None:
    """A fault in one file is no matter of another's on the same engine."""
    eci = first_engine(fd)
    with Cork(fd, [eci]) as cork, Device.open(node, "ioctl") as other:
        vm, data = new_vm(other)
        exec_queue = xe_exec_queue_create(other, vm, eci)
        xe_exec_sync(other, exec_queue, NOWHERE, [data.fence(0)])
        with pytest.raises(OSError) as reset:
            data.wait_exec(other, 0, exec_queue)
        assert reset.value.errno == errno.EIO
        assert not signalled(fd, cork.syncobj)
        assert not banned(fd, cork.exec_queue)


def test_rebinding_does_not_revive(fd: Device) -> None:
    """A ban is for ever, though what was missing is there by now."""
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, 1, ADDR)
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    data.write_store(0)
    done = fd.syncobj_create()
    xe_exec_sync(fd, exec_queue, ADDR, [sync_signal(done)])
    wait_syncobjs(fd, done)
    xe_vm_bind_sync(fd, vm, bo, 0, ADDR, slots_size(fd, 1))
    with pytest.raises(OSError) as refused:
        xe_exec_sync(fd, exec_queue, ADDR)
    assert refused.value.errno == errno.ECANCELED
    store_works(fd, vm, data, first_engine(fd))
