"""Groups of queues that share one context: who may join, who runs when, and who falls with whom."""

from __future__ import annotations

import errno
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, is_signalled, waits_for
from tests.xe.gpu_work import ADDR, FAULT, Board, Eci, status_of, wait_for
from uapi import xe_drm
from xedev.client import BatchBuilder, Compare, Device
from xedev.client.batch import RING_TIMESTAMP
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

GROUP = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_GROUP
GROUP_PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_QUEUE_PRIORITY
PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_PRIORITY
TIMESLICE = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_TIMESLICE
CREATE = xe_drm.DRM_XE_MULTI_GROUP_CREATE
GROUP_SIZE = 64

BCS = [Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_COPY, engine_instance=n) for n in range(2)]
CCS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE)
VCS = [
    Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, engine_instance=n, gt_id=1)
    for n in range(2)
]
BINDS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)
NOWHERE = 0x7_0000_0000
CELLS = ADDR + 0x400
PATIENCE = 20.0
EIO, ETIME, ECANCELED = -errno.EIO, -errno.ETIME, -errno.ECANCELED

every_engine = pytest.mark.parametrize("engine", [BCS[0], CCS], ids=["bcs", "ccs"])


CRI = {"profile": "cri"}


@pytest.fixture
def xe_options() -> dict[str, Any]:
    return CRI


hasty = pytest.mark.parametrize("xe_options", [{**CRI, "job_timeout_ms": 100}])


def make(device: Device, vm: int, *properties: tuple[int, int], engine: Eci = BCS[0]) -> int:
    return device.exec_queue_create(vm, [engine], properties=properties)


def group_of(device: Device, vm: int, size: int, engine: Eci = BCS[0]) -> list[int]:
    """The primary, then its secondaries."""
    primary = make(device, vm, (GROUP, CREATE), engine=engine)
    return [primary, *(make(device, vm, (GROUP, primary), engine=engine) for _ in range(size - 1))]


def is_banned(device: Device, queue: int) -> bool:
    return device.exec_queue_get_property(queue) == 1


# ---- joining ----


@pytest.mark.parametrize(
    ("properties", "error"),
    [
        ([(GROUP, CREATE)], ""),
        ([(GROUP, CREATE | 1)], "EINVAL"),
        ([(GROUP, CREATE), (GROUP, CREATE)], "EINVAL"),
        ([(GROUP, CREATE), (GROUP_PRIORITY, 2)], ""),
        ([(GROUP_PRIORITY, 2), (GROUP, CREATE)], ""),
        ([(GROUP, CREATE), (GROUP_PRIORITY, 3)], "EINVAL"),
        ([(GROUP_PRIORITY, 1)], "EINVAL"),
        ([(GROUP, CREATE), (PRIORITY, 1), (TIMESLICE, 1000)], ""),
        ([(GROUP, 1)], ""),
        ([(GROUP, 1), (GROUP_PRIORITY, 0)], ""),
        ([(GROUP, 1), (GROUP, 1)], "EINVAL"),
        ([(GROUP, 1), (PRIORITY, 1)], "EINVAL"),
        ([(PRIORITY, 1), (GROUP, 1)], ""),  # the kernel looks only before each property
        ([(PRIORITY, 1), (GROUP, 1), (GROUP_PRIORITY, 1)], "EINVAL"),
        ([(GROUP, 1 | 1 << 32)], "EINVAL"),
        ([(GROUP, 99)], "ENOENT"),
        ([(GROUP, 2)], "EINVAL"),  # a secondary
        ([(GROUP, 3)], "EINVAL"),  # in no group
        ([(GROUP, 4)], "EINVAL"),  # for binds
        ([(GROUP, 5)], "EINVAL"),  # of another VM
        ([(GROUP, 6)], "EINVAL"),  # on another engine
        ([(GROUP, 7)], "EINVAL"),  # on more engines
    ],
)
def test_who_may_begin_or_join_a_group(
    local: Device, properties: Sequence[tuple[int, int]], error: str
) -> None:
    vm, other = local.vm_create(), local.vm_create()
    assert make(local, vm, (GROUP, CREATE)) == 1
    assert make(local, vm, (GROUP, 1)) == 2
    assert make(local, vm) == 3
    assert make(local, vm, engine=BINDS) == 4
    assert make(local, other, (GROUP, CREATE)) == 5
    assert make(local, vm, (GROUP, CREATE), engine=BCS[1]) == 6
    assert local.exec_queue_create(vm, BCS, 1, 2, properties=[(GROUP, CREATE)]) == 7
    assert error_of(lambda: make(local, vm, *properties)) == error


@pytest.mark.parametrize(
    ("profile", "engines", "width", "error"),
    [
        ("cri", [BCS[0]], 1, ""),
        ("cri", [CCS], 1, ""),
        ("cri", [VCS[0]], 1, "ENODEV"),
        ("cri", VCS, 2, "ENODEV"),
        ("cri", [BINDS], 1, "EINVAL"),  # binds go through copy engines
        *((profile, [BCS[0]], 1, "ENODEV") for profile in ("bmg", "lnl", "dg2")),
        *((profile, [CCS], 1, "ENODEV") for profile in ("bmg", "lnl", "dg2")),
        ("bmg", [BINDS], 1, "ENODEV"),
    ],
)
def test_which_engines_have_groups(
    profile: str, engines: Sequence[Eci], width: int, error: str
) -> None:
    with Device(LocalTransport(XeDevice(XeConfig(profile=profile)))) as device:
        vm = device.vm_create()
        group = [(GROUP, CREATE)]
        create = partial(device.exec_queue_create, vm, engines, width, properties=group)
        assert error_of(create) == error


def test_a_group_has_places_for_64_queues_and_none_twice(local: Device) -> None:
    vm = local.vm_create()
    queues = group_of(local, vm, GROUP_SIZE)
    assert error_of(lambda: make(local, vm, (GROUP, queues[0]))) == "EINVAL"
    local.exec_queue_destroy(queues[1])
    assert error_of(lambda: make(local, vm, (GROUP, queues[0]))) == "EINVAL"
    for queue in [queues[0], *queues[2:]]:
        local.exec_queue_destroy(queue)
    assert len(group_of(local, vm, GROUP_SIZE)) == GROUP_SIZE


def test_a_join_that_fails_takes_no_place(local: Device) -> None:
    vm = local.vm_create()
    primary = make(local, vm, (GROUP, CREATE))
    for _ in range(GROUP_SIZE):
        assert error_of(lambda: make(local, vm, (GROUP, primary), (PRIORITY, 1))) == "EINVAL"
    assert len([make(local, vm, (GROUP, primary)) for _ in range(GROUP_SIZE - 1)]) == 63


def test_nobody_joins_after_the_primary_is_gone(local: Device) -> None:
    vm = local.vm_create()
    primary, secondary = group_of(local, vm, 2)
    local.exec_queue_destroy(primary)
    assert error_of(lambda: make(local, vm, (GROUP, primary))) == "ENOENT"
    # The id is free again, and the one that has it has nothing to do with the old group.
    assert make(local, vm) == primary
    assert error_of(lambda: make(local, vm, (GROUP, primary))) == "EINVAL"
    local.exec_queue_destroy(secondary)


@pytest.mark.parametrize(
    ("queue", "value", "error"),
    [
        *((1, value, "") for value in range(3)),
        *((2, value, "") for value in range(3)),
        (2, 3, "EINVAL"),
        (3, 1, "EINVAL"),  # in no group
        (3, 3, "EINVAL"),
        (99, 3, "ENOENT"),
    ],
)
def test_a_priority_can_change(local: Device, queue: int, value: int, error: str) -> None:
    vm = local.vm_create()
    assert [*group_of(local, vm, 2), make(local, vm)] == [1, 2, 3]
    change = partial(local.exec_queue_set_property, queue, GROUP_PRIORITY, value)
    assert error_of(change) == error


# ---- running ----


@every_engine
@pytest.mark.parametrize("first", [0, 1], ids=["primary", "secondary"])
def test_any_queue_of_a_group_may_run_first(local: Device, engine: Eci, first: int) -> None:
    board = Board(local)
    queues = group_of(local, board.vm, 2, engine)
    assert board.run(queues[first], board.storing(7)) == 1
    assert board.read() == 7
    assert board.run(queues[1 - first], board.storing(8)) == 1
    assert board.read() == 8


class Spin:
    """A job that goes on until it is told to end, and waits at a semaphore when told to."""

    STARTED, WAITS, GOES_ON = CELLS + 0x80, CELLS + 0x84, CELLS + 0x88

    def __init__(self, board: Board, queue: int) -> None:
        self.board = board
        board.write(0, self.STARTED)
        board.write(0, self.WAITS)
        board.write(1, self.GOES_ON)
        here = board.batch(BatchBuilder().end())
        batch = BatchBuilder(here).store_dword(self.STARTED, 1)
        loop = batch.here
        batch.semaphore_wait(self.WAITS, 0, Compare.EQ)
        batch.conditional_end(self.GOES_ON, 0, Compare.GT).jump(loop)
        board.memory.write(here - ADDR, bytes(batch))
        self.out = board.exec(queue, here)
        deadline = time.monotonic() + PATIENCE
        while not board.read(self.STARTED):
            assert time.monotonic() < deadline

    def wait(self) -> None:
        """Come to a semaphore that has to be waited for."""
        self.board.write(1, self.WAITS)

    def end(self) -> None:
        self.board.write(0, self.GOES_ON)
        self.board.write(0, self.WAITS)

    def result(self) -> int:
        """What becomes of it, as `status_of`."""
        wait_for(self.board.device, self.out)
        return status_of(self.board.device, self.out)


def test_a_spinner_keeps_the_others_of_its_group_out(local: Device) -> None:
    board = Board(local)
    primary, secondary = group_of(local, board.vm, 2)
    alone = make(local, board.vm)
    spin = Spin(board, primary)
    out = board.exec(secondary, board.storing(7))
    # Others share the engine with the group, by time slices.
    assert board.run(alone, board.storing(8)) == 1
    assert board.read() == 8
    assert not is_signalled(local, out)
    spin.end()
    assert spin.result() == 1
    wait_for(local, out)
    assert board.read() == 7


def test_who_waits_for_a_semaphore_lets_the_others_of_its_group_run(local: Device) -> None:
    """Also those that have begun before, and a waiter that has come meanwhile."""
    board = Board(local)
    queues = group_of(local, board.vm, 4)
    board.write(1, CELLS)
    waiter = BatchBuilder().semaphore_wait(CELLS, 0, Compare.EQ).store_dword(CELLS + 4, 1).end()
    waiters = [board.exec(queue, board.batch(waiter)) for queue in queues[:2]]
    assert board.run(queues[2], board.storing(7)) == 1
    late = board.exec(queues[3], board.batch(waiter))
    assert board.run(queues[2], board.storing(8)) == 1
    assert board.read(CELLS + 4) == 0
    board.write(0, CELLS)
    wait_for(local, *waiters, late)
    assert board.read(CELLS + 4) == 1


def time_stamp(board: Board, cell: int) -> int:
    """A batch that stores when it runs."""
    return board.batch(BatchBuilder().store_register_mem(RING_TIMESTAMP, CELLS + 4 * cell).end())


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("waiting", [False, True], ids=["ends", "waits"])
@pytest.mark.parametrize("xe_options", [CRI, {**CRI, "deterministic": 1}])
def test_the_next_one_is_chosen_by_priority(
    xe: XeDevice, local: Device, dynamic: bool, waiting: bool
) -> None:
    """When the job before is done, or comes to a semaphore that it has to wait for."""
    board = Board(local)
    primary = make(local, board.vm, (GROUP, CREATE))
    priorities = [0, 2, 1, 2]
    queues = []
    for priority in priorities:
        properties = [(GROUP, primary)] + ([] if dynamic else [(GROUP_PRIORITY, priority)])
        queues.append(make(local, board.vm, *properties))
    spin = Spin(board, primary)
    outs = [board.exec(queue, time_stamp(board, cell)) for cell, queue in enumerate(queues)]
    if dynamic:
        for queue, priority in zip(queues, priorities, strict=True):
            local.exec_queue_set_property(queue, GROUP_PRIORITY, priority)
    assert not any(is_signalled(local, out) for out in outs)
    xe.guc.update_ticks(PATIENCE)  # answered when the GPU has heard of all that
    if waiting:
        spin.wait()
    else:
        spin.end()
    wait_for(local, *outs)
    spin.end()
    assert spin.result() == 1
    stamps = [board.read(CELLS + 4 * cell) for cell in range(len(queues))]
    assert sorted(range(len(queues)), key=stamps.__getitem__) == [1, 3, 2, 0]


def test_a_job_of_a_group_may_take_page_faults(local: Device) -> None:
    board = Board(local, FAULT)
    primary, secondary = group_of(local, board.vm, 2)
    board.exec_lr(secondary, board.storing(7), 1)
    local.wait_user_fence(board.fence_address, 1, timeout=10**10)
    board.exec_lr(primary, board.storing(8), 2)
    local.wait_user_fence(board.fence_address, 2, timeout=10**10)
    assert board.read() == 8


# ---- failing ----


def test_a_fault_takes_all_queues_of_the_group(local: Device) -> None:
    """Busy or not.  The reset is the failure of the first queue that is at work."""
    board = Board(local)
    queues = group_of(local, board.vm, 4)
    alone = make(local, board.vm)
    spin = Spin(board, queues[1])
    jobs = [spin.out, board.exec(queues[1], board.storing(1))]
    jobs += [board.exec(queues[2], NOWHERE)]
    spin.wait()
    wait_for(local, *jobs)
    assert [status_of(local, job) for job in jobs] == [EIO, ECANCELED, ETIME]
    assert [is_banned(local, queue) for queue in queues] == [True] * 4
    for queue in queues:
        assert error_of(partial(board.exec, queue, board.storing(1))) == "ECANCELED"
    assert board.run(alone, board.storing(9)) == 1


@hasty
def test_who_takes_too_long_takes_those_that_have_work(local: Device) -> None:
    """The others hear of it with their next job."""
    board = Board(local)
    queues = group_of(local, board.vm, 3)
    spin = Spin(board, queues[1])
    waits = board.exec(queues[2], board.storing(1))
    assert spin.result() == ETIME
    wait_for(local, waits)
    assert status_of(local, waits) == ETIME
    assert [is_banned(local, queue) for queue in queues] == [False, True, True]
    assert board.run(queues[0], board.storing(1)) == ETIME
    assert is_banned(local, queues[0])


def test_the_end_of_a_queue_with_work_takes_those_that_have_some(local: Device) -> None:
    board = Board(local)
    queues = group_of(local, board.vm, 3)
    spin = Spin(board, queues[1])
    waits = board.exec(queues[2], board.storing(1))
    local.exec_queue_destroy(queues[1])
    wait_for(local, waits)
    assert (spin.result(), status_of(local, waits)) == (ETIME, ETIME)
    assert [is_banned(local, queue) for queue in (queues[0], queues[2])] == [False, True]
    assert board.read() == 0


def test_the_end_of_a_queue_whose_work_still_waits_hurts_nobody(
    local: Device, local_gate: Gate
) -> None:
    board = Board(local)
    queues = group_of(local, board.vm, 3)
    waits = board.exec(queues[1], board.storing(1), waits_for(local_gate.syncobj()))
    spin = Spin(board, queues[2])
    local.exec_queue_destroy(queues[1])
    wait_for(local, waits)
    spin.end()
    assert (status_of(local, waits), spin.result()) == (ETIME, 1)
    assert board.run(queues[0], board.storing(3)) == 1


def test_the_end_of_an_idle_secondary_hurts_nobody(local: Device) -> None:
    board = Board(local)
    queues = group_of(local, board.vm, 3)
    assert board.run(queues[1], board.storing(1)) == 1
    spin = Spin(board, queues[2])
    local.exec_queue_destroy(queues[1])
    assert board.run(make(local, board.vm), board.storing(2)) == 1
    spin.end()
    assert spin.result() == 1
    assert board.run(queues[0], board.storing(3)) == 1


def test_no_queue_takes_work_after_the_end_of_the_primary(local: Device) -> None:
    """What runs goes on."""
    board = Board(local)
    primary, secondary = group_of(local, board.vm, 2)
    spin = Spin(board, secondary)
    local.exec_queue_destroy(primary)
    assert is_banned(local, secondary)
    assert error_of(lambda: board.exec(secondary, board.storing(1))) == "ECANCELED"
    spin.end()
    assert spin.result() == 1


def test_what_waits_for_its_turn_does_not_come_after_the_end_of_the_primary(
    local: Device, local_gate: Gate
) -> None:
    board = Board(local)
    primary, secondary = group_of(local, board.vm, 2)
    job = board.exec(secondary, board.storing(1), waits_for(local_gate.syncobj()))
    local.exec_queue_destroy(primary)
    local_gate.open()
    wait_for(local, job)
    assert status_of(local, job) == ETIME
    assert board.read() == 0


def test_who_is_at_work_then_has_ended_before_that_is_told(local: Device, local_gate: Gate) -> None:
    """It stores nothing more after its fence."""
    board = Board(local)
    primary, running, waiting = group_of(local, board.vm, 3)
    board.write(1, CELLS)
    batch = BatchBuilder().store_dword(CELLS + 4, 1).semaphore_wait(CELLS, 0, Compare.EQ)
    at_work = board.exec(running, board.batch(batch.store_dword(CELLS + 8, 1).end()))
    deadline = time.monotonic() + PATIENCE
    while not board.read(CELLS + 4):
        assert time.monotonic() < deadline
    job = board.exec(waiting, board.storing(1), waits_for(local_gate.syncobj()))
    local.exec_queue_destroy(primary)
    local_gate.open()
    wait_for(local, at_work, job)
    assert [status_of(local, out) for out in (at_work, job)] == [ETIME, ETIME]
    board.write(0, CELLS)
    for _ in range(3):
        assert board.run(make(local, board.vm), board.storing(1)) == 1
    assert board.read(CELLS + 8) == 0


def test_a_reset_takes_the_group_of_who_was_at_work(local: Device, xe: XeDevice) -> None:
    board = Board(local)
    queues = group_of(local, board.vm, 3)
    spin = Spin(board, queues[2])
    waits = board.exec(queues[1], board.storing(1))
    xe.guc.reset()
    wait_for(local, waits)
    assert (spin.result(), status_of(local, waits)) == (ETIME, ETIME)
    assert [is_banned(local, queue) for queue in queues] == [False, True, True]


def test_a_group_ends_with_its_file(xe: XeDevice) -> None:
    """Whatever its queues are at."""
    with Device(LocalTransport(xe)) as other:
        board = Board(other)
        queues = group_of(other, board.vm, 3)
        Spin(board, queues[1])
        other.exec_queue_destroy(queues[0])
    with Device(LocalTransport(xe)) as local:
        board = Board(local)
        assert board.run(group_of(local, board.vm, 2)[1], board.storing(5)) == 1
