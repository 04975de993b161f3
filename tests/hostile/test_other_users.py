"""Clients of other users and namespaces, with other capabilities, and with what is not theirs."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import good_client
from tests.hostile.children import (
    ALL_CAPS,
    CAP_SYS_ADMIN,
    CAP_SYS_NICE,
    NOBODY,
    Child,
    Rights,
    errno_of,
    run,
    set_caps,
)
from uapi import drm, xe_drm
from uapi.xe_mock import XE_MOCK_FD_DIR, token_path
from xedev.client import Device, FrameTransport, IoctlTransport
from xedev.client.memory import op_map
from xedev.testing.mounts import wait_until_empty

pytestmark = [pytest.mark.fuse, pytest.mark.root]

SIZE = 1 << 16
VRAM, SYSTEM = 64 << 20, 64 << 30
ORDINARY = Rights()
PRIORITY = xe_drm.DRM_XE_QUERY_CONFIG_MAX_EXEC_QUEUE_PRIORITY
CLONE_NEWUSER, CLONE_NEWPID = 0x1000_0000, 0x2000_0000

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node(vram=VRAM, system=SYSTEM)
    yield directory
    wait_until_empty(directory, 10)


def node(directory: str, name: str = "renderD128") -> str:
    return os.path.join(directory, "dev/dri", name)


def card_user(directory: str, *caps: int) -> Rights:
    """An ordinary user who may open the primary node."""
    group = os.stat(node(directory, "card0")).st_gid
    return Rights(groups=(group,), caps=frozenset(caps))


def open_device(directory: str, name: str = "renderD128", frames: bool = False) -> Device:
    """A device with the means that are asked for, and no others."""
    if frames:
        return Device(FrameTransport(node(directory, "xe-mock")))
    return Device(IoctlTransport(node(directory, name)))


def fileno(device: Device) -> int:
    assert isinstance(device.transport, (IoctlTransport, FrameTransport))
    return device.transport.fileno()


# ---- who gets in -----------------------------------------------------------------------------


def try_open(path: str, flags: int) -> str:
    return errno_of(lambda: os.close(os.open(path, flags)))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_nodes_are_open_to_whom_their_mode_says(directory: str, flags: int) -> None:
    def visit() -> dict[str, str]:
        return {name: try_open(node(directory, name), flags) for name in os.listdir(nodes)}

    nodes = node(directory, "")
    assert run(visit, ORDINARY) == {"card0": "EACCES", "renderD128": "", "xe-mock": ""}
    assert run(visit, card_user(directory)) == {"card0": "", "renderD128": "", "xe-mock": ""}
    # Root is let in by a capability of its own.
    dac = Rights(caps=ALL_CAPS)
    assert run(visit, dac) == {"card0": "", "renderD128": "", "xe-mock": ""}


def test_control_files_are_open_to_their_owner_alone(directory: str) -> None:
    debug = Path(directory, "debug/dri/0")

    def visit() -> set[str]:
        return {
            try_open(str(path), flags)
            for path in debug.rglob("*")
            if path.is_file()
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_NONBLOCK)
        }

    assert run(visit, ORDINARY) == {"EACCES"}
    assert run(visit, card_user(directory)) == {"EACCES"}
    assert not run(lambda: os.access(debug / "wedge", os.W_OK), ORDINARY)


def test_others_change_nothing_of_the_tree(directory: str) -> None:
    path = node(directory)

    def visit() -> set[str]:
        calls: tuple[Callable[[], object], ...] = (
            lambda: os.chmod(path, 0o600),
            lambda: os.chown(path, NOBODY, -1),
            lambda: os.utime(path, (1, 1)),
        )
        return {errno_of(call) for call in calls}

    assert run(visit, ORDINARY) == {"EPERM"}
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    hidden = os.path.join(node(directory, ""), XE_MOCK_FD_DIR)
    assert run(lambda: os.listdir(hidden), ORDINARY) == []


@pytest.mark.parametrize("frames", [False, True])
def test_an_ordinary_user_gets_the_same_answers(directory: str, frames: bool) -> None:
    """The program of the well-behaved client, as a user that the daemon is not."""

    def client() -> None:
        queries = good_client.Queries(VRAM, SYSTEM)
        for _ in range(3):
            good_client.run_round(good_client.Plan(directory, VRAM, SYSTEM), queries, frames)

    run(client, ORDINARY)


# ---- capabilities ----------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [False, True])
def test_sys_nice_counts_at_each_call(directory: str, frames: bool) -> None:
    def client() -> list[int]:
        seen = []
        with open_device(directory, frames=frames) as device:
            for caps in ((), (CAP_SYS_NICE,), (CAP_SYS_ADMIN,), (CAP_SYS_NICE,)):
                set_caps(caps, permitted=(CAP_SYS_NICE, CAP_SYS_ADMIN))
                seen.append(device.query_config()[PRIORITY])
        return seen

    rights = Rights(caps=frozenset({CAP_SYS_NICE, CAP_SYS_ADMIN}))
    assert run(client, rights) == [1, 2, 1, 2]
    assert run(client) == [1, 2, 1, 2], "uid 0 alone is not a capability"


def test_capabilities_are_those_of_the_thread(directory: str) -> None:
    """Of one descriptor's two users at a time, one may and one may not."""

    def client() -> list[int]:
        seen: list[int] = []
        with open_device(directory) as device:

            def look(caps: tuple[int, ...]) -> None:
                set_caps(caps)
                seen.append(device.query_config()[PRIORITY])

            for caps in ((), (CAP_SYS_NICE,)):
                thread = threading.Thread(target=look, args=[caps])
                thread.start()
                thread.join()
            seen.append(device.query_config()[PRIORITY])
        return seen

    assert run(client) == [1, 2, 2]


def test_sys_admin_counts_at_the_open(directory: str) -> None:
    """FLINK needs an authenticated file; it stays one, and another one does not become one."""

    def client() -> tuple[list[str], list[int]]:
        admin = (CAP_SYS_ADMIN,)
        with open_device(directory, "card0") as before:
            set_caps((), permitted=admin)
            with open_device(directory, "card0") as after:
                devices = (before, after)
                handles = [device.gem_create(SIZE, 1) for device in devices]
                codes = []
                for caps in ((), admin):
                    set_caps(caps, permitted=admin)
                    for device, handle in zip(devices, handles, strict=True):
                        codes.append(errno_of(partial(device.gem_flink, handle)))
                return codes, [device.get_client().auth for device in devices]

    with open_device(directory, "card0"):  # the master, whose file is authenticated as such
        codes, auth = run(client, card_user(directory, CAP_SYS_ADMIN))
    assert codes == ["", "EACCES", "", "EACCES"]
    assert auth == [1, 0]


def test_mastership_is_for_those_who_had_it_or_administrate(directory: str) -> None:
    def client() -> str:
        with open_device(directory, "card0") as device:
            return errno_of(device.set_master) + "/" + errno_of(device.drop_master)

    with open_device(directory, "card0"):
        assert run(client, card_user(directory)) == "EACCES/EACCES"
        assert run(client, card_user(directory, CAP_SYS_ADMIN)) == "EBUSY/EINVAL"
    wait_until_empty(directory)
    assert run(client, card_user(directory)) == "/", "the first one is the master, whoever it is"


def test_legacy_calls_need_sys_admin_at_each_call(directory: str) -> None:
    """ADD_DRAW is for the master who is root besides."""

    def client() -> list[str]:
        with open_device(directory, "card0") as device:
            codes = []
            for caps in ((), (CAP_SYS_ADMIN,)):
                set_caps(caps, permitted=(CAP_SYS_ADMIN,))
                code = errno_of(lambda: device.ioctl(drm.DRM_IOCTL_ADD_DRAW, drm.drm_draw()))
                codes.append(code)
            return codes

    assert run(client, card_user(directory, CAP_SYS_ADMIN)) == ["EACCES", ""]


@pytest.mark.parametrize("frames", [False, True])
def test_root_of_another_user_namespace_is_nobody(directory: str, frames: bool) -> None:
    def client() -> tuple[int, int]:
        if _libc.unshare(CLONE_NEWUSER):
            pytest.skip("user namespaces are forbidden here")
        caps = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16)
        with open_device(directory, frames=frames) as device:
            return caps >> CAP_SYS_NICE & 1, device.query_config()[PRIORITY]

    assert run(client) == (1, 1)


def test_another_pid_namespace(directory: str) -> None:
    """The daemon sees such a client under another number than it has itself."""

    def client() -> tuple[int, str, int, int]:
        if _libc.unshare(CLONE_NEWPID):
            raise OSError(ctypes.get_errno(), "unshare")
        return run(inner)

    def inner() -> tuple[int, str, int, int]:
        with open_device(directory) as device:
            handle = device.gem_create(SIZE, 1)
            fd = device.prime_handle_to_fd(handle)
            imported = device.prime_fd_to_handle(fd)
            (file,) = json.loads(Path(directory, "debug/dri/0/state").read_text())["files"]
            return os.getpid(), device.version().name, imported - handle, file["pid"]

    pid, name, difference, seen = run(client)
    assert (pid, name, difference) == (1, "xe", 0)
    assert seen > 1


# ---- what belongs to somebody else -----------------------------------------------------------


def claim(path: str) -> str:
    return try_open(path, os.O_RDWR)


@pytest.mark.parametrize("frames", [False, True])
def test_a_token_is_for_the_process_that_got_it(directory: str, frames: bool) -> None:
    with open_device(directory, frames=frames) as device:
        token = device.prime_handle_to_token(device.gem_create(SIZE, 1))
        path = token_path(node(directory), token)
        assert run(lambda: claim(path)) == "EACCES", "a child is another process"
        assert run(lambda: claim(path), ORDINARY) == "EACCES"
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(claim(path)))
        thread.start()
        thread.join()
        assert answers == [""], "a thread is not"
        assert claim(path) == "ENOENT", "it works once"
        assert run(lambda: claim(path)) == "ENOENT"


def test_a_token_that_the_child_got_on_the_parents_file(directory: str) -> None:
    with open_device(directory) as device:
        handle = device.gem_create(SIZE, 1)
        go_on, told = os.pipe()

        def client() -> str:
            token = device.prime_handle_to_token(handle)
            os.write(told, b"%d" % token)
            os.read(again, 1)
            return claim(token_path(node(directory), token))

        again, done = os.pipe()
        child = Child(client)
        path = token_path(node(directory), int(os.read(go_on, 20)))
        assert claim(path) == "EACCES"
        os.write(done, b"x")
        assert child.result() == ""
        for fd in (go_on, told, again, done):
            os.close(fd)


def test_tokens_die_with_their_file(directory: str) -> None:
    with open_device(directory) as device:
        path = token_path(node(directory), device.prime_handle_to_token(device.gem_create(SIZE, 1)))
        assert stat.S_ISREG(os.stat(path).st_mode)
    wait_until_empty(directory)
    assert claim(path) == "ENOENT"


@pytest.mark.parametrize("frames", [False, True])
def test_a_dma_buf_crosses_users(directory: str, frames: bool) -> None:
    """It comes through a socket, from root to an ordinary user, and holds the memory."""
    near, far = socket.socketpair()

    def importer() -> tuple[int, int, int]:
        _, (fd,), _, _ = socket.recv_fds(far, 1, 1)
        with open_device(directory, frames=frames) as device:
            handle = device.prime_fd_to_handle(fd)
            again = device.prime_fd_to_handle(os.dup(fd))
            vm = device.vm_create()
            device.vm_bind(vm, [op_map(handle, 0, 0, SIZE)])
            return device.bo_info(handle).id, again - handle, os.fstat(fd).st_size

    child = Child(importer, ORDINARY)
    with open_device(directory) as device:
        handle = device.gem_create(SIZE, 1)
        number = device.bo_info(handle).id
        fd = device.prime_handle_to_fd(handle)
        socket.send_fds(near, [b"x"], [fd])
        os.close(fd)
    assert child.result() == (number, 0, SIZE)
    near.close()
    far.close()


def test_a_number_means_the_callers_own_descriptor(directory: str) -> None:
    """The same number is another thing in another process; also on one shared DRM file."""
    with open_device(directory) as device:
        fd = device.prime_handle_to_fd(device.gem_create(SIZE, 1))

        def client() -> list[str]:
            codes = [errno_of(lambda: device.prime_fd_to_handle(fd))]
            os.dup2(os.open("/dev/null", os.O_RDWR), fd)
            codes.append(errno_of(lambda: device.prime_fd_to_handle(fd)))
            os.close(fd)
            codes.append(errno_of(lambda: device.prime_fd_to_handle(fd)))
            return codes

        assert run(client) == ["", "EINVAL", "EBADF"]
        assert device.prime_fd_to_handle(fd) == 1
        device.close_fd(fd)


def _foreign(directory: str, scratch: Path, device: Device) -> dict[str, int]:
    """Descriptors of all sorts that are no dma-bufs of this mount."""
    token_like = scratch / XE_MOCK_FD_DIR / "40000000"
    token_like.parent.mkdir()
    token_like.write_text("no token")
    near, far = socket.socketpair()
    pipe = os.pipe()
    far.detach()
    return {
        "regular file": os.open(scratch / "file", os.O_RDWR | os.O_CREAT),
        "file named like a token": os.open(token_like, os.O_RDWR),
        "directory": os.open(scratch, os.O_RDONLY),
        "/dev/null": os.open(os.devnull, os.O_RDWR),
        "pipe, its end": pipe[0],
        "pipe, its beginning": pipe[1],
        "memfd": os.memfd_create("dma-buf"),
        "socket": near.detach(),
        "eventfd": os.eventfd(0),
        "the DRM file itself": os.dup(fileno(device)),
        "another node": os.open(node(directory, "card0"), os.O_RDWR),
        "the node of frames": os.open(node(directory, "xe-mock"), os.O_RDWR),
        "a debug file": os.open(f"{directory}/debug/dri/0/state", os.O_RDONLY),
        "a directory of the mount": os.open(node(directory, ""), os.O_RDONLY),
        "something of /proc": os.open("/proc/self/status", os.O_RDONLY),
    }


@pytest.mark.parametrize("frames", [False, True])
def test_foreign_descriptors_are_no_dma_bufs(directory: str, tmp_path: Path, frames: bool) -> None:
    with open_device(directory, frames=frames) as device:
        foreign = _foreign(directory, tmp_path, device)
        codes = {
            what: errno_of(partial(device.prime_fd_to_handle, fd)) for what, fd in foreign.items()
        }
        for fd in foreign.values():
            os.close(fd)
        closed = {errno_of(partial(device.prime_fd_to_handle, fd)) for fd in foreign.values()}
        numbers = (-1, -(1 << 31), 1 << 20, (1 << 31) - 1, 0x4000_0000)
        absent = {errno_of(partial(device.prime_fd_to_handle, fd)) for fd in numbers}
    assert codes == dict.fromkeys(codes, "EINVAL")
    assert closed == absent == {"EBADF"}


def test_a_mere_path_is_no_descriptor(directory: str) -> None:
    """O_PATH gives a number that fget() does not know."""
    with open_device(directory) as device:
        fd = device.prime_handle_to_fd(device.gem_create(SIZE, 1))
        paths = (f"/proc/self/fd/{fd}", node(directory), os.devnull)
        mere = [os.open(path, os.O_PATH) for path in paths]
        codes = {errno_of(partial(device.prime_fd_to_handle, number)) for number in mere}
        for number in (fd, *mere):
            os.close(number)
    assert codes == {"EBADF"}


def test_a_dma_buf_of_another_mount_is_foreign(
    directory: str, mounted_node: Callable[..., str]
) -> None:
    other: Any = mounted_node(fresh=True)
    with open_device(directory) as one, open_device(other) as two:
        fd = two.prime_handle_to_fd(two.gem_create(SIZE, 1))
        assert errno_of(lambda: one.prime_fd_to_handle(fd)) == "EINVAL"
        # The first of each mount: if anything of the numbers is alike, it is here.
        own = one.prime_handle_to_fd(one.gem_create(SIZE, 1))
        assert errno_of(lambda: two.prime_fd_to_handle(own)) == "EINVAL"
        os.close(own)
        os.close(fd)
