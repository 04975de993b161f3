"""From a client's descriptor to the mock's open file behind it."""

from __future__ import annotations

import array
import errno
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.fake_mount import Child
from xedev.client import Device, FrameTransport, IoctlError, IoctlTransport
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.node.fd_lookup import FdLookup
from xedev.node.frames import FrameFile
from xedev.node.mounts import find_mount, read_mounts
from xedev.testing.mounts import wait_until_empty


class Plain(File):
    """Some file of the mock."""

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        return 0

    def release(self) -> None:
        pass


OURS = Plain()


@pytest.fixture
def some_fd() -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


def device_of(fd: int) -> str:
    number = os.fstat(fd).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def lookup_for(fd: int, file: File = OURS) -> FdLookup:
    """A lookup that takes the inode behind ``fd`` for one of the mock's."""
    inode = os.fstat(fd).st_ino
    lookup = FdLookup(lambda ino: file if ino == inode else None)
    lookup.device = device_of(fd)
    return lookup


def refusal(lookup: FdLookup, tid: int, fd: int) -> KernelError:
    with pytest.raises(KernelError) as raised:
        lookup.fget(tid, fd)
    assert raised.value.errno == errno.EBADF
    return raised.value


def test_a_descriptor_is_found_by_its_inode(some_fd: int) -> None:
    lookup = lookup_for(some_fd)
    assert lookup.fget(os.getpid(), some_fd) is OURS
    copy = os.dup(some_fd)
    assert lookup.fget(os.getpid(), copy) is OURS
    os.close(copy)


def test_other_descriptors_are_not_ours(some_fd: int) -> None:
    lookup = lookup_for(some_fd)
    null = os.open(os.devnull, os.O_RDONLY)
    pipe = os.pipe()
    assert [lookup.fget(os.getpid(), fd) for fd in (null, *pipe)] == [None] * 3
    for fd in (null, *pipe):
        os.close(fd)


def test_the_same_inode_number_on_another_mount_is_not_ours(some_fd: int) -> None:
    lookup = lookup_for(some_fd)
    lookup.device = "0:99999"
    assert lookup.fget(os.getpid(), some_fd) is None
    lookup.device = None
    assert lookup.fget(os.getpid(), some_fd) is None


def test_a_framed_file_stands_for_the_file_behind_it(some_fd: int) -> None:
    assert lookup_for(some_fd, FrameFile(OURS)).fget(os.getpid(), some_fd) is OURS


def test_what_is_not_open(some_fd: int) -> None:
    lookup = lookup_for(some_fd)
    for fd in (-1, -(1 << 31), 1 << 20, (1 << 31) - 1):
        assert str(fd) in refusal(lookup, os.getpid(), fd).reason


def test_a_caller_of_whom_nothing_is_known(some_fd: int) -> None:
    assert "pid namespace" in refusal(lookup_for(some_fd), 0, some_fd).reason
    child = Child(lambda: 0)
    child.wait()
    refusal(lookup_for(some_fd), child.pid, some_fd)


def test_another_process_has_other_descriptors(some_fd: int) -> None:
    lookup = lookup_for(some_fd)
    holding, let_go = os.pipe()

    def client() -> None:
        os.dup2(some_fd, 200)
        os.write(let_go, b"x")
        os.read(holding_2, 1)

    holding_2, let_go_2 = os.pipe()
    child = Child(client)
    os.read(holding, 1)
    assert lookup.fget(child.pid, 200) is OURS
    refusal(lookup, os.getpid(), 200)
    os.write(let_go_2, b"x")
    child.wait()
    for fd in (holding, let_go, holding_2, let_go_2):
        os.close(fd)


@pytest.mark.root
def test_a_process_that_may_not_be_looked_at(some_fd: int) -> None:
    """A daemon of an ordinary user, a client of root's."""
    lookup = lookup_for(some_fd)
    tid = os.getpid()

    def daemon() -> int:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        reason = refusal(lookup, tid, some_fd).reason
        return 0 if "may not look" in reason else 1

    assert Child(daemon).wait() == 0


def test_mountinfo_is_read_as_the_kernel_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        "36 35 98:0 /mnt1 /a\\040b\\134c rw,noatime master:1 shared:7 - ext3 /dev/root rw\n"
        "40 36 0:52 / /a\\040b\\134c rw - fuse.xe-mock xe-mock rw,user_id=0\n"
        "41 36 0:53 / / rw - tmpfs none rw\n"
    )
    monkeypatch.setattr(Path, "read_text", lambda self, *_: text)
    mounts = read_mounts()
    assert [(m.id, m.device, m.minor, m.point, m.fstype) for m in mounts] == [
        (36, "98:0", 0, "/a b\\c", "ext3"),
        (40, "0:52", 52, "/a b\\c", "fuse.xe-mock"),
        (41, "0:53", 53, "/", "tmpfs"),
    ]
    found = find_mount("/a b\\c")
    assert found is not None
    assert found.id == 40
    assert find_mount("/a") is None


# ---- over a mount ----------------------------------------------------------------------------


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node()
    yield directory
    wait_until_empty(directory)


def open_device(directory: str) -> Device:
    return Device(IoctlTransport(f"{directory}/dev/dri/renderD128"))


@pytest.mark.fuse
def test_a_dma_buf_is_found_whatever_its_number(directory: str) -> None:
    with open_device(directory) as one, open_device(directory) as two:
        handle = one.gem_create(8192, placement=1)
        fd = one.prime_handle_to_fd(handle)
        assert os.fstat(fd).st_size == 8192
        assert one.prime_fd_to_handle(fd) == handle
        copy = os.dup(fd)
        os.close(fd)
        imported = two.prime_fd_to_handle(copy)
        assert two.prime_fd_to_handle(copy) == imported
        os.close(copy)
        with pytest.raises(IoctlError) as raised:
            two.prime_fd_to_handle(copy)
        assert raised.value.errno == errno.EBADF


@pytest.mark.fuse
def test_descriptors_that_are_no_dma_bufs(directory: str) -> None:
    with open_device(directory) as device:
        assert isinstance(device.transport, IoctlTransport)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (null, device.transport.fileno()):
            with pytest.raises(IoctlError) as raised:
                device.prime_fd_to_handle(fd)
            assert raised.value.errno == errno.EINVAL
        os.close(null)


@pytest.mark.fuse
def test_frames_resolve_descriptors_too(directory: str) -> None:
    with open_device(directory) as one:
        two = Device(FrameTransport(f"{directory}/dev/dri/xe-mock"))
        fd = one.prime_handle_to_fd(one.gem_create(4096, placement=1))
        handle = two.prime_fd_to_handle(fd)
        back = two.prime_handle_to_fd(handle)
        assert os.fstat(back).st_ino != os.fstat(fd).st_ino
        assert two.prime_fd_to_handle(back) == handle
        os.close(fd)
        os.close(back)
        two.close()


@pytest.mark.fuse
@pytest.mark.parametrize("node", ["renderD128", "xe-mock", "card0"])
def test_madvise_knows_a_node_of_the_device(directory: str, node: str) -> None:
    other = os.open(f"{directory}/dev/dri/{node}", os.O_RDWR)
    null = os.open(os.devnull, os.O_RDWR)
    with open_device(directory) as device:
        vm = device.vm_create()
        device.madvise_preferred_loc(vm, 0x100000, 4096, other, region_instance=1)
        for fd in (null, 999):
            with pytest.raises(IoctlError) as raised:
                device.madvise_preferred_loc(vm, 0x100000, 4096, fd, region_instance=1)
            assert raised.value.errno == errno.ENOENT
    os.close(null)
    os.close(other)


@pytest.mark.fuse
def test_a_forked_child_imports_what_it_inherited(directory: str) -> None:
    with open_device(directory) as device:
        fd = device.prime_handle_to_fd(device.gem_create(4096, placement=1))

        def client() -> int:
            with open_device(directory) as mine:
                return 0 if mine.prime_fd_to_handle(fd) == 1 else 1

        assert Child(client).wait() == 0
        os.close(fd)


@pytest.mark.fuse
def test_a_descriptor_sent_through_a_socket(directory: str) -> None:
    left, right = socket.socketpair()
    receiver = Child(lambda: _receive_and_import(right, directory))
    with open_device(directory) as device:
        fd = device.prime_handle_to_fd(device.gem_create(4096, placement=1))
        socket.send_fds(left, [b"x"], [fd])
        os.close(fd)
    # The exporter is gone: the descriptor in the socket, or its receiver, holds the buffer.
    assert receiver.wait() == 0
    left.close()
    right.close()


def _receive_and_import(right: socket.socket, directory: str) -> int:
    _, fds, _, _ = socket.recv_fds(right, 1, 1)
    with open_device(directory) as device:
        return 0 if device.prime_fd_to_handle(fds[0]) == 1 else 1


@pytest.mark.fuse
def test_an_unread_message_keeps_its_descriptor(directory: str) -> None:
    left, right = socket.socketpair()
    with open_device(directory) as device:
        fd = device.prime_handle_to_fd(device.gem_create(4096, placement=1))
        left.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
    with open_device(directory) as device, pytest.raises(AssertionError):
        wait_until_empty(directory, timeout=0.2)
    left.close()
    right.close()


@pytest.mark.fuse
@pytest.mark.root
def test_a_node_bound_to_another_place(directory: str, tmp_path: Path) -> None:
    """As in a container: the tree of nodes is bound over its own /dev/dri."""
    place = tmp_path / "dri"
    place.mkdir()
    subprocess.run(["mount", "--rbind", f"{directory}/dev/dri", str(place)], check=True)
    try:
        with Device(IoctlTransport(place / "renderD128")) as device:
            handle = device.gem_create(4096, placement=1)
            fd = device.prime_handle_to_fd(handle)
            assert device.prime_fd_to_handle(fd) == handle
            os.close(fd)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
