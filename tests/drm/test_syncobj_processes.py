"""Sleepers of other processes: signals, death, sockets, and frames that wait."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.drm.syncobj_runner import Late
from tests.hostile.children import PATIENCE, Child, errno_of, eventually, run
from tests.hostile.frame_noise import take_replies
from uapi import drm
from uapi.xe_mock import XE_MOCK_WINDOW_IN, Window, pack_request
from xedev.client import Device, FrameTransport
from xedev.client.libc import ioctl
from xedev.client.syncobj import deadline_ns
from xedev.node.frames import WAITING_REQUESTS
from xedev.node.tree import DEBUG_DIR, NODE_DIR
from xedev.testing.target import MountTarget, Target

pytestmark = pytest.mark.fuse

FOR_SUBMIT = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT
LONG = 20.0  # seconds
NEVER = 7  # a point that nobody submits


class Watched:
    """A mount, and how many eventfds its daemon holds: one for each object that is watched."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        pid = json.loads(Path(directory, DEBUG_DIR, "daemon").read_text())["pid"]
        self._fds = f"/proc/{pid}/fd"

    def node(self, name: str = "renderD128") -> str:
        return os.path.join(self.directory, NODE_DIR, name)

    def open(self, frames: bool = False) -> Device:
        return Device.open(self.node(), transport="frames" if frames else "ioctl")

    def eventfds(self) -> int:
        links = []
        for fd in os.listdir(self._fds):
            with suppress(FileNotFoundError):
                links.append(os.readlink(f"{self._fds}/{fd}"))
        return links.count("anon_inode:[eventfd]")

    def holds(self, count: int) -> bool:
        return eventually(lambda: self.eventfds() == count)


@pytest.fixture
def mount(mounted_node: Callable[..., str]) -> Watched:
    return Watched(mounted_node())


def watched_object(device: Device) -> int:
    """An object that gives an eventfd back when it is freed."""
    handle = device.syncobj_create()
    device.syncobj_eventfd(handle, NEVER, os.eventfd(0))
    return handle


def wait_once(device: Device, handle: int) -> int:
    """The bare ioctl, which nobody starts over: its errno."""
    handles = (ctypes.c_uint32 * 1)(handle)
    arg = drm.drm_syncobj_wait(
        handles=ctypes.addressof(handles),
        timeout_nsec=deadline_ns(LONG),
        count_handles=1,
        flags=FOR_SUBMIT,
    )
    cmd = drm.DRM_IOCTL_SYNCOBJ_WAIT
    return ctypes.get_errno() if ioctl(device.transport.fileno(), cmd, ctypes.byref(arg)) else 0


# ---- signals -----------------------------------------------------------------------------------


def test_a_signal_ends_a_wait_and_leaves_nothing(mount: Watched) -> None:
    before = mount.eventfds()

    def sleep_and_be_hit() -> tuple[int, bool]:
        signal.signal(signal.SIGALRM, lambda *_: None)
        with mount.open() as device:
            handle = watched_object(device)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            error = wait_once(device, handle)
            assert mount.eventfds() == before + 1
            device.syncobj_destroy(handle)
            # With the file still open, only a wait that was forgotten could hold the object.
            return error, mount.holds(before)

    assert run(sleep_and_be_hit) == (errno.EINTR, True)


def test_a_transfer_that_waits_is_interrupted_too(mount: Watched) -> None:
    before = mount.eventfds()

    def sleep_and_be_hit() -> tuple[int, bool]:
        signal.signal(signal.SIGALRM, lambda *_: None)
        with mount.open() as device:
            src, dst = watched_object(device), watched_object(device)
            arg = drm.drm_syncobj_transfer(
                src_handle=src, dst_handle=dst, dst_point=1, flags=FOR_SUBMIT
            )
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            cmd = drm.DRM_IOCTL_SYNCOBJ_TRANSFER
            failed = ioctl(device.transport.fileno(), cmd, ctypes.byref(arg))
            error = ctypes.get_errno() if failed else 0
            for handle in (src, dst):
                device.syncobj_destroy(handle)
            return error, mount.holds(before)

    assert run(sleep_and_be_hit) == (errno.EINTR, True)


def test_the_library_goes_on_after_a_signal(mount: Watched) -> None:
    """As libdrm does: the deadline is a point in time, so nothing gets longer."""

    def sleep() -> tuple[str, int]:
        hits = []
        signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
        with mount.open() as device:
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            wait = partial(
                device.syncobj_wait, [device.syncobj_create()], deadline_ns(0.3), FOR_SUBMIT
            )
            return errno_of(wait), min(len(hits), 2)

    assert run(sleep) == ("ETIME", 2)


@pytest.mark.parametrize("frames", [False, True], ids=["ioctl", "frames"])
def test_a_sleeper_can_be_killed(mount: Watched, frames: bool) -> None:
    before = mount.eventfds()

    def sleep() -> None:
        device = mount.open(frames)
        for _ in range(3):
            Late(
                partial(
                    device.syncobj_wait, [watched_object(device)], deadline_ns(LONG), FOR_SUBMIT
                )
            )
        device.syncobj_wait([watched_object(device)], deadline_ns(LONG), FOR_SUBMIT)

    children = [Child(sleep) for _ in range(4)]
    assert mount.holds(before + 16)
    for child in children:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert mount.holds(before)


# ---- objects of several processes --------------------------------------------------------------


def test_an_object_travels_through_a_socket(mount: Watched) -> None:
    """One process waits on a card for what another signals, whose file is closed by then."""
    ours, theirs = socket.socketpair()

    def wait_for_it() -> int:
        _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
        with mount.open() as device:
            handle = device.syncobj_fd_to_handle(fd)
            os.close(fd)
            theirs.send(b"!")
            device.syncobj_timeline_wait([handle], [2], deadline_ns(LONG), FOR_SUBMIT)
            return device.syncobj_query([handle])[0]

    child = Child(wait_for_it)
    with mount.open() as device:
        handle = device.syncobj_create()
        fd = device.syncobj_handle_to_fd(handle)
        socket.send_fds(ours, [b"?"], [fd])
        os.close(fd)
        ours.recv(1)
        device.syncobj_timeline_signal([handle], [2])
    assert child.result() == 2
    ours.close()
    theirs.close()


def test_an_eventfd_is_looked_up_where_the_caller_lives(mount: Watched) -> None:
    """The same number is an eventfd in one process, a file in another, and nothing in a third."""
    number = 901

    def register(open_it: Callable[[], int] | None) -> tuple[str, int]:
        if open_it is not None:
            os.dup2(open_it(), number)
        with mount.open() as device:
            handle = device.syncobj_create()
            error = errno_of(partial(device.syncobj_eventfd, handle, 1, number))
            device.syncobj_timeline_signal([handle], [1])
            return error, 0 if error else os.eventfd_read(number)

    def eventfd() -> int:
        return os.eventfd(0)

    def null() -> int:
        return os.open("/dev/null", os.O_RDWR)

    assert run(partial(register, eventfd)) == ("", 1)
    assert run(partial(register, null)) == ("EINVAL", 0)
    assert run(partial(register, None)) == ("EBADF", 0)


def test_an_eventfd_outlives_the_process_that_gave_it(mount: Watched) -> None:
    event = os.eventfd(0, os.EFD_NONBLOCK)
    with mount.open() as device:
        handle = device.syncobj_create()
        fd = device.syncobj_handle_to_fd(handle)

        def register() -> None:
            with mount.open() as theirs:
                theirs.syncobj_eventfd(theirs.syncobj_fd_to_handle(fd), 1, event)

        run(register)
        assert errno_of(partial(os.eventfd_read, event)) == "EAGAIN"
        device.syncobj_timeline_signal([handle], [1])
        assert os.eventfd_read(event) == 1
        os.close(fd)
    os.close(event)


# ---- frames that wait --------------------------------------------------------------------------


def test_a_frame_that_waits_stops_no_other(mount: Watched) -> None:
    """Neither on its own stream nor on another's, though the kernel lets in one write at a time."""
    with mount.open(frames=True) as one, mount.open(frames=True) as two:
        handle = one.syncobj_create()
        fd = one.syncobj_handle_to_fd(handle)
        same = two.syncobj_fd_to_handle(fd)
        os.close(fd)
        waits = [
            Late(partial(one.syncobj_wait, [handle], deadline_ns(LONG), FOR_SUBMIT)),
            Late(partial(two.syncobj_wait, [same], deadline_ns(LONG), FOR_SUBMIT)),
            Late(partial(one.syncobj_transfer, one.syncobj_create(), 1, handle, 0, FOR_SUBMIT)),
        ]
        assert one.version().name == two.version().name == "xe"
        assert all(wait.sleeps() for wait in waits)
        two.syncobj_signal([same])
        assert [wait.result() for wait in waits] == [0, 0, None]


def test_frames_that_wait_are_bounded(mount: Watched) -> None:
    """Written by hand: which request finds no room any more shall not depend on threads."""
    target: Target[Any] = MountTarget(mount.directory, "frames")
    transport = target.open()
    assert isinstance(transport, FrameTransport)
    handle = Device(transport).syncobj_create()
    stream = transport.fileno()
    handles = (ctypes.c_uint32 * 1)(handle)
    address = ctypes.addressof(handles)
    window = Window(address, 4, XE_MOCK_WINDOW_IN, bytes(handles))
    wait = bytes(
        drm.drm_syncobj_wait(
            handles=address, count_handles=1, flags=FOR_SUBMIT, timeout_nsec=deadline_ns(LONG)
        )
    )
    signal = bytes(drm.drm_syncobj_array(handles=address, count_handles=1))

    def send(cookie: int, cmd: int, argument: bytes) -> None:
        os.write(stream, pack_request(cookie, cmd, argument, [window]))

    for cookie in range(WAITING_REQUESTS + 1):
        send(cookie, drm.DRM_IOCTL_SYNCOBJ_WAIT, wait)
    assert replies(stream, 1) == {WAITING_REQUESTS: -errno.ENOMEM}
    send(WAITING_REQUESTS, drm.DRM_IOCTL_SYNCOBJ_SIGNAL, signal)
    expected = dict.fromkeys(range(WAITING_REQUESTS + 1), 0)
    assert replies(stream, WAITING_REQUESTS + 1) == expected
    target.close()


def replies(stream: int, count: int) -> dict[int, int]:
    """Results by cookies of the next replies."""
    received = bytearray()
    results: dict[int, int] = {}
    while len(results) < count:
        assert select.select([stream], [], [], PATIENCE)[0], f"{len(results)} of {count} replies"
        received += os.read(stream, 1 << 17)
        results |= {reply.cookie: reply.result for reply in take_replies(received)}
    return results


def test_a_stream_that_ends_ends_its_waits(mount: Watched) -> None:
    before = mount.eventfds()
    target: Target[Any] = MountTarget(mount.directory, "frames")
    transport = target.open()
    assert isinstance(transport, FrameTransport)
    device = Device(transport)
    handle = watched_object(device)
    arg = drm.drm_syncobj_transfer(src_handle=handle, dst_handle=handle, flags=FOR_SUBMIT)
    os.write(transport.fileno(), pack_request(1, drm.DRM_IOCTL_SYNCOBJ_TRANSFER, bytes(arg), []))
    assert mount.holds(before + 1)
    target.close()
    assert mount.holds(before)
