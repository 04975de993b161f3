"""sync_file descriptors and sw_sync (kernel: drivers/dma-buf/sync_file.c, sw_sync.c)."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.drm.syncobj_runner import Late
from tests.hostile.children import Child, errno_of, eventually, run
from uapi import sync_file
from uapi.xe_mock import SW_SYNC_PATH
from xedev.client import Device, IoctlError, Transport
from xedev.client.igt_syncobj import (
    sw_sync_timeline_create,
    sw_sync_timeline_create_fence,
    sw_sync_timeline_inc,
    sync_fence_count,
    sync_fence_count_status,
    sync_fence_merge,
    sync_fence_status,
    sync_fence_wait,
)
from xedev.kernel.dma_fence import DmaFence
from xedev.kernel.files import FdTokens
from xedev.kernel.sync_file import SyncFile
from xedev.testing.target import Target

INFO, MERGE = sync_file.SYNC_IOC_FILE_INFO, sync_file.SYNC_IOC_MERGE
INT_MAX = 0x7FFF_FFFF
PATIENCE = 20_000  # milliseconds


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


class Fences:
    """Timelines and fences of a device, closed in the end."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.fds: list[int] = []

    def timeline(self) -> int:
        return self.keep(sw_sync_timeline_create(self.device))

    def fence(self, timeline: int, value: int = 1) -> int:
        return self.keep(sw_sync_timeline_create_fence(self.device, timeline, value))

    def merge(self, one: int, two: int, name: str = "") -> int:
        return self.keep(sync_fence_merge(self.device, one, two, name))

    def inc(self, timeline: int, count: int = 1) -> None:
        sw_sync_timeline_inc(self.device, timeline, count)

    def status(self, *fences: int) -> list[int]:
        return [sync_fence_status(self.device, fence) for fence in fences]

    def keep(self, fd: int) -> int:
        self.fds.append(fd)
        return fd

    def close(self, fd: int) -> None:
        self.fds.remove(fd)
        self.device.close_fd(fd)


@pytest.fixture
def fences(device: Device) -> Iterator[Fences]:
    made = Fences(device)
    yield made
    for fd in made.fds:
        device.close_fd(fd)


@pytest.fixture
def mounted(xe_target: Callable[..., Target[Any]]) -> Iterator[Fences]:
    made = Fences(xe_target("ioctl").device())
    yield made
    for fd in made.fds:
        os.close(fd)


# ---- sw_sync -----------------------------------------------------------------------------------


def test_a_timeline_reaches_its_fences_in_turn(fences: Fences) -> None:
    timeline = fences.timeline()
    three, one, zero = (fences.fence(timeline, value) for value in (3, 1, 0))
    assert fences.status(zero, one, three) == [1, 0, 0]
    fences.inc(timeline)
    assert fences.status(one, three) == [1, 0]
    fences.inc(timeline, 2)
    assert fences.status(three) == [1]


def test_values_wrap_around(fences: Fences) -> None:
    timeline = fences.timeline()
    fences.inc(timeline, 0xFFFF_FFFE)
    last, first = fences.fence(timeline, 0xFFFF_FFFF), fences.fence(timeline, 1)
    assert fences.status(last, first) == [0, 0]
    fences.inc(timeline)
    assert fences.status(last, first) == [1, 0]
    fences.inc(timeline, 2)
    assert fences.status(first) == [1]


def test_a_step_that_is_too_long_is_two(fences: Fences) -> None:
    timeline = fences.timeline()
    far = fences.fence(timeline, INT_MAX)
    fences.inc(timeline, INT_MAX + 5)
    assert fences.status(far) == [1]


def test_what_a_closed_timeline_leaves_has_failed(fences: Fences) -> None:
    timeline = fences.timeline()
    done, pending = fences.fence(timeline, 1), fences.fence(timeline, 2)
    fences.inc(timeline)
    merged = fences.merge(pending, fences.fence(fences.timeline(), 0))
    fences.close(timeline)
    wanted = [1, -errno.ENOENT, -errno.ENOENT]
    assert eventually(lambda: fences.status(done, pending, merged) == wanted)  # a mount hears late


def test_timelines_are_apart(fences: Fences) -> None:
    one, two = fences.timeline(), fences.timeline()
    fence = fences.fence(one)
    fences.inc(two, 5)
    assert fences.status(fence) == [0]


def test_what_is_no_ioctl_of_theirs(fences: Fences) -> None:
    timeline = fences.timeline()
    fence = fences.fence(timeline)
    wrong = ((timeline, INFO), (fence, sync_file.SW_SYNC_IOC_CREATE_FENCE), (timeline, 0x5702))
    for fd, cmd in wrong:
        call = partial(fences.device.transport.fd_ioctl, fd, cmd, sync_file.sync_file_info())
        assert errno_of(call) == "ENOTTY"
    for fd, cmd in ((timeline, sync_file.SW_SYNC_IOC_INC), (fence, INFO)):
        assert errno_of(partial(fences.device.transport.fd_ioctl, fd, cmd, None)) == "EFAULT"


# ---- MERGE -------------------------------------------------------------------------------------


def test_a_merge_waits_for_both(fences: Fences) -> None:
    lines = [fences.timeline(), fences.timeline()]
    one, two = (fences.fence(line) for line in lines)
    merged = fences.merge(one, two, "both")
    assert sync_fence_count(fences.device, merged) == 2
    fences.inc(lines[1])
    assert fences.status(merged) == [0]
    assert sync_fence_count_status(fences.device, merged, 1) == 1
    fences.inc(lines[0])
    assert fences.status(merged) == [1]
    assert sync_fence_count_status(fences.device, merged, 1) == 2


def test_of_one_timeline_the_later_fence_is_enough(fences: Fences) -> None:
    timeline = fences.timeline()
    one, two = fences.fence(timeline, 1), fences.fence(timeline, 2)
    merges = [fences.merge(one, two), fences.merge(fences.merge(two, one), one)]
    assert [sync_fence_count(fences.device, merged) for merged in merges] == [1, 1]
    fences.inc(timeline)
    assert fences.status(one, *merges) == [1, 0, 0]
    fences.inc(timeline)
    assert fences.status(*merges) == [1, 1]


def test_a_merge_of_what_is_done(fences: Fences) -> None:
    timeline = fences.timeline()
    merged = fences.merge(fences.fence(timeline, 0), fences.fence(timeline, 0))
    assert fences.status(merged) == [1]
    assert sync_fence_count(fences.device, merged) == 1


def merge_errno(fences: Fences, fd: int, **fields: int) -> str:
    arg = sync_file.sync_merge_data(**fields)
    return errno_of(partial(fences.device.transport.fd_ioctl, fd, MERGE, arg))


def test_malformed_merges(fences: Fences) -> None:
    timeline = fences.timeline()
    fence = fences.fence(timeline)
    assert merge_errno(fences, fence, fd2=fence, flags=1) == "EINVAL"
    assert merge_errno(fences, fence, fd2=fence, pad=1) == "EINVAL"
    for other in (-1, 999_999, timeline, fences.device.transport.fileno(), 0):
        assert merge_errno(fences, fence, fd2=other) == "ENOENT"


# ---- FILE_INFO, SET_DEADLINE -------------------------------------------------------------------


def file_info(fences: Fences, fd: int, **fields: int) -> sync_file.sync_file_info:
    arg = sync_file.sync_file_info(**fields)
    fences.device.transport.fd_ioctl(fd, INFO, arg)
    return arg


def test_the_fences_of_a_file(fences: Fences) -> None:
    lines = [fences.timeline(), fences.timeline()]
    merged = fences.merge(fences.fence(lines[0]), fences.fence(lines[1]), "a name")
    fences.inc(lines[0])
    infos = (sync_file.sync_fence_info * 4)()
    address = ctypes.addressof(infos)
    arg = file_info(fences, merged, num_fences=4, sync_fence_info=address)
    assert (arg.num_fences, arg.status, arg.name) == (2, 0, b"a name")
    assert [bytes(info.driver_name) for info in infos] == [b"sw_sync", b"sw_sync", b"", b""]
    assert [info.status for info in infos[:2]] == [1, 0]
    assert [info.timestamp_ns > 0 for info in infos[:2]] == [True, False]
    assert infos[0].obj_name
    fences.close(lines[1])
    assert eventually(lambda: file_info(fences, merged).status == -errno.ENOENT)


def test_malformed_questions(fences: Fences) -> None:
    lines = [fences.timeline(), fences.timeline()]
    merged = fences.merge(fences.fence(lines[0]), fences.fence(lines[1]))
    for fields in ({"flags": 1}, {"pad": 1}, {"num_fences": 1, "sync_fence_info": 8}):
        assert errno_of(partial(file_info, fences, merged, **fields)) == "EINVAL"
    call = partial(file_info, fences, merged, num_fences=2, sync_fence_info=8)
    assert errno_of(call) == "EFAULT"


def test_a_name_made_of_the_fence(fences: Fences) -> None:
    timeline = fences.timeline()
    names = [file_info(fences, fences.fence(timeline, value)).name for value in (7, 8)]
    assert all(name.startswith(b"sw_sync-") for name in names)
    assert [name.rpartition(b"-")[2] for name in names] == [b"7", b"8"]
    assert names[0][:-1] == names[1][:-1]


def test_a_deadline_is_a_hint(fences: Fences) -> None:
    fence = fences.fence(fences.timeline())
    cmd = sync_file.SYNC_IOC_SET_DEADLINE
    set_deadline = partial(fences.device.transport.fd_ioctl, fence, cmd)
    set_deadline(sync_file.sync_set_deadline(deadline_ns=5))
    bad = sync_file.sync_set_deadline(pad=1)
    assert errno_of(partial(set_deadline, bad)) == "EINVAL"
    assert fences.status(fence) == [0]


def test_errors_name_the_ioctl(fences: Fences) -> None:
    fence = fences.fence(fences.timeline())
    with pytest.raises(IoctlError, match="SYNC_IOC_MERGE: ENOENT"):
        sync_fence_merge(fences.device, fence, -1)


# ---- poll --------------------------------------------------------------------------------------


def _by_poll(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return poller.poll(PATIENCE) == [(fd, select.POLLIN)]


def _by_select(fd: int) -> bool:
    return select.select([fd], [], [], PATIENCE / 1000)[0] == [fd]


def _by_epoll(fd: int) -> bool:
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        return epoll.poll(PATIENCE / 1000) == [(fd, select.EPOLLIN)]


@pytest.mark.fuse
@pytest.mark.parametrize("sleep", [_by_poll, _by_select, _by_epoll])
def test_a_sleeper_is_woken_by_the_fence(mounted: Fences, sleep: Callable[[int], bool]) -> None:
    timeline = mounted.timeline()
    fence = mounted.fence(timeline)
    sleepers = [Late(partial(sleep, fence)) for _ in range(3)]
    assert all(sleeper.sleeps() for sleeper in sleepers)
    mounted.inc(timeline)
    assert all(sleeper.result() for sleeper in sleepers)
    assert sleep(fence)


def test_who_sleeps_is_told_though_others_look() -> None:
    """A poll without a sleeper, as of the kernel for a timeout of 0."""
    fence, woken = DmaFence(1, 1), list[int]()
    file = SyncFile(fence, FdTokens())
    assert file.poll(lambda: woken.append(1)) == 0
    assert file.poll(None) == 0
    fence.signal()
    assert (woken, file.poll(None)) == ([1], select.POLLIN)


@pytest.mark.fuse
def test_a_mere_look_takes_nobody_s_wake_up(mounted: Fences) -> None:
    timeline = mounted.timeline()
    fence = mounted.fence(timeline)
    sleeper = Late(partial(_by_poll, fence))
    for _ in range(3):
        with pytest.raises(OSError, match="Timer expired"):
            sync_fence_wait(mounted.device, fence, 0)
    mounted.inc(timeline)
    assert sleeper.result()
    sync_fence_wait(mounted.device, fence, 0)


@pytest.mark.fuse
def test_a_merge_and_a_point_can_be_polled(mounted: Fences) -> None:
    lines = [mounted.timeline(), mounted.timeline()]
    merged = mounted.merge(mounted.fence(lines[0]), mounted.fence(lines[1]))
    handle = mounted.device.syncobj_create()
    mounted.device.syncobj_import_sync_file(handle, mounted.fence(lines[0], 2), 4)
    mounted.device.syncobj_import_sync_file(handle, mounted.fence(lines[1], 1), 5)
    point = mounted.keep(mounted.device.syncobj_export_sync_file(handle, 5))
    sleepers = [Late(partial(_by_poll, fd)) for fd in (merged, point)]
    mounted.inc(lines[1])
    assert all(sleeper.sleeps() for sleeper in sleepers)
    mounted.inc(lines[0])
    assert sleepers[0].result()
    assert sleepers[1].sleeps()
    mounted.inc(lines[0])
    assert sleepers[1].result()


# ---- processes ---------------------------------------------------------------------------------


@pytest.mark.fuse
def test_a_fence_travels_through_a_socket(mounted: Fences) -> None:
    """Another process merges it, imports it, and sleeps on it."""
    timeline = mounted.timeline()
    fence = mounted.fence(timeline)
    ours, theirs = socket.socketpair()
    node = mounted.device.transport.path

    def receive() -> tuple[list[int], bool]:
        _, [received], _, _ = socket.recv_fds(theirs, 1, 1)
        with Device.open(node) as device:
            handle = device.syncobj_create()
            device.syncobj_import_sync_file(handle, received, 3)
            merged = sync_fence_merge(device, received, received)
            before = device.syncobj_query([handle])
            theirs.send(b"!")
            is_done = _by_poll(merged)
            return before + device.syncobj_query([handle]), is_done

    child = Child(receive)
    socket.send_fds(ours, [b"?"], [fence])
    ours.recv(1)
    mounted.inc(timeline)
    assert child.result() == ([0, 3], True)
    ours.close()
    theirs.close()


@pytest.mark.fuse
def test_another_process_s_number_is_nothing_here(mounted: Fences) -> None:
    """A descriptor is looked up in the table of who calls."""
    node, hidden = mounted.device.transport.path, 900

    def open_high() -> int:
        with Device.open(node) as device:
            fence = sw_sync_timeline_create_fence(device, device.transport.open_sw_sync(), 0)
            os.dup2(fence, hidden)
            return sync_fence_status(device, hidden)

    assert run(open_high) == 1
    own = mounted.fence(mounted.timeline())
    assert merge_errno(mounted, own, fd2=hidden) == "ENOENT"


@pytest.mark.fuse
def test_sw_sync_is_a_file_of_the_mount(mounted_node: Callable[..., str]) -> None:
    path = os.path.join(mounted_node(), SW_SYNC_PATH)
    assert os.listdir(os.path.dirname(path)) == ["sw_sync"]
    assert os.stat(path).st_mode & 0o777 == 0o666
    for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
        os.close(os.open(path, flags))
