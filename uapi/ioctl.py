"""ioctl request numbers: packing, unpacking, and the row that binds a number to its struct.

A request is 32 bits wide. From the low end: command number (8 bits), type letter (8), size of
the argument in bytes (14), direction (2). The direction is told from the caller's side:
``IOC_WRITE`` means the caller hands data to the kernel, ``IOC_READ`` that it gets some back.

>>> hex(IOWR("d", 0x0C, 16))
'0xc010640c'
>>> IOC_NR(0xC010640C), IOC_SIZE(0xC010640C)
(12, 16)
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TypeAlias

from uapi.base import Struct

__all__ = (
    "IO",
    "IOC",
    "IOC_DIR",
    "IOC_NONE",
    "IOC_NR",
    "IOC_READ",
    "IOC_SIZE",
    "IOC_SIZE_MAX",
    "IOC_TYPE",
    "IOC_WRITE",
    "IOR",
    "IOW",
    "IOWR",
    "IoctlDef",
    "define",
)

IOC_NONE = 0
IOC_WRITE = 1
IOC_READ = 2

_NR_BITS, _TYPE_BITS, _SIZE_BITS, _DIR_BITS = 8, 8, 14, 2
_TYPE_SHIFT = _NR_BITS
_SIZE_SHIFT = _TYPE_SHIFT + _TYPE_BITS
_DIR_SHIFT = _SIZE_SHIFT + _SIZE_BITS

#: Largest argument an ioctl number can express, in bytes.
IOC_SIZE_MAX = (1 << _SIZE_BITS) - 1

#: An argument: its size in bytes, or the ctypes type whose size counts.
Argument: TypeAlias = "int | type[ctypes.Structure | ctypes._SimpleCData[int]]"


def _checked(value: int, bits: int, what: str) -> int:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"ioctl {what} {value:#x} does not fit into {bits} bits")
    return value


def IOC(direction: int, type_: int | str, nr: int, size: int) -> int:
    """Pack the four parts of a request; ``type_`` is a letter or its code."""
    letter = ord(type_) if isinstance(type_, str) else type_
    return (
        _checked(direction, _DIR_BITS, "direction") << _DIR_SHIFT
        | _checked(size, _SIZE_BITS, "size") << _SIZE_SHIFT
        | _checked(letter, _TYPE_BITS, "type") << _TYPE_SHIFT
        | _checked(nr, _NR_BITS, "number")
    )


def _size(argument: Argument) -> int:
    return argument if isinstance(argument, int) else ctypes.sizeof(argument)


def IO(type_: int | str, nr: int) -> int:
    """A request without an argument."""
    return IOC(IOC_NONE, type_, nr, 0)


def IOR(type_: int | str, nr: int, argument: Argument) -> int:
    """A request whose argument only the kernel writes."""
    return IOC(IOC_READ, type_, nr, _size(argument))


def IOW(type_: int | str, nr: int, argument: Argument) -> int:
    """A request whose argument only the caller writes."""
    return IOC(IOC_WRITE, type_, nr, _size(argument))


def IOWR(type_: int | str, nr: int, argument: Argument) -> int:
    """A request whose argument travels both ways."""
    return IOC(IOC_READ | IOC_WRITE, type_, nr, _size(argument))


def IOC_NR(cmd: int) -> int:
    """Command number of a request (bits 0-7)."""
    return cmd & 0xFF


def IOC_TYPE(cmd: int) -> int:
    """Type letter of a request as its code (bits 8-15)."""
    return cmd >> _TYPE_SHIFT & 0xFF


def IOC_SIZE(cmd: int) -> int:
    """Argument size of a request in bytes (bits 16-29)."""
    return cmd >> _SIZE_SHIFT & IOC_SIZE_MAX


def IOC_DIR(cmd: int) -> int:
    """Direction bits of a request (bits 30-31): ``IOC_WRITE``, ``IOC_READ``, both or none."""
    return cmd >> _DIR_SHIFT & 0x3


@dataclass(frozen=True, slots=True)
class IoctlDef:
    """One row of the registry: a request as the driver defines it.

    ``dir`` and ``size`` are those of ``cmd``; a caller may come with others (drm-core.md 1.3).
    ``struct`` is None for a request without an argument, or when xe-mock never looks inside it.
    """

    name: str
    cmd: int
    nr: int
    dir: int
    size: int
    struct: type[Struct] | None


def define(name: str, cmd: int, struct: type[Struct] | None = None) -> IoctlDef:
    """Build a row from the number alone; the struct must be as large as the number says."""
    size = IOC_SIZE(cmd)
    if struct is not None and ctypes.sizeof(struct) != size:
        raise ValueError(f"{name}: {struct.__name__} is not {size} bytes long")
    return IoctlDef(name, cmd, IOC_NR(cmd), IOC_DIR(cmd), size, struct)
