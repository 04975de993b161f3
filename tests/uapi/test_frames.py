"""Frames of the write/read protocol: they survive the way, and broken ones are refused."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uapi import xe_mock
from uapi.xe_mock import (
    XE_MOCK_ARG_MAX,
    XE_MOCK_FRAME_MAX,
    XE_MOCK_REPLY_MAGIC,
    XE_MOCK_REQUEST_MAGIC,
    XE_MOCK_WINDOW_IN,
    XE_MOCK_WINDOW_OUT,
    XE_MOCK_WINDOWS_MAX,
    FrameError,
    Reply,
    Request,
    Window,
    pack_reply,
    pack_request,
    peek_length,
    token_path,
    unpack_reply,
    unpack_request,
)

IN, OUT = XE_MOCK_WINDOW_IN, XE_MOCK_WINDOW_OUT
u64s = st.integers(0, (1 << 64) - 1)


@st.composite
def in_windows(draw: st.DrawFn) -> Window:
    data = draw(st.binary(max_size=40))
    address = draw(st.integers(0, (1 << 64) - len(data) - 1))
    return Window(address, len(data), draw(st.sampled_from([IN, IN | OUT])), data)


@st.composite
def out_windows(draw: st.DrawFn) -> Window:
    length = draw(st.integers(0, 1 << 16))
    return Window(draw(st.integers(0, (1 << 64) - 1 - length)), length, OUT)


@st.composite
def answered_windows(draw: st.DrawFn) -> Window:
    data = draw(st.binary(max_size=40))
    return Window(draw(st.integers(0, (1 << 64) - len(data) - 1)), len(data), OUT, data)


requests = st.builds(
    Request,
    u64s,
    st.integers(0, (1 << 32) - 1),
    st.binary(max_size=80),
    st.lists(in_windows() | out_windows(), max_size=5).map(tuple),
)
replies = st.builds(
    Reply,
    u64s,
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.binary(max_size=80),
    st.lists(answered_windows(), max_size=5).map(tuple),
    st.text(st.characters(codec="utf-8"), max_size=40),
)


def frame_of(message: Request | Reply) -> bytes:
    if isinstance(message, Request):
        return pack_request(message.cookie, message.cmd, message.arg, message.windows)
    return pack_reply(message.cookie, message.result, message.arg, message.windows, message.reason)


def unpack(message: Request | Reply, frame: bytes) -> Request | Reply:
    return unpack_request(frame) if isinstance(message, Request) else unpack_reply(frame)


def magic_of(message: Request | Reply) -> int:
    return XE_MOCK_REQUEST_MAGIC if isinstance(message, Request) else XE_MOCK_REPLY_MAGIC


@given(requests | replies)
def test_round_trip(message: Request | Reply) -> None:
    frame = frame_of(message)
    assert len(frame) % 8 == 0
    assert peek_length(frame, magic_of(message)) == len(frame)
    assert unpack(message, frame) == message
    assert unpack(message, bytearray(frame)) == message  # type: ignore[arg-type]
    assert unpack(message, memoryview(frame)) == message  # type: ignore[arg-type]


@given(requests | replies, st.data())
def test_truncated_frames_are_refused(message: Request | Reply, data: st.DataObject) -> None:
    frame = frame_of(message)
    short = frame[: data.draw(st.integers(0, len(frame) - 1))]
    with pytest.raises(FrameError):
        unpack(message, short)
    # Likewise when the head claims no more than what is there.
    if len(short) >= 8:
        with pytest.raises(FrameError):
            unpack(message, short[:4] + struct.pack("<I", len(short)) + short[8:])
    if len(short) < 8:
        assert peek_length(short, magic_of(message)) is None


@given(requests | replies, st.binary(min_size=1, max_size=24))
def test_longer_frames_are_refused(message: Request | Reply, rest: bytes) -> None:
    frame = frame_of(message) + rest
    with pytest.raises(FrameError):
        unpack(message, frame)
    with pytest.raises(FrameError):
        unpack(message, frame[:4] + struct.pack("<I", len(frame)) + frame[8:])


@given(requests | replies, st.data())
def test_mutated_frames_unpack_or_are_refused(
    message: Request | Reply, data: st.DataObject
) -> None:
    frame = bytearray(frame_of(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    try:
        found = unpack(message, bytes(frame))
    except FrameError:
        return
    assert unpack(message, frame_of(found)) == found  # what was let through can be said again


@given(st.binary(max_size=120))
def test_noise_is_refused(noise: bytes) -> None:
    for read in (unpack_request, unpack_reply):
        with pytest.raises(FrameError):
            read(noise)


def test_bytes_of_a_request() -> None:
    frame = pack_request(
        0x1122334455667788,
        0xC0106440,
        b"argum",
        [Window(0x1000, 3, IN, b"abc"), Window(0x2000, 9, OUT), Window(0x3000, 0, IN | OUT)],
    )
    assert frame == (
        b"XeMq"
        + struct.pack("<IQIIII", 96, 0x1122334455667788, 0xC0106440, 5, 3, 0)
        + b"argum\0\0\0"
        + struct.pack("<QII", 0x1000, 3, 1)
        + b"abc\0\0\0\0\0"
        + struct.pack("<QII", 0x2000, 9, 2)
        + struct.pack("<QII", 0x3000, 0, 3)
    )


def test_bytes_of_a_reply() -> None:
    frame = pack_reply(7, -22, b"argument", [Window(0x2000, 2, OUT, b"hi")], "flags ≠ 0")
    assert frame == (
        b"XeMr"
        + struct.pack("<IQiIII", 80, 7, -22, 8, 1, 11)
        + b"argument"
        + struct.pack("<QII", 0x2000, 2, 2)
        + b"hi\0\0\0\0\0\0"
        + "flags ≠ 0".encode()
        + bytes(5)
    )


def test_heads_are_as_long_as_their_mirrors() -> None:
    assert ctypes.sizeof(xe_mock.xe_mock_request) == len(pack_request(0, 0, b"")) == 32
    assert ctypes.sizeof(xe_mock.xe_mock_reply) == len(pack_reply(0, 0, b"")) == 32
    assert ctypes.sizeof(xe_mock.xe_mock_window) == 16
    request = xe_mock.xe_mock_request.from_buffer_copy(pack_request(5, 6, b"1234567"))
    assert (request.magic, request.length, request.cookie) == (XE_MOCK_REQUEST_MAGIC, 40, 5)
    assert (request.cmd, request.arg_length, request.num_windows, request.flags) == (6, 7, 0, 0)
    reply = xe_mock.xe_mock_reply.from_buffer_copy(pack_reply(5, -1, b"", (), "why"))
    assert (reply.magic, reply.length, reply.cookie) == (XE_MOCK_REPLY_MAGIC, 40, 5)
    assert (reply.result, reply.arg_length, reply.num_windows, reply.reason_length) == (-1, 0, 0, 3)


def request_head(**changes: int) -> bytes:
    fields = {"magic": XE_MOCK_REQUEST_MAGIC, "length": 32} | changes
    return bytes(xe_mock.xe_mock_request(**fields))


def one_window(address: int, length: int, flags: int, rest: bytes = b"") -> bytes:
    head = request_head(length=48 + len(rest), num_windows=1)
    return head + struct.pack("<QII", address, length, flags) + rest


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (b"", "no head"),
        (b"XeMq", "no head"),
        (request_head(magic=XE_MOCK_REPLY_MAGIC), "magic 0x724d6558 where a request"),
        (request_head(length=24), "frame of 24 bytes"),
        (request_head(length=36), "frame of 36 bytes"),
        (request_head(length=XE_MOCK_FRAME_MAX + 8), "frame of 4194312 bytes"),
        (request_head(length=40), "32 bytes hold no frame of 40"),
        (request_head(flags=1), "request flags 0x1"),
        (request_head(arg_length=1), "argument leaves the frame"),
        (request_head(arg_length=XE_MOCK_ARG_MAX + 1), "argument of 16384 bytes"),
        (request_head(arg_length=0xFFFFFFFF), "argument of 4294967295 bytes"),
        (request_head(length=40) + bytes(8), "8 bytes too many"),
        (request_head(num_windows=1), "window 0 leaves the frame"),
        (request_head(num_windows=XE_MOCK_WINDOWS_MAX + 1), "1025 windows"),
        (one_window(0, 0, 0), "window flags 0x0"),
        (one_window(0, 0, 4), "window flags 0x4"),
        (one_window(0, 1, IN), "data of window 0 leaves the frame"),
        (one_window(0, 8, OUT, bytes(8)), "8 bytes too many"),
        (one_window(0, XE_MOCK_FRAME_MAX + 1, OUT), "window of 4194305 bytes"),
        (one_window(0, XE_MOCK_FRAME_MAX, OUT), "reply would take"),
        (one_window((1 << 64) - 1, 2, OUT), "leaves the address space"),
    ],
)
def test_what_is_wrong_with_a_request(frame: bytes, problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        unpack_request(frame)


def reply_frame(windows: bytes = b"", reason: bytes = b"", **changes: int) -> bytes:
    body = windows + reason + bytes(-len(reason) % 8)
    fields = {"magic": XE_MOCK_REPLY_MAGIC, "length": 32 + len(body)} | changes
    return bytes(xe_mock.xe_mock_reply(reason_length=len(reason), **fields)) + body


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (reply_frame(magic=XE_MOCK_REQUEST_MAGIC), "where a reply is due"),
        (reply_frame(reason=b"\xff"), "not UTF-8"),
        (reply_frame(reason=b"x", length=32)[:32], "reason leaves the frame"),
        (reply_frame(struct.pack("<QII", 0, 0, IN | OUT), num_windows=1), "flags 0x3 in a reply"),
        (reply_frame(struct.pack("<QII", 0, 1, OUT), num_windows=1), "leaves the frame"),
    ],
)
def test_what_is_wrong_with_a_reply(frame: bytes, problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        unpack_reply(frame)


def pack_windows(*windows: Window) -> Callable[[], Any]:
    return lambda: pack_request(0, 0, b"", windows)


@pytest.mark.parametrize(
    ("pack", "problem"),
    [
        (lambda: pack_request(-1, 0, b""), "cookie"),
        (lambda: pack_request(0, 1 << 32, b""), "cmd"),
        (lambda: pack_request(0, 0, bytes(XE_MOCK_ARG_MAX + 1)), "argument"),
        (pack_windows(*[Window(0, 0, OUT)] * (XE_MOCK_WINDOWS_MAX + 1)), "1025 windows"),
        (pack_windows(Window(0, 1, IN)), "brings 0 bytes, not 1"),
        (pack_windows(Window(0, 1, OUT, b"x")), "brings 1 bytes, not 0"),
        (pack_windows(Window(1 << 64, 0, OUT)), "address space"),
        (pack_windows(Window(-1, 1, OUT)), "address space"),
        (pack_windows(Window(0, -1, OUT)), "window of -1 bytes"),
        (pack_windows(*[Window(0, 3 << 20, IN, bytes(3 << 20))] * 2), "frame of"),
        (pack_windows(*[Window(0, 3 << 20, OUT)] * 2), "reply would take"),
        (lambda: pack_reply(0, 1 << 31, b""), "result"),
        (lambda: pack_reply(0, 0, bytes(XE_MOCK_ARG_MAX + 1)), "argument"),
        (lambda: pack_reply(0, 0, b"", [Window(0, 0, IN)]), "in a reply"),
        (lambda: pack_reply(0, 0, b"", [Window(0, 4, OUT, b"")]), "brings 0 bytes, not 4"),
        (lambda: pack_reply(0, 0, b"", [Window(0, 3 << 20, OUT, bytes(3 << 20))] * 2), "frame of"),
    ],
)
def test_what_cannot_be_packed(pack: Callable[[], Any], problem: str) -> None:
    with pytest.raises(FrameError, match=problem):
        pack()


def test_padding_is_not_looked_at() -> None:
    frame = bytearray(pack_request(0, 0, b"x"))
    frame[-1] = 0xFF
    assert unpack_request(frame).arg == b"x"


def test_a_reason_is_cut_to_fit() -> None:
    reply = unpack_reply(pack_reply(1, -5, b"", (), "é" * XE_MOCK_FRAME_MAX))
    assert set(reply.reason) == {"é"}
    room = XE_MOCK_FRAME_MAX - 32
    assert len(reply.reason.encode()) == room
    full = Window(0, room - 16, OUT, bytes(room - 16))
    assert unpack_reply(pack_reply(1, -5, b"", [full], "no room")).reason == ""
    # Half a character is left out, a lone surrogate replaced.
    nearly = Window(0, room - 16 - 8, OUT, bytes(room - 16 - 8))
    assert unpack_reply(pack_reply(1, -5, b"", [nearly], "1234567é")).reason == "1234567"
    assert unpack_reply(pack_reply(1, -5, b"", (), "\udc80")).reason == "?"


def test_token_path() -> None:
    token = xe_mock.XE_MOCK_TOKEN_BASE + 0x2A
    assert token_path("/mnt/dev/dri/renderD128", token) == "/mnt/dev/dri/.xe-mock-fd/4000002a"
    assert token_path("renderD128", token) == ".xe-mock-fd/4000002a"
    assert token_path("/card0", token) == "/.xe-mock-fd/4000002a"
