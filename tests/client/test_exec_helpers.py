"""Queues and EXEC: what the client's methods and IGT's helpers put into an ioctl."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from uapi import drm, xe_drm
from uapi.base import Struct
from xedev.client import (
    Buffer,
    Device,
    GpuUserFence,
    IoctlError,
    Transport,
    UserFence,
    sync_signal,
    sync_wait,
    xe_ioctl,
    xe_query,
)
from xedev.client.memory import ExecSync, op_map_null
from xedev.client.spinner import XE_SPIN_STARTED, Cork, XeSpin

Eci = xe_drm.drm_xe_engine_class_instance

RENDER = xe_drm.DRM_XE_ENGINE_CLASS_RENDER
COPY = xe_drm.DRM_XE_ENGINE_CLASS_COPY
VIDEO = xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE
PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_PRIORITY
TIMESLICE = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_TIMESLICE
GROUP_PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_QUEUE_PRIORITY
SYNCOBJ = xe_drm.DRM_XE_SYNC_TYPE_SYNCOBJ
TIMELINE = xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ
USER_FENCE = xe_drm.DRM_XE_SYNC_TYPE_USER_FENCE
SIGNAL = xe_drm.DRM_XE_SYNC_FLAG_SIGNAL
EXEC = xe_drm.DRM_IOCTL_XE_EXEC

ADDR = 0x1A0000
RCS = Eci(engine_class=RENDER)
VCS = [Eci(engine_class=VIDEO, engine_instance=index, gt_id=1) for index in range(2)]


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error, caught.value


# --- queues, against the driver ------------------------------------------------------------


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


def test_queues(device: Device) -> None:
    vm = device.vm_create()
    flags = xe_drm.DRM_XE_EXEC_QUEUE_LOW_LATENCY_HINT
    properties = [(PRIORITY, 0), (TIMESLICE, 5000)]
    queue = device.exec_queue_create(vm, [RCS], flags=flags, properties=properties)
    assert device.exec_queue_get_property(queue) == 0
    refused(errno.EINVAL, lambda: device.exec_queue_get_property(queue, 1))
    refused(errno.EINVAL, lambda: device.exec_queue_set_property(queue, GROUP_PRIORITY, 1))
    device.exec_queue_destroy(queue)
    refused(errno.ENOENT, lambda: device.exec_queue_destroy(queue))
    refused(errno.ENOENT, lambda: device.exec_queue_get_property(queue))


def test_wide_and_balanced_queues(device: Device) -> None:
    vm = device.vm_create()
    device.exec_queue_create(vm, VCS, width=2)
    device.exec_queue_create(vm, VCS, placements=2)
    refused(errno.EINVAL, lambda: device.exec_queue_create(vm, VCS[::-1], width=2))
    refused(errno.EFAULT, lambda: device.exec_queue_create(vm, []))


def test_the_whole_chain_of_properties_arrives(device: Device) -> None:
    vm = device.vm_create()
    bad_at_the_end = [(TIMESLICE, 5000)] * 15 + [(TIMESLICE, 0)]
    device.exec_queue_create(vm, [RCS], properties=bad_at_the_end[:-1])
    refused(errno.EINVAL, lambda: device.exec_queue_create(vm, [RCS], properties=bad_at_the_end))


def test_what_a_property_points_to(device: Device) -> None:
    """The context's state to replay after a hang."""
    replay = xe_drm.DRM_XE_EXEC_QUEUE_SET_HANG_REPLAY_STATE
    state = (ctypes.c_char * (64 << 10))()
    memory = Buffer(state, 1)
    properties = [(replay, memory.address)]
    device.exec_queue_create(device.vm_create(), [RCS], properties=properties, buffers=[memory])


def test_igts_helpers_for_queues(device: Device) -> None:
    vm = xe_ioctl.xe_vm_create(device)
    engines = list(xe_query.xe_for_each_engine(device))
    names = [xe_query.xe_engine_class_short_string(eci.engine_class) for eci in engines]
    assert names == ["rcs", "bcs", "ccs", "vcs", "vcs", "vecs", "vecs"]
    assert xe_query.xe_engine_class_short_string(99) == "?"
    queues = [xe_ioctl.xe_exec_queue_create(device, vm, eci, 0) for eci in engines]
    queues.append(xe_ioctl.xe_exec_queue_create_class(device, vm, COPY))
    queues.append(xe_ioctl.xe_exec_queue_create(device, vm, RCS, [(PRIORITY, 0)]))
    refused(errno.EINVAL, lambda: xe_ioctl.xe_exec_queue_create(device, vm, RCS, [(PRIORITY, 3)]))
    refused(
        errno.EINVAL,
        lambda: xe_ioctl.xe_exec_queue_set_property(device, queues[0], GROUP_PRIORITY, 3),
    )
    binds = xe_ioctl.xe_bind_exec_queue_create(device, vm)
    device.vm_bind(vm, [op_map_null(0, 4096)], exec_queue_id=binds)
    for queue in [*queues, binds]:
        xe_ioctl.xe_exec_queue_destroy(device, queue)
    refused(errno.ENOENT, lambda: xe_ioctl.xe_exec_queue_destroy(device, binds))


def test_sizes_of_batches(device: Device) -> None:
    assert xe_ioctl.xe_bb_size(device, 1) == 2 * 4096
    assert xe_ioctl.xe_bb_size(device, 4096) == 2 * 4096
    assert xe_ioctl.xe_bb_size(device, 4097) == 3 * 4096


# --- EXEC, against a transport that takes notes --------------------------------------------


class Notes:
    """A transport that takes any ioctl; of its argument it keeps what a driver would read."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, Any]] = []
        self.memory: dict[int, bytes] = {}
        self.error = 0

    def ioctl(self, cmd: int, arg: Struct | None, buffers: Sequence[Buffer] = ()) -> int:
        kept = None if arg is None else type(arg).from_buffer_copy(arg)
        self.calls.append((cmd, kept))
        self.memory |= {buffer.address: buffer.contents() or b"" for buffer in buffers}
        if cmd == drm.DRM_IOCTL_SYNCOBJ_CREATE and isinstance(arg, drm.drm_syncobj_create):
            arg.handle = 7
        if cmd == EXEC and self.error:
            raise IoctlError(self.error, cmd)
        return 0

    def exec(self) -> xe_drm.drm_xe_exec:
        """The only EXEC."""
        (arg,) = [arg for cmd, arg in self.calls if cmd == EXEC]
        assert isinstance(arg, xe_drm.drm_xe_exec)
        return arg

    def syncs(self, arg: Any) -> list[tuple[int, int, int, int]]:
        """Type, flags, target and value of each sync."""
        if not arg.num_syncs:
            return []
        array = (xe_drm.drm_xe_sync * arg.num_syncs).from_buffer_copy(self.memory[arg.syncs])
        return [(sync.type, sync.flags, sync.addr, sync.timeline_value) for sync in array]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def fd(notes: Notes) -> Device:
    return Device(notes)  # type: ignore[arg-type]


def test_exec_of_one_batch(fd: Device, notes: Notes) -> None:
    fd.exec(3, ADDR)
    arg = notes.exec()
    assert (arg.exec_queue_id, arg.address, arg.num_batch_buffer) == (3, ADDR, 1)
    assert (arg.num_syncs, arg.syncs, notes.memory) == (0, 0, {})


def test_exec_of_several_batches_gives_an_array(fd: Device, notes: Notes) -> None:
    fd.exec(3, [ADDR, 2 * ADDR, 0xFFFF_8000_0000_0000])
    arg = notes.exec()
    array = (ctypes.c_uint64 * 3).from_buffer_copy(notes.memory[arg.address])
    assert arg.num_batch_buffer == 3
    assert list(array) == [ADDR, 2 * ADDR, 0xFFFF_8000_0000_0000]


@pytest.mark.parametrize(
    ("address", "count", "expected"),
    [
        ([ADDR], None, (ADDR, 1)),  # one: in the argument itself
        (ADDR, 2, (ADDR, 2)),
        (0, 0, (0, 0)),
        ([], None, (0, 0)),
    ],
)
def test_the_number_of_batches(
    fd: Device,
    notes: Notes,
    address: int | list[int],
    count: int | None,
    expected: tuple[int, int],
) -> None:
    fd.exec(3, address, num_batch_buffer=count)
    arg = notes.exec()
    assert (arg.address, arg.num_batch_buffer) == expected
    assert not notes.memory


def test_syncs_of_exec(fd: Device, notes: Notes) -> None:
    fence = GpuUserFence(0x1A0000218, 99)
    syncs: list[ExecSync] = [
        sync_wait(1),
        sync_wait(2, 5),
        sync_signal(3),
        sync_signal(4, 6),
        fence,
    ]
    fd.exec(3, [ADDR, ADDR], syncs)
    arg = notes.exec()
    assert notes.syncs(arg) == [
        (SYNCOBJ, 0, 1, 0),
        (TIMELINE, 0, 2, 5),
        (SYNCOBJ, SIGNAL, 3, 0),
        (TIMELINE, SIGNAL, 4, 6),
        (USER_FENCE, SIGNAL, 0x1A0000218, 99),
    ]
    # The cell is the GPU's: there is no memory of ours to hand over.
    assert set(notes.memory) == {arg.syncs, arg.address}


def test_syncs_of_a_bind(fd: Device, notes: Notes) -> None:
    fence = UserFence(99)
    fd.vm_bind(1, [op_map_null(0, 4096)], [sync_wait(1), fence])
    ((_, arg),) = notes.calls
    cell = fence.buffer.address
    assert notes.syncs(arg) == [(SYNCOBJ, 0, 1, 0), (USER_FENCE, SIGNAL, cell, 99)]
    assert set(notes.memory) == {arg.syncs, cell}


def test_igts_helpers_for_exec(fd: Device, notes: Notes) -> None:
    xe_ioctl.xe_exec_sync(fd, 3, ADDR, [sync_signal(1)])
    first = notes.exec()
    assert (first.exec_queue_id, first.address, first.num_batch_buffer) == (3, ADDR, 1)
    assert notes.syncs(first) == [(SYNCOBJ, SIGNAL, 1, 0)]
    notes.calls.clear()
    xe_ioctl.xe_exec(fd, first)
    assert bytes(notes.exec()) == bytes(first)


WAIT, DESTROY = drm.DRM_IOCTL_SYNCOBJ_WAIT, drm.DRM_IOCTL_SYNCOBJ_DESTROY


def test_exec_and_wait(fd: Device, notes: Notes) -> None:
    xe_ioctl.xe_exec_wait(fd, 3, ADDR)
    assert [cmd for cmd, _ in notes.calls] == [drm.DRM_IOCTL_SYNCOBJ_CREATE, EXEC, WAIT, DESTROY]
    assert notes.syncs(notes.exec()) == [(SYNCOBJ, SIGNAL, 7, 0)]
    assert notes.calls[2][1].timeout_nsec == (1 << 63) - 1
    assert notes.calls[3][1].handle == 7


def test_a_refused_exec_leaves_no_syncobj(fd: Device, notes: Notes) -> None:
    notes.error = errno.ECANCELED
    refused(errno.ECANCELED, lambda: xe_ioctl.xe_exec_wait(fd, 3, ADDR))
    assert [cmd for cmd, _ in notes.calls][-1] == DESTROY


# --- the cork ------------------------------------------------------------------------------


def test_a_cork_that_was_not_started_gives_everything_back(device: Device) -> None:
    handles = device.gem_create(4096, 1)
    device.gem_close(handles)
    cork = Cork(device, VCS, width=2)
    assert cork.addr == 0x30_0000
    assert not cork.spin.started
    cork.destroy()
    assert device.gem_create(4096, 1) == handles
    refused(errno.ENOENT, lambda: device.exec_queue_destroy(cork.exec_queue))
    refused(errno.ENOENT, lambda: device.vm_destroy(cork.vm))
    refused(errno.EINVAL, lambda: device.syncobj_destroy(cork.syncobj))


def test_a_cork_in_a_vm_of_the_callers(device: Device) -> None:
    vm = device.vm_create()
    cork = Cork(device, [RCS], vm, addr=ADDR)
    (attr,) = device.vm_query_mem_range_attrs(vm, 0, 1 << 40)
    assert (attr.start, attr.end) == (ADDR, ADDR + cork.bo_size)
    cork.destroy()
    device.vm_destroy(vm)


def test_a_cork_from_its_begin_to_its_end(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU that starts at once, and is done when nobody looks."""
    vm = device.vm_create()
    cork = Cork(device, VCS, vm, width=2)
    submitted: list[tuple[int, Sequence[int]]] = []
    flags: list[int] = []

    def run(queue: int, address: Sequence[int], syncs: Sequence[xe_drm.drm_xe_sync]) -> None:
        submitted.append((queue, address))
        flags.extend(sync.flags for sync in syncs)
        image = XeSpin.from_buffer_copy(cork.map.view)
        image.start = XE_SPIN_STARTED
        cork.map.write(0, bytes(image))
        device.syncobj_signal([syncs[1].handle])

    monkeypatch.setattr(device, "exec", run)
    with cork:
        assert cork.spin.started
        assert len(device.vm_query_mem_range_attrs(vm, 0, 1 << 40)) == 1
        end = cork.spin.read("end")
    assert end == 0xFFFFFFFF
    assert (submitted, flags) == ([(cork.exec_queue, [cork.addr] * 2)], [0, SIGNAL])
    assert device.vm_query_mem_range_attrs(vm, 0, 1 << 40) == []
    assert cork.map.closed
    device.vm_destroy(vm)
