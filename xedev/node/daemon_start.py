"""Making a mount: the checks, the fork, and the wait until it can be used."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tempfile
from typing import IO

from xedev.kernel.caller import CAP_SYS_ADMIN
from xedev.node.caller import read_status
from xedev.node.fuse_adapter import BackendError, BackendName, MountError, load_binding
from xedev.node.mounts import FUSE_TYPE, canonical, find_mount, fusermount, unmount_lazily
from xedev.node.options import MountOptions
from xedev.node.patience import bounded, read_to_end
from xedev.node.server import serve
from xedev.node.tree import NODE_DIR

__all__ = ("probe", "run_foreground", "start")

_START_TIMEOUT = 30.0  # seconds, for slow machines; a start takes a fraction of one
_ANSWER_TIMEOUT = 5.0
_READY = b"ready"
_LOG_FORMAT = "%(asctime)s %(levelname)s %(threadName)s: %(message)s"


# ---- can there be a mount? -------------------------------------------------------------------


def probe(backend: BackendName | None = None) -> str | None:
    """Why no FUSE mount can be made here; None when nothing speaks against it.

    A container may still forbid the mount itself, which only the try can tell.
    """
    return _device_fault() or _library_fault(backend) or _rights_fault()


def _device_fault() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except FileNotFoundError:
        return "there is no /dev/fuse (a container needs --device /dev/fuse)"
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return None


def _library_fault(backend: BackendName | None) -> str | None:
    try:
        load_binding(backend)
    except BackendError as error:
        return str(error)
    return None


def _rights_fault() -> str | None:
    if read_status(os.getpid()).effective >> CAP_SYS_ADMIN & 1:
        return None  # so has an ordinary user in a user namespace of their own
    if os.geteuid() == 0:
        return "root lacks CAP_SYS_ADMIN (a container needs --cap-add SYS_ADMIN)"
    return None if fusermount() else "there is no fusermount3 (apt install fuse3)"


# ---- the parent ------------------------------------------------------------------------------


def start(mountpoint: str | os.PathLike[str], options: MountOptions) -> int:
    """Mount on a directory and return the daemon's pid when the mount can be used.

    Forks, so call it before the process has threads.  Raises `MountError`.
    """
    point = _prepare(mountpoint, options)
    log = _open_log(options.log)
    answer, told = os.pipe()
    with tempfile.TemporaryFile() as words:
        try:
            _fork_daemon(point, options, told, words.fileno(), log)
        finally:
            os.close(told)
            if log is not None:
                os.close(log)
        try:
            pid = _wait_until_ready(answer, words)
        finally:
            os.close(answer)
    _check_use(point)
    return pid


def run_foreground(mountpoint: str | os.PathLike[str], options: MountOptions) -> int:
    """Serve from this process until unmounted or interrupted; returns the number of errors.

    Needs the main thread.  Raises `MountError`.
    """
    point = _prepare(mountpoint, options)
    log = _open_log(options.log)
    _log_to(sys.stderr if log is None else os.fdopen(log, "w"))
    return serve(point, options, lambda: None)


def _prepare(mountpoint: str | os.PathLike[str], options: MountOptions) -> str:
    """The checks that need no mount; the directory's canonical path."""
    point = os.fspath(mountpoint)
    try:
        point = canonical(mountpoint)
        _clear_stale_mount(point)
        names = os.listdir(point)
    except OSError as error:
        raise MountError(f"{point}: {error.strerror}") from None
    if names:
        raise MountError(f"{point}: the directory is not empty")
    fault = probe(options.backend)
    if fault is not None:
        raise MountError(f"no FUSE mount can be made here: {fault}")
    return point


def _clear_stale_mount(point: str) -> None:
    """Take away what a killed daemon left; `MountError` when something alive is there."""
    mount = find_mount(point)
    if mount is None:
        return
    if mount.fstype != FUSE_TYPE or not _is_stale(point):
        raise MountError(f"{point}: something is mounted there already ({mount.fstype})")
    unmount_lazily(point)


def _is_stale(point: str) -> bool:
    """Whether the daemon behind a mount is gone.  One that hangs is not."""
    try:
        bounded(lambda: os.stat(point), _ANSWER_TIMEOUT)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def _open_log(path: str | None) -> int | None:
    if path is None:
        return None
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise MountError(f"{path}: {error.strerror}") from None


def _wait_until_ready(answer: int, words: IO[bytes]) -> int:
    """The daemon's pid, or `MountError` with what was said instead of being ready."""
    data, ended = read_to_end(answer, _START_TIMEOUT)
    pid, _, rest = data.partition(b"\n")
    if rest == _READY:
        return int(pid)
    if not ended:
        os.kill(int(pid), signal.SIGKILL)
        raise MountError(f"the daemon was not ready after {_START_TIMEOUT:.0f} s")
    words.seek(0)
    lines = words.read().decode("utf-8", "replace").splitlines()
    said = "; ".join(line.strip() for line in lines if line.strip())
    raise MountError(said or "the daemon ended without a word")


def _check_use(point: str) -> None:
    """Does the mount answer?"""
    try:
        bounded(lambda: os.stat(os.path.join(point, NODE_DIR)), _ANSWER_TIMEOUT)
    except OSError as error:
        raise MountError(f"the new mount does not answer: {error.strerror}") from None


# ---- the child -------------------------------------------------------------------------------


def _fork_daemon(point: str, options: MountOptions, told: int, words: int, log: int | None) -> None:
    """Run the daemon in a grandchild, which belongs to no terminal and is nobody's child."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    status = 1
    try:
        os.setsid()
        status = 0 if os.fork() else _daemon(point, options, told, words, log)
    finally:
        # Never back into the caller's code, nor into finalizers that are the caller's.
        os._exit(status)


def _daemon(point: str, options: MountOptions, told: int, words: int, log: int | None) -> int:
    """The daemon's life; returns its exit status."""
    os.write(told, b"%d\n" % os.getpid())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null if log is None else log, 1)
    os.dup2(words, 2)  # for what libfuse and fusermount have to say until the mount is there
    _close_all_but({0, 1, 2, told})
    os.chdir("/")
    _log_to(os.fdopen(os.dup(1), "w"))

    def on_ready() -> None:
        os.dup2(1, 2)
        os.write(told, _READY)
        os.close(told)

    try:
        return 1 if serve(point, options, on_ready) else 0
    except Exception as error:
        # Whatever it is, the parent has to be told.
        os.write(2, (str(error) or repr(error)).encode())
        unexpected = not isinstance(error, MountError)
        logging.getLogger("xedev").error("the daemon ends: %s", error, exc_info=unexpected)
        return 1
    finally:
        logging.shutdown()


def _close_all_but(keep: set[int]) -> None:
    """Close what the shell or the caller left open, lest it stays open as long as the mount."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) in keep:
            continue
        try:
            os.close(int(name))
        except OSError:
            continue  # the descriptor of the listing itself


def _log_to(stream: IO[str]) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    logging.getLogger("xedev").addHandler(handler)
