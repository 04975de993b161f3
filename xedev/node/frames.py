"""The server's side of the write/read protocol: ioctls that come as frames (docs/protocol.md).

A client whose memory the daemon may not touch writes requests that bring the memory along, and
reads replies.  Both directions are byte streams; ioctl(2) on the same descriptor works as ever.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from ctypes import memmove, string_at

from uapi.ioctl import IOC_DIR, IOC_NONE, IOC_READ, IOC_SIZE, IOC_SIZE_MAX, IOC_WRITE
from uapi.xe_mock import (
    XE_MOCK_ARG_MAX,
    XE_MOCK_FRAME_MAX,
    XE_MOCK_REPLY_MAGIC,
    XE_MOCK_REQUEST_MAGIC,
    XE_MOCK_WINDOW_IN,
    XE_MOCK_WINDOW_OUT,
    FrameError,
    Request,
    Window,
    pack_reply,
    peek_length,
    unpack_request,
    xe_mock_reply,
    xe_mock_request,
)
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError, report_bug
from xedev.kernel.files import POLLIN, POLLOUT, POLLRDNORM, File
from xedev.kernel.user_memory import UserMemory, check_range
from xedev.kernel.wait import WaitQueue
from xedev.node.poll_waiter import PollWaiter

__all__ = (
    "BACKLOG_BYTES",
    "BACKLOG_REPLIES",
    "WAITING_REQUESTS",
    "FrameCaller",
    "FrameFile",
    "WindowMemory",
)

BACKLOG_REPLIES = 256
"""Replies that may wait to be read; with so many waiting a write takes no further request."""
BACKLOG_BYTES = XE_MOCK_FRAME_MAX
"""Bytes of waiting replies, with the same effect.  One reply may exceed it."""
WAITING_REQUESTS = 256
"""Requests of one stream that may sleep; a further one answers ``ENOMEM``."""

_REQUEST_SIZE = ctypes.sizeof(xe_mock_request)
_REPLY_SIZE = ctypes.sizeof(xe_mock_reply)
_HEAD = struct.Struct("<IIQ")  # magic, length, cookie: how every request begins


class _Stretch:
    """A window while its request runs: the memory from ``start`` up to ``end``."""

    __slots__ = ("data", "end", "flags", "start")

    def __init__(self, window: Window) -> None:
        self.start = window.address
        self.end = window.address + window.length
        self.flags = window.flags
        self.data = bytearray(window.data or window.length)


class WindowMemory(UserMemory):
    """The client's memory as far as a request brought it.

    Reads need IN windows and writes OUT windows, adjacent ones count as one; everything else is
    ``EFAULT``, as an unmapped page is.  Bytes that two windows share are the same bytes.
    """

    __slots__ = ("_stretches",)

    def __init__(self, windows: Iterable[Window]) -> None:
        self._stretches = [_Stretch(window) for window in windows]

    def read(self, address: int, length: int) -> bytes:
        """Copy from IN windows."""
        return b"".join(
            stretch.data[start - stretch.start : end - stretch.start]
            for stretch, start, end in self._covering(address, length, XE_MOCK_WINDOW_IN)
        )

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy to OUT windows, all of it or nothing."""
        list(self._covering(address, len(data), XE_MOCK_WINDOW_OUT))
        for stretch in self._stretches:
            start = max(address, stretch.start)
            end = min(address + len(data), stretch.end)
            if start < end:
                part = data[start - address : end - address]
                stretch.data[start - stretch.start : end - stretch.start] = part

    def _covering(
        self, address: int, length: int, flag: int
    ) -> Iterator[tuple[_Stretch, int, int]]:
        """Windows that together hold a range, each with its part; ``EFAULT`` at a gap."""
        if not length:
            return
        check_range(address, length)
        end = address + length
        while address < end:
            stretch = self._at(address, flag)
            upto = min(end, stretch.end)
            yield stretch, address, upto
            address = upto

    def _at(self, address: int, flag: int) -> _Stretch:
        for stretch in self._stretches:
            if stretch.flags & flag and stretch.start <= address < stretch.end:
                return stretch
        kind = "an OUT" if flag == XE_MOCK_WINDOW_OUT else "an IN"
        raise KernelError(errno.EFAULT, f"{address:#x} is not within {kind} window of the frame")

    def results(self) -> tuple[Window, ...]:
        """The OUT windows with what they hold now."""
        return tuple(
            Window(s.start, s.end - s.start, XE_MOCK_WINDOW_OUT, bytes(s.data))
            for s in self._stretches
            if s.flags & XE_MOCK_WINDOW_OUT
        )


_NO_MEMORY = WindowMemory(())


class FrameCaller(Caller):
    """The process that wrote a frame, with the frame's windows for its memory."""

    __slots__ = ("_memory", "_writer")

    may_defer = True

    def __init__(self, writer: Caller, memory: WindowMemory) -> None:
        self._writer = writer
        self._memory = memory
        self.reason = ""

    @property
    def tid(self) -> int:
        """The writing thread's id."""
        return self._writer.tid

    @property
    def tgid(self) -> int:
        """The writing process's id."""
        return self._writer.tgid

    @property
    def uid(self) -> int:
        """The writer's effective user id."""
        return self._writer.uid

    @property
    def gid(self) -> int:
        """The writer's effective group id."""
        return self._writer.gid

    @property
    def comm(self) -> str:
        """The writing thread's name."""
        return self._writer.comm

    @property
    def memory(self) -> UserMemory:
        """The windows."""
        return self._memory

    def mm(self) -> UserMemory:
        """The writer's real memory: the frame is answered by then.  It may be out of reach."""
        return self._writer.mm()

    def capable(self, cap: int) -> bool:
        """The writer's capabilities, at the time of the write."""
        return self._writer.capable(cap)

    def fget(self, fd: int) -> File | None:
        """The writer's descriptors."""
        return self._writer.fget(fd)

    def dup_fd(self, fd: int) -> int:
        """The writer's descriptors."""
        return self._writer.dup_fd(fd)

    def sees_our_proc(self) -> bool:
        """Whether the writer does."""
        return self._writer.sees_our_proc()

    def interrupted(self) -> bool:
        """A signal arrived during the write."""
        return self._writer.interrupted()


class _Backlog:
    """Replies that wait to be read, as one stream of bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: deque[bytes] = deque()
        self._taken = 0  # bytes of the first reply that were read already
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._replies)

    def has_room(self) -> bool:
        """Whether another request may run."""
        return len(self._replies) < BACKLOG_REPLIES and self._bytes < BACKLOG_BYTES

    def put(self, reply: bytes) -> None:
        with self._lock:
            self._replies.append(reply)
            self._bytes += len(reply)

    def take(self, size: int) -> bytes:
        """Up to ``size`` bytes; none when no reply waits."""
        parts: list[bytes] = []
        with self._lock:
            if len(self._replies) == 1 and not self._taken and len(self._replies[0]) <= size:
                self._bytes = 0
                return self._replies.popleft()
            while size and self._replies:
                part = self._replies[0][self._taken : self._taken + size]
                parts.append(part)
                size -= len(part)
                self._bytes -= len(part)
                self._taken += len(part)
                if self._taken == len(self._replies[0]):
                    self._replies.popleft()
                    self._taken = 0
        return b"".join(parts)


class _Sleeper(FrameCaller):
    """Who waits for a late answer: a thread of ours, until the stream ends."""

    __slots__ = ("_has_ended",)

    def __init__(self, framed: FrameCaller, has_ended: Callable[[], bool]) -> None:
        super().__init__(framed, _NO_MEMORY)
        self._has_ended = has_ended

    def interrupted(self) -> bool:
        """Nobody will read the reply."""
        return self._has_ended()


class FrameFile(File):
    """A DRM file of the node that speaks frames.

    Requests run one after the other inside write(2), as the writing process.  write(2) never waits,
    not for room and not for what an ioctl waits for, because the kernel lets only one write(2) at a
    time into a node: a sleeper there would stop all others, whoever they are.  So a request with a
    late answer gets a thread, and its reply comes when it comes.
    """

    def __init__(self, file: File) -> None:
        self.file = file
        self._feeding = threading.Lock()
        self._partial = bytearray()
        self._backlog = _Backlog()
        self._readable = WaitQueue()
        self._counting = threading.Lock()
        self._readers = 0  # threads that are about to sleep for a reply, or do
        self._waiter = PollWaiter()
        self._late: set[Deferred[int]] = set()
        self._has_ended = False
        # For the short way, in use by one request at a time.
        self._scratch = ctypes.create_string_buffer(XE_MOCK_ARG_MAX)
        self._argument = ctypes.addressof(self._scratch)
        self._reply = xe_mock_reply(magic=XE_MOCK_REPLY_MAGIC)

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """ioctl(2), as on any other node."""
        return self.file.ioctl(cmd, data, caller)

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """Take requests, whole or in pieces, and run those that are complete.

        Fewer bytes are taken, or none (``EAGAIN``), when too many replies wait to be read.
        """
        with self._feeding:
            if self._run_short(data, caller):
                return len(data)
            view = memoryview(data)
            at = 0
            while at < len(view):
                taken = self._feed(view[at:], caller)
                if not taken:
                    break
                at += taken
        if at == 0 and data:
            raise KernelError(errno.EAGAIN, "too many replies wait to be read")
        return at

    def _run_short(self, data: bytes, caller: Caller) -> bool:
        """The common case, for speed: one whole request without windows, and without a fault.

        True when it was that.  What it does is the same as `_run`, with fewer objects made.
        """
        if self._partial or len(data) < _REQUEST_SIZE:
            return False
        head = xe_mock_request.from_buffer_copy(data)
        cmd, size = head.cmd, head.arg_length
        if (
            head.magic != XE_MOCK_REQUEST_MAGIC
            or head.length != len(data)
            or len(data) != _REQUEST_SIZE + size
            or not cmd >> 30 & IOC_WRITE
            or size != cmd >> 16 & IOC_SIZE_MAX
            or size & 7
            or head.num_windows
            or head.flags
            or not self._backlog.has_room()
        ):
            return False
        memmove(self._argument, data[_REQUEST_SIZE:], size)
        framed = FrameCaller(caller, _NO_MEMORY)
        result = self._call(cmd, self._argument, framed)
        if isinstance(result, Deferred):
            # It goes on using the argument.
            used, self._scratch = self._scratch, ctypes.create_string_buffer(XE_MOCK_ARG_MAX)
            self._argument = ctypes.addressof(self._scratch)
            request = Request(head.cookie, cmd, data[_REQUEST_SIZE:])
            self._reply_later(result, request, used, framed, _NO_MEMORY)
            return True
        back = string_at(self._argument, size) if cmd >> 30 & IOC_READ else b""
        if result < 0:
            self._answer(pack_reply(head.cookie, result, back, (), framed.reason))
            return True
        reply = self._reply
        reply.length = _REPLY_SIZE + len(back)
        reply.cookie = head.cookie
        reply.result = result
        reply.arg_length = len(back)
        self._answer(bytes(reply) + back)
        return True

    def _call(self, cmd: int, address: int, framed: FrameCaller) -> int | Deferred[int]:
        try:
            return self.file.ioctl_deferred(cmd, address, framed)
        except Exception:  # noqa: BLE001 - logged as the bug it is; the stream stays in step
            report_bug("a framed ioctl")
            return -errno.EIO

    def _feed(self, view: memoryview, caller: Caller) -> int:
        """Go on with the current frame; how many bytes were used (0: no room for its reply)."""
        partial = self._partial
        head = bytes(partial[: _HEAD.size]) + bytes(view[: _HEAD.size])
        try:
            length = peek_length(head)
        except FrameError as error:
            if not self._backlog.has_room():
                return 0
            self._refuse(head, error)
            return len(view)
        if length is None or len(partial) + len(view) < length:
            partial += view
            return len(view)
        if not self._backlog.has_room():
            return 0
        used = length - len(partial)
        frame = b"".join((partial, view[:used]))
        partial.clear()
        return used if self._run(frame, caller) else len(view)

    def _run(self, frame: bytes, caller: Caller) -> bool:
        """Run one request and queue its reply; False when the frame makes no sense."""
        try:
            request = unpack_request(frame)
            argument = _argument_buffer(request)
        except FrameError as error:
            self._refuse(frame, error)
            return False
        memory = WindowMemory(request.windows)
        framed = FrameCaller(caller, memory)
        address = 0 if argument is None else ctypes.addressof(argument)
        result = self._call(request.cmd, address, framed)
        if isinstance(result, Deferred):
            self._reply_later(result, request, argument, framed, memory)
        else:
            self._reply_with(result, request, argument, framed, memory)
        return True

    def _reply_with(
        self,
        result: int,
        request: Request,
        argument: ctypes.Array[ctypes.c_char] | None,
        framed: FrameCaller,
        memory: WindowMemory,
    ) -> None:
        has_back = argument is not None and IOC_DIR(request.cmd) & IOC_READ
        back = argument.raw[: len(request.arg)] if argument is not None and has_back else b""
        reason = framed.reason if result < 0 else ""
        self._answer(pack_reply(request.cookie, result, back, memory.results(), reason))

    def _reply_later(
        self,
        late: Deferred[int],
        request: Request,
        argument: ctypes.Array[ctypes.c_char] | None,
        framed: FrameCaller,
        memory: WindowMemory,
    ) -> None:
        def run() -> None:
            try:
                result = late.wait(_Sleeper(framed, lambda: self._has_ended))
            except KernelError as error:
                framed.reason = error.reason
                result = -(error.errno or errno.EIO)
            except Exception:  # noqa: BLE001 - logged as the bug it is
                report_bug("a framed ioctl that waited")
                result = -errno.EIO
            self._late.discard(late)
            self._reply_with(result, request, argument, framed, memory)

        try:
            if len(self._late) >= WAITING_REQUESTS:
                raise RuntimeError(f"{WAITING_REQUESTS} requests of this stream wait already")
            # Here, so that the next request finds it counted.
            self._late.add(late)
            threading.Thread(target=run, name="late frame", daemon=True).start()
        except RuntimeError as error:  # of the thread: there can be no more of them
            self._late.discard(late)
            late.abandon()
            framed.reason = str(error)
            self._reply_with(-errno.ENOMEM, request, argument, framed, memory)

    def _refuse(self, frame: bytes, error: FrameError) -> None:
        """Answer what is no request: ``EBADMSG``, and the stream begins anew."""
        self._partial.clear()
        self._answer(pack_reply(_cookie(frame), -errno.EBADMSG, b"", (), str(error)))

    def _answer(self, reply: bytes) -> None:
        self._backlog.put(reply)
        # A reader counts itself before it looks for replies, so that none is missed here.
        if self._readers:
            self._readable.wake_up()
        self._waiter.wake()

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """The next bytes of the replies; waits for the first (``EAGAIN``, ``EINTR``)."""
        while not (data := self._backlog.take(size)):
            if nonblock:
                raise KernelError(errno.EAGAIN, "no reply waits")
            self._sleep(caller)
        self._waiter.wake()
        return data

    def _sleep(self, caller: Caller) -> None:
        with self._counting:
            self._readers += 1
        try:
            self._readable.wait_event(self._backlog.__bool__, caller)
        finally:
            with self._counting:
                self._readers -= 1

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable while replies wait, writable while there is room for more."""
        self._waiter.replace(waiter)
        mask = POLLIN | POLLRDNORM if self._backlog else 0
        return mask | POLLOUT if self._backlog.has_room() else mask

    def release(self) -> None:
        """The last descriptor went: the DRM file ends, unread replies and waits with it."""
        self._has_ended = True
        for late in self._late.copy():
            late.queue.wake_up()
        self.file.release()


def _argument_buffer(request: Request) -> ctypes.Array[ctypes.c_char] | None:
    """The ioctl's argument as the kernel would hold it; None without one, or for a bad pointer.

    FrameError when the bytes brought are not as many as the ioctl number says.
    """
    direction = IOC_DIR(request.cmd)
    size = IOC_SIZE(request.cmd) if direction != IOC_NONE else 0
    if len(request.arg) not in (0, size):
        raise FrameError(f"argument of {len(request.arg)} bytes, where the ioctl takes {size}")
    if not request.arg:
        return None
    if direction == IOC_READ:
        return ctypes.create_string_buffer(size)
    return ctypes.create_string_buffer(request.arg, size)


def _cookie(frame: bytes) -> int:
    """The cookie of a request that may be broken; 0 when there is none to be read."""
    if len(frame) < _HEAD.size:
        return 0
    magic, _, cookie = _HEAD.unpack_from(frame)
    return int(cookie) if magic == XE_MOCK_REQUEST_MAGIC else 0
