"""xe-mock's own contract: its private ioctls, and frames that carry ioctls over read and write.

Private ioctls
    Type letter ``x``, on a DRM descriptor of the mock. They ask for what a FUSE mount cannot pass
    on (mmap and page faults of a device file) or what no real driver tells (inner counters).

Tokens
    The mock cannot place a descriptor in its client, so ioctls that return one return a number
    from ``XE_MOCK_TOKEN_BASE`` on. Opening ``token_path()`` gives the descriptor.

Frames
    A client that cannot reach the mock by ioctl(2) writes a request and reads a reply. Both
    directions are byte streams, little-endian, and everything in a frame starts at a multiple
    of 8. Padding is not looked at; it is zero in the frames made here.

    ============  =========================================================================
    request       ``xe_mock_request``, argument, then per window ``xe_mock_window`` and, if
                  it is IN, its bytes
    reply         ``xe_mock_reply``, argument, then per OUT window of the request, in order,
                  ``xe_mock_window`` and its bytes, then the reason of a failure (UTF-8)
    ============  =========================================================================

    A window is a stretch of client memory that the argument points to: IN windows bring its
    contents, OUT windows may be written by the driver and come back. ``length`` counts the whole
    frame. The reply to the OUT windows must fit into a frame too.
"""

from __future__ import annotations

import struct as _struct
from collections.abc import Iterable, Sequence
from ctypes import c_char, c_uint64
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from uapi.base import Struct, c_array, layout, s32, u32, u64, x32, x64
from uapi.ioctl import IOC_SIZE_MAX, IOWR

__all__ = (
    "SW_SYNC_PATH",
    "XE_MOCK_ARG_MAX",
    "XE_MOCK_BO_DONTNEED",
    "XE_MOCK_BO_NOWHERE",
    "XE_MOCK_BO_PURGED",
    "XE_MOCK_BO_WILLNEED",
    "XE_MOCK_FDINFO_MAX",
    "XE_MOCK_FD_DIR",
    "XE_MOCK_FRAME_MAX",
    "XE_MOCK_IOCTL_BASE",
    "XE_MOCK_IOCTL_BO_INFO",
    "XE_MOCK_IOCTL_FAULT",
    "XE_MOCK_IOCTL_FDINFO",
    "XE_MOCK_IOCTL_IMPORT_FOREIGN",
    "XE_MOCK_IOCTL_MMAP",
    "XE_MOCK_IOCTL_MMU_NOTIFY",
    "XE_MOCK_PATH_MAX",
    "XE_MOCK_REPLY_MAGIC",
    "XE_MOCK_REQUEST_MAGIC",
    "XE_MOCK_TOKEN_BASE",
    "XE_MOCK_WINDOWS_MAX",
    "XE_MOCK_WINDOW_IN",
    "XE_MOCK_WINDOW_OUT",
    "FrameError",
    "Reply",
    "Request",
    "Window",
    "pack_reply",
    "pack_request",
    "peek_length",
    "sw_sync_paths",
    "token_path",
    "unpack_reply",
    "unpack_request",
    "xe_mock_bo_info",
    "xe_mock_fault",
    "xe_mock_fdinfo",
    "xe_mock_import_foreign",
    "xe_mock_mmap",
    "xe_mock_mmu_notify",
    "xe_mock_reply",
    "xe_mock_request",
    "xe_mock_window",
)

XE_MOCK_IOCTL_BASE = ord("x")

#: First number that stands for a descriptor the client has yet to open.
XE_MOCK_TOKEN_BASE = 0x40000000
#: Hidden directory beside the device nodes where tokens are opened.
XE_MOCK_FD_DIR = ".xe-mock-fd"
#: The kernel's ``sw_sync`` (below /sys/kernel) in the mount.
SW_SYNC_PATH = "debug/sync/sw_sync"

XE_MOCK_REQUEST_MAGIC = 0x714D6558  # "XeMq" in memory
XE_MOCK_REPLY_MAGIC = 0x724D6558  # "XeMr" in memory
#: Longest frame, bytes.
XE_MOCK_FRAME_MAX = 4 << 20
#: Most windows of a request.
XE_MOCK_WINDOWS_MAX = 1024
#: Longest ioctl argument, bytes: what an ioctl number can say.
XE_MOCK_ARG_MAX = IOC_SIZE_MAX

#: Room for a path in an argument, bytes, with the NUL at its end.
XE_MOCK_PATH_MAX = 512
#: Room for the text of an fdinfo file, bytes, with the NUL at its end.
XE_MOCK_FDINFO_MAX = 4072

XE_MOCK_WINDOW_IN = 1
XE_MOCK_WINDOW_OUT = 2

# xe_mock_bo_info.state
XE_MOCK_BO_WILLNEED = 0
XE_MOCK_BO_DONTNEED = 1
XE_MOCK_BO_PURGED = 2
# xe_mock_bo_info.placement of a BO that has no pages yet, or no more.
XE_MOCK_BO_NOWHERE = 0xFFFFFFFF


def token_path(node: str, token: int) -> str:
    """Path to open for a token that an ioctl on ``node`` (path of the device node) returned."""
    directory, slash, _ = node.rpartition("/")
    return f"{directory}{slash}{XE_MOCK_FD_DIR}/{token:08x}"


def sw_sync_paths(node: str) -> tuple[str, str]:
    """Where ``sw_sync`` may be for the device of ``node`` (path of the device node): in its mount,
    or the kernel's own."""
    directory = node.rpartition("/")[0]
    return f"{directory}/../../{SW_SYNC_PATH}", f"/sys/kernel/{SW_SYNC_PATH}"


# --- private ioctls ------------------------------------------------------------------------


@layout
class xe_mock_mmap(Struct):
    """MMAP: mmap(2) of this open file, a DRM node or a dma-buf: its errno, or what to map instead.

    The caller opens ``token``, which is the lease: the mapping lasts, for the driver, while this
    file is open or mapped. Then it opens ``path`` and maps that. See docs/protocol.md.
    """

    offset: x64  # in: fake offset; of a dma-buf the byte where the mapping begins
    length: x64  # in: bytes
    prot: x32  # in: PROT_*
    flags: x32  # in: MAP_*
    file_offset: x64  # out: byte of the file at ``path`` where the mapping begins
    ino: u64  # out: inode number of that file
    token: x32  # out: token of the lease
    pad: u32
    path: Annotated[bytes, c_char * XE_MOCK_PATH_MAX]  # out: file to map, NUL-terminated
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class xe_mock_fault(Struct):
    """FAULT: what happens when the CPU touches a mapping."""

    offset: x64  # in: fake offset of the byte touched
    write: u32  # in: 1 for a store, 0 for a load
    sigbus: u32  # out: 1 when it would raise SIGBUS
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class xe_mock_import_foreign(Struct):
    """IMPORT_FOREIGN: imports a dma-buf of the built-in test exporter as a foreign BO."""

    size: x64  # in: bytes
    handle: u32  # out: GEM handle
    flags: x32  # in: 0
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


@layout
class xe_mock_bo_info(Struct):
    """BO_INFO: the mock's inner numbers of a BO."""

    handle: u32  # in: GEM handle
    pad: u32
    id: u64  # out: number of the BO on its device
    size: x64  # out: bytes
    state: u32  # out: purgeable state
    vma_count: u32  # out: GPU mappings
    willneed_count: u32  # out: holders that keep it from being purged
    placement: x32  # out: instance of the region it is in, XE_MOCK_BO_NOWHERE without pages
    exported: u32  # out: 1 when a dma-buf of it is alive
    imported: u32  # out: 1 when it belongs to another exporter
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]

    _enums_ = {  # noqa: RUF012
        "state": {
            XE_MOCK_BO_WILLNEED: "XE_MOCK_BO_WILLNEED",
            XE_MOCK_BO_DONTNEED: "XE_MOCK_BO_DONTNEED",
            XE_MOCK_BO_PURGED: "XE_MOCK_BO_PURGED",
        }
    }


@layout
class xe_mock_fdinfo(Struct):
    """FDINFO: what /proc/self/fdinfo/N of a DRM file says on a real device, without what the kernel
    says of every file."""

    length: u32  # out: bytes of text
    pad: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]
    text: Annotated[bytes, c_char * XE_MOCK_FDINFO_MAX]  # out: lines, NUL-terminated


@layout
class xe_mock_mmu_notify(Struct):
    """MMU_NOTIFY: stands in for the kernel's MMU notifier. The caller is about to change what it
    has mapped, or has done so.

    Answered when no job uses user memory there any more; until the second call none begins.
    """

    address: x64  # in: first byte; a multiple of the page size
    length: x64  # in: bytes
    cookie: u64  # in: 0 before the change, after it what the first call gave; out: 0 for nothing
    flags: x32  # in: 0
    pad: u32
    reserved: Annotated[c_array[c_uint64], c_uint64 * 2]


XE_MOCK_IOCTL_MMAP = IOWR(XE_MOCK_IOCTL_BASE, 0x00, xe_mock_mmap)
XE_MOCK_IOCTL_FAULT = IOWR(XE_MOCK_IOCTL_BASE, 0x01, xe_mock_fault)
XE_MOCK_IOCTL_IMPORT_FOREIGN = IOWR(XE_MOCK_IOCTL_BASE, 0x02, xe_mock_import_foreign)
XE_MOCK_IOCTL_BO_INFO = IOWR(XE_MOCK_IOCTL_BASE, 0x03, xe_mock_bo_info)
XE_MOCK_IOCTL_FDINFO = IOWR(XE_MOCK_IOCTL_BASE, 0x04, xe_mock_fdinfo)
XE_MOCK_IOCTL_MMU_NOTIFY = IOWR(XE_MOCK_IOCTL_BASE, 0x05, xe_mock_mmu_notify)

# --- frames --------------------------------------------------------------------------------


@layout
class xe_mock_request(Struct):
    """Head of a request frame."""

    magic: x32
    length: u32  # bytes of the frame, this head included
    cookie: x64  # client's choice, returned in the reply
    cmd: x32  # ioctl number
    arg_length: u32  # bytes of argument
    num_windows: u32
    flags: x32  # 0


@layout
class xe_mock_reply(Struct):
    """Head of a reply frame."""

    magic: x32
    length: u32  # bytes of the frame, this head included
    cookie: x64  # of the request
    result: s32  # value of the ioctl, or -errno
    arg_length: u32  # bytes of argument
    num_windows: u32
    reason_length: u32  # bytes of UTF-8


@layout
class xe_mock_window(Struct):
    """Head of a window."""

    address: x64  # in the client
    length: u32  # bytes
    flags: u32

    _flags_ = {  # noqa: RUF012
        "flags": {
            XE_MOCK_WINDOW_IN: "XE_MOCK_WINDOW_IN",
            XE_MOCK_WINDOW_OUT: "XE_MOCK_WINDOW_OUT",
        }
    }


class FrameError(ValueError):
    """A frame, or what a frame is to be made of, breaks the rules; the text says which."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of client memory. ``data`` is there if the frame carries the contents."""

    address: int
    length: int
    flags: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Request:
    """A request, unpacked."""

    cookie: int
    cmd: int
    arg: bytes
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply, unpacked. ``result`` is the ioctl's value or -errno."""

    cookie: int
    result: int
    arg: bytes
    windows: tuple[Window, ...] = ()
    reason: str = ""


_Buffer: TypeAlias = bytes | bytearray | memoryview

# Same layouts as the mirrors above, little-endian on every machine.
_REQUEST = _struct.Struct("<IIQIIII")
_REPLY = _struct.Struct("<IIQiIII")
_WINDOW = _struct.Struct("<QII")
_PEEK = _struct.Struct("<II")
_ALIGN = 8

_MAGIC_NAMES = {XE_MOCK_REQUEST_MAGIC: "request", XE_MOCK_REPLY_MAGIC: "reply"}


def _padded(length: int) -> int:
    return -(-length // _ALIGN) * _ALIGN


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise FrameError(reason)


def _check_window(window: Window, *, reply: bool) -> None:
    """Rules that a window keeps in memory as well as in a frame; the data's length is not one."""
    if reply:
        _require(window.flags == XE_MOCK_WINDOW_OUT, f"window flags {window.flags:#x} in a reply")
    else:
        allowed = range(XE_MOCK_WINDOW_IN, (XE_MOCK_WINDOW_IN | XE_MOCK_WINDOW_OUT) + 1)
        _require(window.flags in allowed, f"window flags {window.flags:#x}")
    _require(0 <= window.length <= XE_MOCK_FRAME_MAX, f"window of {window.length} bytes")
    _require(
        window.address in range(1 << 64) and window.address + window.length <= 1 << 64,
        f"window at {window.address:#x} leaves the address space",
    )


def _carries_data(window: Window, *, reply: bool) -> bool:
    return reply or bool(window.flags & XE_MOCK_WINDOW_IN)


def _check_reply_room(arg_length: int, windows: Iterable[Window]) -> None:
    """The OUT windows of a request must fit into one reply."""
    room = _REPLY.size + _padded(arg_length)
    for window in windows:
        if window.flags & XE_MOCK_WINDOW_OUT:
            room += _WINDOW.size + _padded(window.length)
    _require(room <= XE_MOCK_FRAME_MAX, f"reply would take {room} bytes")


class _Writer:
    """Collects the parts of a frame, each padded."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.length = 0

    def put(self, data: bytes) -> None:
        padding = bytes(_padded(len(data)) - len(data))
        self.parts += (data, padding)
        self.length += len(data) + len(padding)

    def windows(self, windows: Sequence[Window], *, reply: bool) -> None:
        _require(len(windows) <= XE_MOCK_WINDOWS_MAX, f"{len(windows)} windows")
        for window in windows:
            _check_window(window, reply=reply)
            wanted = window.length if _carries_data(window, reply=reply) else 0
            _require(
                len(window.data) == wanted,
                f"window at {window.address:#x} brings {len(window.data)} bytes, not {wanted}",
            )
            self.put(_WINDOW.pack(window.address, window.length, window.flags))
            self.put(window.data)


class _Reader:
    """Takes the parts of a frame one by one."""

    def __init__(self, frame: _Buffer, magic: int, head: int) -> None:
        self.view = memoryview(frame).cast("B")
        self.at = head
        length = peek_length(self.view, magic)
        _require(length == len(self.view), f"{len(self.view)} bytes hold no frame of {length}")

    def take(self, length: int, what: str) -> bytes:
        end = self.at + _padded(length)
        _require(end <= len(self.view), f"{what} leaves the frame")
        data = bytes(self.view[self.at : self.at + length])
        self.at = end
        return data

    def argument(self, length: int) -> bytes:
        _require(length <= XE_MOCK_ARG_MAX, f"argument of {length} bytes")
        return self.take(length, "argument")

    def windows(self, count: int, *, reply: bool) -> tuple[Window, ...]:
        _require(count <= XE_MOCK_WINDOWS_MAX, f"{count} windows")
        found = []
        for index in range(count):
            window = Window(*_WINDOW.unpack(self.take(_WINDOW.size, f"window {index}")))
            _check_window(window, reply=reply)
            if _carries_data(window, reply=reply):
                data = self.take(window.length, f"data of window {index}")
                window = Window(window.address, window.length, window.flags, data)
            found.append(window)
        return tuple(found)

    def end(self) -> None:
        _require(self.at == len(self.view), f"{len(self.view) - self.at} bytes too many")


def peek_length(buf: _Buffer, magic: int = XE_MOCK_REQUEST_MAGIC) -> int | None:
    """Length of the frame that starts in ``buf``; None while fewer than 8 bytes are there.

    ``magic`` tells which kind of frame is due. Raises FrameError for a wrong magic or a length
    that no frame can have: the stream has lost step and must be closed.
    """
    if len(buf) < _PEEK.size:
        return None
    found, length = _PEEK.unpack_from(buf)
    _require(found == magic, f"magic {found:#x} where a {_MAGIC_NAMES[magic]} is due")
    fits = _REQUEST.size <= length <= XE_MOCK_FRAME_MAX and length % _ALIGN == 0
    _require(fits, f"frame of {length} bytes")
    return int(length)


def _check_number(value: int, bits: int, what: str) -> None:
    _require(0 <= value < 1 << bits, f"{what} {value:#x} does not fit into {bits} bits")


def pack_request(cookie: int, cmd: int, arg: bytes, windows: Sequence[Window] = ()) -> bytes:
    """Make a request frame. IN windows bring their data, others none."""
    _check_number(cookie, 64, "cookie")
    _check_number(cmd, 32, "cmd")
    _require(len(arg) <= XE_MOCK_ARG_MAX, f"argument of {len(arg)} bytes")
    body = _Writer()
    body.put(arg)
    body.windows(windows, reply=False)
    length = _REQUEST.size + body.length
    _require(length <= XE_MOCK_FRAME_MAX, f"frame of {length} bytes")
    _check_reply_room(len(arg), windows)
    head = _REQUEST.pack(XE_MOCK_REQUEST_MAGIC, length, cookie, cmd, len(arg), len(windows), 0)
    return b"".join((head, *body.parts))


def unpack_request(frame: _Buffer) -> Request:
    """Take a whole request frame apart; FrameError tells what is wrong with it."""
    reader = _Reader(_whole(frame, _REQUEST.size), XE_MOCK_REQUEST_MAGIC, _REQUEST.size)
    _, _, cookie, cmd, arg_length, num_windows, flags = _REQUEST.unpack_from(reader.view)
    _require(flags == 0, f"request flags {flags:#x}")
    arg = reader.argument(arg_length)
    windows = reader.windows(num_windows, reply=False)
    reader.end()
    _check_reply_room(arg_length, windows)
    return Request(cookie, cmd, arg, windows)


def pack_reply(
    cookie: int, result: int, arg: bytes, windows: Sequence[Window] = (), reason: str = ""
) -> bytes:
    """Make a reply frame. All windows are OUT and bring data; the reason is cut to fit."""
    _check_number(cookie, 64, "cookie")
    _check_number(result + (1 << 31), 32, "result + 2^31")
    _require(len(arg) <= XE_MOCK_ARG_MAX, f"argument of {len(arg)} bytes")
    body = _Writer()
    body.put(arg)
    body.windows(windows, reply=True)
    room = XE_MOCK_FRAME_MAX - _REPLY.size - body.length
    _require(room >= 0, f"frame of {XE_MOCK_FRAME_MAX - room} bytes")
    text = _cut(reason.encode("utf-8", "replace"), room)
    body.put(text)
    head = _REPLY.pack(
        XE_MOCK_REPLY_MAGIC,
        _REPLY.size + body.length,
        cookie,
        result,
        len(arg),
        len(windows),
        len(text),
    )
    return b"".join((head, *body.parts))


def unpack_reply(frame: _Buffer) -> Reply:
    """Take a whole reply frame apart; FrameError tells what is wrong with it."""
    reader = _Reader(_whole(frame, _REPLY.size), XE_MOCK_REPLY_MAGIC, _REPLY.size)
    _, _, cookie, result, arg_length, num_windows, reason_length = _REPLY.unpack_from(reader.view)
    arg = reader.argument(arg_length)
    windows = reader.windows(num_windows, reply=True)
    text = reader.take(reason_length, "reason")
    reader.end()
    try:
        reason = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FrameError("reason is not UTF-8") from error
    return Reply(cookie, result, arg, windows, reason)


def _whole(frame: _Buffer, head: int) -> _Buffer:
    _require(len(frame) >= head, f"{len(frame)} bytes hold no head of {head}")
    return frame


def _cut(text: bytes, room: int) -> bytes:
    """At most ``room`` bytes of UTF-8, cut between characters."""
    if len(text) <= room:
        return text
    return text[:room].decode("utf-8", "ignore").encode("utf-8")
