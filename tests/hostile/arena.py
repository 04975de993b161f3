"""Memory of this process of every kind that a pointer of an ioctl may lead to.

All of it lies at a place of its own with nothing mapped around it, so that neither a pointer that
is off by a few bits nor a driver that writes too much can hit the memory of the interpreter.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
from collections.abc import Iterable
from ctypes import memmove, string_at

__all__ = ("ARG_ROOM", "GOOD_SIZE", "PAGE", "Arena")

PAGE = 4096
GOOD_SIZE = 16 * PAGE
"""Bytes of ordinary memory that pointers lead to."""
ARG_ROOM = 4 * PAGE
"""Room for an ioctl's argument: more than its number can say."""

_BASE = 0x10_0000_0000  # far below what the kernel chooses by itself, and above old programs
# No two multiples of three differ in one bit alone, so no flipped bit leads from one arena into
# another, where some other thread would wonder who wrote there.
_STRIDE = 3 << 24
_GOOD, _ARG, _READONLY, _FORBIDDEN = 0x10000, 0x40000, 0x80000, 0xA0000
_MAP_FIXED_NOREPLACE = 0x100000
_PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.mmap.restype = ctypes.c_ssize_t
_numbers = itertools.count()


def _map(address: int, size: int, protection: int) -> int:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    got: int = _libc.mmap(address, size, protection, flags, -1, 0)
    if got != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), hex(address))
    return address


class Arena:
    """The memory that one fuzzing thread points into.  It is never unmapped."""

    def __init__(self) -> None:
        base = _BASE + next(_numbers) * _STRIDE
        self.good = _map(base + _GOOD, GOOD_SIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.good_end = self.good + GOOD_SIZE  # and nothing is mapped behind it
        self.arg = _map(base + _ARG, ARG_ROOM + PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
        self.arg_end = self.arg + ARG_ROOM + PAGE
        self.readonly = _map(base + _READONLY, PAGE, mmap.PROT_READ)
        self.forbidden = _map(base + _FORBIDDEN, PAGE, _PROT_NONE)

    def holds(self, address: int, length: int) -> bool:
        """Whether all of a range is ordinary memory."""
        return self.good <= address and address + length <= self.good_end

    def write(self, address: int, data: bytes) -> None:
        """Put ``data`` at ``address``, as far as there is memory that can be written."""
        for start, end in ((self.good, self.good_end), (self.arg, self.arg_end)):
            if start <= address < end:
                memmove(address, data, min(len(data), end - address))

    def read(self, address: int, length: int) -> bytes:
        """What a range of ordinary memory holds; zeros for any other place."""
        if not self.holds(address, length):
            return bytes(length)
        return string_at(address, length)

    def snapshot(self) -> bytes:
        """All ordinary memory."""
        return string_at(self.good, GOOD_SIZE)

    def changed_outside(self, before: bytes, allowed: Iterable[tuple[int, int]]) -> int | None:
        """First address that differs from the snapshot and is in none of the (address, length)."""
        now = string_at(self.good, GOOD_SIZE)
        if now == before:
            return None
        expected = bytearray(before)
        for address, length in allowed:
            start = max(address - self.good, 0)
            end = min(address + length - self.good, GOOD_SIZE)
            if start < end:
                expected[start:end] = now[start:end]
        if now == expected:
            return None
        return self.good + next(i for i in range(GOOD_SIZE) if now[i] != expected[i])
