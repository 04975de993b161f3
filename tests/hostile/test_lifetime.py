"""State belongs to the open file, however many descriptors, processes and deaths that has."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.children import Child, errno_of, eventually, run
from uapi import drm
from xedev.client import Device, FrameTransport, IoctlTransport
from xedev.client.memory import op_map, op_map_null, op_map_userptr
from xedev.testing.mounts import wait_until_empty

pytestmark = pytest.mark.fuse

SIZE = 1 << 16
NODES = ("renderD128", "card0", "xe-mock")
QUICKLY = 3.0  # seconds for what takes milliseconds on an idle machine
ROOT = Path(__file__).parents[2]

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node()
    yield directory
    wait_until_empty(directory, 10)


def node(directory: str, name: str = "renderD128") -> str:
    return os.path.join(directory, "dev/dri", name)


def state(directory: str) -> Any:
    return json.loads(Path(directory, "debug/dri/0/state").read_text())


def count(directory: str) -> tuple[int, int, int]:
    """Files, VMs, BOs."""
    now = state(directory)
    return len(now["files"]), len(now["vms"]), len(now["bos"])


def furnish(device: Device) -> int:
    """Some of everything: a VM, a mapped BO, a descriptor of it, one that nobody claims."""
    vm = device.vm_create()
    handle = device.gem_create(SIZE, 1)
    device.vm_bind(vm, [op_map(handle, 0, 0, SIZE)])
    device.prime_handle_to_token(handle)
    return device.prime_handle_to_fd(handle)


# ---- descriptors -----------------------------------------------------------------------------


def test_the_last_of_many_descriptors_ends_the_file(directory: str) -> None:
    """An open, a dup, a forked child's copy and one in a message: any of them is as good."""
    transport = IoctlTransport(node(directory))
    Device(transport).vm_create()
    copy = os.dup(transport.fileno())
    near, far = socket.socketpair()
    socket.send_fds(near, [b"x"], [copy])
    go_on, told = os.pipe()
    child = Child(lambda: os.read(go_on, 1) and Device(transport).vm_create())
    for close in (transport.close, lambda: os.close(copy)):
        close()
        time.sleep(0.05)
        assert count(directory) == (1, 1, 0)
    os.write(told, b"x")
    assert child.result() == 2
    time.sleep(0.05)
    assert count(directory) == (1, 2, 0), "the descriptor is still in the message"
    _, (received,), _, _ = socket.recv_fds(far, 1, 1)
    os.close(received)
    assert eventually(lambda: count(directory) == (0, 0, 0))
    for end in (near, far):
        end.close()
    for fd in (go_on, told):
        os.close(fd)


def test_a_message_that_nobody_reads_dies_with_its_socket(directory: str) -> None:
    near, far = socket.socketpair()
    with Device(IoctlTransport(node(directory))) as device:
        assert isinstance(device.transport, IoctlTransport)
        device.vm_create()
        # A ring: the sockets are in the message too, so that only the kernel's collector of
        # unreachable sockets can end it.
        socket.send_fds(near, [b"x"], [device.transport.fileno(), near.fileno(), far.fileno()])
    time.sleep(0.05)
    assert count(directory) == (1, 1, 0)
    near.close()
    far.close()
    for end in socket.socketpair():
        end.close()  # which makes the collector run
    assert eventually(lambda: count(directory) == (0, 0, 0))


def test_a_descriptor_outlives_the_process_that_opened_it(directory: str) -> None:
    near, far = socket.socketpair()

    def opener() -> int:
        device = Device(IoctlTransport(node(directory)))
        assert isinstance(device.transport, IoctlTransport)
        device.vm_create()
        socket.send_fds(near, [b"x"], [device.transport.fileno()])
        return os.getpid()

    pid = run(opener)
    _, (fd,), _, _ = socket.recv_fds(far, 1, 1)
    (file,) = state(directory)["files"]
    assert file["pid"] == pid
    arg = drm.drm_gem_close(handle=99)
    assert _libc.ioctl(fd, ctypes.c_ulong(drm.DRM_IOCTL_GEM_CLOSE), ctypes.byref(arg)) == -1
    assert ctypes.get_errno() == errno.EINVAL
    (file,) = state(directory)["files"]
    assert file["pid"] == os.getpid(), "it follows its users"
    os.close(fd)
    near.close()
    far.close()


def test_a_file_that_is_closed_under_a_reader_ends_after_the_read(directory: str) -> None:
    """As in the kernel, where the reader holds a reference of its own."""

    def client() -> float:
        fd = os.open(node(directory), os.O_RDWR)
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGUSR1, lambda *_: None)
            signal.siginterrupt(signal.SIGUSR1, True)
        threading.Thread(target=_close_later, args=[fd, threading.get_ident()]).start()
        began = time.monotonic()
        buffer = ctypes.create_string_buffer(8)
        assert _libc.read(fd, buffer, 8) == -1
        return time.monotonic() - began

    child = Child(client)
    assert eventually(lambda: count(directory)[0] == 1)
    time.sleep(0.3)
    assert count(directory)[0] == 1, "closed, but still read"
    assert child.result() > 0.4
    assert eventually(lambda: count(directory)[0] == 0)


def _close_later(fd: int, reader: int) -> None:
    time.sleep(0.1)
    os.close(fd)
    time.sleep(0.4)
    signal.pthread_kill(reader, signal.SIGUSR1)


# ---- exec ------------------------------------------------------------------------------------


def test_exec_closes_what_is_to_be_closed(directory: str) -> None:
    done, told = os.pipe()

    def client() -> None:
        for flags in (os.O_CLOEXEC, 0):
            fd = os.open(node(directory), os.O_RDWR | flags)
            os.set_inheritable(fd, not flags)
            Device(_adopt(directory, fd)).vm_create()
        time.sleep(0.3)
        os.dup2(done, 0)
        os.execv("/bin/sh", ["sh", "-c", "read line"])

    child = Child(client)
    assert eventually(lambda: count(directory) == (2, 2, 0))
    assert eventually(lambda: count(directory) == (1, 1, 0))
    os.write(told, b"\n")
    child.wait()
    assert eventually(lambda: count(directory) == (0, 0, 0))
    os.close(done)
    os.close(told)


def _adopt(directory: str, fd: int) -> IoctlTransport:
    """A transport on a descriptor that was opened elsewhere."""
    transport = IoctlTransport(node(directory))
    os.close(transport._fd)
    transport._fd = fd
    return transport


_AFTER_EXEC = """
import ctypes, mmap, os, sys
from tests.hostile import test_lifetime as t
fd, place, gone = map(int, sys.argv[1:])
print(t.name_from(fd, place, b"") or "ok", t.name_from(fd, t.map_at(place), b"new") or "ok",
      t.name_from(fd, gone, b"") or "ok")
"""


def map_at(address: int) -> int:
    """Map a page at a fixed address; returns it."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE
    _libc.mmap.restype = ctypes.c_ssize_t
    numbers = (ctypes.c_size_t(address), ctypes.c_size_t(mmap.PAGESIZE), 3, flags, -1)
    got: int = _libc.mmap(*numbers, ctypes.c_long(0))
    if got != address:
        raise OSError(ctypes.get_errno(), "mmap")
    return address


def name_from(fd: int, address: int, name: bytes) -> str:
    """Give the file a name of three bytes that is (put) at an address; "" or the errno's name."""
    if name:
        ctypes.memmove(address, name, 3)
    arg = drm.drm_set_client_name(name_len=3, name=address)
    cmd = ctypes.c_ulong(drm.DRM_IOCTL_SET_CLIENT_NAME)
    if _libc.ioctl(fd, cmd, ctypes.byref(arg)) == 0:
        return ""
    return errno.errorcode[ctypes.get_errno()]


def test_after_exec_pointers_lead_to_the_new_memory(directory: str) -> None:
    """The same descriptor, process and address; other memory."""
    place, gone = 0x30_0000_0000, 0x30_1000_0000
    output, told = os.pipe()

    def client() -> None:
        fd = os.open(node(directory), os.O_RDWR)
        os.set_inheritable(fd, True)
        assert name_from(fd, map_at(gone), b"bye") == ""
        assert name_from(fd, map_at(place), b"old") == ""
        os.dup2(told, 1)
        os.chdir(ROOT)
        arguments = [sys.executable, "-c", _AFTER_EXEC, str(fd), str(place), str(gone)]
        os.execv(sys.executable, arguments)

    child = Child(client)
    assert eventually(lambda: [f["name"] for f in state(directory)["files"]] == ["old"])
    assert child.wait() == 0
    assert os.read(output, 100).split() == [b"EFAULT", b"ok", b"EFAULT"]
    os.close(output)
    os.close(told)


# ---- deaths ----------------------------------------------------------------------------------


def test_200_clients_of_which_half_are_killed(directory: str) -> None:
    """All at once; each with two descriptors; a file is released once, or the daemon says so."""
    rng = random.Random(200)
    ready, told = os.pipe()
    go_on, leave = os.pipe()

    def client() -> None:
        device = Device(IoctlTransport(node(directory, rng.choice(NODES[:2]))))
        assert isinstance(device.transport, IoctlTransport)
        os.dup(device.transport.fileno())
        furnish(device)
        os.write(told, b"x")
        while not select.select([go_on], [], [], 0)[0]:
            device.vm_bind(1, [op_map(1, 0, SIZE, SIZE)])
            time.sleep(0.1)

    children = [Child(client) for _ in range(200)]
    for _ in children:
        assert select.select([ready], [], [], 30)[0]
        os.read(ready, 1)
    now = state(directory)
    assert len({file["id"] for file in now["files"]}) == 200
    assert (len(now["vms"]), len(now["bos"])) == (200, 200)
    assert now["devices"][0]["pending_fds"] == 200
    doomed = set(rng.sample(range(200), 100))
    for number in doomed:
        children[number].kill()
    os.write(leave, b"x")
    codes = [child.wait() for child in children]
    assert [code == -signal.SIGKILL for code in codes] == [n in doomed for n in range(200)]
    wait_until_empty(directory, 10)
    for fd in (ready, told, go_on, leave):
        os.close(fd)


def test_killed_again_and_again_in_the_middle_of_calls(directory: str) -> None:
    """By frames and by ioctl(2), from several threads on one open file."""
    rng = random.Random(41)

    def client(frames: bool) -> None:
        path = node(directory, "xe-mock")
        device = Device(FrameTransport(path) if frames else IoctlTransport(path))
        furnish(device)

        def work() -> None:
            while True:
                vm = device.vm_create()
                handle = device.gem_create(SIZE, 3)
                device.vm_bind(vm, [op_map(handle, 0, n * SIZE, SIZE) for n in range(50)])
                device.prime_handle_to_token(handle)
                device.vm_destroy(vm)
                device.gem_close(handle)

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        work()

    for number in range(30):
        child = Child(partial(client, frames=number % 2 == 0))
        time.sleep(rng.uniform(0.01, 0.12))
        child.kill()
        assert child.wait(QUICKLY) == -signal.SIGKILL
    wait_until_empty(directory, 10)


def test_killed_in_the_middle_of_a_long_bind(directory: str) -> None:
    """The call ends, then the process does, then all that the call made is given back."""

    def client() -> None:
        device = Device(IoctlTransport(node(directory)))
        vm = device.vm_create()
        ops = [op_map_null(n * SIZE, SIZE) for n in range(20_000)]
        os.write(told, b"x")
        while True:
            device.vm_bind(vm, ops)

    ready, told = os.pipe()
    child = Child(client)
    os.read(ready, 1)
    time.sleep(0.2)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    wait_until_empty(directory, 10)
    os.close(ready)
    os.close(told)


def test_killed_while_a_large_userptr_is_probed(directory: str) -> None:
    """What takes long asks now and then whether anybody still waits for it."""
    size = 1 << 40
    map_noreserve = 0x4000
    with Device(IoctlTransport(node(directory))) as device:
        vm = device.vm_create()

        def client() -> None:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_noreserve
            memory = mmap.mmap(-1, size, flags=flags)
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            os.write(told, b"x")
            device.vm_bind(vm, [op_map_userptr(address, 0, size)])

        ready, told = os.pipe()
        child = Child(client)
        os.read(ready, 1)
        time.sleep(0.3)
        child.kill()
        child.wait(QUICKLY)
        assert device.vm_create() == vm + 1
        os.close(ready)
        os.close(told)


# ---- sleepers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NODES)
def test_killed_in_a_read(directory: str, name: str) -> None:
    """read(2) waits for an event that never comes, or for a reply; death ends it at once."""
    child = Child(lambda: os.read(os.open(node(directory, name), os.O_RDWR), 100))
    assert eventually(lambda: count(directory)[0] == 1)
    assert eventually(lambda: _is_asleep(child.pid))
    child.kill()
    assert child.wait(QUICKLY) == -signal.SIGKILL
    assert eventually(lambda: count(directory)[0] == 0, QUICKLY)


def _is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"


@pytest.mark.parametrize("name", NODES)
def test_a_signal_ends_a_read(directory: str, name: str) -> None:
    """With EINTR, when the handler does not ask for a restart; and the file goes on."""

    def client() -> tuple[str, str]:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.siginterrupt(signal.SIGALRM, True)
        fd = os.open(node(directory, name), os.O_RDWR)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        buffer = ctypes.create_string_buffer(100)
        result = _libc.read(fd, buffer, 100)
        code = errno.errorcode[ctypes.get_errno()] if result < 0 else str(result)
        with Device(_adopt(directory, fd)) as device:
            return code, str(device.vm_create())

    assert run(client) == ("EINTR", "1")


@pytest.mark.parametrize("name", NODES)
def test_without_blocking_there_is_nothing_to_read(directory: str, name: str) -> None:
    """O_NONBLOCK counts as it is at the read, not as it was at the open."""
    fd = os.open(node(directory, name), os.O_RDWR | os.O_NONBLOCK)
    assert errno_of(lambda: os.read(fd, 100)) == "EAGAIN"
    os.close(fd)
    fd = os.open(node(directory, name), os.O_RDWR)
    os.set_blocking(fd, False)
    assert errno_of(lambda: os.read(fd, 100)) == "EAGAIN"
    os.close(fd)


def test_sleepers_are_in_nobodys_way(directory: str) -> None:
    """Fifty readers, some of them on the very file that others make calls on."""

    def client() -> int:
        device = Device(IoctlTransport(node(directory)))
        assert isinstance(device.transport, IoctlTransport)
        fd = device.transport.fileno()
        for _ in range(5):
            threading.Thread(target=lambda: os.read(fd, 8), daemon=True).start()
        os.write(told, b"x")
        for _ in range(200):
            device.vm_destroy(device.vm_create())
        os.read(go_on, 1)
        return 1

    ready, told = os.pipe()
    go_on, leave = os.pipe()
    children = [Child(client) for _ in range(10)]
    for _ in children:
        os.read(ready, 1)
    with Device(IoctlTransport(node(directory))) as device:
        began = time.monotonic()
        for _ in range(200):
            device.vm_destroy(device.vm_create())
        assert time.monotonic() - began < 10 * QUICKLY
    for child in children[::2]:
        child.kill()
    os.write(leave, b"x" * 10)
    for child in children:
        child.wait(2 * QUICKLY)
    assert eventually(lambda: count(directory) == (0, 0, 0), 2 * QUICKLY)
    for fd in (ready, told, go_on, leave):
        os.close(fd)


# ---- threads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [False, True])
def test_threads_on_one_file_share_its_numbers(directory: str, frames: bool) -> None:
    """No number is given twice, and none is left out."""
    path = node(directory, "xe-mock")
    device = Device(FrameTransport(path) if frames else IoctlTransport(path))
    vms: list[int] = []
    handles: list[int] = []

    def work() -> None:
        for _ in range(50):
            vms.append(device.vm_create())
            handles.append(device.gem_create(SIZE, 1))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(vms) == sorted(handles) == [*range(1, 401)]
    assert count(directory) == (1, 400, 400)
    device.close()


def test_the_daemon_is_back_to_where_it_was(mounted_node: Callable[..., str]) -> None:
    """Descriptors and threads of the daemon, after a crowd has come and gone."""
    directory = mounted_node(fresh=True)
    about = json.loads(Path(directory, "debug/dri/0/daemon").read_text())
    process = Path("/proc", str(about["pid"]))

    def resources() -> tuple[int, int]:
        return len(os.listdir(process / "fd")), len(os.listdir(process / "task"))

    fds, threads = resources()
    for _ in range(3):
        children = [
            Child(lambda: os.read(os.open(node(directory, "xe-mock"), os.O_RDWR), 8))
            for _ in range(60)
        ]
        assert eventually(lambda: count(directory)[0] == 60)
        for child in children:
            child.kill()
            child.wait(2 * QUICKLY)
    wait_until_empty(directory, 10)
    idle = 10  # threads that libfuse keeps
    assert eventually(lambda: resources()[0] <= fds + 2 and resources()[1] <= threads + idle)
    subprocess.run(["true"], check=True)
