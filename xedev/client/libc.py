"""Calls of the C library that Python has no, or no fitting, way to make."""

from __future__ import annotations

import ctypes
import os
from typing import Any

__all__ = ("ioctl", "map_lease", "mmap", "munmap")

_PROT_NONE = 0
_MAP_PRIVATE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _declare(name: str, result: Any, *arguments: Any) -> Any:
    function = _libc[name]  # an object of our own: the attribute would be shared by all modules
    function.restype = result
    function.argtypes = arguments
    return function


#: ioctl(2): the value, -1 with ``ctypes.get_errno()``. `fcntl.ioctl` would copy the argument,
#: which hides writes to it by others.
ioctl = _declare("ioctl", ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)

_mmap = _declare(
    "mmap",
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
    *[ctypes.c_int] * 3,
    ctypes.c_long,
)
_munmap = _declare("munmap", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


def mmap(length: int, prot: int, flags: int, fd: int, offset: int) -> int:
    """mmap(2): an address. `mmap.mmap` would keep a duplicate of the descriptor."""
    address = _mmap(None, length, prot, flags, fd, offset)
    if address == _MAP_FAILED:
        raise _last_error()
    return int(address or 0)


def munmap(address: int, length: int) -> None:
    """munmap(2); a length of 1 is a page."""
    if _munmap(address, length):
        raise _last_error()


def map_lease(fd: int) -> int:
    """Map a page of a lease, which nobody may touch: the address, to be ended with `munmap`."""
    return mmap(1, _PROT_NONE, _MAP_PRIVATE, fd, 0)


def _last_error() -> OSError:
    error = ctypes.get_errno()
    return OSError(error, os.strerror(error))
