"""Making and ending mounts, and what becomes of files when processes die."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.fake_mount import Child, eventually
from uapi import drm
from xedev.cli.main import main
from xedev.client import Device, IoctlTransport
from xedev.node import daemon_start
from xedev.node.caller import read_status
from xedev.node.daemon import MountOptions, probe
from xedev.node.mounts import abort_connection, canonical, find_mount, unmount_lazily
from xedev.node.server import start_time
from xedev.testing.mounts import run_command, wait_until_empty

fuse = pytest.mark.fuse
root = pytest.mark.root

NOBODY = 65534


class Mounted:
    """A mount that a test may mistreat."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")

    def start(self, *arguments: str) -> None:
        with contextlib.suppress(FileExistsError):
            self.directory.mkdir()
        ran = run_command(
            *("mount", str(self.directory), "--die-with", str(os.getpid())),
            *("--log", str(self.log), *arguments),
        )
        assert ran.returncode == 0, ran.stderr

    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads(self.path("debug/dri/0/daemon").read_text())
        return about

    def path(self, name: str) -> Path:
        return self.directory / name

    def open(self, node: str = "renderD128") -> Device:
        return Device(IoctlTransport(self.path(f"dev/dri/{node}")))

    def is_mounted(self) -> bool:
        return find_mount(str(self.directory)) is not None

    def umount(self) -> subprocess.CompletedProcess[str]:
        return run_command("umount", str(self.directory))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mounted]:
    mounted = Mounted(tmp_path / "mnt")
    yield mounted
    left = find_mount(str(mounted.directory))
    if left is not None:
        abort_connection(left)
        unmount_lazily(str(mounted.directory))
        pytest.fail("the mount is still there")


def is_alive(pid: int, started: int) -> bool:
    try:
        return (
            start_time(pid) == started and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
        )
    except OSError:
        return False


# ---- start and stop --------------------------------------------------------------------------


@fuse
def test_after_the_start_it_can_be_used_and_after_the_stop_all_is_gone(mounted: Mounted) -> None:
    mounted.start("--profile", "lnl", "--system", "256M")
    about = mounted.about()
    assert about["mountpoint"] == str(mounted.directory)
    assert about["options"]["profile"] == "lnl"
    assert about["options"]["system"] == 256 << 20
    assert about["errors"] == 0
    with mounted.open() as device:
        assert device.version().name == "xe"
    assert is_alive(about["pid"], about["start_time"])
    ran = mounted.umount()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert not mounted.is_mounted()
    assert not is_alive(about["pid"], about["start_time"])
    assert list(mounted.directory.iterdir()) == []
    assert "has ended" in mounted.log.read_text()


@fuse
@pytest.mark.parametrize("backend", ["fusepy", "mfusepy"])
def test_both_bindings(mounted: Mounted, backend: str) -> None:
    if probe(backend) is not None:  # type: ignore[arg-type]
        pytest.skip(f"no {backend} here")
    mounted.start("--backend", backend)
    assert mounted.about()["backend"] == backend
    with mounted.open() as device:
        handle = device.gem_create(4096, placement=1)
        fd = device.prime_handle_to_fd(handle)
        assert os.lseek(fd, 0, os.SEEK_END) == 4096
        assert device.prime_fd_to_handle(fd) == handle
        os.close(fd)
    wait_until_empty(str(mounted.directory))
    assert mounted.umount().returncode == 0


@fuse
def test_the_daemon_keeps_nothing_of_its_starter(mounted: Mounted) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    mounted.directory.mkdir()
    command = [sys.executable, "-m", "xedev.cli", "mount", str(mounted.directory)]
    subprocess.run(
        [*command, "--die-with", str(os.getpid())],
        cwd=Path(__file__).parents[2],
        pass_fds=[writer],
        check=True,
        # A shell's $(...) waits for the end of this pipe.
        capture_output=True,
        timeout=30,
    )
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    pid = mounted.about()["pid"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == "1"
    assert mounted.umount().returncode == 0


@fuse
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(mounted: Mounted, number: signal.Signals) -> None:
    mounted.start()
    about = mounted.about()
    os.kill(about["pid"], number)
    assert eventually(lambda: not is_alive(about["pid"], about["start_time"]))
    assert not mounted.is_mounted()
    assert "ERROR" not in mounted.log.read_text()


@fuse
def test_unmounting_behind_its_back_ends_it_too(mounted: Mounted) -> None:
    mounted.start()
    about = mounted.about()
    unmount_lazily(str(mounted.directory))
    assert eventually(lambda: not is_alive(about["pid"], about["start_time"]))
    assert "ERROR" not in mounted.log.read_text()


@fuse
def test_it_ends_with_the_process_it_was_bound_to(mounted: Mounted) -> None:
    life = Child(lambda: time.sleep(60))
    mounted.directory.mkdir()
    ran = run_command("mount", str(mounted.directory), "--die-with", str(life.pid))
    assert ran.returncode == 0
    about = mounted.about()
    life.kill()
    life.wait()
    assert eventually(lambda: not is_alive(about["pid"], about["start_time"]))
    assert not mounted.is_mounted()


@fuse
def test_stopping_while_clients_use_it(mounted: Mounted) -> None:
    mounted.start()

    def client() -> int:
        fd = os.open(mounted.path("dev/dri/xe-mock"), os.O_RDWR)
        os.write(report, b"x")
        try:
            os.read(fd, 10)
        except OSError as error:
            return 0 if error.errno in (errno.EINTR, errno.ECONNABORTED, errno.ENOTCONN) else 1
        return 2

    waiting, report = os.pipe()
    children = [Child(client) for _ in range(3)]
    for _ in children:
        os.read(waiting, 1)
    device = mounted.open()
    assert mounted.umount().returncode == 0
    assert [child.wait() for child in children] == [0, 0, 0]
    with pytest.raises(OSError, match=r"."):
        device.vm_create()
    device.close()
    os.close(waiting)
    os.close(report)


@fuse
def test_in_the_foreground(mounted: Mounted) -> None:
    mounted.directory.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "xedev.cli", "mount", str(mounted.directory), "--foreground"],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert eventually(mounted.is_mounted)
    assert eventually(lambda: mounted.about()["pid"] == process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "serving bmg" in said
    assert not mounted.is_mounted()


# ---- refusals --------------------------------------------------------------------------------


def refusal(*arguments: str) -> str:
    """What a command says that fails: one line, unless all is asked for."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("XE_MOCK_DEBUG", None)
    ran = subprocess.run(
        [sys.executable, "-m", "xedev.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1, ran
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    return line


def test_there_is_no_such_directory(tmp_path: Path) -> None:
    assert "No such file" in refusal("mount", str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal("mount", str(tmp_path / "file"))


def test_the_directory_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not empty" in refusal("mount", str(tmp_path))


def test_the_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    said = refusal("mount", str(tmp_path / "mnt"), "--log", str(tmp_path / "nothing" / "log"))
    # Without FUSE that is what is said.
    assert "nothing/log: No such file" in said or "no FUSE mount" in said


@fuse
def test_no_mount_upon_a_mount(mounted: Mounted) -> None:
    mounted.start()
    assert "mounted there already (fuse.xe-mock)" in refusal("mount", str(mounted.directory))
    assert mounted.umount().returncode == 0


@fuse
@root
def test_no_mount_upon_somebody_elses_mount(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path)], check=True)
    try:
        assert "mounted there already (tmpfs)" in refusal("mount", str(tmp_path))
        assert "not a mount of xe-mock, but tmpfs" in refusal("umount", str(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_nothing_to_unmount(tmp_path: Path) -> None:
    assert "nothing is mounted there" in refusal("umount", str(tmp_path))
    assert "nothing is mounted there" in refusal("umount", str(tmp_path / "nothing"))


@fuse
@root
def test_a_mount_that_is_forbidden_says_so(tmp_path: Path) -> None:
    """Root of a container that may not mount."""
    command = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]
    ran = subprocess.run(
        [*command, sys.executable, "-m", "xedev.cli", "mount", str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "CAP_SYS_ADMIN" in ran.stderr


# ---- probe -----------------------------------------------------------------------------------


def open_fails(error: OSError) -> Callable[..., int]:
    def fail(*_arguments: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), "there is no /dev/fuse"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot be opened: Permission denied"),
    ],
)
def test_without_the_device_there_is_no_fuse(
    monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    monkeypatch.setattr(os, "open", open_fails(error))
    assert words in str(probe())


@fuse
def test_without_the_library_there_is_no_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libnothing.so.1")
    assert "apt install" in str(probe())


MAY_MOUNT = 1 << 21
"""CAP_SYS_ADMIN."""


@fuse
@pytest.mark.parametrize(
    ("uid", "capabilities", "words"),
    [
        (0, MAY_MOUNT, "None"),
        (0, 0, "root lacks CAP_SYS_ADMIN"),
        (1000, 0, "there is no fusermount3"),
        (1000, MAY_MOUNT, "None"),  # in a user namespace of their own
    ],
)
def test_who_can_mount_without_the_helper(
    monkeypatch: pytest.MonkeyPatch, uid: int, capabilities: int, words: str
) -> None:
    monkeypatch.setattr(daemon_start, "fusermount", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    status = dataclasses.replace(read_status(os.getpid()), effective=capabilities)
    monkeypatch.setattr(daemon_start, "read_status", lambda pid: status)
    assert words in str(probe())


@fuse
def test_where_there_is_fuse_the_probe_finds_no_fault() -> None:
    assert probe() is None


# ---- a daemon in trouble ---------------------------------------------------------------------


@fuse
def test_the_mount_of_a_killed_daemon_is_replaced(mounted: Mounted) -> None:
    mounted.start()
    about = mounted.about()
    held = os.open(mounted.path("dev/dri/renderD128"), os.O_RDWR)
    os.kill(about["pid"], signal.SIGKILL)
    assert eventually(lambda: not is_alive(about["pid"], about["start_time"]))
    with pytest.raises(OSError, match=r".") as raised:
        os.stat(mounted.directory)
    assert raised.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    assert "the daemon is dead" in refusal("show", str(mounted.directory))
    mounted.start()
    assert mounted.about()["pid"] != about["pid"]
    with pytest.raises(OSError, match=r"."):
        fcntl.ioctl(held, drm.DRM_IOCTL_DROP_MASTER)
    os.close(held)
    assert mounted.umount().returncode == 0
    assert not mounted.is_mounted()


@fuse
def test_the_mount_of_a_killed_daemon_is_removed(mounted: Mounted) -> None:
    mounted.start()
    about = mounted.about()
    os.kill(about["pid"], signal.SIGKILL)
    assert eventually(lambda: not is_alive(about["pid"], about["start_time"]))
    assert "the daemon was dead" in refusal("umount", str(mounted.directory))
    assert not mounted.is_mounted()


def stop(pid: int) -> None:
    """Stop a process; its threads get to know of it one after the other."""
    os.kill(pid, signal.SIGSTOP)

    def is_stopped() -> bool:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)

    assert eventually(is_stopped)


@fuse
@root  # an ordinary user may be unable to abort a connection
def test_a_hanging_daemon_is_cut_off(mounted: Mounted) -> None:
    mounted.start()
    about = mounted.about()
    stop(about["pid"])
    stuck = Child(lambda: os.open(mounted.path("dev/dri/renderD128"), os.O_RDWR) and 1)
    try:
        said = refusal("umount", str(mounted.directory))
        assert "was cut off" in said
        assert not mounted.is_mounted()
        assert stuck.wait() == 255
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(about["pid"], signal.SIGKILL)


def start_broken(mounted: Mounted, method: str) -> None:
    """Start a daemon whose device has a bug in one of its methods."""
    program = f"""
import sys
from xedev.cli.main import main
from xedev.xe.xe_device import XeDevice
def broken(*_):
    raise ZeroDivisionError("this part is broken")
XeDevice.{method} = broken
sys.exit(main(sys.argv[1:]))
"""
    mounted.directory.mkdir()
    arguments = ("mount", str(mounted.directory), "--die-with", str(os.getpid()))
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
    )


@fuse
def test_errors_of_the_daemon_fail_the_umount(mounted: Mounted) -> None:
    start_broken(mounted, "open")
    with pytest.raises(OSError, match="Input/output error"):
        mounted.open()
    about = mounted.about()
    assert about["errors"] == 1
    assert "ZeroDivisionError: this part is broken" in about["messages"][0]
    said = refusal("umount", str(mounted.directory))
    assert "the daemon logged 1 error(s)" in said
    assert "this part is broken" in said
    assert not mounted.is_mounted()


@fuse
@pytest.mark.parametrize("method", ["postclose", "shutdown"])
def test_errors_on_the_way_out_count_as_well(mounted: Mounted, method: str) -> None:
    start_broken(mounted, method)
    device = mounted.open()
    ran = mounted.umount()
    device.close()
    assert ran.returncode == 1
    assert "this part is broken" in ran.stderr
    assert not mounted.is_mounted()


@fuse
def test_a_device_that_cannot_be_made_is_no_mount(mounted: Mounted) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        start_broken(mounted, "_make_memory")
    assert raised.value.stderr == b"xe-mock: this part is broken\n"
    assert not mounted.is_mounted()


# ---- lifetimes -------------------------------------------------------------------------------


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node()
    yield directory
    wait_until_empty(directory)


def node(directory: str, name: str = "renderD128") -> str:
    return f"{directory}/dev/dri/{name}"


def shown(directory: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(Path(directory, "debug/dri/0/state").read_text())
    return state


@fuse
def test_the_debug_files_are_no_open_files(directory: str) -> None:
    held = [os.open(f"{directory}/debug/dri/0/{name}", os.O_RDONLY) for name in ("state", "trace")]
    assert shown(directory)["files"] == []
    for fd in held:
        os.close(fd)


@fuse
def test_state_belongs_to_the_open_file(directory: str) -> None:
    with Device(IoctlTransport(node(directory))) as one:
        with Device(IoctlTransport(node(directory))) as two:
            assert one.vm_create() == two.vm_create() == 1
            assert one.vm_create() == 2
            assert [file["vms"] for file in shown(directory)["files"]] == [2, 1]
        assert eventually(lambda: len(shown(directory)["files"]) == 1)
        assert len(shown(directory)["vms"]) == 2


@fuse
def test_a_fork_shares_the_file_and_the_last_one_ends_it(directory: str) -> None:
    device = Device(IoctlTransport(node(directory)))
    waiting, go_on = os.pipe()

    def client() -> int:
        if device.vm_create() != 1:
            return 1
        os.read(waiting, 1)
        return 0 if device.vm_create() == 2 else 2

    child = Child(client)
    assert eventually(lambda: len(shown(directory)["vms"]) == 1)
    assert shown(directory)["files"][0]["pid"] == child.pid
    device.close()
    time.sleep(0.05)
    assert len(shown(directory)["files"]) == 1
    os.write(go_on, b"x")
    assert child.wait() == 0
    os.close(waiting)
    os.close(go_on)


@fuse
def test_dup_and_close_end_nothing(directory: str) -> None:
    transport = IoctlTransport(node(directory))
    copy = os.dup(transport.fileno())
    Device(transport).vm_create()
    os.close(copy)
    time.sleep(0.05)
    assert len(shown(directory)["vms"]) == 1
    transport.close()


@fuse
@pytest.mark.parametrize("clients", [20])
def test_clients_that_are_killed_leave_nothing(directory: str, clients: int) -> None:
    def client() -> int:
        device = Device(IoctlTransport(node(directory)))
        os.dup(device.transport.fileno())
        fds = []
        while True:
            vm = device.vm_create()
            handle = device.gem_create(65536, placement=1)
            fds.append(device.prime_handle_to_fd(handle))
            device.prime_handle_to_token(handle)
            os.write(busy, b"x")
            if len(fds) % 3 == 0:
                device.vm_destroy(vm)
                os.close(fds.pop())

    seen, busy = os.pipe()
    children = [Child(client) for _ in range(clients)]
    for _ in range(clients * 3):
        os.read(seen, 1)
    for child in children:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    os.close(seen)
    os.close(busy)
    wait_until_empty(directory)


# ---- rights ----------------------------------------------------------------------------------


def as_user(uid: int, gid: int, groups: list[int], function: Callable[[], int | None]) -> int:
    """Exit status of a child that dropped its rights; -errno of an OSError as errno + 100."""

    def client() -> int | None:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
        try:
            return function()
        except OSError as error:
            return 100 + (error.errno or 0)

    return Child(client).wait()


def opens(path: str, flags: int = os.O_RDWR) -> Callable[[], None]:
    return lambda: os.close(os.open(path, flags))


@fuse
@root
def test_who_may_open_what(mounted_node: Callable[..., str]) -> None:
    directory = mounted_node(fresh=True)
    group = os.stat(node(directory, "card0")).st_gid
    other_group = 54321
    denied = 100 + errno.EACCES
    for name in ("renderD128", "xe-mock"):
        assert as_user(NOBODY, NOBODY, [], opens(node(directory, name))) == 0
    card = node(directory, "card0")
    assert as_user(NOBODY, NOBODY, [], opens(card)) == denied
    assert as_user(NOBODY, NOBODY, [group], opens(card)) == 0
    assert as_user(NOBODY, NOBODY, [other_group], opens(card)) == denied
    os.chown(card, -1, other_group)
    assert as_user(NOBODY, NOBODY, [other_group], opens(card)) == 0
    os.chmod(card, 0o600)
    assert as_user(NOBODY, NOBODY, [other_group], opens(card)) == denied
    os.chmod(card, 0o666)
    assert as_user(NOBODY, NOBODY, [], opens(card)) == 0


@fuse
@root
def test_control_files_belong_to_the_mounting_user(directory: str) -> None:
    debug = Path(directory, "debug/dri/0")
    files = [path for path in debug.rglob("*") if path.is_file()]
    assert files
    for path in files:
        for flags in (os.O_RDONLY, os.O_WRONLY):
            assert as_user(NOBODY, NOBODY, [], opens(str(path), flags)) == 100 + errno.EACCES
    assert as_user(NOBODY, NOBODY, [], lambda: 0 if os.listdir(debug) else 1) == 0
    chmod = as_user(NOBODY, NOBODY, [], lambda: os.chmod(node(directory), 0o777))
    assert chmod == 100 + errno.EPERM


@fuse
@root
def test_capabilities_are_the_callers(directory: str) -> None:
    def authenticated() -> int:
        with Device(IoctlTransport(node(directory, "card0"))) as device:
            return device.get_client(0).auth

    card = node(directory, "card0")
    group = os.stat(card).st_gid
    with Device(IoctlTransport(card)):  # it is the master, and so authenticated anyway
        assert Child(authenticated).wait() == 1
        assert as_user(NOBODY, NOBODY, [group], authenticated) == 0


@fuse
@root
def test_an_ordinary_user_has_its_memory_reached(directory: str) -> None:
    def client() -> int:
        with Device(IoctlTransport(node(directory))) as device:
            return 0 if device.version().name == "xe" else 1

    assert as_user(NOBODY, NOBODY, [], client) == 0


@pytest.fixture
def public_path() -> Iterator[Path]:
    """As tmp_path, which other users cannot get to."""
    with tempfile.TemporaryDirectory(prefix="xe-mock-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@fuse
@root
@pytest.mark.parametrize("backend", ["fusepy", "mfusepy"])
def test_an_ordinary_user_mounts(public_path: Path, backend: str) -> None:
    """With a /dev/fuse that is open to all, in a mount namespace of its own."""
    if probe(backend) is not None:  # type: ignore[arg-type]
        pytest.skip(f"no {backend} here")
    node_directory, point = public_path / "dev", public_path / "mnt"
    node_directory.mkdir()
    point.mkdir()
    os.chown(point, NOBODY, NOBODY)

    def user() -> int:
        _unshare_mounts()
        _open_dev_fuse_to_all(node_directory)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        if main(["mount", str(point), "--backend", backend]):
            return 1
        try:
            # Another user: what this one may not do is done by frames.
            with Device.open(point / "dev/dri/renderD128") as device:
                return 0 if device.vm_create() == 1 and _sees_itself(point) else 2
        finally:
            if main(["umount", str(point)]):
                os._exit(3)

    assert Child(user).wait() == 0


def _unshare_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns = 0x20000
    assert libc.unshare(clone_newns) == 0
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def _open_dev_fuse_to_all(directory: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", str(directory)], check=True)
    node = directory / "fuse"
    os.mknod(node, stat.S_IFCHR, os.makedev(10, 229))
    node.chmod(0o666)
    subprocess.run(["mount", "--bind", str(node), "/dev/fuse"], check=True)


def _sees_itself(point: Path) -> bool:
    (file,) = shown(str(point))["files"]
    return [os.stat(point / "dev/dri/card0").st_uid, file["uid"]] == [NOBODY] * 2


@fuse
def test_nothing_can_be_made_or_removed(directory: str) -> None:
    for call in (
        lambda: os.mkdir(f"{directory}/dev/x"),
        lambda: os.unlink(node(directory)),
        lambda: os.rename(node(directory), f"{node(directory)}2"),
        lambda: os.symlink("x", f"{directory}/dev/x"),
        lambda: open(f"{directory}/dev/x", "w"),  # noqa: SIM115
    ):
        with pytest.raises(PermissionError):
            call()


# ---- small things ----------------------------------------------------------------------------


def test_canonical_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "real"
    (real / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "final").symlink_to("link/mnt")
    (tmp_path / "loop").symlink_to("loop")
    wanted = str((real / "mnt").resolve())
    monkeypatch.chdir(tmp_path)
    for path in ("real/mnt", "link/mnt/", "final", "./real/../final", tmp_path / "final"):
        assert canonical(path) == wanted
    assert canonical("real/nothing") == str(real.resolve() / "nothing")
    assert canonical("/") == "/"
    with pytest.raises(OSError, match="symbolic links"):
        canonical("loop")


def test_other_users_are_let_in_by_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert MountOptions().is_shared
    assert not MountOptions(allow_other=False).is_shared
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not MountOptions().is_shared
    assert MountOptions(allow_other=True).is_shared
