"""ioctls by number and bytes, as a careless or hostile client makes them."""

from __future__ import annotations

import ctypes
from functools import cache

from uapi.ioctl import IOC, IOC_DIR, IOC_NONE, IOC_NR, IOC_SIZE, IOC_TYPE
from xedev.client import Transport
from xedev.node.local import LocalTransport

__all__ = (
    "BAD_ADDRESS",
    "NULL",
    "answer",
    "answer_as",
    "copied_back",
    "raw",
    "with_dir",
    "with_size",
)

BAD_ADDRESS = 0x10
"""An address of which no process has memory."""

NULL = None
"""The argument of an ioctl made without one."""


@cache
def _blob_type(size: int) -> type[ctypes.Structure]:
    fields = {"_fields_": [("bytes", ctypes.c_uint8 * size)]}
    return type(f"Blob{size}", (ctypes.Structure,), fields)


def raw(transport: Transport, cmd: int, data: bytes | None = b"") -> tuple[int, bytes]:
    """Run an ioctl: (its value or ``-errno``, the argument's bytes afterwards).

    ``data`` is filled up with zeros to the size in ``cmd``; `NULL` gives a null pointer.
    """
    if data is NULL:
        return _value(transport, cmd, None), b""
    size = max(len(data), IOC_SIZE(cmd))
    arg = _blob_type(size).from_buffer_copy(data.ljust(size, b"\0"))
    return _value(transport, cmd, arg), bytes(arg)


def _value(transport: Transport, cmd: int, arg: ctypes.Structure | None) -> int:
    try:
        return transport.ioctl(cmd, arg)
    except OSError as error:
        return -(error.errno or 0)


def answer(transport: Transport, cmd: int, data: bytes | None = b"") -> int:
    """The errno of an ioctl, 0 for success."""
    return -min(raw(transport, cmd, data)[0], 0)


def copied_back(transport: Transport, cmd: int, data: bytes) -> bytes:
    """The argument's bytes after an ioctl, whatever it answered."""
    return raw(transport, cmd, data)[1]


def answer_as(
    caller: LocalTransport, owner: LocalTransport, cmd: int, data: bytes | None = b""
) -> int:
    """The errno when the process of ``caller`` uses a descriptor that it got from ``owner``."""
    if data is NULL or IOC_DIR(cmd) == IOC_NONE:
        return -min(owner.file.ioctl(cmd, 0, caller.caller()), 0)
    buffer = ctypes.create_string_buffer(data, max(len(data), IOC_SIZE(cmd), 1))
    return -min(owner.file.ioctl(cmd, ctypes.addressof(buffer), caller.caller()), 0)


def with_size(cmd: int, size: int) -> int:
    """The same ioctl for an argument of ``size`` bytes."""
    return IOC(IOC_DIR(cmd), IOC_TYPE(cmd), IOC_NR(cmd), size)


def with_dir(cmd: int, direction: int) -> int:
    """The same ioctl with other direction bits."""
    return IOC(direction, IOC_TYPE(cmd), IOC_NR(cmd), IOC_SIZE(cmd))
