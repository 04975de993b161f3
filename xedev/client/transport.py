"""Ways to bring an ioctl to the driver: ioctl(2) itself, or frames over write(2) and read(2).

A third one, in-process, is handed in from `xedev.node`; all three look alike (`Transport`). Above
them nothing may depend on which one is used, so every piece of memory that an argument points to
is listed beside the argument as a `Buffer`: ioctl(2) does not need the list, a frame consists of
it.
"""

from __future__ import annotations

import ctypes
import errno as _errno
import itertools
import os
import select
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from uapi.ioctl import IOC_DIR, IOC_NONE, IOC_READ, IOC_SIZE
from uapi.registry import lookup
from uapi.xe_mock import (
    XE_MOCK_FD_DIR,
    XE_MOCK_FRAME_MAX,
    XE_MOCK_REPLY_MAGIC,
    XE_MOCK_WINDOW_IN,
    XE_MOCK_WINDOW_OUT,
    FrameError,
    Reply,
    Window,
    pack_request,
    peek_length,
    sw_sync_paths,
    token_path,
    unpack_reply,
)
from xedev.client import libc

__all__ = (
    "IN",
    "OUT",
    "Buffer",
    "FrameTransport",
    "IoctlError",
    "IoctlTransport",
    "Transport",
)

#: The driver reads the buffer.
IN = XE_MOCK_WINDOW_IN
#: The driver writes the buffer.
OUT = XE_MOCK_WINDOW_OUT

# libdrm's drmIoctl starts an ioctl over after these two, and programs rely on it.
_TRY_AGAIN = (_errno.EINTR, _errno.EAGAIN)

#: Bytes asked of read(2) when no more are known to come; a larger buffer costs time.
_READ_SIZE = 1 << 14


class IoctlError(OSError):
    """The driver refused an ioctl.

    ``errno`` and ``strerror`` are those of ioctl(2). ``reason`` says which check failed, as far
    as the transport brings it: ioctl(2) has no room for it (``xe-mock trace`` shows it then).
    """

    def __init__(self, error: int, cmd: int, reason: str = "") -> None:
        super().__init__(error, os.strerror(error))
        self.cmd = cmd
        self.reason = reason

    @property
    def name(self) -> str:
        """The ioctl's name, or its number in hex when it has none."""
        row = lookup(self.cmd)
        return row.name if row is not None else f"{self.cmd:#x}"

    def __str__(self) -> str:
        code = _errno.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.name}: {code}: {self.reason or self.strerror}"


class Buffer:
    """Memory of ours that an ioctl's argument points to.

    ``obj`` is the ctypes object that owns the memory, ``flags`` says who uses it: ``IN``, ``OUT``.
    """

    __slots__ = ("address", "flags", "obj", "size")

    def __init__(self, obj: Any, flags: int) -> None:
        self.obj = obj
        self.flags = flags
        #: Where it lies, as the argument's pointer field says it.
        self.address = ctypes.addressof(obj)
        #: Bytes.
        self.size = ctypes.sizeof(obj)

    @classmethod
    def at(cls, address: int, size: int) -> Buffer:
        """Input that is known by its address alone, and need not be there (EFAULT then)."""
        buffer = cls.__new__(cls)
        buffer.obj = None
        buffer.flags = IN
        buffer.address = address
        buffer.size = size
        return buffer

    def contents(self) -> bytes | None:
        """A copy of what it holds; None when there is no memory at its address."""
        if self.obj is None:
            return _copy_own_memory(self.address, self.size)
        return ctypes.string_at(self.address, self.size)

    def fill(self, data: bytes) -> None:
        """Replace the first ``len(data)`` bytes."""
        ctypes.memmove(self.address, data, min(len(data), self.size))


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_size_t), ("length", ctypes.c_size_t))


def _copy_own_memory(address: int, size: int) -> bytes | None:
    """Read our own memory as another process would: where there is none, nothing crashes."""
    copy = ctypes.create_string_buffer(size)
    to = _Iovec(ctypes.addressof(copy), size)
    source = _Iovec(address, size)
    read = ctypes.CDLL(None).process_vm_readv
    read.restype = ctypes.c_ssize_t
    args = (ctypes.byref(to), ctypes.c_ulong(1), ctypes.byref(source), ctypes.c_ulong(1))
    return copy.raw if read(os.getpid(), *args, ctypes.c_ulong(0)) == size else None


class Transport(Protocol):
    """An open DRM file of the device, wherever it is."""

    @property
    def name(self) -> str:
        """How ioctls travel: ``ioctl(2)``, ``write/read`` or ``in-process``."""

    @property
    def path(self) -> str:
        """Path of the node, or ``in-process``."""

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        """Run an ioctl; returns its value (>= 0) or raises OSError with its errno."""

    def open_fd(self, token: int, flags: int) -> int:
        """Turn a descriptor token into a descriptor. ``flags``: O_RDWR, O_CLOEXEC."""

    def open_sw_sync(self) -> int:
        """Open a timeline of ``sw_sync``; errors of open(2)."""

    def close_fd(self, fd: int) -> None:
        """Close what `open_fd` or `open_sw_sync` gave."""

    def fileno(self) -> int:
        """The descriptor of the DRM file."""

    def fd_ioctl(self, fd: int, cmd: int, arg: ctypes.Structure | None) -> int:
        """As `ioctl`, on another descriptor, such as a dma-buf's; ``arg`` holds no pointers."""

    def fd_size(self, fd: int) -> int:
        """What lseek(2) to the end of a dma-buf says, in bytes."""

    def hold_lease(self, token: int, fd: int) -> Callable[[], None]:
        """Keep the lease of a mapping of ``fd`` alive, without a descriptor; returns its end."""

    def close(self) -> None:
        """Close the DRM file."""


def _run_ioctl(fd: int, cmd: int, arg: ctypes.Structure | None) -> int:
    pointer = None if arg is None else ctypes.byref(arg)
    while True:
        result: int = libc.ioctl(fd, cmd, pointer)
        if result >= 0:
            return result
        error = ctypes.get_errno()
        if error not in _TRY_AGAIN:
            raise IoctlError(error, cmd)


class _Node:
    """An open device node of a mount."""

    def __init__(self, path: str | os.PathLike[str], flags: int = 0) -> None:
        self.path = os.fspath(path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags)

    def fileno(self) -> int:
        """The descriptor of the node."""
        return self._fd

    def open_fd(self, token: int, flags: int) -> int:
        """Open the file that stands for ``token`` beside the node.

        ENOENT: no such token, or it was opened before. EACCES: another process got it.
        """
        return self._open_token(token, self._fd, flags)

    def _open_token(self, token: int, fd: int, flags: int) -> int:
        """Open a token that an ioctl on ``fd`` gave, be that the node or a dma-buf."""
        # The link says where the node is now, whatever the working directory has become. It may
        # not help when the node alone was bind-mounted elsewhere; the path we opened may then.
        paths = {_token_path_beside(fd, token): None}
        paths[token_path(os.path.abspath(self.path), token)] = None
        access = flags & (os.O_ACCMODE | os.O_CLOEXEC)
        for path in paths:
            try:
                fd = os.open(path, access)
            except FileNotFoundError:
                continue
            # Python opens close-on-exec whatever it is told.
            os.set_inheritable(fd, not flags & os.O_CLOEXEC)
            return fd
        raise OSError(_errno.ENOENT, os.strerror(_errno.ENOENT), next(iter(paths)))

    def open_sw_sync(self) -> int:
        """Open ``sw_sync`` of the mount that the node is in, else the kernel's own, which is for
        root. ENOENT: there is none, EACCES."""
        mine, kernels = sw_sync_paths(os.readlink(f"/proc/self/fd/{self._fd}"))
        path = mine if os.path.exists(mine) else kernels
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close_fd(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def fd_ioctl(self, fd: int, cmd: int, arg: ctypes.Structure | None) -> int:
        """ioctl(2) on any descriptor; `IoctlError` with its errno."""
        return _run_ioctl(fd, cmd, arg)

    def fd_size(self, fd: int) -> int:
        """lseek(2) to the end, in bytes."""
        return os.lseek(fd, 0, os.SEEK_END)

    def hold_lease(self, token: int, fd: int) -> Callable[[], None]:
        """Open the lease beside ``fd`` and map it: its file lives as long as a mapping of it.

        Errors as of `open_fd`, and of mmap(2).
        """
        lease = self._open_token(token, fd, os.O_RDONLY | os.O_CLOEXEC)
        try:
            address = libc.map_lease(lease)
        finally:
            os.close(lease)
        return partial(libc.munmap, address, 1)

    def close(self) -> None:
        """Close the node; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _token_path_beside(fd: int, token: int) -> str:
    """Where to open a token that an ioctl on ``fd`` gave."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    directory = os.path.dirname(path)
    # A dma-buf was a token itself.
    if os.path.basename(directory) == XE_MOCK_FD_DIR:
        directory = os.path.dirname(directory)
    return token_path(os.path.join(directory, "node"), token)


class IoctlTransport(_Node):
    """ioctl(2) on an open node: real ``renderD*`` and ``card*`` nodes too.

    EINTR and EAGAIN start the ioctl over, as libdrm's drmIoctl does. A signal handler of Python
    runs in between; when it raises, as that of Ctrl-C does, the ioctl ends.
    """

    name = "ioctl(2)"

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        """Run an ioctl; `IoctlError` with its errno. ``buffers`` are found by their addresses."""
        return _run_ioctl(self._fd, cmd, arg)


class FrameTransport(_Node):
    """Frames on an ``xe-mock`` node (`uapi.xe_mock`), for when the mock cannot read our memory.

    Any number of threads may have an ioctl in flight. Replies may come in any order: whichever
    thread waits first reads for all, and hands each reply to the thread that its cookie names.
    Nobody sleeps in read(2), which would keep others from writing to the same open file; the
    descriptor is non-blocking and the sleep is in poll(2).

    A forked child shares the stream with its parent, so that each would read the other's replies:
    it has to open the node again.
    """

    name = "write/read"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, os.O_NONBLOCK)
        self._pid = os.getpid()
        self._cookies = itertools.count(1)
        self._sending = threading.Lock()
        # Guards the three below; notified when a reply was delivered or the reader left.
        self._changed = threading.Condition()
        self._pending: dict[int, Reply | None] = {}
        self._someone_reads = False
        self._broken: str | None = None
        # Only the reader touches these two: what arrived, and what its last frame still lacks.
        self._received = bytearray()
        self._missing = 0

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        """Run an ioctl; `IoctlError` with its errno.

        EMSGSIZE: ``buffers`` do not fit into a frame. OSError EPROTO: the stream is out of step.
        """
        while True:
            reply = self._exchange(cmd, self._argument(cmd, arg), buffers)
            self._take_results(cmd, arg, buffers, reply)
            if reply.result >= 0:
                return reply.result
            if -reply.result not in _TRY_AGAIN:
                raise IoctlError(-reply.result, cmd, reply.reason)

    @staticmethod
    def _argument(cmd: int, arg: ctypes.Structure | None) -> bytes:
        """The bytes that ioctl(2) would copy in: their number is a part of ``cmd``."""
        if arg is None or IOC_DIR(cmd) == IOC_NONE:
            return b""
        return bytes(arg)[: IOC_SIZE(cmd)]

    @staticmethod
    def _take_results(
        cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer], reply: Reply
    ) -> None:
        """Write back what the driver changed; as with ioctl(2), after a failure too."""
        if arg is not None and IOC_DIR(cmd) & IOC_READ:
            Buffer(arg, OUT).fill(reply.arg)
        # A request that was refused as a frame comes back without windows.
        for buffer, window in zip(_out(buffers), reply.windows, strict=False):
            buffer.fill(window.data)

    def _exchange(self, cmd: int, argument: bytes, buffers: Sequence[Buffer]) -> Reply:
        if os.getpid() != self._pid:
            raise RuntimeError("a forked child must open the node again to use frames")
        cookie = next(self._cookies)
        try:
            frame = pack_request(cookie, cmd, argument, _windows(buffers))
        except FrameError as error:
            raise IoctlError(_errno.EMSGSIZE, cmd, str(error)) from error
        self._pending[cookie] = None
        try:
            self._send(frame)
            return self._wait_for(cookie)
        finally:
            # After an exception the late reply finds no taker and is dropped.
            self._pending.pop(cookie, None)

    def _send(self, frame: bytes) -> None:
        rest = memoryview(frame)
        with self._sending:
            self._check_unbroken()
            try:
                while rest:
                    rest = rest[self._write(rest) :]
            except BaseException:
                if len(rest) < len(frame) and rest:
                    self._broken = "a request was cut short"
                raise

    def _write(self, data: memoryview) -> int:
        """Write some of ``data``; 0 when there was no room and we slept until there may be."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            # The mock takes no more requests before some of its replies are gone.
            if not self._read_as_one(select.POLLIN | select.POLLOUT):
                self._sleep(select.POLLOUT)
            return 0

    def _wait_for(self, cookie: int) -> Reply:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending[cookie] or not self._someone_reads)
                reply = self._pending[cookie]
            if reply is not None:
                return reply
            self._check_unbroken()
            self._read_as_one(select.POLLIN)

    def _read_as_one(self, events: int) -> bool:
        """Become the reader, sleep until one of ``events``, deliver; False if there is a reader."""
        with self._changed:
            if self._someone_reads:
                return False
            self._someone_reads = True
        replies: list[Reply] = []
        try:
            self._receive(events, replies)
        except FrameError as error:
            self._broken = str(error)
            self._check_unbroken()
        finally:
            with self._changed:
                self._someone_reads = False
                for reply in replies:
                    self._deliver(reply)
                self._changed.notify_all()
        return True

    def _deliver(self, reply: Reply) -> None:
        if reply.cookie in self._pending:
            self._pending[reply.cookie] = reply
        elif reply.cookie == 0:
            # We never use cookie 0: the mock could not even read the head of a request.
            self._broken = reply.reason or os.strerror(-reply.result)

    def _receive(self, events: int, replies: list[Reply]) -> None:
        """Collect whole replies; often the answer is there before anybody has to sleep."""
        if not self._fill():
            ready = self._sleep(events)
            if ready & select.POLLOUT and not ready & select.POLLIN:
                return
            self._fill()
        while True:
            length = peek_length(self._received, XE_MOCK_REPLY_MAGIC)
            if length is None or length > len(self._received):
                self._missing = 0 if length is None else length - len(self._received)
                return
            replies.append(unpack_reply(self._received[:length]))
            del self._received[:length]

    def _fill(self) -> bool:
        """Append what can be read at once."""
        try:
            data = os.read(self._fd, max(_READ_SIZE, self._missing))
        except BlockingIOError:
            return False
        if not data:
            raise OSError(_errno.ECONNRESET, "the mock ended the stream")
        self._received += data
        return True

    def _sleep(self, events: int) -> int:
        """Sleep until one of ``events``, or trouble that the next read or write tells."""
        poller = select.poll()
        poller.register(self._fd, events)
        return poller.poll()[0][1]

    def _check_unbroken(self) -> None:
        if self._broken is not None:
            raise OSError(_errno.EPROTO, f"frames are out of step: {self._broken}")


def _out(buffers: Sequence[Buffer]) -> list[Buffer]:
    return [buffer for buffer in buffers if buffer.flags & OUT]


def _windows(buffers: Sequence[Buffer]) -> list[Window]:
    """The buffers as windows; input that is not there is left out, as the driver shall find."""
    windows: list[Window] = []
    for buffer in buffers:
        if buffer.size > XE_MOCK_FRAME_MAX:
            raise FrameError(f"{buffer.size} bytes of memory do not fit into a frame")
        # Output goes along too: OUT windows come back whole, and what the driver did not write
        # must be what it was.
        data = buffer.contents()
        if data is not None:
            windows.append(Window(buffer.address, buffer.size, buffer.flags | IN, data))
    return windows
