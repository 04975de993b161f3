"""Streams of frames as a hostile client writes them: whole, cut, joined, and wrong."""

from __future__ import annotations

import random
import struct

from tests.hostile.generate import Call
from uapi.xe_mock import (
    XE_MOCK_FRAME_MAX,
    XE_MOCK_REPLY_MAGIC,
    XE_MOCK_REQUEST_MAGIC,
    FrameError,
    Reply,
    Window,
    pack_request,
    peek_length,
    unpack_reply,
)

__all__ = ("corrupted", "frame_of", "pieces", "take_replies")

_FIELDS = {"magic": 0, "length": 4, "cmd": 16, "arg_length": 20, "num_windows": 24, "flags": 28}
"""Offsets of what can be wrong in the head of a request, four bytes each."""
_LENGTHS = (0, 1, 7, 8, 31, 32, 33, 40, 4095, 1 << 16, XE_MOCK_FRAME_MAX, XE_MOCK_FRAME_MAX + 8)
_ANY = (*_LENGTHS, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, XE_MOCK_REPLY_MAGIC)


def frame_of(rng: random.Random, cookie: int, call: Call) -> bytes:
    """A request that is right as a frame, whatever the call is.

    Its windows are those of the call; some are left out, doubled, shortened or stretched.
    """
    windows = [window for window in call.windows if window.address + window.length <= 1 << 64]
    if windows and rng.random() < 0.15:
        windows = _changed(rng, windows)
    return pack_request(cookie, call.cmd, call.data, windows)


def _changed(rng: random.Random, windows: list[Window]) -> list[Window]:
    victim = rng.randrange(len(windows))
    window = windows[victim]
    length = max(0, window.length + rng.choice((-8, -1, 1, 8)))
    data = window.data[:length].ljust(length, b"\xa5") if window.data else b""
    if window.address + length > 1 << 64 or bool(data) != bool(window.data):
        length, data = window.length, window.data
    choices: tuple[list[Window], ...] = (
        [*windows[:victim], *windows[victim + 1 :]],
        [*windows, window],
        [*windows[:victim], Window(window.address, length, window.flags, data)],
        windows[::-1],
        [],
    )
    return rng.choice(choices)


def pieces(rng: random.Random, stream: bytes) -> list[bytes]:
    """The same bytes for one write, or for several."""
    if rng.random() < 0.6 or len(stream) < 2:
        return [stream]
    cuts = sorted({rng.randrange(1, len(stream)) for _ in range(rng.randint(1, 4))})
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def corrupted(rng: random.Random, stream: bytes) -> bytes:
    """A stream that is no longer made of right requests, or hardly so."""
    data = bytearray(stream)
    dice = rng.random()
    if dice < 0.4 and len(data) >= 32:
        offset = _FIELDS[rng.choice(list(_FIELDS))]
        struct.pack_into("<I", data, offset, rng.choice((*_ANY, rng.getrandbits(32))))
    elif dice < 0.55:
        del data[rng.randrange(len(data)) :]
    elif dice < 0.7:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 8, 40, 5000)))
    elif dice < 0.85:
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif dice < 0.95:
        data = bytearray(rng.randbytes(rng.choice((1, 7, 8, 32, 100, 8192))))
    else:
        # The beginning of the longest frame, whose end never comes.
        head = struct.pack("<II", XE_MOCK_REQUEST_MAGIC, XE_MOCK_FRAME_MAX)
        data[:8] = head
    return bytes(data)


def take_replies(received: bytearray) -> list[Reply]:
    """Take all whole replies off a stream; `FrameError` when it is none of replies."""
    replies: list[Reply] = []
    while True:
        length = peek_length(received, XE_MOCK_REPLY_MAGIC)
        if length is None or length > len(received):
            return replies
        if length < struct.calcsize("<II"):
            raise FrameError(f"a reply of {length} bytes")
        replies.append(unpack_reply(bytes(received[:length])))
        del received[:length]
