"""Open files of the debug directory: snapshots, control files and the stream of events."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable

from xedev.drm.drm_device import DebugfsFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, POLLRDNORM, File
from xedev.kernel.trace import Tracepoints
from xedev.node.poll_waiter import PollWaiter

__all__ = ("CONTROL_MAX", "TRACE_LIMIT", "ControlFile", "TraceFile")

CONTROL_MAX = 4095
"""Longest command for a control file, in bytes."""

TRACE_LIMIT = 65536
"""Events that wait for a reader; of more it is only told how many there were."""

_ACCESS_MODE = 0o3
_WRITE_ONLY = 0o1


class ControlFile(File):
    """One open of a debug file.

    What it shows is taken at open, so that a reader in several steps sees one moment.  A write
    runs a command; what is read afterwards through the same open is the command's answer.
    """

    seekable = True

    def __init__(self, file: DebugfsFile, flags: int) -> None:
        self._write = file.write
        self._origin = 0  # file position at which the text begins
        self._text = b""
        if file.read is not None and flags & _ACCESS_MODE != _WRITE_ONLY:
            self._text = file.read().encode()
        self._end = file.open() if file.open is not None else None

    @property
    def size(self) -> int:
        """0, as debugfs says whatever there is to read."""
        return 0

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """There are none."""
        return -errno.ENOTTY

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """The snapshot, or after a write the answer."""
        if offset < self._origin:
            self._origin = 0  # the reader went back to the beginning of the file
        start = offset - self._origin
        return self._text[start : start + size]

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """Run one command: ``EINVAL`` when it is too long, not text, or of no meaning."""
        if self._write is None:
            raise KernelError(errno.EINVAL, "this file takes no commands")
        if len(data) > CONTROL_MAX:
            raise KernelError(errno.EINVAL, f"a command has at most {CONTROL_MAX} bytes")
        try:
            # To the driver a command is a string of C.
            command = bytes(data).partition(b"\0")[0].decode().strip()
        except UnicodeDecodeError:
            raise KernelError(errno.EINVAL, "a command is UTF-8 text") from None
        self._text = self._write(command, caller).encode()
        # The kernel moves the position of the open file past what was written.
        self._origin = offset + len(data)
        return len(data)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Always ready."""
        return POLLIN | POLLRDNORM | POLLOUT

    def release(self) -> None:
        """What the open file stood for ends."""
        if self._end is not None:
            self._end()


class TraceFile(File):
    """One listener to the device's events: a stream of JSON objects, one per line."""

    def __init__(self, trace: Tracepoints, limit: int = TRACE_LIMIT) -> None:
        self._subscription = trace.subscribe(limit)
        self._waiter = PollWaiter()
        self._subscription.on_event = self._waiter.wake
        self._lock = threading.Lock()
        self._lines = bytearray()

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """There are none."""
        return -errno.ENOTTY

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """The next bytes of the stream; waits for an event (``EAGAIN``, ``EINTR``)."""
        while not (data := self._take(size)):
            if nonblock and not self._subscription.pending():
                raise KernelError(errno.EAGAIN, "no event waits")
            events = self._subscription.get(caller)
            with self._lock:
                self._lines += b"".join(json.dumps(event).encode() + b"\n" for event in events)
        return data

    def _take(self, size: int) -> bytes:
        with self._lock:
            data = bytes(self._lines[:size])
            del self._lines[:size]
        return data

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable while events wait."""
        self._waiter.replace(waiter)
        ready = self._lines or self._subscription.pending()
        return POLLIN | POLLRDNORM if ready else 0

    def release(self) -> None:
        """Stop listening."""
        self._subscription.close()
