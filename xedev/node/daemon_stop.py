"""Ending a mount and the process behind it."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from xedev.node.fuse_adapter import MountError
from xedev.node.mounts import (
    FUSE_TYPE,
    Mount,
    abort_connection,
    canonical,
    find_mount,
    unmount_lazily,
)
from xedev.node.patience import bounded, is_readable, read_to_end
from xedev.node.server import DAEMON_FILE, start_time
from xedev.node.tree import DEBUG_DIR

__all__ = ("Stopped", "stop")

_STOP_TIMEOUT = 10.0  # seconds
_ANSWER_TIMEOUT = 5.0
_KILL_TIMEOUT = 5.0
_CONNECTION_LOST = (errno.ENOTCONN, errno.ECONNABORTED)


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a daemon ended."""

    errors: int
    """Bugs that it logged, those found on the way out among them."""
    messages: list[str]
    """The first few of them, with tracebacks."""


class _Process:
    """A process that is not our child."""

    def __init__(self, pid: int, started: int) -> None:
        self._fd = os.pidfd_open(pid)
        try:
            if start_time(pid) != started:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        except OSError:
            os.close(self._fd)
            raise

    def kill(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._fd, number)
        except ProcessLookupError:
            return

    def wait(self, timeout: float) -> bool:
        """Wait for its end; False when time ran out."""
        return is_readable(self._fd, timeout)

    def close(self) -> None:
        os.close(self._fd)


def stop(mountpoint: str | os.PathLike[str], timeout: float = _STOP_TIMEOUT) -> Stopped:
    """Unmount, and return when mount and daemon are gone.

    A daemon that does not end within ``timeout`` seconds is cut off from its clients and killed.
    Raises `MountError`; after "dead", "cut off" and "killed" the mount is gone all the same.
    """
    mount = _find(mountpoint)
    control = os.path.join(mount.point, DEBUG_DIR, DAEMON_FILE)
    try:
        about = bounded(lambda: _read_json(control), _ANSWER_TIMEOUT)
        process = _Process(about["pid"], about["start_time"])
    except TimeoutError:
        _cut_off(mount)
        raise MountError(f"{mount.point}: the daemon does not answer; it was cut off") from None
    except OSError as error:
        raise _unreachable(mount, error) from None
    try:
        report = _end(process, control, about, timeout)
        if not process.wait(_KILL_TIMEOUT if report else 0):
            _cut_off(mount)
            process.kill(signal.SIGKILL)
            process.wait(_KILL_TIMEOUT)
            raise MountError(f"{mount.point}: the daemon did not end and was killed")
    finally:
        process.close()
    _make_sure_unmounted(mount)
    if report is None:
        raise MountError(f"{mount.point}: the daemon died while it ended")
    return Stopped(report["errors"], report["messages"])


def _find(mountpoint: str | os.PathLike[str]) -> Mount:
    try:
        point = canonical(mountpoint)
    except OSError as error:
        raise MountError(f"{os.fspath(mountpoint)}: {error.strerror}") from None
    mount = find_mount(point)
    if mount is None:
        raise MountError(f"{point}: nothing is mounted there")
    if mount.fstype != FUSE_TYPE:
        raise MountError(f"{point}: not a mount of xe-mock, but {mount.fstype}")
    return mount


def _unreachable(mount: Mount, error: OSError) -> MountError:
    if error.errno == errno.EACCES:
        return MountError(f"{mount.point}: only the user who mounted it may end it")
    if error.errno not in _CONNECTION_LOST:
        return MountError(f"{mount.point}: the daemon cannot be asked: {error.strerror}")
    _unmount(mount)
    return MountError(f"{mount.point}: the daemon was dead; its mount is removed now")


def _end(
    process: _Process, control: str, about: dict[str, Any], timeout: float
) -> dict[str, Any] | None:
    """Make the daemon end; its report, or None when there was none in time.

    The report comes through a pipe of ours that the daemon opens by way of /proc.  Where it may
    not do that, a signal must do, and what it said before.
    """
    answer, told = os.pipe()
    try:
        if not _ask(control, told):
            process.kill(signal.SIGTERM)
            return about if process.wait(timeout) else None
        text, _ = read_to_end(answer, timeout)
    finally:
        os.close(answer)
    report: dict[str, Any] | None = json.loads(text) if text else None
    return report


def _ask(control: str, told: int) -> bool:
    """Write the request to end, and close our side of the pipe; False if it is refused."""
    try:
        bounded(lambda: _write_text(control, f"exit {told}"), _ANSWER_TIMEOUT)
    except OSError as error:
        # Any other error: it may be gone before it could answer the write.  The pipe will tell.
        return error.errno != errno.EBADF
    finally:
        os.close(told)
    return True


def _cut_off(mount: Mount) -> None:
    """Free all who wait for the daemon, and take its mount away."""
    abort_connection(mount)
    if find_mount(mount.point) == mount:
        _unmount(mount)


def _make_sure_unmounted(mount: Mount) -> None:
    deadline = time.monotonic() + _ANSWER_TIMEOUT
    while find_mount(mount.point) == mount:
        if time.monotonic() > deadline:
            _unmount(mount)
            return
        time.sleep(0.01)


def _unmount(mount: Mount) -> None:
    try:
        unmount_lazily(mount.point)
    except OSError as error:
        raise MountError(f"{mount.point} cannot be unmounted: {error.strerror}") from None


def _read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _write_text(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
