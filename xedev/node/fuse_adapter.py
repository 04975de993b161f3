"""A `Filesystem` as a FUSE mount, through fusepy on libfuse2 or mfusepy on libfuse3.

This module and its siblings ``fuse_*`` are the only ones that know either binding.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from xedev.kernel import wait
from xedev.kernel.files import File
from xedev.node.fd_lookup import FdLookup
from xedev.node.fuse_answers import Answers
from xedev.node.fuse_binding import (
    BackendError,
    BackendName,
    Binding,
    load_binding,
    make_session,
)
from xedev.node.fuse_callbacks import Callbacks
from xedev.node.fuse_open_files import OpenFiles
from xedev.node.mounts import abort_connection, canonical, find_mount, fusermount, unmount_lazily
from xedev.node.vfs import Filesystem

__all__ = ("BackendError", "BackendName", "FuseAdapter", "MountError", "load_binding")

logger = logging.getLogger("xedev")

MOUNT_NAME = "xe-mock"
"""``fsname`` and ``subtype``, as mount(8) and /proc/mounts show them."""

_INTERRUPT = signal.SIGUSR1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_POKE = 0  # no signal has this number
_MAX_THREADS = 512  # of libfuse3, which has too few by default; each sleeping request takes one
_MAX_IDLE_THREADS = 10
_JOIN_INTERVAL = 0.02  # seconds
_PATIENCE = 5.0  # seconds for handlers to end when the mount does


class MountError(Exception):
    """The mount could not be made, or ended by itself.  The text says why."""


class FuseAdapter:
    """One mount and the loop that serves it.

    libfuse runs in a thread of its own; the main thread sleeps until a signal arrives.  When a
    client that waits inside of a request gets a signal, the kernel says so to libfuse, which
    (option ``intr``) signals the thread that works on the request.  That reaches the main thread
    through the wake-up pipe of `signal`, and it wakes all sleepers to look whether it was theirs.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        mountpoint: str,
        *,
        backend: BackendName | None = None,
        allow_other: bool = False,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Prepare; nothing is mounted yet.  Raises `BackendError` when no libfuse is usable.

        ``allow_other`` lets users other than the mounting one in.  ``on_ready`` is called in the
        main thread once the mount answers.
        """
        self.binding: Binding = load_binding(backend)
        self.mountpoint = canonical(mountpoint)
        self._allow_other = allow_other
        self._on_ready = on_ready
        self._opens = OpenFiles()
        self._lookup = FdLookup(self._opens.by_inode)
        self._answers = Answers(self.exit)
        self._callbacks = Callbacks(
            self.binding,
            filesystem,
            self._opens,
            self._answers,
            self._lookup.fget,
            on_init=self._greeted,
            on_destroy=self._dismissed,
        )
        self._lock = threading.Lock()  # of the next three
        self._wake_writer = -1
        self._fuse = 0  # struct fuse *
        self._device_fd = -1  # of /dev/fuse
        self._wake_reader = -1
        self._stopping = False
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)

    @property
    def errors(self) -> int:
        """How many bugs were logged."""
        return self._answers.errors

    @property
    def open_files(self) -> tuple[File, ...]:
        """The files that clients have open."""
        return tuple(self._opens.files.copy().values())

    def exit(self) -> None:
        """Make `run` end.  From any thread; without effect when it does not run."""
        self._stopping = True
        self._poke()

    def run(self) -> None:
        """Mount and serve until somebody unmounts, `exit` is called, or SIGTERM, SIGINT or SIGHUP
        arrives.  Only once, and only in the main thread.  Raises `MountError`.
        """
        with self._wake_pipe(), self._signals():
            self._thread.start()
            try:
                self._watch()
            finally:
                self._stop()
        self._callbacks.threads.wait_until_none(_PATIENCE)
        self._answers.errors += self._opens.release_all()
        if self._failure is not None:
            raise MountError(self._explain()) from self._failure

    # ---- the main thread ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _wake_pipe(self) -> Iterator[None]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)  # a signal handler writes there
        self._wake_reader, self._wake_writer = reader, writer
        try:
            yield
        finally:
            with self._lock:
                self._wake_writer = -1
            os.close(reader)
            os.close(writer)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Let signals arrive in the wake-up pipe.

        Their handlers must be there before libfuse starts: it leaves alone what is not at its
        default.
        """
        taken = [_INTERRUPT]
        taken += [number for number in _STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = [(number, signal.signal(number, _ignore)) for number in taken]
        before_fd = signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before:
                signal.signal(number, handler)

    def _watch(self) -> None:
        """Sleep until the mount ends or is to be ended."""
        ready = False
        with open("/proc/self/mountinfo", "rb") as mounts:
            poll = select.poll()
            poll.register(self._wake_reader, select.POLLIN)
            poll.register(mounts, select.POLLPRI)  # the list has changed
            while not self._ended and not self._stopping:
                changed = dict(poll.poll())
                if self._wake_reader in changed:
                    self._take_signals()
                if mounts.fileno() in changed and self._is_cut_off():
                    self._stopping = True
                if self._device_fd >= 0 and not ready and not self._stopping and not self._ended:
                    ready = True
                    self._announce()

    def _take_signals(self) -> None:
        numbers = os.read(self._wake_reader, 512)
        if _INTERRUPT in numbers:
            wait.wake_all_sleepers()
        if any(number in numbers for number in _STOP_SIGNALS):
            self._stopping = True

    def _is_cut_off(self) -> bool:
        """Whether the kernel sends no more requests.

        libfuse's loop ends then, but not before requests that sleep do.  It is not told when an
        administrator aborts the connection, only when the dead mount is taken away after that.
        """
        if self._device_fd < 0:
            return False
        poll = select.poll()
        poll.register(self._device_fd, 0)
        return bool(poll.poll(0))

    def _announce(self) -> None:
        mount = find_mount(self.mountpoint)
        self._lookup.device = mount.device if mount else None
        if self._on_ready is not None:
            self._on_ready()

    def _poke(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full of wake-ups
            if self._wake_writer >= 0:
                os.write(self._wake_writer, bytes([_POKE]))

    def _stop(self) -> None:
        """End all sleeps, then libfuse's loop, which unmounts."""
        self._stopping = True
        wait.shut_down()
        for _ in range(int(_PATIENCE / _JOIN_INTERVAL)):
            with self._lock:
                if self._fuse:
                    self.binding.calls.exit(self._fuse)
            self._kick()
            self._thread.join(_JOIN_INTERVAL)
            if not self._thread.is_alive():
                return
        self._abandon()

    def _kick(self) -> None:
        """Interrupt the semaphore on which libfuse's loop sleeps."""
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, _INTERRUPT)

    def _abandon(self) -> None:
        """Some handler does not end.  Free the clients all the same."""
        logger.error("bug: requests still run %s s after the end of the mount", _PATIENCE)
        self._answers.errors += 1
        mount = find_mount(self.mountpoint)
        if mount is not None:
            abort_connection(mount)
            unmount_lazily(self.mountpoint)

    # ---- libfuse's thread ---------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            session = make_session(self.binding, self._callbacks.table(), self._answers.guard)
            session(self.mountpoint, self._options())
        except BaseException as error:  # noqa: BLE001 -- raised by run, in the main thread
            if not self._stopping:
                self._failure = error
        finally:
            self._ended = True
            self._poke()

    def _options(self) -> dict[str, object]:
        options: dict[str, object] = {
            "foreground": True,
            "fsname": MOUNT_NAME,
            "subtype": MOUNT_NAME,
            "default_permissions": True,
            "allow_other": self._allow_other,
            # Names stay, attributes may change at any time: debug files grow.
            "entry_timeout": 1,
            "attr_timeout": 0,
        }
        if self.binding.major == 2:
            options |= {
                "use_ino": True,
                "intr": True,
                "intr_signal": int(_INTERRUPT),
                "big_writes": True,
                "max_readahead": 0,
            }
        elif self.binding.minor >= 12:  # before, libfuse3 had no limit
            options |= {"max_threads": _MAX_THREADS, "max_idle_threads": _MAX_IDLE_THREADS}
        return options

    def _greeted(self, fuse: int, connection: int, config: int) -> None:
        """``init``: libfuse3 has some options only here."""
        if self.binding.major == 3:
            self.binding.configure(connection, config, int(_INTERRUPT))
        with self._lock:
            self._fuse = fuse
            self._device_fd = self.binding.calls.device_fd(fuse)
        self._poke()

    def _dismissed(self) -> None:
        """``destroy``: libfuse is about to free ``struct fuse``."""
        with self._lock:
            self._fuse = 0

    def _explain(self) -> str:
        if self._device_fd >= 0:
            return f"the mount at {self.mountpoint} ended by itself: libfuse says {self._failure}"
        why = _why_not(self.mountpoint, self._allow_other) or f"libfuse says {self._failure}"
        return f"cannot mount at {self.mountpoint}: {why}"


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """The wake-up pipe has the signal already."""


def _why_not(mountpoint: str, allow_other: bool) -> str:
    """The likely cause of a mount that failed; libfuse itself only prints it."""
    if not os.path.isdir(mountpoint):
        return "there is no such directory"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse (modprobe fuse; a container must be given the device)"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse may not be opened (its mode should be 0666)"
    if os.geteuid() == 0:
        return ""
    if fusermount() is None:
        return "there is no fusermount3 (apt install fuse3)"
    if not os.access(mountpoint, os.W_OK):
        return "the directory belongs to somebody else"
    if allow_other and not _may_allow_other():
        return "other users may only be let in if /etc/fuse.conf has the line user_allow_other"
    return ""


def _may_allow_other() -> bool:
    try:
        with open("/etc/fuse.conf") as config:
            return "user_allow_other" in (line.strip() for line in config)
    except OSError:
        return False
