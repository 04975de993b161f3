"""IGT's helpers for sync objects, over every transport."""

from __future__ import annotations

import os
import select

import pytest

from tests.hostile.children import errno_of
from xedev.client import Device, Transport
from xedev.client import igt_syncobj as igt
from xedev.client.syncobj import deadline_ns

LONG = 20.0  # seconds


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


def test_binary_objects(device: Device) -> None:
    one = igt.syncobj_create(device)
    fd = igt.syncobj_handle_to_fd(device, one)
    two = igt.syncobj_fd_to_handle(device, fd)
    device.close_fd(fd)
    assert errno_of(lambda: igt.syncobj_wait(device, [one], 0)) == "EINVAL"
    igt.syncobj_signal(device, [one])
    assert igt.syncobj_wait(device, [two], 0)
    igt.syncobj_reset(device, [two])
    assert errno_of(lambda: igt.syncobj_wait(device, [one], 0)) == "EINVAL"
    for handle in (one, two):
        igt.syncobj_destroy(device, handle)
    assert errno_of(lambda: igt.syncobj_destroy(device, one)) == "EINVAL"


def test_timelines(device: Device) -> None:
    line, other, binary = (igt.syncobj_create(device) for _ in range(3))
    igt.syncobj_timeline_signal(device, [line, other], [4, 7])
    assert igt.syncobj_timeline_query(device, [line, other]) == [4, 7]
    igt.syncobj_timeline_to_binary(device, binary, line, 4)
    assert igt.syncobj_wait(device, [binary], 0)
    igt.syncobj_binary_to_timeline(device, line, 9, binary)
    igt.syncobj_timeline_to_timeline(device, other, 12, line, 9)
    assert igt.syncobj_timeline_query(device, [line, other]) == [9, 12]
    assert igt.syncobj_timeline_wait(device, [line, other], [9, 12], deadline_ns(LONG), 1)


def test_fences_made_by_hand(device: Device) -> None:
    timeline = igt.sw_sync_timeline_create(device)
    one, two = (igt.sw_sync_timeline_create_fence(device, timeline, seqno) for seqno in (1, 2))
    merged = igt.sync_fence_merge(device, one, two, "both")
    handle = igt.syncobj_create(device)
    igt.syncobj_import_sync_file(device, handle, merged)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    igt.syncobj_eventfd(device, handle, 0, 0, event)
    assert not igt.syncobj_wait(device, [handle], 0)
    igt.sw_sync_timeline_inc(device, timeline, 1)
    assert [igt.sync_fence_status(device, fd) for fd in (one, two, merged)] == [1, 0, 0]
    assert igt.sync_fence_count(device, merged) == 1
    igt.sw_sync_timeline_inc(device, timeline, 1)
    assert igt.syncobj_wait(device, [handle], 0)
    igt.sync_fence_wait(device, event, int(LONG * 1000))
    assert select.select([event], [], [], 0)[0]
    exported = igt.syncobj_export_sync_file(device, handle)
    assert igt.sync_fence_status(device, exported) == 1
    assert igt.sync_fence_count_status(device, exported, 1) == 1
    os.close(event)
    for fd in (timeline, one, two, merged, exported):
        device.close_fd(fd)
