"""What commands need of the hardware around them, and how they fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

__all__ = ("Access", "EnginePort", "GpuFault", "GpuHang", "GpuMemory", "Watch")


class Access(IntEnum):
    """What was tried at an address (uAPI: ``FAULT_ACCESS_TYPE_*``)."""

    READ = 0
    WRITE = 1
    ATOMIC = 2


class GpuFault(Exception):
    """An access that the page tables forbid, and that nobody will mend."""

    def __init__(self, address: int, access: Access) -> None:
        super().__init__(f"{access.name.lower()} at {address:#x}")
        self.address = address
        self.access = access


class GpuHang(Exception):
    """A command that no engine, or not this one, goes on after."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A piece of memory that a spinning batch looks at, and what it saw there."""

    address: int
    value: bytes


class GpuMemory(Protocol):
    """The memory that a context sees through its page tables.

    Addresses are virtual and at most 64 bits wide; canonical ones are folded here.  Any call may
    switch to other work while an answer from outside is awaited, and raises `GpuFault`.
    """

    def read(self, address: int, length: int, /) -> bytes:
        """``length`` bytes."""

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        """Store all bytes."""

    def update(self, address: int, size: int, change: Callable[[int], int], /) -> int:
        """Replace the little-endian word of ``size`` bytes (4 or 8) by ``change`` of it; the old
        value.  Atomic between engines."""

    def copy(self, target: int, source: int, length: int, /) -> None:
        """Copy bytes between two ranges that do not overlap; switches to other work in between
        when they are many."""

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        """Fill ``length`` bytes with repetitions of ``pattern``; likewise."""


class EnginePort(Protocol):
    """What a context asks of the engine that it runs on."""

    engine_class: int
    """``DRM_XE_ENGINE_CLASS_*``."""
    mmio_base: int
    """Where the engine's registers begin."""

    def timestamp(self) -> int:
        """RING_TIMESTAMP: ticks of the GT's clock, 64 bits."""

    def context_timestamp(self) -> int:
        """CTX_TIMESTAMP: ticks for which this context has been on an engine, 64 bits."""

    def checkpoint(self) -> None:
        """A place where other work may come first; cheap when there is none."""

    def spin(self, watches: Sequence[Watch]) -> None:
        """The batch changes nothing until one of ``watches`` does, or for lack of any until time
        has passed: return when that may be so.  Others run meanwhile."""

    def wait(self, watches: Sequence[Watch]) -> None:
        """The same at a semaphore, where other queues of its group may come first."""
