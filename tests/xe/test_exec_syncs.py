"""EXEC and its syncs, and jobs and binds that wait for each other."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from tests.xe.gpu_work import (
    ADDR,
    FAULT,
    FENCE,
    LR,
    PAGE,
    RCS,
    VCS,
    Board,
    Eci,
    status_of,
    wait_for,
)
from uapi import drm, xe_drm
from xedev.client import BatchBuilder, Device, GpuUserFence
from xedev.client.memory import ExecSync, op_map, op_unmap
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

HOLE = 0x800000
BINDS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)
SIGNALED = drm.DRM_SYNCOBJ_CREATE_SIGNALED
UNKNOWN = 0x7FFF_FFFF
EIO = -errno.EIO


# ---- the table of drm_xe_sync ----


def _bad_syncs(device: Device) -> list[tuple[str, list[ExecSync]]]:
    empty, binary = device.syncobj_create(), device.syncobj_create(SIGNALED)
    timeline = device.syncobj_create()
    device.syncobj_timeline_signal([timeline], [4])
    high, high_signal = waits_for(binary), signals(binary, 3)
    high.addr |= 1 << 32
    high_signal.addr |= 1 << 63
    no_point, no_signal_point = waits_for(timeline, 1), signals(timeline, 1)
    no_point.timeline_value = no_signal_point.timeline_value = 0
    flags, first, second, strange = (signals(binary) for _ in range(4))
    flags.flags |= 2
    first.reserved[0] = 1
    second.reserved[1] = 1
    strange.type = 3
    waited, odd, odd_waited = (GpuUserFence(FENCE).sync() for _ in range(3))
    waited.flags = odd_waited.flags = 0
    odd.addr += 4
    odd_waited.addr += 4
    both_wrong = waits_for(UNKNOWN)
    both_wrong.addr |= 1 << 32
    late_flags = waits_for(UNKNOWN)
    late_flags.type, late_flags.flags = 3, 4
    return [
        ("EINVAL", [waits_for(empty)]),
        ("EINVAL", [waits_for(empty, 1)]),
        ("EINVAL", [waits_for(binary, 1)]),
        ("EINVAL", [waits_for(timeline, 5)]),
        ("ENOENT", [waits_for(UNKNOWN)]),
        ("ENOENT", [waits_for(0)]),
        ("ENOENT", [signals(UNKNOWN)]),
        ("ENOENT", [signals(UNKNOWN, 1)]),
        ("EINVAL", [high]),
        ("EINVAL", [high_signal]),
        ("EINVAL", [no_point]),
        ("EINVAL", [no_signal_point]),
        ("EINVAL", [flags]),
        ("EINVAL", [first]),
        ("EINVAL", [second]),
        ("EINVAL", [strange]),
        ("EOPNOTSUPP", [waited]),
        ("EOPNOTSUPP", [odd_waited]),
        ("EINVAL", [odd]),
        ("EINVAL", [both_wrong]),
        ("EINVAL", [late_flags]),
        ("EINVAL", [GpuUserFence(FENCE), GpuUserFence(FENCE)]),
        # Fences are counted when all entries were read, and the first bad entry is the answer.
        ("ENOENT", [GpuUserFence(FENCE), GpuUserFence(FENCE), signals(UNKNOWN)]),
        ("ENOENT", [waits_for(UNKNOWN), strange]),
        ("EINVAL", [strange, waits_for(UNKNOWN)]),
    ]


def test_an_error_leaves_all_syncs_alone_and_runs_nothing(device: Device) -> None:
    board, out = Board(device), device.syncobj_create()
    queue, store = board.queue(), board.storing(1)
    for error, syncs in _bad_syncs(device):
        array = [signals(out), signals(out, 7), *syncs]
        assert error_of(lambda: device.exec(queue, store, array)) == error, syncs  # noqa: B023
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
    device.exec(queue, 0, [signals(out)], 0)
    assert is_signalled(device, out)  # nothing was queued either
    assert [board.read(), board.read(FENCE)] == [0, 0]


@pytest.mark.parametrize("mode", [LR, FAULT])
def test_a_long_running_vm_signals_no_syncobj(device: Device, mode: int) -> None:
    """That is told before anything else that is wrong with the entry."""
    board = Board(device, mode)
    queue, store = board.queue(), board.storing(1)
    high = signals(UNKNOWN, 1)
    high.addr |= 1 << 32
    high.timeline_value = 0
    for sync in (signals(device.syncobj_create()), signals(UNKNOWN), high):
        assert error_of(lambda: device.exec(queue, store, [sync])) == "EOPNOTSUPP"  # noqa: B023
    reserved = signals(UNKNOWN)
    reserved.reserved[0] = 1
    assert error_of(lambda: device.exec(queue, store, [reserved])) == "EINVAL"
    assert error_of(lambda: device.exec(queue, store, [waits_for(UNKNOWN)])) == "ENOENT"


# ---- waiting and signalling ----


@pytest.mark.parametrize("point", [0, 3])
def test_a_job_runs_after_its_in_fence_and_signals_then(
    device: Device, gate: Gate, point: int
) -> None:
    board, binary, timeline = Board(device), device.syncobj_create(), device.syncobj_create()
    syncs: list[ExecSync] = [
        waits_for(gate.syncobj(point=point), point),
        signals(binary),
        signals(timeline, 5),
        GpuUserFence(FENCE, 1 << 40 | 7),
    ]
    device.exec(board.queue(), board.storing(1), syncs)
    assert not is_signalled(device, binary)
    last = drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED
    assert device.syncobj_query([timeline]) == [0]
    assert device.syncobj_query([timeline], last) == [5]
    assert [board.read(), board.read(FENCE)] == [0, 0]
    gate.open()
    wait_for(device, binary)
    assert device.syncobj_query([timeline]) == [5]
    assert [board.read(), board.read(FENCE), board.read(FENCE + 4)] == [1, 7, 1 << 8]


def test_a_user_fence_is_there_when_the_syncobj_is(device: Device) -> None:
    board, out = Board(device), device.syncobj_create()
    queue, store = board.queue(), board.storing(1)
    for value in range(1, 65):
        device.exec(queue, store, [GpuUserFence(FENCE, value), signals(out)])
        wait_for(device, out)
        assert board.read(FENCE) == value


def test_all_in_fences_are_waited_for(device: Device, gate: Gate) -> None:
    board, done = Board(device), device.syncobj_create(SIGNALED)
    waits = [waits_for(gate.syncobj(1)), waits_for(done), waits_for(gate.syncobj(2))]
    out = board.exec(board.queue(), board.storing(1), *waits)
    gate.open()
    assert not is_signalled(device, out)
    gate.open()
    wait_for(device, out)
    assert board.read() == 1


def test_what_is_waited_for_is_what_was_there(device: Device, gate: Gate) -> None:
    board, waited = Board(device), gate.syncobj()
    out = board.exec(board.queue(), board.storing(1), waits_for(waited))
    device.syncobj_signal([waited])
    assert not is_signalled(device, out)
    device.syncobj_destroy(waited)
    gate.open()
    wait_for(device, out)


def test_a_fence_that_failed_lets_the_job_go_on(device: Device, gate: Gate) -> None:
    board = Board(device)
    out = board.exec(board.queue(), board.storing(1), waits_for(gate.syncobj()))
    gate.close()
    wait_for(device, out)
    assert [status_of(device, out), board.read()] == [1, 1]


@pytest.mark.parametrize("first", [waits_for, signals])
def test_one_syncobj_to_wait_for_and_to_signal(device: Device, gate: Gate, first: Any) -> None:
    board, both = Board(device), gate.syncobj()
    second = signals if first is waits_for else waits_for
    queues = [board.queue(), board.queue(VCS[:1])]
    device.exec(queues[0], board.storing(1), [first(both), second(both)])
    device.exec(queues[1], board.storing(2), [waits_for(both), signals(both)])
    assert not is_signalled(device, both)
    gate.open()
    wait_for(device, both)
    assert board.read() == 2


def test_signals_are_set_in_the_order_of_the_array(device: Device, gate: Gate) -> None:
    board, out = Board(device), device.syncobj_create()
    queue, store = board.queue(), board.storing(1)
    points = [signals(out), signals(out, 2), signals(out, 4)]
    device.exec(queue, store, [waits_for(gate.syncobj()), *points])
    last = drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED
    assert device.syncobj_query([out], last) == [4]
    device.exec(queue, store, [signals(out, 6), signals(out)])
    assert device.syncobj_query([out], last) == [0]  # replaced by a plain fence
    gate.open()
    wait_for(device, out)


def test_points_out_of_order_are_put_up_with(device: Device) -> None:
    board, timeline = Board(device), device.syncobj_create()
    queue = board.queue()
    for value, point in enumerate((5, 3, 5), 1):
        device.exec(queue, board.storing(value), [signals(timeline, point)])
        wait_for(device, timeline)
        assert [board.read(), *device.syncobj_query([timeline])] == [value, 5]


def test_a_chain_through_all_engines(device: Device, gate: Gate) -> None:
    """Each job increments a cell on another engine; a point of one timeline after the other."""
    board, timeline = Board(device), gate.syncobj(point=1)
    increment = board.batch(BatchBuilder().atomic_inc(ADDR).end())
    engines = [engine.instance for engine in device.query_engines()]
    for point, engine in enumerate(engines, 2):
        queue = board.queue([engine])
        syncs = [waits_for(timeline, point - 1), signals(timeline, point)]
        device.exec(queue, increment, syncs)
    assert device.syncobj_query([timeline]) == [0]
    gate.open()
    wait_for(device, timeline)
    assert board.read() == len(engines)
    assert device.syncobj_query([timeline]) == [len(engines) + 1]


def test_fences_signalled_out_of_order(device: Device) -> None:
    board = Board(device)
    gates = [Gate(device) for _ in range(3)]
    outs = [
        board.exec(board.queue(), board.storing(value), waits_for(gate.syncobj()))
        for value, gate in enumerate(gates, 1)
    ]
    for index in (2, 0, 1):
        gates[index].open()
        wait_for(device, outs[index])
        assert board.read() == index + 1
    for gate in gates:
        gate.close()


@settings(max_examples=10)
@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 2), st.none() | st.integers(0, 20), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    opened=st.randoms(use_true_random=False),
)
def test_jobs_run_when_all_before_them_have(
    jobs: list[tuple[int, int | None, bool]], opened: Any
) -> None:
    """Jobs of three queues, each of which may wait for a gate and for some earlier job."""
    xe = XeDevice()
    with Device(LocalTransport(xe)) as device:
        board = Board(device)
        queues = [board.queue([engine]) for engine in (RCS, *VCS)]
        gates = {index: Gate(device) for index, job in enumerate(jobs) if job[2]}
        outs: list[int] = []
        needs: list[set[int]] = []
        for index, (queue, after, _) in enumerate(jobs):
            waits, before = [], {i for i in range(index) if jobs[i][0] == queue}
            if index in gates:
                waits.append(waits_for(gates[index].syncobj()))
            if after is not None and outs:
                waits.append(waits_for(outs[after % index]))
                before.add(after % index)
            needs.append({index}.union(*(needs[i] for i in before)))
            outs.append(board.exec(queues[queue], board.storing(1, ADDR + 4 * index), *waits))
        closed = set(gates)
        for gone in [None, *opened.sample(sorted(closed), len(closed))]:
            if gone is not None:
                gates[gone].open()
                closed.remove(gone)
            held = {index for index, need in enumerate(needs) if need & closed}
            wait_for(device, *[out for index, out in enumerate(outs) if index not in held])
            for index, out in enumerate(outs):
                assert is_signalled(device, out) is (index not in held)
                assert board.read(ADDR + 4 * index) == int(index not in held)
        for gate in gates.values():
            gate.close()
        board.memory.close()
    xe.shutdown()


# ---- binds and jobs ----


class Piece:
    """A page of its own to be bound at `HOLE`."""

    def __init__(self, board: Board, pages: int = 1) -> None:
        self.board, self.device, self.size = board, board.device, pages * PAGE
        self.bo = self.device.gem_create(self.size, 1)
        self.memory = self.device.map(self.bo, self.size)

    def bind(self, *syncs: xe_drm.drm_xe_sync, queue: int = 0) -> None:
        op = op_map(self.bo, 0, HOLE, self.size)
        self.device.vm_bind(self.board.vm, [op], syncs, exec_queue_id=queue)

    def read(self, page: int = 0) -> int:
        return int.from_bytes(self.memory.read(page * PAGE, 4), "little")


def unbind(board: Board, *syncs: xe_drm.drm_xe_sync, page: int = 0, pages: int = 1) -> None:
    board.device.vm_bind(board.vm, [op_unmap(HOLE + page * PAGE, pages * PAGE)], syncs)


known = pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
"""Whether the GPU has run a job of the VM before the bind."""


def stage(device: Device, is_known: bool) -> tuple[Board, Piece]:
    board = Board(device)
    if is_known:
        assert board.run(board.queue(), board.storing(0)) == 1
    return board, Piece(board)


@known
def test_a_bind_shows_after_its_in_fence(device: Device, gate: Gate, is_known: bool) -> None:
    board, piece = stage(device, is_known)
    bound = device.syncobj_create()
    piece.bind(waits_for(gate.syncobj()), signals(bound))
    store = board.storing(5, HOLE)
    assert board.run(board.queue(), store) == EIO
    late = board.exec(board.queue(), store, waits_for(bound))
    assert piece.read() == 0
    gate.open()
    wait_for(device, late)
    assert [status_of(device, late), piece.read()] == [1, 5]


@known
def test_an_unbind_shows_after_its_in_fence(device: Device, gate: Gate, is_known: bool) -> None:
    board, piece = stage(device, is_known)
    piece.bind()
    gone = device.syncobj_create()
    unbind(board, waits_for(gate.syncobj()), signals(gone))
    assert not device.vm_query_mem_range_attrs(board.vm, HOLE, PAGE)
    assert board.run(board.queue(), board.storing(5, HOLE)) == 1
    gate.open()
    wait_for(device, gone)
    assert board.run(board.queue(), board.storing(6, HOLE)) == EIO
    assert piece.read() == 5


@known
def test_a_store_lands_in_what_was_bound_before(device: Device, gate: Gate, is_known: bool) -> None:
    board, old = stage(device, is_known)
    new, bound = Piece(board), device.syncobj_create()
    old.bind()
    new.bind(waits_for(gate.syncobj()), signals(bound))
    queue = board.queue()
    assert board.run(queue, board.storing(5, HOLE)) == 1
    assert [old.read(), new.read()] == [5, 0]
    gate.open()
    wait_for(device, bound)
    assert board.run(queue, board.storing(6, HOLE)) == 1
    assert [old.read(), new.read()] == [5, 6]


@known
def test_binds_of_two_queues_show_in_their_own_order(
    device: Device, gate: Gate, is_known: bool
) -> None:
    """The later one is not held up, and the earlier one comes over it when its gate opens."""
    board, first = stage(device, is_known)
    second, binds = Piece(board), board.queue([BINDS])
    outs = [device.syncobj_create() for _ in range(2)]
    queue = board.queue()
    second.bind(waits_for(gate.syncobj(2)), signals(outs[1]))
    gate.open()
    device.vm_bind(
        board.vm, [op_map(first.bo, 0, 2 * HOLE, PAGE)], [signals(outs[0])], exec_queue_id=binds
    )
    wait_for(device, outs[0])
    assert board.run(queue, board.storing(5, 2 * HOLE)) == 1
    assert not is_signalled(device, outs[1])
    gate.open()
    wait_for(device, outs[1])
    assert board.run(queue, board.storing(6, HOLE)) == 1
    assert [first.read(), second.read()] == [5, 6]


def test_an_unbind_waits_for_the_job_that_it_is_told_to(device: Device) -> None:
    """And its memory stays until then, even if the client lets go of it."""
    board = Board(device)
    piece = Piece(board)
    piece.bind()
    wait = BatchBuilder().semaphore_wait(ADDR, 1).store_dword(HOLE, 5).copy_dword(ADDR + 4, HOLE)
    job = board.exec(board.queue(), board.batch(wait.end()))
    gone = device.syncobj_create()
    unbind(board, waits_for(job), signals(gone))
    piece.memory.close()
    device.gem_close(piece.bo)
    assert not is_signalled(device, gone)
    board.write(1)
    wait_for(device, job, gone)
    assert [status_of(device, job), board.read(ADDR + 4)] == [1, 5]


@known
def test_what_is_left_of_a_mapping_waits_for_all_jobs(
    device: Device, gate: Gate, is_known: bool
) -> None:
    """A bind with remnants is made when nobody looks, and jobs after it wait for it."""
    board = Board(device)
    if is_known:
        assert board.run(board.queue(), board.storing(0)) == 1
    piece, middle = Piece(board, 3), device.syncobj_create()
    piece.bind()
    stores = [board.storing(5, HOLE + page * PAGE) for page in range(3)]
    before = board.exec(board.queue(), stores[1], waits_for(gate.syncobj(1)))
    unbind(board, signals(middle), page=1)
    assert not is_signalled(device, middle)
    after = [board.exec(board.queue(), store) for store in stores]
    assert not any(is_signalled(device, out) for out in after)
    gate.open()
    wait_for(device, before, middle, *after)
    assert status_of(device, before) == 1
    assert [status_of(device, out) for out in after] == [1, EIO, 1]
    assert [piece.read(page) for page in range(3)] == [5, 5, 5]


def test_a_whole_unbind_waits_for_nobody(device: Device, gate: Gate) -> None:
    board = Board(device)
    piece, gone = Piece(board), device.syncobj_create()
    piece.bind()
    job = board.exec(board.queue(), board.storing(5, HOLE), waits_for(gate.syncobj()))
    unbind(board, signals(gone))
    wait_for(device, gone)
    gate.open()
    wait_for(device, job)
    assert [status_of(device, job), piece.read()] == [EIO, 0]


def test_a_job_does_not_wait_for_a_plain_bind(device: Device, gate: Gate) -> None:
    board = Board(device)
    piece = Piece(board)
    piece.bind(waits_for(gate.syncobj()))
    assert board.run(board.queue(), board.storing(1)) == 1


def test_the_bind_of_nothing_tells_when_the_binds_are_done(device: Device, gate: Gate) -> None:
    """As a driver asks at the end of its queue."""
    board, out, idle = Board(device), device.syncobj_create(), device.syncobj_create()
    device.vm_bind(board.vm, [], [signals(idle)])
    assert is_signalled(device, idle)
    Piece(board).bind(waits_for(gate.syncobj()))
    device.vm_bind(board.vm, [], [signals(out)])
    assert not is_signalled(device, out)
    gate.open()
    wait_for(device, out)


def test_a_mapping_that_waited_is_there_for_good(local: Device, local_gate: Gate) -> None:
    """Also when the GPU's process ended meanwhile, as it does after a while without queues."""
    board, bound = Board(local), local.syncobj_create()
    queue = board.queue()
    assert board.run(queue, board.storing(0)) == 1
    piece = Piece(board)
    piece.bind(waits_for(local_gate.syncobj()), signals(bound))
    local_gate.open()
    wait_for(local, bound)
    assert board.run(queue, board.storing(5, HOLE)) == 1
    local.exec_queue_destroy(queue)
    local.transport.file.device.guc.ct.disable()  # type: ignore[attr-defined]
    assert board.run(board.queue(), board.storing(6, HOLE)) == 1
    assert piece.read() == 6


# ---- too much at once ----


SZ_2M = 2 << 20


def _maps(device: Device, count: int) -> Sequence[xe_drm.drm_xe_vm_bind_op]:
    bo = device.gem_create(SZ_2M, 1)
    return [op_map(bo, 0, ADDR + index * SZ_2M, SZ_2M) for index in range(count)]


@pytest.mark.parametrize(("profile", "most"), [("bmg", 1024), ("lnl", 512)])
def test_a_bind_that_waits_may_not_be_too_large(profile: str, most: int) -> None:
    """IGT's bind-array-enobufs: the array fails, a quarter of it does not."""
    xe = XeDevice(XeConfig(profile=profile))
    with Device(LocalTransport(xe)) as device:
        gate, vm, out = Gate(device), device.vm_create(), device.syncobj_create()
        ops, shut = _maps(device, most), waits_for(gate.syncobj())
        assert error_of(lambda: device.vm_bind(vm, ops, [shut, signals(out)])) == "ENOBUFS"
        assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
        assert not device.vm_query_mem_range_attrs(vm, 0, 1 << 47)
        device.vm_bind(vm, ops[: most // 4], [shut, signals(out)])
        assert len(device.vm_query_mem_range_attrs(vm, 0, 1 << 47)) == most // 4
        gate.open()
        wait_for(device, out)
        device.vm_bind(vm, ops, [shut])  # the CPU does it when there is nothing to wait for
        gate.close()
    xe.shutdown()
