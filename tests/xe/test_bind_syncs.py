"""VM_BIND and its syncs: what it waits for, what it signals, in which order."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from uapi import drm, xe_drm
from xedev.client import Device, UserFence
from xedev.client.igt_syncobj import sync_fence_status
from xedev.client.memory import Sync, op_map, op_map_null, op_prefetch, op_unmap, op_unmap_all
from xedev.client.transport import IN, Buffer
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

PAGE = 4096
ADDR = 0x1A0000
PATIENCE = 10 * 10**9  # nanoseconds
SIGNALED = drm.DRM_SYNCOBJ_CREATE_SIGNALED
LR = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT = LR | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
UNKNOWN = 0x7FFF_FFFF


def bind(device: Device, vm: int, syncs: Sequence[Sync] = (), addr: int = ADDR) -> None:
    device.vm_bind(vm, [op_map_null(addr, PAGE)], syncs)


def is_mapped(device: Device, vm: int, addr: int = ADDR) -> bool:
    return bool(device.vm_query_mem_range_attrs(vm, addr, PAGE))


def nothing(device: Device, vm: int, syncs: Sequence[Sync]) -> None:
    device.vm_bind(vm, [], syncs)


def unmap_a_hole(device: Device, vm: int, syncs: Sequence[Sync]) -> None:
    device.vm_bind(vm, [op_unmap(64 * ADDR, PAGE)], syncs)


# ---- now and later ----


def test_without_waits_all_is_signalled_on_return(device: Device) -> None:
    vm, binary, timeline = device.vm_create(), device.syncobj_create(), device.syncobj_create()
    fence = UserFence(7)
    bind(device, vm, [signals(binary), signals(timeline, 5), fence])
    assert is_signalled(device, binary)
    assert device.syncobj_query([timeline]) == [5]
    assert fence.signaled


@pytest.mark.parametrize("point", [0, 3])
def test_the_map_changes_at_once_and_the_signals_follow_the_in_fence(
    device: Device, gate: Gate, point: int
) -> None:
    vm, binary, timeline = device.vm_create(), device.syncobj_create(), device.syncobj_create()
    fence = UserFence(7)
    before = waits_for(gate.syncobj(point=point), point)
    bind(device, vm, [before, signals(binary), signals(timeline, 5), fence])
    assert is_mapped(device, vm)
    assert not is_signalled(device, binary)
    assert device.syncobj_query([timeline]) == [0]
    assert not fence.signaled
    gate.open()
    fence.wait()
    assert is_signalled(device, binary)
    assert device.syncobj_query([timeline]) == [5]


def test_all_in_fences_are_waited_for(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    done = device.syncobj_create(SIGNALED)
    bind(
        device,
        vm,
        [waits_for(gate.syncobj(1)), waits_for(done), waits_for(gate.syncobj(2)), signals(out)],
    )
    gate.open()
    assert not is_signalled(device, out)
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0


def test_a_fence_that_failed_lets_the_bind_go_on(device: Device, gate: Gate) -> None:
    vm, out, fence = device.vm_create(), device.syncobj_create(), UserFence()
    bind(device, vm, [waits_for(gate.syncobj()), signals(out), fence])
    exported = device.syncobj_export_sync_file(out)
    gate.close()
    fence.wait()
    assert sync_fence_status(device, exported) == 1
    device.transport.close_fd(exported)


def test_what_is_waited_for_is_what_was_there(device: Device, gate: Gate) -> None:
    vm, out, waited = device.vm_create(), device.syncobj_create(), gate.syncobj()
    bind(device, vm, [waits_for(waited), signals(out)])
    device.syncobj_signal([waited])
    assert not is_signalled(device, out)
    device.syncobj_destroy(waited)
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0


@pytest.mark.parametrize("first", [waits_for, signals])
def test_one_syncobj_to_wait_for_and_to_signal(device: Device, gate: Gate, first: Any) -> None:
    vm, both = device.vm_create(), gate.syncobj()
    second = signals if first is waits_for else waits_for
    bind(device, vm, [first(both), second(both)])
    bind(device, vm, [waits_for(both), signals(both)], 2 * ADDR)
    assert not is_signalled(device, both)
    gate.open()
    assert device.syncobj_wait([both], PATIENCE) == 0


def test_signals_are_set_in_the_order_of_the_array(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    bind(device, vm, [waits_for(gate.syncobj()), signals(out), signals(out, 2), signals(out, 4)])
    last = drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED
    assert device.syncobj_query([out], last) == [4]
    bind(device, vm, [signals(out, 6), signals(out)])
    assert device.syncobj_query([out], last) == [0]  # replaced by a plain fence
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0


# ---- order ----


def test_binds_of_a_vm_take_effect_in_order(device: Device, gate: Gate) -> None:
    other = Gate(device)
    vm, out = device.vm_create(), device.syncobj_create()
    bind(device, vm, [waits_for(gate.syncobj()), signals(out, 1)])
    bind(device, vm, [waits_for(other.syncobj()), signals(out, 2)], 2 * ADDR)
    bind(device, vm, [signals(out, 3)], 3 * ADDR)
    other.open()
    assert device.syncobj_query([out]) == [0]
    gate.open()
    device.syncobj_timeline_wait([out], [3], PATIENCE)
    assert device.syncobj_query([out]) == [3]
    other.close()


def test_other_vms_and_other_bind_queues_are_not_held_up(device: Device, gate: Gate) -> None:
    vm, neighbour, out = device.vm_create(), device.vm_create(), device.syncobj_create()
    fence = UserFence()
    bind(device, vm, addr=ADDR + 16 * PAGE)  # else the two meet in the page tables
    bind(device, vm, [waits_for(gate.syncobj()), signals(out)])
    bind(device, neighbour, [fence])
    assert fence.signaled
    queue, second = _bind_queue(device, vm), UserFence()
    device.vm_bind(vm, [op_map_null(2 * ADDR, PAGE)], [second], exec_queue_id=queue)
    assert second.signaled
    assert not is_signalled(device, out)


def _bind_queue(device: Device, vm: int) -> int:
    engine = xe_drm.drm_xe_engine_class_instance(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)
    buffer = Buffer(engine, IN)
    arg = xe_drm.drm_xe_exec_queue_create(
        width=1, num_placements=1, vm_id=vm, instances=buffer.address
    )
    device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_CREATE, arg, [buffer])
    return arg.exec_queue_id


@settings(max_examples=60)
@given(
    queues=st.lists(st.integers(0, 2), min_size=1, max_size=10),
    opened=st.randoms(use_true_random=False),
)
def test_gates_opened_in_any_order_let_the_front_of_each_queue_through(
    queues: list[int], opened: Any
) -> None:
    with Device(LocalTransport(XeDevice())) as device:
        vms = [device.vm_create() for _ in range(3)]
        gates = [Gate(device) for _ in queues]
        outs = [device.syncobj_create() for _ in queues]
        for index, vm in enumerate(queues):
            syncs = [waits_for(gates[index].syncobj()), signals(outs[index])]
            bind(device, vms[vm], syncs, (index + 1) * ADDR)
        closed = set(range(len(queues)))
        for index in opened.sample(sorted(closed), len(closed)):
            gates[index].open()
            closed.remove(index)
            for at, out in enumerate(outs):
                held = any(queues[at] == queues[i] and i <= at for i in closed)
                assert is_signalled(device, out) is not held
        for gate in gates:
            gate.close()


def test_thousands_of_binds_behind_one_gate(local: Device, local_gate: Gate) -> None:
    vm, out, first = local.vm_create(), local.syncobj_create(), local_gate.syncobj()
    for number in range(1, 3001):
        bind(local, vm, [waits_for(first), signals(out, number)])
    fence = UserFence()
    bind(local, vm, [fence])
    local_gate.open()
    fence.wait()
    assert local.syncobj_query([out]) == [3000]


def test_a_long_row_of_vms_that_wait_for_each_other(local: Device, local_gate: Gate) -> None:
    link = local_gate.syncobj()
    for _ in range(1500):
        bind(local, local.vm_create(), [waits_for(link), signals(link)])
    assert not is_signalled(local, link)
    local_gate.open()
    assert is_signalled(local, link)


# ---- nothing to do ----

NOTHING = pytest.mark.parametrize("idle", [nothing, unmap_a_hole])


@NOTHING
def test_with_nothing_to_do_the_last_bind_is_what_is_signalled(
    device: Device, gate: Gate, idle: Any
) -> None:
    vm, before, after = device.vm_create(), device.syncobj_create(), device.syncobj_create()
    idle(device, vm, [signals(before)])
    assert is_signalled(device, before)
    bind(device, vm, [waits_for(gate.syncobj())])
    idle(device, vm, [signals(before), signals(after, 9)])
    assert not is_signalled(device, before)
    assert device.syncobj_query([after]) == [0]
    gate.open()
    assert device.syncobj_wait([before, after], PATIENCE) == 0
    assert device.syncobj_query([after]) == [9]


@NOTHING
def test_with_nothing_to_do_nothing_can_be_waited_for(
    device: Device, gate: Gate, idle: Any
) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    for waited in (gate.syncobj(), device.syncobj_create(SIGNALED)):
        syncs = [waits_for(waited), signals(out)]
        assert error_of(lambda: idle(device, vm, syncs)) == "EOPNOTSUPP"  # noqa: B023
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"  # as it was: no fence


def test_a_user_fence_needs_an_op_but_not_one_that_changes_anything(device: Device) -> None:
    vm, fence = device.vm_create(), UserFence()
    assert error_of(lambda: nothing(device, vm, [fence])) == "EOPNOTSUPP"
    assert not fence.signaled
    unmap_a_hole(device, vm, [fence])
    assert fence.signaled


def test_a_prefetch_is_something_to_do(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    bind(device, vm)
    syncs = [waits_for(gate.syncobj()), signals(out)]
    device.vm_bind(vm, [op_prefetch(ADDR, PAGE)], syncs)
    assert not is_signalled(device, out)
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0


# ---- long-running VMs ----


@pytest.mark.parametrize("mode", [LR, FAULT])
@pytest.mark.parametrize("point", [0, 1])
def test_a_long_running_vm_waits_for_syncobjs_but_signals_user_fences_only(
    device: Device, gate: Gate, mode: int, point: int
) -> None:
    vm, out, fence = device.vm_create(mode), device.syncobj_create(), UserFence()
    assert error_of(lambda: bind(device, vm, [signals(out, point)])) == "EOPNOTSUPP"
    assert error_of(lambda: nothing(device, vm, [signals(out, point)])) == "EOPNOTSUPP"
    bind(device, vm, [waits_for(gate.syncobj(point=point), point), fence])
    assert not fence.signaled
    gate.open()
    fence.wait()


# ---- errors ----


def _bad_syncs(device: Device) -> list[tuple[str, list[Sync]]]:
    empty, binary = device.syncobj_create(), device.syncobj_create(SIGNALED)
    timeline = device.syncobj_create()
    device.syncobj_timeline_signal([timeline], [4])
    high = waits_for(binary)
    high.addr |= 1 << 32
    no_point = waits_for(timeline, 1)
    no_point.timeline_value = 0
    flags, reserved, strange = signals(binary), signals(binary), signals(binary)
    flags.flags |= 2
    reserved.reserved[1] = 1
    strange.type = 3
    waited, odd = UserFence().sync(), UserFence().sync()
    waited.flags = 0
    odd.addr += 4
    return [
        ("EINVAL", [waits_for(empty)]),
        ("EINVAL", [waits_for(empty, 1)]),
        ("EINVAL", [waits_for(binary, 1)]),
        ("EINVAL", [waits_for(timeline, 5)]),
        ("ENOENT", [waits_for(UNKNOWN)]),
        ("ENOENT", [signals(UNKNOWN, 1)]),
        ("EINVAL", [high]),
        ("EINVAL", [no_point]),
        ("EINVAL", [flags]),
        ("EINVAL", [reserved]),
        ("EINVAL", [strange]),
        ("EOPNOTSUPP", [waited]),
        ("EINVAL", [odd]),
        ("EINVAL", [UserFence(), UserFence()]),
        # Fences are counted when all entries were read.
        ("ENOENT", [UserFence(), UserFence(), signals(UNKNOWN)]),
    ]


def test_an_error_leaves_all_syncs_and_the_map_alone(device: Device) -> None:
    vm, out, fence = device.vm_create(), device.syncobj_create(), UserFence()
    for error, syncs in _bad_syncs(device):
        before: list[Sync] = [signals(out), signals(out, 7)]
        assert error_of(lambda: bind(device, vm, [*before, *syncs])) == error, syncs  # noqa: B023
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
    assert not is_mapped(device, vm)
    unknown_bo = op_map(UNKNOWN, 0, ADDR, PAGE)
    syncs = [signals(out), fence]
    assert error_of(lambda: device.vm_bind(vm, [unknown_bo], syncs)) == "ENOENT"
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
    assert not fence.signaled


def test_a_bind_that_fails_late_leaves_the_syncs_alone(
    xe_target: Callable[..., Target[Any]],
) -> None:
    device = xe_target("in-process", debug_kernel=True).device()
    vm, out, fence = device.vm_create(), device.syncobj_create(), UserFence()
    failing = op_map_null(ADDR, PAGE, flags=1 << 31)
    assert error_of(lambda: device.vm_bind(vm, [failing], [signals(out), fence])) == "ENOSPC"
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
    assert not fence.signaled
    bind(device, vm, [signals(out), fence])
    assert is_signalled(device, out)
    assert fence.signaled


def test_errors_behind_a_pending_bind_wait_for_nothing(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    bind(device, vm, [waits_for(gate.syncobj())])
    with pytest.raises(OSError) as caught:
        device.vm_bind(vm, [op_unmap_all(UNKNOWN)], [signals(out)])
    assert caught.value.errno == errno.ENOENT
    gate.open()
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"


# ---- binds that meet in the page tables ----

TABLE = 2 << 20
"""Addresses that share a page table of the lowest level."""


@pytest.mark.parametrize(
    ("neighbours", "waits"),
    [
        pytest.param([], True, id="the table is new"),
        pytest.param([4 * TABLE - 2 * PAGE], False, id="the table is there"),
    ],
)
def test_a_bind_waits_for_another_queue_where_they_make_the_same_table(
    local: Device, local_gate: Gate, neighbours: list[int], waits: bool
) -> None:
    vm, out = local.vm_create(), local.syncobj_create()
    for address in neighbours:
        bind(local, vm, addr=address)
    bind(local, vm, [waits_for(local_gate.syncobj())], 3 * TABLE)
    op = op_map_null(3 * TABLE + PAGE, PAGE)
    local.vm_bind(vm, [op], [signals(out)], exec_queue_id=_bind_queue(local, vm))
    assert is_signalled(local, out) is not waits
    local_gate.open()
    assert is_signalled(local, out)


def test_a_bind_far_away_waits_for_nobody_once_there_are_tables(
    local: Device, local_gate: Gate
) -> None:
    vm, out = local.vm_create(), local.syncobj_create()
    bind(local, vm, addr=TABLE)
    bind(local, vm, [waits_for(local_gate.syncobj())], 3 * TABLE)
    op = op_map_null(5 * TABLE, PAGE)
    local.vm_bind(vm, [op], [signals(out)], exec_queue_id=_bind_queue(local, vm))
    assert is_signalled(local, out)
    local_gate.open()
