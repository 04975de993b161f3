"""Jobs that fault, hang, take too long or lose their queue: who learns of it, and how."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.errno.user_pages import UserPages
from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from tests.xe.gpu_work import (
    ADDR,
    BCS,
    FAULT,
    FENCE,
    LR,
    PAGE,
    SCRATCH,
    VCS,
    Board,
    status_of,
    wait_for,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, GpuUserFence
from xedev.client.memory import op_map, op_map_null, op_map_userptr, op_unmap
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice

NOWHERE = 0x7_0000_0000
HOLE = 0x800000
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
UNKNOWN_COMMAND = 0x3F << 23
SECOND = 10**9

EIO, ETIME, ECANCELED = -errno.EIO, -errno.ETIME, -errno.ECANCELED


WAYS = ("in-process", *(pytest.param(w, marks=pytest.mark.fuse) for w in ("ioctl", "frames")))
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(params=WAYS)
def target(request: pytest.FixtureRequest, xe_target: Callable[..., Target[Any]]) -> Target[Any]:
    return xe_target(request.param)


@pytest.fixture
def device(target: Target[Any]) -> Device:
    return target.device()


@pytest.fixture
def hasty() -> Iterator[Device]:
    """A device whose jobs have a tenth of a second."""
    xe = XeDevice(XeConfig(job_timeout_ms=100))
    with Device(LocalTransport(xe)) as device:
        yield device
    xe.shutdown()


def is_banned(device: Device, queue: int) -> bool:
    return device.exec_queue_get_property(queue) == 1


# ---- faults ----


def test_a_fault_takes_all_jobs_of_its_queue_and_no_other(device: Device, gate: Gate) -> None:
    board, other = Board(device), Board(device)
    bad, good, foreign = board.queue(), board.queue(), other.queue()
    shut = waits_for(gate.syncobj())
    jobs = [
        board.exec(bad, NOWHERE, shut),
        board.exec(bad, board.storing(1)),
        board.exec(bad, board.storing(2), waits_for(gate.syncobj(2))),
    ]
    beside = board.exec(good, board.storing(3, ADDR + 4), shut)
    abroad = other.exec(foreign, other.storing(4), shut)
    gate.open()
    wait_for(device, *jobs, beside, abroad)
    assert [status_of(device, job) for job in jobs] == [EIO, ECANCELED, ECANCELED]
    assert [status_of(device, job) for job in (beside, abroad)] == [1, 1]
    assert [board.read(), board.read(ADDR + 4), other.read()] == [0, 3, 4]
    assert [is_banned(device, queue) for queue in (bad, good, foreign)] == [True, False, False]
    assert error_of(lambda: board.exec(bad, board.storing(1))) == "ECANCELED"
    assert error_of(lambda: device.exec(bad, 0, (), 0)) == "ECANCELED"
    # The last fence of the bad queue came before the gate's second one, and nothing follows.
    gate.open()
    assert board.read() == 0
    assert board.run(good, board.storing(5)) == 1


FAULTY: dict[str, Callable[[Board], int]] = {
    "fetch": lambda board: NOWHERE,
    "fetch on from a batch": lambda board: board.batch(BatchBuilder().jump(NOWHERE)),
    "store": lambda board: board.storing(1, HOLE),
    "load": lambda board: board.batch(BatchBuilder().copy_dword(ADDR, HOLE).end()),
    "atomic": lambda board: board.batch(BatchBuilder().atomic_inc(HOLE).end()),
    "copy": lambda board: board.batch(BatchBuilder().mem_copy(ADDR, HOLE, 64).end()),
    "beyond the end": lambda board: board.batch(
        BatchBuilder().mem_copy(ADDR + board.size - 32, ADDR, 64).end()
    ),
}


@pytest.mark.parametrize("name", FAULTY)
@pytest.mark.parametrize("flags", [0, LR, FAULT], ids=["plain", "lr", "fault"])
def test_access_to_nothing(hasty: Device, name: str, flags: int) -> None:
    board = Board(hasty, flags)
    queue, address = board.queue([BCS]), FAULTY[name](board)
    if flags:
        board.exec_lr(queue, address)
        wait = partial(hasty.wait_user_fence, exec_queue_id=queue, timeout=-1)
        assert error_of(lambda: wait(board.fence_address, 1)) == "EIO"
    else:
        assert board.run(queue, address, GpuUserFence(FENCE)) == EIO
    assert board.read(FENCE) == 0
    assert is_banned(hasty, queue)
    (fault,) = hasty.vm_get_faults(board.vm)
    assert fault.address == FAULT_PAGE[name](board)


FAULT_PAGE: dict[str, Callable[[Board], int]] = {
    name: lambda board: HOLE for name in ("store", "load", "atomic", "copy")
} | {
    "fetch": lambda board: NOWHERE,
    "fetch on from a batch": lambda board: NOWHERE,
    "beyond the end": lambda board: ADDR + board.size,
}


def test_an_unbound_range_faults_again(device: Device) -> None:
    board, bo = Board(device), device.gem_create(PAGE, 1)
    device.vm_bind(board.vm, [op_map(bo, 0, HOLE, PAGE)])
    queue, store = board.queue(), board.storing(1, HOLE)
    assert board.run(queue, store) == 1
    device.vm_bind(board.vm, [op_unmap(HOLE, PAGE)])
    assert board.run(queue, store) == EIO


def test_user_memory_that_is_gone_is_like_a_hole(device: Device) -> None:
    """Nobody is told before a job touches it."""
    board, pages = Board(device), UserPages(PAGE)
    device.vm_bind(board.vm, [op_map_userptr(pages.address, HOLE, PAGE)])
    queue, store = board.queue(), board.storing(5, HOLE)
    assert board.run(queue, store) == 1
    assert ctypes.c_uint32.from_address(pages.address).value == 5
    pages.free()
    assert board.run(queue, board.storing(1)) == 1
    assert board.run(queue, store) == EIO


def test_a_read_only_mapping_is_not_written(device: Device) -> None:
    board, bo = Board(device), device.gem_create(PAGE, 1)
    device.vm_bind(board.vm, [op_map(bo, 0, HOLE, PAGE, flags=READ_ONLY)])
    board.write(7)
    load = board.batch(BatchBuilder().copy_dword(ADDR, HOLE).end())
    assert board.run(board.queue(), load) == 1
    assert board.read() == 0
    assert board.run(board.queue(), board.storing(1, HOLE)) == EIO
    with device.map(bo, PAGE) as memory:
        assert memory.read(0, 4) == bytes(4)


@pytest.mark.parametrize("way", ["scratch", "null"])
def test_where_nothing_is_lost_nothing_is_found(device: Device, way: str) -> None:
    """Of a VM with scratch pages, and in a NULL mapping: reads give 0, writes vanish."""
    board = Board(device, SCRATCH if way == "scratch" else 0)
    if way == "null":
        device.vm_bind(board.vm, [op_map_null(HOLE, PAGE)])
    board.write(7)
    batch = BatchBuilder().store_dword(HOLE, 9).atomic_inc(HOLE).copy_dword(ADDR, HOLE)
    queue = board.queue()
    assert board.run(queue, board.batch(batch.end())) == 1
    assert board.read() == 0
    assert not is_banned(device, queue)


def test_a_command_that_is_none(device: Device) -> None:
    board = Board(device)
    queue = board.queue()
    batch = BatchBuilder().store_dword(ADDR, 1).dword(UNKNOWN_COMMAND).store_dword(ADDR, 2)
    failed = board.exec(queue, board.batch(batch.end()), GpuUserFence(FENCE))
    wait_for(device, failed)
    assert status_of(device, failed) == EIO
    assert [board.read(), board.read(FENCE)] == [1, 0]
    assert is_banned(device, queue)


# ---- time ----


@every_way
def test_a_job_that_takes_too_long(xe_target: Callable[..., Target[Any]], way: str) -> None:
    option = "job_timeout_ms" if way == "in-process" else "job_timeout"
    device = xe_target(way, **{option: 300}).device()
    gate, board = Gate(device), Board(device)
    queue, other, spinner = board.queue(), board.queue(), board.spinner()
    jobs = [
        board.exec(queue, spinner.address, GpuUserFence(FENCE)),
        board.exec(queue, board.storing(1)),
        board.exec(queue, board.storing(2), waits_for(gate.syncobj())),
    ]
    after = board.exec(other, board.storing(3, ADDR + 4), waits_for(jobs[0]))
    wait_for(device, *jobs, after)
    assert spinner.started
    assert [status_of(device, job) for job in jobs] == [ETIME, ECANCELED, ECANCELED]
    # Who waits for a job goes on, however it ended.
    assert status_of(device, after) == 1
    assert [board.read(), board.read(ADDR + 4), board.read(FENCE)] == [0, 3, 0]
    assert [is_banned(device, name) for name in (queue, other)] == [True, False]
    gate.close()


def test_time_in_which_a_job_waits_does_not_count(hasty: Device) -> None:
    gate, board = Gate(hasty), Board(hasty)
    queue, spinner = board.queue(), board.spinner()
    held = board.exec(queue, board.storing(1), waits_for(gate.syncobj()))
    # As long as another one takes to be thrown out.
    assert board.run(board.queue(VCS[:1]), spinner.address) == ETIME
    gate.open()
    wait_for(hasty, held)
    assert status_of(hasty, held) == 1
    gate.close()


@pytest.mark.parametrize("flags", [LR, FAULT], ids=["lr", "fault"])
def test_long_running_work_may_take_its_time(hasty: Device, flags: int) -> None:
    board, clock = Board(hasty, flags), Board(hasty)
    queue, spinner = board.queue(), board.spinner()
    board.exec_lr(queue, spinner.address, 3)
    spinner.wait_started()
    for _ in range(3):
        assert clock.run(clock.queue(VCS[:1]), clock.spinner().address) == ETIME
    assert not is_banned(hasty, queue)
    spinner.end()
    hasty.wait_user_fence(board.fence_address, 3, exec_queue_id=queue, timeout=20 * SECOND)


# ---- queues, VMs and files that go ----


def test_a_queue_destroyed_with_jobs(device: Device, gate: Gate) -> None:
    board = Board(device)
    queue, spinner = board.queue(), board.spinner()
    jobs = [
        board.exec(queue, spinner.address, GpuUserFence(FENCE)),
        board.exec(queue, board.storing(1)),
        board.exec(queue, board.storing(1), waits_for(gate.syncobj())),
    ]
    spinner.wait_started()
    device.exec_queue_destroy(queue)
    wait_for(device, *jobs)
    assert [status_of(device, job) for job in jobs] == [ETIME, ECANCELED, ECANCELED]
    assert [board.read(), board.read(FENCE)] == [0, 0]
    assert error_of(lambda: board.exec(queue, board.storing(1))) == "ENOENT"
    # Its id and its engine are free again.
    assert board.queue() == queue
    assert board.run(queue, board.storing(2)) == 1


def test_a_queue_destroyed_before_its_first_job_began(device: Device, gate: Gate) -> None:
    board = Board(device)
    queue = board.queue()
    shut = waits_for(gate.syncobj())
    jobs = [board.exec(queue, board.storing(1), shut), board.exec(queue, board.storing(2))]
    device.exec_queue_destroy(queue)
    wait_for(device, *jobs)
    assert [status_of(device, job) for job in jobs] == [ETIME, ECANCELED]
    gate.open()
    assert board.run(board.queue(), board.storing(3, ADDR + 4)) == 1
    assert board.read() == 0


def test_a_queue_destroyed_when_all_is_done_changes_nothing(device: Device) -> None:
    board = Board(device)
    queue = board.queue()
    out = board.exec(queue, board.storing(1))
    wait_for(device, out)
    device.exec_queue_destroy(queue)
    assert status_of(device, out) == 1


@every_way
def test_a_file_closed_with_jobs(xe_target: Callable[..., Target[Any]], way: str) -> None:
    """Somebody else holds their fences."""
    target = xe_target(way)
    witness, device = target.device(), Device(target.open())
    gate, board = Gate(witness), Board(device)
    queue, spinner = board.queue(), board.spinner()
    jobs = [board.exec(queue, spinner.address), board.exec(queue, board.storing(1))]
    spinner.wait_started()
    handles = []
    for job in jobs:
        fd = device.syncobj_handle_to_fd(job)
        handles.append(witness.syncobj_fd_to_handle(fd))
        device.transport.close_fd(fd)
    assert not any(is_signalled(witness, handle) for handle in handles)
    board.memory.close()
    device.transport.close()
    wait_for(witness, *handles)
    assert [status_of(witness, handle) for handle in handles] == [ETIME, ECANCELED]
    again = Board(witness)
    assert again.run(again.queue(), again.storing(1)) == 1
    gate.close()


def test_a_vm_is_destroyed_when_its_jobs_are_done(device: Device) -> None:
    board = Board(device)
    queue, spinner = board.queue(), board.spinner()
    store = board.storing(1)
    job = board.exec(queue, spinner.address, GpuUserFence(FENCE, 7))
    spinner.wait_started()
    with ThreadPoolExecutor() as pool:
        destroyed = pool.submit(device.vm_destroy, board.vm)
        while not error_of(lambda: device.vm_bind(board.vm, [])):
            pass  # its id goes first
        while error_of(lambda: device.exec(queue, store)) != "ECANCELED":
            pass
        assert not is_signalled(device, job)
        assert not destroyed.done()
        spinner.end()
        destroyed.result(60)
    assert status_of(device, job) == 1
    assert board.read(FENCE) == 7
    assert error_of(lambda: device.vm_destroy(board.vm)) == "ENOENT"
    assert not is_banned(device, queue)


@pytest.mark.parametrize("flags", [LR, FAULT], ids=["lr", "fault"])
def test_a_long_running_vm_and_its_queue(device: Device, flags: int) -> None:
    """With a queue it cannot be destroyed if it must be preempted; a faulting one just ends."""
    board = Board(device, flags)
    queue, spinner = board.queue(), board.spinner()
    board.exec_lr(queue, spinner.address)
    spinner.wait_started()
    if flags == LR:
        assert error_of(lambda: device.vm_destroy(board.vm)) == "EBUSY"
        device.exec_queue_destroy(queue)
        device.vm_destroy(board.vm)
        return
    device.vm_destroy(board.vm)
    wait = partial(device.wait_user_fence, exec_queue_id=queue, timeout=-1)
    assert error_of(lambda: wait(board.fence_address, 1)) == "EIO"
    assert is_banned(device, queue)


# ---- user fences ----


def test_a_wait_for_a_user_fence_ends_with_the_queue_it_names(device: Device, gate: Gate) -> None:
    board = Board(device)
    queue, other = board.queue(), board.queue()
    out, shut = device.syncobj_create(), waits_for(gate.syncobj())
    device.exec(queue, NOWHERE, [shut, GpuUserFence(FENCE, 1), signals(out)])
    wait = partial(device.wait_user_fence, board.fence_address, 1)
    with ThreadPoolExecutor() as pool:
        asleep = pool.submit(error_of, partial(wait, exec_queue_id=queue, timeout=-1))
        unnamed = pool.submit(error_of, partial(wait, timeout=-1))
        foreign = pool.submit(error_of, partial(wait, exec_queue_id=other, timeout=-1))
        gate.open()
        assert asleep.result(60) == "EIO"
        assert not unnamed.done()
        assert not foreign.done()
        # What no job wrote, another one can.
        assert board.run(other, board.storing(9), GpuUserFence(FENCE, 1)) == 1
        assert [unnamed.result(60), foreign.result(60)] == ["", ""]
    assert error_of(lambda: wait(exec_queue_id=queue, timeout=0)) == ""  # it is there now
    assert error_of(lambda: wait(exec_queue_id=queue, timeout=0, op=1)) == "EIO"
    assert error_of(lambda: wait(timeout=0, op=1)) == "ETIME"


def test_a_wait_for_a_user_fence_ends_when_its_queue_is_destroyed(device: Device) -> None:
    board = Board(device)
    queue, spinner = board.queue(), board.spinner()
    board.exec(queue, spinner.address, GpuUserFence(FENCE, 1))
    spinner.wait_started()
    with ThreadPoolExecutor() as pool:
        wait = partial(device.wait_user_fence, board.fence_address, 1, exec_queue_id=queue)
        asleep = pool.submit(error_of, partial(wait, timeout=-1))
        while not asleep.running():
            pass
        device.exec_queue_destroy(queue)
        # Not there any more, if it comes late.
        assert asleep.result(60) in ("EIO", "ENOENT")


def test_a_user_fence_that_cannot_be_written_is_a_fault(device: Device) -> None:
    board = Board(device)
    queue = board.queue()
    assert board.run(queue, board.storing(1), GpuUserFence(HOLE)) == EIO
    assert board.read() == 1
    assert is_banned(device, queue)


# ---- who waits for whom ----


def test_a_deadlock_ends_with_one_of_its_queues(device: Device, gate: Gate) -> None:
    """The first queue waits for a fence that comes after the second queue's job, which waits for
    the first queue."""
    board = Board(device)
    first, second = board.queue(), board.queue()
    outs = [
        board.exec(first, board.storing(1), waits_for(gate.syncobj())),
        board.exec(first, board.storing(2)),
    ]
    last = board.exec(second, board.storing(3), waits_for(outs[1]))
    assert error_of(lambda: device.syncobj_wait([last], 1)) == "ETIME"
    device.exec_queue_destroy(first)
    wait_for(device, last, *outs)
    assert [status_of(device, out) for out in (*outs, last)] == [ETIME, ECANCELED, 1]
    assert board.read() == 3
