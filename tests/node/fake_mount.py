"""A daemon with `FakeTree` for one test, and clients of it in processes of their own."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from tests.node import fake_files
from xedev.node.mounts import abort_connection, find_mount, unmount_lazily

__all__ = ("Argument", "Child", "Mount", "eventually", "ioctl", "mounted")

_ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 20.0  # seconds


class Mount:
    """A live mount."""

    def __init__(self, directory: Path, daemon: subprocess.Popen[str], backend: str) -> None:
        self.directory = directory
        self.node = directory / "node"
        self.daemon = daemon
        self.backend = backend
        self.report: dict[str, Any] = {}

    def statistics(self) -> dict[str, Any]:
        """How the daemon is just now."""
        return json.loads((self.directory / "statistics").read_text())  # type: ignore[no-any-return]

    def open(self, name: str = "node", flags: int = os.O_RDWR) -> int:
        """Open a file of the mount."""
        return os.open(self.directory / name, flags | os.O_CLOEXEC)

    def stop(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """End the daemon with a signal, and return what it said then."""
        self.daemon.send_signal(number)
        return self.wait()

    def wait(self) -> dict[str, Any]:
        """Wait until the daemon has ended by itself."""
        assert self.daemon.stdout is not None
        output = self.daemon.stdout.read()
        assert self.daemon.wait(_PATIENCE) == 0, output
        self.report = json.loads(output)
        return self.report


@contextmanager
def mounted(directory: Path, backend: str) -> Iterator[Mount]:
    """Mount on ``directory``; afterwards daemon and mount are gone, whatever happened."""
    directory.mkdir(exist_ok=True)
    log = directory.with_suffix(".log")
    with log.open("w") as stderr:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "tests.node.fake_daemon", str(directory), backend],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n", log.read_text()
        mount = Mount(directory, daemon, backend)
        yield mount
        if not mount.report:
            mount.stop()
        assert find_mount(str(directory)) is None
    finally:
        _clean_up(directory, daemon)
        print(log.read_text())


def _clean_up(directory: Path, daemon: subprocess.Popen[str]) -> None:
    if daemon.poll() is None:
        daemon.kill()
    daemon.wait()
    if daemon.stdout is not None:
        daemon.stdout.close()
    left = find_mount(str(directory))
    if left is not None:
        abort_connection(left)
        unmount_lazily(str(directory))


Argument: TypeAlias = ctypes.Structure | ctypes.Array[Any]


def ioctl(fd: int, cmd: int, argument: Argument | None = None) -> int:
    """One ioctl(2); the result, or OSError."""
    return fcntl.ioctl(fd, cmd) if argument is None else fcntl.ioctl(fd, cmd, argument, True)


class Child:
    """A forked client.  ``function`` returns its exit status (0-255)."""

    def __init__(self, function: Callable[[], int | None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            status = 255
            try:
                status = function() or 0
            finally:
                os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = _PATIENCE) -> int:
        """Its exit status, or minus the signal that killed it."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        raise TimeoutError(f"client {self.pid} still lives after {timeout} s")


def eventually(condition: Callable[[], bool], timeout: float = _PATIENCE) -> bool:
    """Whether ``condition`` becomes true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def read_memory(fd: int, address: int, length: int) -> int:
    """Let the daemon read our memory; the sum of its bytes."""
    args = fake_files.MemoryArgs(address=address, length=length)
    ioctl(fd, fake_files.MEMORY_READ, args)
    return int(args.sum)


def write_memory(fd: int, address: int, length: int) -> None:
    """Let the daemon write our memory."""
    args = fake_files.MemoryArgs(address=address, length=length)
    ioctl(fd, fake_files.MEMORY_WRITE, args)
