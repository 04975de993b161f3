"""Memory with a say in where it lies and what may be done with it."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

__all__ = ("UserPages",)

PAGE_SIZE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_mmap = _libc.mmap
_mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_mmap.restype = ctypes.c_void_p
_PROT_NONE = 0
_MAP_FAILED = ctypes.c_void_p(-1).value


class UserPages:
    """Pages of zeros with an inaccessible one behind them; `free` gives them back."""

    def __init__(self, size: int) -> None:
        self._used = -(-size // PAGE_SIZE) * PAGE_SIZE
        address = _mmap(
            None,
            self._used + PAGE_SIZE,
            mmap.PROT_READ | mmap.PROT_WRITE,
            mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            -1,
            0,
        )
        if address is None or address == _MAP_FAILED:
            raise MemoryError(f"no {size} bytes")
        self.address: int = address
        self._protect(self.end, PAGE_SIZE, _PROT_NONE)

    @property
    def end(self) -> int:
        """First address that cannot be accessed."""
        return self.address + self._used

    @staticmethod
    def _protect(address: int, size: int, protection: int) -> None:
        if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
            raise OSError(ctypes.get_errno(), "mprotect")

    def make_read_only(self) -> None:
        """Forbid writes from now on."""
        self._protect(self.address, self._used, mmap.PROT_READ)

    def place(self, array: type[ctypes.Array[Any]], *, at_end: bool) -> ctypes.Array[Any]:
        """An array of that type at the first byte, or up to the last one."""
        return array.from_address(self.end - ctypes.sizeof(array) if at_end else self.address)

    def free(self) -> None:
        """Unmap it; nothing may use it any more."""
        _libc.munmap(ctypes.c_void_p(self.address), ctypes.c_size_t(self._used + PAGE_SIZE))
