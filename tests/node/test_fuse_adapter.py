"""The FUSE adapter over a real mount, with each back end."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import select
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node import fake_files
from tests.node.fake_files import SEEKABLE_SIZE, Value
from tests.node.fake_mount import (
    Argument,
    Child,
    Mount,
    eventually,
    ioctl,
    mounted,
    read_memory,
    write_memory,
)
from xedev.node.fuse_binding import BackendError, load_binding
from xedev.node.mounts import abort_connection, find_mount, unmount_lazily

pytestmark = pytest.mark.fuse

BACKENDS = ("fusepy", "mfusepy")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_MAP_PRIVATE_ANONYMOUS = 0x22


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        binding = load_binding(name)  # type: ignore[arg-type]
    except BackendError as error:
        pytest.skip(str(error))
    if name == "mfusepy" and binding.major != 3:
        pytest.skip("libfuse3 is not installed")
    return name


@pytest.fixture
def mount(backend: str) -> Iterator[Mount]:
    # Not below tmp_path, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="xe-mock-test-") as directory:
        os.chmod(directory, 0o755)
        with mounted(Path(directory) / "mnt", backend) as mount:
            yield mount


@pytest.fixture
def node(mount: Mount) -> Iterator[int]:
    fd = mount.open()
    yield fd
    with contextlib.suppress(OSError):  # the mount may be gone
        os.close(fd)


def errno_of(fd: int, cmd: int, argument: Argument | None = None) -> int:
    """errno of a failing ioctl, 0 for a successful one."""
    try:
        ioctl(fd, cmd, argument)
    except OSError as error:
        return error.errno or -1
    return 0


# ---- results and errors ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["fusepy"], indirect=True)
def test_results_and_errnos_pass(node: int) -> None:
    assert ioctl(node, fake_files.RESULT, Value(7)) == 7
    assert ioctl(node, fake_files.RESULT, Value(0)) == 0
    for error in (errno.EPERM, errno.EINVAL, errno.EBUSY, 511):
        assert errno_of(node, fake_files.RESULT, Value(-error)) == error


def test_codes_of_the_kernel_become_what_a_client_would_see(mount: Mount, node: int) -> None:
    for code in (512, 513, 514, 516):
        assert errno_of(node, fake_files.RESULT, Value(-code)) == errno.EINTR
    assert errno_of(node, fake_files.RESULT, Value(-515)) == errno.ENOTTY
    assert mount.stop()["errors"] == 0


def test_a_bug_is_eio_and_counted(mount: Mount, node: int) -> None:
    ways = [way for way in fake_files.MISBEHAVIOURS if way not in ("BaseException", "SystemExit")]
    for way in ways:
        number = fake_files.MISBEHAVIOURS.index(way)
        assert errno_of(node, fake_files.BAD, Value(number)) == errno.EIO, way
    with pytest.raises(OSError) as caught:
        os.write(node, b"bug")
    assert caught.value.errno == errno.EIO
    assert ioctl(node, fake_files.NOOP, (ctypes.c_char * 64)()) == 0
    assert mount.statistics()["errors"] == len(ways) + 1


@pytest.mark.parametrize("way", ["BaseException", "SystemExit"])
def test_an_exception_that_ends_processes_ends_the_mount(mount: Mount, node: int, way: str) -> None:
    number = fake_files.MISBEHAVIOURS.index(way)
    assert errno_of(node, fake_files.BAD, Value(number)) == errno.EFAULT
    assert mount.wait()["errors"] == 1


def test_copy_out_after_a_failure(mount: Mount, node: int) -> None:
    value = Value(1)
    assert errno_of(node, fake_files.COPY_OUT_AND_FAIL, value) == errno.EBUSY
    # libfuse3 sends no data along with an error.
    assert value.value == (4711 if mount.backend == "fusepy" else 1)


def test_nothing_of_the_daemon_leaks_into_a_buffer(node: int) -> None:
    class Block(ctypes.Structure):
        _fields_ = (("bytes", ctypes.c_ubyte * 4096),)

    for _ in range(50):
        ioctl(node, fake_files.CALLER, fake_files.CallerInfo())  # dirties the heap
        block = Block((ctypes.c_ubyte * 4096)(*[0xAA] * 4096))
        assert ioctl(node, fake_files.FILL_NOTHING, block) == 0
        assert bytes(block) == bytes(4096)


def test_a_request_without_direction_has_no_buffer(node: int) -> None:
    assert ioctl(node, fake_files.DATA_OF_IO, Value(1)) == 0


def test_a_directory_has_no_ioctls(mount: Mount) -> None:
    fd = os.open(mount.directory / "directory", os.O_RDONLY)
    assert errno_of(fd, fake_files.NOOP, (ctypes.c_char * 64)()) == errno.ENOTTY
    os.close(fd)


# ---- the tree --------------------------------------------------------------------------------


def test_the_tree(mount: Mount) -> None:
    names = {entry.name: entry for entry in os.scandir(mount.directory)}
    assert set(names) == {"directory", "node", "seekable", "once", "statistics", "link"}
    assert names["directory"].is_dir(follow_symlinks=False)
    assert names["link"].is_symlink()
    assert os.readlink(mount.directory / "link") == "node"
    assert os.listdir(mount.directory / "directory") == ["inner"]
    found = os.stat(mount.node)
    assert found.st_ino == names["node"].inode()
    assert stat.filemode(found.st_mode) == "-rw-rw-rw-"
    assert found.st_mtime == 1.0


def test_what_the_tree_cannot_do(mount: Mount) -> None:
    directory = mount.directory
    refused: dict[str, Callable[[], object]] = {
        "create": lambda: os.open(directory / "new", os.O_CREAT | os.O_RDWR),
        "mkdir": lambda: os.mkdir(directory / "new"),
        "unlink": lambda: os.unlink(directory / "node"),
        "rmdir": lambda: os.rmdir(directory / "directory"),
        "symlink": lambda: os.symlink("node", directory / "new"),
        "rename": lambda: os.rename(directory / "node", directory / "new"),
        "link": lambda: os.link(directory / "node", directory / "new"),
        "mkfifo": lambda: os.mkfifo(directory / "new"),
    }
    for name, act in refused.items():
        with pytest.raises(OSError) as caught:
            act()
        expected = errno.EACCES if name == "create" else errno.EPERM
        assert caught.value.errno == expected, name
    with pytest.raises(FileNotFoundError):
        os.stat(directory / "missing")
    with pytest.raises(OSError) as caught:
        mount.open("directory/inner", os.O_RDONLY)
    assert caught.value.errno == errno.EBUSY


def test_attributes_change_at_once(mount: Mount) -> None:
    os.chmod(mount.node, 0o600)
    assert stat.S_IMODE(os.stat(mount.node).st_mode) == 0o600
    fd = mount.open()
    os.fchmod(fd, 0o640)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    os.utime(fd)
    os.close(fd)
    os.close(mount.open(flags=os.O_RDWR | os.O_TRUNC))
    os.truncate(mount.node, 3)
    # libfuse3 passes O_TRUNC on to open.
    assert mount.statistics()["truncated"] == ([0, 3] if mount.backend == "fusepy" else [3])


@pytest.mark.root
def test_permissions_are_the_callers(mount: Mount) -> None:
    os.chmod(mount.node, 0o600)

    def try_to_open() -> int:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            mount.open()
        except PermissionError:
            return 13
        return 0

    assert Child(try_to_open).wait() == 13
    os.chown(mount.node, 65534, -1)
    assert Child(try_to_open).wait() == 0


def test_nodes_do_not_seek_and_sized_files_do(mount: Mount, node: int) -> None:
    with pytest.raises(OSError) as caught:
        os.lseek(node, 0, os.SEEK_END)
    assert caught.value.errno == errno.ESPIPE
    fd = mount.open("seekable")
    assert os.lseek(fd, 0, os.SEEK_END) == SEEKABLE_SIZE
    assert os.pread(fd, 1 << 20, 5) == bytes(SEEKABLE_SIZE - 5)
    os.close(fd)


def test_a_file_whose_path_is_gone(mount: Mount) -> None:
    fd = mount.open("once")
    with pytest.raises(FileNotFoundError):
        mount.open("once")
    assert os.fstat(fd).st_size == SEEKABLE_SIZE
    assert os.lseek(fd, 0, os.SEEK_END) == SEEKABLE_SIZE
    assert os.stat(f"/proc/self/fd/{fd}").st_size == SEEKABLE_SIZE
    os.close(fd)


# ---- read, write, poll -----------------------------------------------------------------------


def test_read_and_write(mount: Mount, node: int) -> None:
    assert os.write(node, b"hello") == 5
    assert os.read(node, 100) == b"hello"
    os.set_blocking(node, False)
    with pytest.raises(BlockingIOError):
        os.read(node, 100)
    os.set_blocking(node, True)
    os.write(node, bytes(60000))
    assert len(os.read(node, 1 << 20)) == 60000
    assert mount.statistics()["write_sizes"] == [5, 60000]


def test_poll_and_epoll_wake(mount: Mount, node: int) -> None:
    other = mount.open()
    os.set_blocking(other, False)
    poll, epoll = select.poll(), select.epoll()
    poll.register(node, select.POLLIN)
    epoll.register(node, select.EPOLLIN)
    waits: tuple[Callable[[], object], ...] = (lambda: poll.poll(10_000), lambda: epoll.poll(10))
    for wait in waits:
        assert poll.poll(0) == []
        threading.Timer(0.2, os.write, (other, b"now")).start()
        started = time.monotonic()
        assert wait() == [(node, select.POLLIN)]
        assert 0.1 < time.monotonic() - started < 5
        assert os.read(node, 10) == b"now"
    epoll.close()
    os.close(other)


# ---- the caller ------------------------------------------------------------------------------


def test_the_caller_is_the_thread(node: int) -> None:
    info = fake_files.CallerInfo()

    def ask() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a \\name")
        ioctl(node, fake_files.CALLER, info)
        found.append((threading.get_native_id(), os.getpid(), os.geteuid(), os.getegid()))

    found: list[tuple[int, ...]] = []
    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert (info.tid, info.tgid, info.uid, info.gid) == found[0]
    assert info.comm == b"a \\name"


@pytest.mark.root
def test_capabilities_are_the_callers(mount: Mount) -> None:
    def is_admin() -> int:
        info = fake_files.CallerInfo()
        ioctl(mount.open(), fake_files.CALLER, info)
        return int(info.admin)

    def as_nobody() -> int:
        os.setresuid(65534, 65534, 65534)
        return is_admin()

    def in_own_namespace() -> int:
        clone_newuser = 0x10000000
        if _libc.unshare(clone_newuser) != 0:
            return 77
        return is_admin()

    assert Child(is_admin).wait() == 1
    assert Child(as_nobody).wait() == 0
    assert Child(in_own_namespace).wait() in (0, 77)


def test_memory_of_the_caller(node: int) -> None:
    for length in (1, 8, 4096, 16384, 16385, 1 << 20):
        data = (ctypes.c_ubyte * length)()
        write_memory(node, ctypes.addressof(data), length)
        assert data[0] == 1 and data[length - 1] == (length - 1) % 255 + 1
        assert read_memory(node, ctypes.addressof(data), length) == sum(data)


def test_memory_heeds_protection(node: int) -> None:
    def mapping(protection: int, length: int = mmap.PAGESIZE) -> int:
        return int(_libc.mmap(None, length, protection, _MAP_PRIVATE_ANONYMOUS, -1, 0))

    read_only, none = mapping(mmap.PROT_READ), mapping(0)
    assert read_memory(node, read_only, 64) == 0
    two = mapping(mmap.PROT_READ | mmap.PROT_WRITE, 2 * mmap.PAGESIZE)
    _libc.munmap(ctypes.c_void_p(two + mmap.PAGESIZE), mmap.PAGESIZE)
    edge = two + mmap.PAGESIZE - 128
    write_memory(node, edge - 128, 256)
    assert ctypes.string_at(edge - 128, 256)[-1] == 1
    bad = (0, 8, none, edge, 1 << 47, 0xFFFF_8880_0000_0000, 2**64 - 1, 2**64 - 256)
    for address in (read_only, *bad):
        with pytest.raises(OSError) as caught:
            write_memory(node, address, 256)
        assert caught.value.errno == errno.EFAULT, hex(address)
    for address in bad:
        with pytest.raises(OSError) as caught:
            read_memory(node, address, 256)
        assert caught.value.errno == errno.EFAULT, hex(address)
        assert read_memory(node, address, 0) == 0


def test_descriptors_of_the_caller(mount: Mount) -> None:
    once = mount.open("once")
    node = mount.open()
    value = Value(os.dup(once))
    assert ioctl(node, fake_files.FGET, value) == 1
    reader, writer = os.pipe()
    assert ioctl(node, fake_files.FGET, Value(reader)) == 0
    for fd in (reader, writer, value.value, once):
        os.close(fd)
    assert errno_of(node, fake_files.FGET, Value(reader)) == errno.EBADF
    assert errno_of(node, fake_files.FGET, Value(-1)) == errno.EBADF
    os.close(node)


# ---- waiting ---------------------------------------------------------------------------------


def _sleep_until_signal(mount: Mount, use_read: bool) -> int:
    """In a child: sleep in a request, return its errno."""
    # Python would call the request again after a handler that returns.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(errno.EINTR))
    fd = mount.open()
    try:
        os.read(fd, 10) if use_read else ioctl(fd, fake_files.SLEEP)
    except OSError as error:
        return error.errno or 255
    return 0


def _sleeping(mount: Mount) -> int:
    return int(mount.statistics()["sleeping"])


@pytest.mark.parametrize("use_read", [False, True], ids=["ioctl", "read"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_wait(mount: Mount, use_read: bool, number: signal.Signals) -> None:
    child = Child(lambda: _sleep_until_signal(mount, use_read))
    if use_read:
        time.sleep(0.3)
    else:
        assert eventually(lambda: _sleeping(mount) == 1)
    started = time.monotonic()
    child.kill(number)
    assert child.wait() == (errno.EINTR if number == signal.SIGINT else -signal.SIGKILL)
    assert time.monotonic() - started < 0.5
    assert eventually(lambda: _released(mount))


def test_only_the_signalled_wait_ends(mount: Mount) -> None:
    children = [Child(lambda: _sleep_until_signal(mount, False)) for _ in range(8)]
    assert eventually(lambda: _sleeping(mount) == 8)
    children[3].kill(signal.SIGINT)
    assert children[3].wait() == errno.EINTR
    assert eventually(lambda: _sleeping(mount) == 7)
    time.sleep(0.2)
    assert _sleeping(mount) == 7
    fd = mount.open()
    ioctl(fd, fake_files.WAKE)
    os.close(fd)
    assert [child.wait() for child in children if child is not children[3]] == [0] * 7


def test_waiting_costs_no_time(mount: Mount) -> None:
    child = Child(lambda: _sleep_until_signal(mount, False))
    assert eventually(lambda: _sleeping(mount) == 1)
    before = mount.statistics()
    time.sleep(1)
    after = mount.statistics()
    child.kill()
    child.wait()
    assert after["cpu"] - before["cpu"] < 0.05
    assert after["switches"] - before["switches"] < 60


def test_threads_of_past_waits_leave_nothing(mount: Mount) -> None:
    def crowd() -> int:
        fds = [mount.open() for _ in range(150)]
        threads = [threading.Thread(target=ioctl, args=(fd, fake_files.SLEEP)) for fd in fds]
        for thread in threads:
            thread.start()
        while _sleeping(mount) < len(fds):
            time.sleep(0.02)
        ioctl(fds[0], fake_files.WAKE)
        for thread in threads:
            thread.join()
        return 0

    sizes = []
    for _ in range(4):
        assert Child(crowd).wait(60) == 0
        assert eventually(lambda: mount.statistics()["threads"] < 30)
        assert mount.statistics()["thread_states"] < 30
        sizes.append(mount.statistics()["rss_kib"])
    assert sizes[3] - sizes[1] < 2048, sizes


# ---- the end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_daemon_and_every_wait(mount: Mount, number: signal.Signals) -> None:
    def wait_for_the_end() -> int:
        fd = mount.open()
        mount.open()
        return errno_of(fd, fake_files.SLEEP)

    children = [Child(wait_for_the_end) for _ in range(5)]
    assert eventually(lambda: _sleeping(mount) == 5)
    started = time.monotonic()
    report = mount.stop(number)
    assert time.monotonic() - started < 3
    assert report["errors"] == 0
    assert set(report["releases"]) == {1}
    answers = {child.wait() for child in children}
    assert answers <= {errno.EINTR, errno.ECONNABORTED, errno.ENOTCONN}


def test_the_end_waits_for_a_request_that_works(mount: Mount) -> None:
    child = Child(lambda: errno_of(mount.open(), fake_files.STUBBORN))
    time.sleep(0.3)
    report = mount.stop()
    assert report == {"errors": 0, "releases": [1]}
    assert child.wait() in (0, errno.ECONNABORTED, errno.ENOTCONN)


def test_an_unmount_from_outside_ends_the_daemon(mount: Mount) -> None:
    fd = mount.open()
    os.close(fd)
    assert os.spawnlp(os.P_WAIT, "fusermount3", "fusermount3", "-u", str(mount.directory)) == 0
    assert mount.wait()["errors"] == 0


def test_an_aborted_connection_ends_the_daemon(mount: Mount) -> None:
    child = Child(lambda: _sleep_until_signal(mount, False))
    assert eventually(lambda: _sleeping(mount) == 1)
    found = find_mount(str(mount.directory))
    assert found is not None
    if not abort_connection(found):
        pytest.skip("this system gives no access to FUSE connections")
    assert child.wait() == errno.ECONNABORTED
    unmount_lazily(str(mount.directory))
    assert mount.wait()["errors"] == 0


# ---- all released ----------------------------------------------------------------------------


def _released(mount: Mount) -> bool:
    now = mount.statistics()
    return bool(now["opened"] == now["released"]) and now["released_again"] == 0


def _live_dangerously(mount: Mount, seed: int) -> int:
    """In a child: open, dup, fork, call, until killed or done."""
    chance = random.Random(seed)
    block = (ctypes.c_char * 64)()
    end = time.monotonic() + chance.uniform(0.5, 2)
    while time.monotonic() < end:
        fd = mount.open()
        copy = os.dup(fd)
        for _ in range(chance.randrange(20)):
            ioctl(fd, fake_files.NOOP, block)
        if chance.random() < 0.2 and os.fork() == 0:
            ioctl(copy, fake_files.NOOP, block)
            os._exit(0)
        for number in (fd, copy)[: chance.randrange(3)]:
            os.close(number)
    return 0


def test_every_open_file_is_released_once(mount: Mount) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children = [Child(lambda seed=seed: _live_dangerously(mount, seed)) for seed in range(64)]  # type: ignore[misc]
    chance = random.Random(1)
    for child in chance.sample(children, 32):
        time.sleep(chance.uniform(0, 0.05))
        child.kill()
    assert {child.wait(60) for child in children} <= {0, -signal.SIGKILL}
    assert eventually(lambda: _released(mount)), mount.statistics()
    report = mount.stop()
    assert report["errors"] == 0
    assert set(report["releases"]) == {1}
    assert len(report["releases"]) > 64
