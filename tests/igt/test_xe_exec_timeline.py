"""Points of a timeline syncobj put jobs in order, as IGT's syncobj_timeline does without a GPU."""

from __future__ import annotations

import errno
import os
import select

import pytest

from tests.igt.exec_data import DATA_MAGIC, Slots, bo_slots, slots_size
from uapi import drm
from xedev.client import BatchBuilder, Device, sync_signal, sync_wait
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_async,
    xe_vm_bind_sync,
    xe_vm_create,
)
from xedev.client.xe_query import xe_engine, xe_for_each_engine

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
COUNT = 8
GATE = COUNT  # the slot whose data the first batch waits for


class Timeline:
    """A VM with a queue for each engine, and a timeline."""

    def __init__(self, fd: Device) -> None:
        self.fd = fd
        vm = xe_vm_create(fd)
        size = slots_size(fd, COUNT + 1)
        bo, self.data = bo_slots(fd, vm, COUNT + 1, ADDR)
        xe_vm_bind_sync(fd, vm, bo, 0, ADDR, size)
        self.exec_queues = [xe_exec_queue_create(fd, vm, eci) for eci in xe_for_each_engine(fd)]
        self.syncobj = fd.syncobj_create()

    def submit(self, index: int, wait: int, signal: int) -> None:
        """Counts on a common number, and keeps what it found; the first waits for the gate."""
        batch = BatchBuilder()
        if not wait:
            batch.semaphore_wait(self.data.data_addr(GATE), 1)
        common = self.data.batch_addr(GATE)
        batch.atomic_inc(common).copy_dword(self.data.data_addr(index), common)
        self.data.write_batch(index, batch.end())
        syncs = [sync_signal(self.syncobj, signal)]
        if wait:
            syncs.insert(0, sync_wait(self.syncobj, wait))
        exec_queue = self.exec_queues[index % len(self.exec_queues)]
        xe_exec_sync(self.fd, exec_queue, self.data.batch_addr(index), syncs)

    def open_gate(self) -> None:
        self.data.set_data(GATE, 1)

    @property
    def point(self) -> int:
        return self.fd.syncobj_query([self.syncobj])[0]

    @property
    def last_submitted(self) -> int:
        flag = drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED
        return self.fd.syncobj_query([self.syncobj], flag)[0]

    def wait(self, point: int, flags: int = 0) -> None:
        self.fd.syncobj_timeline_wait([self.syncobj], [point], deadline_ns(10), flags)


@pytest.fixture
def timeline(fd: Device) -> Timeline:
    return Timeline(fd)


def test_points_order_jobs_of_all_engines(timeline: Timeline) -> None:
    for index in range(COUNT):
        timeline.submit(index, index * 10, (index + 1) * 10)
    assert (timeline.point, timeline.last_submitted) == (0, COUNT * 10)
    timeline.open_gate()
    timeline.wait(COUNT * 10)
    assert timeline.point == COUNT * 10
    assert timeline.data.all_data(COUNT) == list(range(1, COUNT + 1))


def test_a_point_between_is_reached_with_the_next(timeline: Timeline) -> None:
    timeline.submit(0, 0, 10)
    timeline.submit(1, 5, 20)
    timeline.open_gate()
    timeline.wait(15)
    assert timeline.data.all_data(2) == [1, 2]


def test_a_point_that_nobody_submitted(timeline: Timeline) -> None:
    timeline.submit(0, 0, 10)
    with pytest.raises(OSError) as refused:
        timeline.submit(1, 11, 20)
    assert refused.value.errno == errno.EINVAL
    timeline.open_gate()
    timeline.wait(10)
    assert timeline.last_submitted == 10


def test_available_does_not_mean_signalled(timeline: Timeline) -> None:
    timeline.submit(0, 0, 1)
    timeline.wait(1, drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE)
    assert timeline.point == 0
    timeline.open_gate()
    timeline.wait(1)


def test_an_eventfd_tells_a_point(timeline: Timeline) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    timeline.submit(0, 0, 1)
    timeline.fd.syncobj_eventfd(timeline.syncobj, 1, event)
    assert not readable(event, 0)
    timeline.open_gate()
    assert readable(event, 10)
    os.close(event)


def test_a_sync_file_of_a_point(timeline: Timeline) -> None:
    """It becomes readable when the job is done."""
    timeline.submit(0, 0, 1)
    sync_file = timeline.fd.syncobj_export_sync_file(timeline.syncobj, 1)
    assert not readable(sync_file, 0)
    timeline.open_gate()
    assert readable(sync_file, 10)
    timeline.fd.close_fd(sync_file)


def readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def test_binds_and_execs_on_one_timeline(fd: Device) -> None:
    """Bind at point 1, store at 2, bind elsewhere at 3, store there at 4."""
    vm = xe_vm_create(fd)
    size = slots_size(fd, 2)
    bo, data = bo_slots(fd, vm, 2, ADDR)
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    line = fd.syncobj_create()
    for step in range(2):
        moved = Slots(data.memory, ADDR + step * size)
        moved.write_store(step)
        waits = [sync_wait(line, 2 * step)] if step else []
        bound = [*waits, sync_signal(line, 2 * step + 1)]
        xe_vm_bind_async(fd, vm, 0, bo, 0, moved.addr, size, bound)
        done = [sync_wait(line, 2 * step + 1), sync_signal(line, 2 * step + 2)]
        xe_exec_sync(fd, exec_queue, moved.batch_addr(step), done)
    fd.syncobj_timeline_wait([line], [4], deadline_ns(10))
    assert data.all_data(2) == [DATA_MAGIC] * 2
