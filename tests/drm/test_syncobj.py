"""Sync objects beyond the vectors: sleepers, descriptors, what lives how long, and hostile use."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.drm.syncobj_runner import Late
from tests.hostile.children import errno_of
from uapi import drm
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client import IN, Buffer, Device, IoctlError, Transport
from xedev.client.igt_syncobj import (
    sw_sync_timeline_create,
    sw_sync_timeline_create_fence,
    sw_sync_timeline_inc,
    sync_fence_merge,
    sync_fence_status,
)
from xedev.client.syncobj import deadline_ns
from xedev.drm.drm_syncobj import ARRAY_MAX_BYTES, WAIT_ENTRY_BYTES
from xedev.kernel import eventfd as kernel_eventfd
from xedev.kernel.dma_fence import DmaFenceArray, DmaFenceChain
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

FOR_SUBMIT = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT
AVAILABLE = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE
DEADLINE = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE
ALL = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL
SLEEPERS = 100
LONG = 20.0  # seconds
FULL = (1 << 64) - 2
STRANGER = 1 << 22  # no process of the machine has so large an id

ways = pytest.mark.parametrize("way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)])


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


@pytest.fixture
def local(xe_device: XeDevice) -> Device:
    return Device(LocalTransport(xe_device))


def pending(device: Device) -> tuple[int, int]:
    """A timeline, and a sync_file of its point 1."""
    timeline = sw_sync_timeline_create(device)
    return timeline, sw_sync_timeline_create_fence(device, timeline, 1)


# ---- sleepers ----------------------------------------------------------------------------------


def test_all_who_sleep_are_woken(device: Device) -> None:
    """Half of them wait for the submission, half for the fence."""
    handle = device.syncobj_create()
    timeline, fence = pending(device)
    other = device.syncobj_create()
    device.syncobj_import_sync_file(other, fence)
    sleep = partial(device.syncobj_wait, timeout_nsec=deadline_ns(LONG), flags=FOR_SUBMIT)
    sleepers = [Late(partial(sleep, [(handle, other)[i % 2]])) for i in range(6)]
    more = [threading.Thread(target=sleep, args=([handle, other],)) for _ in range(SLEEPERS)]
    for thread in more:
        thread.start()
    assert all(sleeper.sleeps() for sleeper in sleepers)
    device.syncobj_signal([handle])
    sw_sync_timeline_inc(device, timeline, 1)
    assert [sleeper.result() for sleeper in sleepers] == [0] * len(sleepers)
    for thread in more:
        thread.join(LONG)
        assert not thread.is_alive()
    for fd in (timeline, fence):
        device.close_fd(fd)


def test_many_threads_wait_and_signal_in_circles(device: Device) -> None:
    """Each waits for its left neighbour's point and then signals its own."""
    count, rounds = 8, 12
    handles = [device.syncobj_create() for _ in range(count)]

    def turn(me: int) -> None:
        for point in range(1, rounds + 1):
            left = handles[me - 1]
            mine = point if me else point - 1
            if mine:
                device.syncobj_timeline_wait([left], [mine], deadline_ns(LONG), FOR_SUBMIT)
            device.syncobj_timeline_signal([handles[me]], [point])

    turns = [Late(partial(turn, me)) for me in range(count)]
    for late in turns:
        late.result()
    assert device.syncobj_query(handles) == [rounds] * count


def test_waits_across_chains_never_stop_each_other(local: Device) -> None:
    """Two sets of sleepers look at the same timelines in opposite orders while these move."""
    one, two = local.syncobj_create(), local.syncobj_create()
    points = range(1, 120)

    def follow(first: int, second: int) -> None:
        for point in points:
            pair = [first, second]
            local.syncobj_timeline_wait(pair, [point] * 2, deadline_ns(LONG), FOR_SUBMIT | ALL)

    followers = [Late(partial(follow, *pair)) for pair in ((one, two), (two, one)) * 3]
    timeline = sw_sync_timeline_create(local)
    for point in points:
        fence = sw_sync_timeline_create_fence(local, timeline, point)
        for handle in (one, two):
            local.syncobj_import_sync_file(handle, fence, point)
        local.close_fd(fence)
        sw_sync_timeline_inc(local, timeline, 1)
    for late in followers:
        late.result()
    local.close_fd(timeline)


def test_the_deadline_hint_changes_nothing(device: Device) -> None:
    handle = device.syncobj_create(drm.DRM_SYNCOBJ_CREATE_SIGNALED)
    assert device.syncobj_wait([handle], 0, DEADLINE, deadline_nsec=5) == 0
    assert device.syncobj_timeline_wait([handle], [0], 0, DEADLINE, deadline_nsec=5) == 0


def test_a_wait_ends_when_its_time_is_up(device: Device) -> None:
    handle = device.syncobj_create()
    for seconds in (0.02, -1.0):
        with pytest.raises(IoctlError) as caught:
            device.syncobj_wait([handle], deadline_ns(seconds), FOR_SUBMIT)
        assert caught.value.errno == errno.ETIME


def test_a_destroyed_object_is_waited_for_all_the_same(device: Device) -> None:
    handle = device.syncobj_create()
    fd = device.syncobj_handle_to_fd(handle)
    wait = partial(device.syncobj_wait, [handle], deadline_ns(LONG), FOR_SUBMIT)
    late = Late(wait)
    device.syncobj_destroy(handle)
    assert late.sleeps()
    device.syncobj_signal([device.syncobj_fd_to_handle(fd)])
    assert late.result() == 0
    device.close_fd(fd)


# ---- descriptors -------------------------------------------------------------------------------


@ways
def test_a_descriptor_carries_an_object_to_another_card(
    xe_targets: Callable[..., list[Target[Any]]], way: str
) -> None:
    first, second = (target.device() for target in xe_targets(way, 2))
    mine = first.syncobj_create()
    fd = first.syncobj_handle_to_fd(mine)
    theirs = second.syncobj_fd_to_handle(fd)
    first.close_fd(fd)
    first.close()
    second.syncobj_timeline_signal([theirs], [3])
    assert second.syncobj_query([theirs]) == [3]


@ways
def test_a_fence_outlives_the_file_that_it_came_from(
    xe_target: Callable[..., Target[Any]], way: str
) -> None:
    target = xe_target(way)
    giver, taker = target.device(), target.device()
    timeline, fence = pending(taker)
    handle = giver.syncobj_create()
    giver.syncobj_import_sync_file(handle, fence)
    exported = giver.syncobj_export_sync_file(handle)
    giver.close()
    merged = sync_fence_merge(taker, exported, fence)
    assert [sync_fence_status(taker, fd) for fd in (exported, merged)] == [0, 0]
    sw_sync_timeline_inc(taker, timeline, 1)
    assert [sync_fence_status(taker, fd) for fd in (exported, merged)] == [1, 1]
    for fd in (timeline, fence, exported, merged):
        taker.close_fd(fd)


def test_every_export_is_a_token_of_its_own_process(xe_device: XeDevice) -> None:
    device = Device(LocalTransport(xe_device))
    stranger = LocalTransport(xe_device, tgid=STRANGER)
    handle = device.syncobj_create(drm.DRM_SYNCOBJ_CREATE_SIGNALED)
    for flags in (0, drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE):
        token = device.syncobj_handle_to_token(handle, flags)
        assert token >= XE_MOCK_TOKEN_BASE
        assert errno_of(partial(device.syncobj_fd_to_handle, token)) == "EINVAL"
        assert errno_of(partial(stranger.open_fd, token, os.O_RDWR)) == "EACCES"
        fd = device.transport.open_fd(token, os.O_RDWR)
        assert errno_of(partial(device.transport.open_fd, token, os.O_RDWR)) == "ENOENT"
        device.close_fd(fd)
    stranger.close()
    device.close()


def test_a_token_that_nobody_opens_ends_with_its_file(xe_device: XeDevice) -> None:
    device = Device(LocalTransport(xe_device))
    handle = device.syncobj_create(drm.DRM_SYNCOBJ_CREATE_SIGNALED)
    tokens = [device.syncobj_handle_to_token(handle, flags) for flags in (0, 1)]
    timeline = sw_sync_timeline_create(device)
    assert len(xe_device.tokens) == len(tokens)
    device.close()
    assert len(xe_device.tokens) == 0
    other = LocalTransport(xe_device)
    for token in tokens:
        assert errno_of(partial(other.open_fd, token, os.O_RDWR)) == "ENOENT"
    other.close_fd(timeline)
    other.close()


def test_a_descriptor_has_no_ioctls(local: Device) -> None:
    fd = local.syncobj_handle_to_fd(local.syncobj_create())
    for cmd in (drm.DRM_IOCTL_SYNCOBJ_CREATE, drm.DRM_IOCTL_GET_CAP):
        with pytest.raises(IoctlError) as caught:
            local.transport.fd_ioctl(fd, cmd, drm.drm_get_cap())
        assert caught.value.errno == errno.ENOTTY
    local.close_fd(fd)


# ---- eventfds ----------------------------------------------------------------------------------


def test_a_full_counter_stops_nobody(device: Device) -> None:
    """Its owner made it blocking; the one who signals must not wait for a reader."""
    handle = device.syncobj_create()
    full = os.eventfd(0)
    os.eventfd_write(full, FULL)
    for _ in range(3):
        device.syncobj_eventfd(handle, 1, full)
    Late(partial(device.syncobj_timeline_signal, [handle], [1])).result()
    assert os.eventfd_read(full) >= FULL
    os.close(full)


def test_without_asynchronous_reads_a_full_counter_stops_nobody_either(
    local: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_eventfd, "_aio", lambda pid: None)
    handle = local.syncobj_create()
    full, empty = os.eventfd(0), os.eventfd(0)
    os.eventfd_write(full, FULL)
    local.syncobj_eventfd(handle, 1, full)
    local.syncobj_eventfd(handle, 1, empty)
    local.syncobj_timeline_signal([handle], [1])
    assert (os.eventfd_read(full), os.eventfd_read(empty)) == (FULL, 1)
    os.close(full)
    os.close(empty)


def test_an_object_takes_its_waiting_eventfds_along(local: Device) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    before = open_eventfds()
    for point in (1, 2, 3):
        local.syncobj_eventfd(local.syncobj_create(), point, event)
    fd = local.syncobj_handle_to_fd(3)
    assert open_eventfds() == before + 3
    for handle in (1, 2, 3):
        local.syncobj_destroy(handle)
    assert open_eventfds() == before + 1
    local.close_fd(fd)
    assert open_eventfds() == before
    assert errno_of(partial(os.eventfd_read, event)) == "EAGAIN"
    os.close(event)


def open_eventfds() -> int:
    """How many eventfds this process has open."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return links.count("anon_inode:[eventfd]")


def test_eventfds_are_bounded(local: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_eventfd, "EVENTFDS_MAX", 5)
    handle, event = local.syncobj_create(), os.eventfd(0)
    register = partial(local.syncobj_eventfd, handle, 1, event)
    for _ in range(5):
        register()
    before = open_eventfds()
    assert errno_of(register) == "ENOMEM"
    assert open_eventfds() == before
    local.syncobj_timeline_signal([handle], [1])
    register()
    assert os.eventfd_read(event) == 6
    os.close(event)


# ---- hostile use -------------------------------------------------------------------------------


def array_call(device: Device, cmd: int, count: int, address: int) -> str:
    """Errno of a call with an array that need not be there."""
    structs: dict[int, Any] = {
        drm.DRM_IOCTL_SYNCOBJ_WAIT: drm.drm_syncobj_wait,
        drm.DRM_IOCTL_SYNCOBJ_RESET: drm.drm_syncobj_array,
        drm.DRM_IOCTL_SYNCOBJ_QUERY: drm.drm_syncobj_timeline_array,
        drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT: drm.drm_syncobj_timeline_wait,
    }
    arg = structs[cmd](handles=address, count_handles=count)
    return errno_of(partial(device.ioctl, cmd, arg))


@pytest.mark.parametrize(
    "cmd",
    [
        drm.DRM_IOCTL_SYNCOBJ_WAIT,
        drm.DRM_IOCTL_SYNCOBJ_RESET,
        drm.DRM_IOCTL_SYNCOBJ_QUERY,
        drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT,
    ],
)
def test_huge_arrays(device: Device, cmd: int) -> None:
    for count in (ARRAY_MAX_BYTES // 4 + 1, 1 << 31, (1 << 32) - 1):
        assert array_call(device, cmd, count, 8) == "ENOMEM"
    assert array_call(device, cmd, ARRAY_MAX_BYTES // 4, 8) == "EFAULT"
    for address in (0, 8, (1 << 64) - 4, 1 << 63):
        assert array_call(device, cmd, 2, address) == "EFAULT"


def test_a_wait_for_too_many(local: Device) -> None:
    """The kernel has no room for the entries, though it has for the handles."""
    most = ARRAY_MAX_BYTES // WAIT_ENTRY_BYTES
    handle = local.syncobj_create(drm.DRM_SYNCOBJ_CREATE_SIGNALED)
    handles = (ctypes.c_uint32 * (most + 1))(*[handle] * (most + 1))
    arg = drm.drm_syncobj_wait(handles=ctypes.addressof(handles), count_handles=most + 1)
    wait = partial(local.ioctl, drm.DRM_IOCTL_SYNCOBJ_WAIT, arg, [Buffer(handles, IN)])
    assert errno_of(wait) == "ENOMEM"
    arg.count_handles = most
    wait()
    assert arg.first_signaled == 0


def test_chains_within_chains(local: Device) -> None:
    """Exported and put on top of itself, again and again, with a fence that is never done."""
    a, b = local.syncobj_create(), local.syncobj_create()
    timeline, fence = pending(local)
    local.syncobj_import_sync_file(a, fence, 1)
    for round_ in range(1500):
        exported = local.syncobj_export_sync_file(a)
        local.syncobj_import_sync_file(b, exported, round_ + 1)
        local.close_fd(exported)
        a, b = b, a
    for handle in (a, b):
        assert local.syncobj_query([handle]) == [0]
        assert errno_of(partial(local.syncobj_wait, [handle])) == "ETIME"
    sw_sync_timeline_inc(local, timeline, 1)
    assert [local.syncobj_wait([handle]) for handle in (a, b)] == [0, 0]
    for fd in (timeline, fence):
        local.close_fd(fd)


def test_merges_of_merges(local: Device) -> None:
    timeline, fence = pending(local)
    other_timeline, other = pending(local)
    for _ in range(1500):
        merged = sync_fence_merge(local, fence, other)
        local.close_fd(fence)
        fence = merged
    assert sync_fence_status(local, fence) == 0
    for line in (timeline, other_timeline):
        sw_sync_timeline_inc(local, line, 1)
    assert sync_fence_status(local, fence) == 1
    for fd in (timeline, other_timeline, other, fence):
        local.close_fd(fd)


def test_a_long_chain_ends_without_a_deep_stack(local: Device) -> None:
    """10^5 pending points; then the object goes, and with it all of them."""
    handle = local.syncobj_create()
    timeline, fence = pending(local)
    for point in range(1, 100_001):
        local.syncobj_import_sync_file(handle, fence, point)
    local.syncobj_destroy(handle)
    sw_sync_timeline_inc(local, timeline, 1)
    assert sync_fence_status(local, fence) == 1
    for fd in (timeline, fence):
        local.close_fd(fd)


def alive(kind: type) -> int:
    """How many objects of a class there are."""
    gc.collect()
    return sum(type(thing) is kind for thing in gc.get_objects())


def test_looking_at_a_pending_fence_leaves_nothing_behind(local: Device) -> None:
    """The fence outlives all who once asked for it."""
    timeline, fence = pending(local)
    other_timeline, other = pending(local)
    before = alive(DmaFenceChain), alive(DmaFenceArray)
    for _ in range(200):
        handle = local.syncobj_create()
        merged = sync_fence_merge(local, fence, other)
        local.syncobj_import_sync_file(handle, merged, 1)
        wait = partial(local.syncobj_timeline_wait, [handle], [1], deadline_ns(0.0002))
        assert errno_of(wait) == "ETIME"
        local.close_fd(merged)
        local.syncobj_destroy(handle)
    assert (alive(DmaFenceChain), alive(DmaFenceArray)) == before
    for fd in (timeline, fence, other_timeline, other):
        local.close_fd(fd)


def test_a_timeline_of_any_age_stays_short(local: Device) -> None:
    """Nobody ever asks how far it is."""
    handle = local.syncobj_create()
    timeline = sw_sync_timeline_create(local)
    before, window = alive(DmaFenceChain), 10
    for point in range(1, 1000):
        fence = sw_sync_timeline_create_fence(local, timeline, point)
        local.syncobj_import_sync_file(handle, fence, point)
        local.close_fd(fence)
        if point > window:
            sw_sync_timeline_inc(local, timeline, 1)
    assert alive(DmaFenceChain) - before <= 4 * window
    local.syncobj_reset([handle])
    for point in range(1, 1000):
        local.syncobj_timeline_signal([handle], [point])
    assert alive(DmaFenceChain) - before <= 3
    local.close_fd(timeline)
