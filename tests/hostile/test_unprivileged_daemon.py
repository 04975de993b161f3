"""A daemon without rights: whom it can serve, and how.

Each test runs in a child with a mount namespace of its own, where /dev/fuse may be opened by all
(it often may not) and fuse.conf lets users share their mounts.  There an ordinary user mounts, and
clients of three users come: its own, root, and another one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import good_client
from tests.hostile.children import PATIENCE, Child, Rights, errno_of, run
from uapi import drm, xe_drm
from xedev.client import OUT, Buffer, Device, FrameTransport, IoctlError, IoctlTransport
from xedev.client.memory import op_map
from xedev.node.daemon import MountOptions, start, stop
from xedev.node.fuse_adapter import load_binding

pytestmark = [pytest.mark.fuse, pytest.mark.root]

OWNER = Rights()
OTHER = Rights(uid=54321, gid=54321)
SIZE = 1 << 16
VRAM, SYSTEM = 64 << 20, 64 << 30
CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER = 0x2_0000, 0x2000_0000, 0x1000_0000
PR_SET_DUMPABLE = 4
HINT = "the write/read protocol needs no such right"

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody gets to, for the mount and for what is bound over others."""
    with tempfile.TemporaryDirectory(prefix="xe-mock-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "mnt").mkdir()
        os.chown(directory / "mnt", OWNER.uid, OWNER.gid)
        yield directory


def unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def set_scene(place: Path) -> None:
    """A mount namespace in which ordinary users may mount, and share what they mount."""
    load_binding(None)  # while we may read it: an interpreter may well be in root's home
    unshare(CLONE_NEWNS)
    mount("--make-rprivate", "/")
    scene = place / "scene"
    scene.mkdir()
    mount("-t", "tmpfs", "none", str(scene))
    device = scene / "fuse"
    os.mknod(device, stat.S_IFCHR, os.makedev(10, 229))
    device.chmod(0o666)
    mount("--bind", str(device), "/dev/fuse")
    configuration = scene / "fuse.conf"
    configuration.write_text("user_allow_other\n")
    mount("--bind", str(configuration), "/etc/fuse.conf")


def on_mount(place: Path, allow_other: bool, play: Callable[[str], None]) -> None:
    """Let the owner mount, ``play`` on it as root, and let the owner unmount."""
    point = str(place / "mnt")
    log = place / "mnt.log"
    log.touch()
    os.chown(log, OWNER.uid, OWNER.gid)
    options = MountOptions(
        vram=VRAM, system=SYSTEM, allow_other=allow_other, log=str(log), die_with=os.getppid()
    )
    assert os.getuid() == 0

    def stage() -> None:
        set_scene(place)
        run(lambda: start(point, options), OWNER)
        try:
            play(point)
        finally:
            stopped = run(lambda: stop(point), OWNER)
        assert not stopped.errors, stopped.messages

    Child(stage).result(3 * PATIENCE)


def node(point: str, name: str = "renderD128") -> str:
    return os.path.join(point, "dev/dri", name)


def play_program(point: str, frames: bool) -> None:
    """What the well-behaved client does."""
    queries = good_client.Queries(VRAM, SYSTEM)
    good_client.run_round(good_client.Plan(point, VRAM, SYSTEM), queries, frames)


def version_by_ioctl(point: str) -> str:
    """The errno of a call that makes the daemon write to our memory."""
    transport = IoctlTransport(node(point))
    text = ctypes.create_string_buffer(8)
    arg = drm.drm_version(name_len=8, name=ctypes.addressof(text))
    try:
        return errno_of(lambda: transport.ioctl(drm.DRM_IOCTL_VERSION, arg, [Buffer(text, OUT)]))
    finally:
        transport.close()


def transport_of(point: str) -> str:
    """What the client library chooses."""
    with Device.open(node(point)) as device:
        device.version()
        device.vm_destroy(device.vm_create())
        return device.transport.name


# ---- tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [False, True])
def test_its_own_user_is_served_in_full(place: Path, frames: bool) -> None:
    def play(point: str) -> None:
        run(lambda: play_program(point, frames), OWNER)
        assert run(lambda: transport_of(point), OWNER) == "ioctl(2)"
        owner = run(lambda: os.stat(node(point, "card0")).st_uid, OWNER)
        assert owner == OWNER.uid
        run(lambda: Device(IoctlTransport(node(point, "card0"))).close(), OWNER)

    on_mount(place, False, play)


def test_nobody_else_gets_in_unless_it_is_shared(place: Path) -> None:
    """Not even root."""

    def play(point: str) -> None:
        for rights in (None, OTHER):
            refused = run(lambda: errno_of(lambda: os.open(node(point), os.O_RDWR)), rights)
            assert refused == "EACCES", rights

    on_mount(place, False, play)


@pytest.mark.parametrize("rights", [None, OTHER], ids=["root", "other"])
def test_others_are_served_by_frames(place: Path, rights: Rights | None) -> None:
    """Their memory is out of reach, but what needs none of it works all the same."""

    def client(point: str) -> None:
        assert version_by_ioctl(point) == "EFAULT"
        assert transport_of(point) == "write/read"
        with Device(IoctlTransport(node(point))) as device:
            vm = device.vm_create()
            handle = device.gem_create(SIZE, 3)
            bind = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=1)
            bind.bind = op_map(handle, 0, 0, SIZE)
            device.ioctl(xe_drm.DRM_IOCTL_XE_VM_BIND, bind)
            device.madvise_purgeable(vm, 0, SIZE, good_client.DONTNEED, retained=False)
            refused = errno_of(lambda: device.madvise_purgeable(vm, 0, SIZE, good_client.WILLNEED))
            assert refused == "EFAULT"
            assert device.bo_info(handle).vma_count == 1
        with Device(FrameTransport(node(point, "xe-mock"))) as device:
            good_client.split_and_merge(device)
            good_client.Queries(VRAM, SYSTEM).check(device)

    on_mount(place, True, lambda point: run(lambda: client(point), rights))


def test_descriptors_of_others_cannot_be_looked_at(place: Path) -> None:
    """They can export, but what they import is not known to be a dma-buf; they are told why."""

    def client(point: str) -> None:
        with Device(FrameTransport(node(point, "xe-mock"))) as device:
            handle = device.gem_create(SIZE, 1)
            fd = device.prime_handle_to_fd(handle)
            assert os.fstat(fd).st_size == SIZE
            with pytest.raises(IoctlError) as refused:
                device.prime_fd_to_handle(fd)
            assert refused.value.errno == errno.EBADF
            assert "may not look" in refused.value.reason
            os.close(fd)

    on_mount(place, True, lambda point: run(lambda: client(point), OTHER))


def test_the_trace_says_what_to_do(place: Path) -> None:
    """A program that only knows ioctl(2) gets EFAULT; its user finds the reason in the trace."""

    def play(point: str) -> None:
        listening, told = os.pipe()

        def listen() -> Any:
            trace = os.open(f"{point}/debug/dri/0/trace", os.O_RDONLY)
            os.write(told, b"x")
            failures: list[Any] = []
            while not failures:
                # As long as the buffer is larger than all events, lines come whole.
                lines = os.read(trace, 1 << 16).splitlines()
                failures = [event for event in map(json.loads, lines) if event.get("errno")]
            return failures[0]

        listener = Child(listen, OWNER)
        os.read(listening, 1)
        pid = run(lambda: (version_by_ioctl(point), os.getpid())[1], OTHER)
        event = listener.result()
        assert (event["pid"], event["errno"]) == (pid, "EFAULT"), event
        assert HINT in event["reason"]

    on_mount(place, True, play)


def test_a_protected_process_of_its_own_user(place: Path) -> None:
    """One that forbids being traced (as setuid programs are, or those with secrets)."""

    def client(point: str) -> tuple[str, str]:
        assert _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
        return version_by_ioctl(point), transport_of(point)

    def play(point: str) -> None:
        assert run(lambda: client(point), OWNER) == ("EFAULT", "write/read")

    on_mount(place, False, play)


def test_capabilities_of_others_count(place: Path) -> None:
    """They stand in /proc, which is open to all; in a frame they are those of the writer."""
    priority = xe_drm.DRM_XE_QUERY_CONFIG_MAX_EXEC_QUEUE_PRIORITY

    def look(point: str) -> int:
        with Device(FrameTransport(node(point, "xe-mock"))) as device:
            return device.query_config()[priority]

    def look_from_own_namespace(point: str) -> int:
        unshare(CLONE_NEWUSER)
        return look(point)

    def play(point: str) -> None:
        assert run(lambda: look(point)) == 2
        assert run(lambda: look(point), OTHER) == 1
        assert run(lambda: look(point), OWNER) == 1
        assert run(lambda: look_from_own_namespace(point)) == 1

    on_mount(place, True, play)


def test_threads_of_several_users_at_once(place: Path) -> None:
    """The owner's calls are not slowed down to errors by those whose memory is out of reach."""

    def hammer(point: str, expected: str) -> None:
        def work() -> None:
            for _ in range(100):
                answers.add(version_by_ioctl(point))

        answers: set[str] = set()
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {expected}

    def play(point: str) -> None:
        users: list[tuple[Rights | None, str]] = [(OWNER, ""), (OTHER, "EFAULT"), (None, "EFAULT")]
        children = [
            Child(lambda expected=expected: hammer(point, expected), rights)  # type: ignore[misc]
            for rights, expected in users
        ]
        for child in children:
            child.result()

    on_mount(place, True, play)


def test_in_a_user_namespace_without_any_helper(place: Path) -> None:
    """An ordinary user who is root in a namespace of its own mounts by itself."""

    def stage() -> None:
        set_scene(place)
        run(inner, OWNER)

    def inner() -> None:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {OWNER.uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {OWNER.gid} 1")
        point = str(place / "mnt")
        start(point, MountOptions(vram=VRAM, system=SYSTEM, die_with=os.getpid()))
        try:
            for frames in (False, True):
                play_program(point, frames)
        finally:
            stopped = stop(point)
        assert not stopped.errors, stopped.messages

    Child(stage).result(3 * PATIENCE)


def test_a_client_outside_of_the_daemons_pid_namespace(place: Path) -> None:
    """The kernel gives the daemon no number for it: no memory, no rights; frames work."""

    def client(point: str) -> None:
        assert version_by_ioctl(point) == "EFAULT"
        with Device.open(node(point)) as device:
            assert device.transport.name == "write/read"
            good_client.split_and_merge(device)
            handle = device.gem_create(SIZE, 1)
            fd = device.prime_handle_to_fd(handle)
            assert errno_of(lambda: device.prime_fd_to_handle(fd)) == "EBADF"
            os.close(fd)

    def stage() -> None:
        unshare(CLONE_NEWNS)
        mount("--make-rprivate", "/")
        point = str(place / "mnt")
        ready, told = os.pipe()
        done, leave = os.pipe()

        def daemon() -> None:
            # The first process of the new namespace; the daemon ends with it.
            start(point, MountOptions(vram=VRAM, system=SYSTEM))
            os.write(told, b"x")
            os.read(done, 1)
            stopped = stop(point)
            assert not stopped.errors, stopped.messages

        def make_namespace() -> None:
            unshare(CLONE_NEWPID)
            run(daemon)

        maker = Child(make_namespace)
        assert os.read(ready, 1)
        try:
            run(lambda: client(point))
        finally:
            os.write(leave, b"x")
        maker.result()

    Child(stage).result(3 * PATIENCE)
