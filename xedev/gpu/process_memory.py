"""Memory of a process that the GPU may reach without a word with the driver.

Only pages that are there are touched, by system calls: those never sleep.  A page that still has to
come may take a hostile client's time, which the driver has threads for and the GPU has not.  So may
a store to a page of a file, whose file system is asked first.
"""

from __future__ import annotations

import ctypes
import os

from xedev.kernel.process_vm_access import process_vm_readv, process_vm_writev

__all__ = ("ResidentMemory",)

_PAGE_SHIFT = 12
_ENTRY_SIZE = 8
_LENGTH_MAX = 256 << 10
"""Bytes at a time, at most."""
_PRESENT, _OF_FILE, _WRITE_PROTECTED = 0x80, 0x20, 0x02
"""In the highest byte of a pagemap entry: the page is there; it is of a file, or shared;
userfaultfd wants to hear of writes.  See Documentation/admin-guide/mm/pagemap.rst."""

_buffer = ctypes.create_string_buffer(_LENGTH_MAX)
"""Of all: the GPU has one thread."""
_OURS = ctypes.addressof(_buffer)
_vectors = (ctypes.c_uint64 * 4)()
"""Two of ``struct iovec``: ours, then theirs."""
_OUR_VECTOR = ctypes.addressof(_vectors)
_THEIR_VECTOR = _OUR_VECTOR + 16


class ResidentMemory:
    """The pages of a process that are in memory.  OSError: it is out of reach."""

    __slots__ = ("_pagemap", "_pid")

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # The file stands for the memory, not for the process: of another program that the process
        # runs later, it knows nothing.
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)

    def read(self, address: int, length: int) -> bytes | None:
        """``length`` bytes; None when some of them are not there, or not for us."""
        if not self._is_resident(address, length, write=False):
            return None
        _vectors[:] = [_OURS, length, address, length]
        if process_vm_readv(self._pid, _OUR_VECTOR, 1, _THEIR_VECTOR, 1, 0) != length:
            return None
        return ctypes.string_at(_OURS, length)

    def write(self, address: int, data: bytes | bytearray | memoryview) -> bool:
        """Store all of them; False when that was not done."""
        length = len(data)
        if not self._is_resident(address, length, write=True):
            return False
        ctypes.memmove(_OURS, bytes(data), length)
        _vectors[:] = [_OURS, length, address, length]
        put = process_vm_writev(self._pid, _OUR_VECTOR, 1, _THEIR_VECTOR, 1, 0)
        return bool(put == length)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pagemap)

    def _is_resident(self, address: int, length: int, *, write: bool) -> bool:
        if not 0 < length <= _LENGTH_MAX:
            return False
        first = address >> _PAGE_SHIFT
        size = (((address + length - 1) >> _PAGE_SHIFT) - first + 1) * _ENTRY_SIZE
        try:
            entries = os.pread(self._pagemap, size, first * _ENTRY_SIZE)
        except OSError:
            return False
        # A process that has ended has no entries.
        flags = entries[_ENTRY_SIZE - 1 :: _ENTRY_SIZE]
        looked_at = _PRESENT | _OF_FILE | _WRITE_PROTECTED if write else _PRESENT
        return len(entries) == size and all(flag & looked_at == _PRESENT for flag in flags)
