"""How a batch that only waits is told from one that works.

A batch that comes to the same place again, with the same registers and the same memory, does the
same for ever unless something outside changes what it has read.  So from the first jump backwards
on all accesses are logged: what was read (and what a store found to be there already) is what to
wait for, and a store of something new is work.  Who has looked at a clock in between waits for
time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from xedev.gpu.ports import GpuFault, GpuMemory, Watch

__all__ = ("BatchMemory", "LoggedMemory", "LoopLog")

MAX_ARRIVALS = 16
MAX_SEEN = 4096
MAX_BYTES = 1 << 20
MAX_WATCHES = 64
MAX_IDLE = 64
"""Blocks of commands without a jump backwards after which no loop is looked for any more."""
COMPARED = 64 << 10
"""Bytes of one copy or fill up to which it is looked whether they change anything."""

_FOLD = (1 << 48) - 1

Place = tuple[int, ...]
"""A target, and the addresses to return to."""


@dataclass(slots=True)
class _Arrival:
    changes: int
    clocks: int
    registers: tuple[object, ...]
    mark: int
    """How much had been seen."""


@dataclass(slots=True)
class LoopLog:
    """What the batch has done lately, and where it has been."""

    changes: int = 0
    """Stores that changed memory."""
    clocks: int = 0
    """Looks at a clock."""
    idle: int = 0
    """Blocks since the last arrival."""
    arrivals: dict[Place, _Arrival] = field(default_factory=dict)
    seen: list[tuple[int, bytes]] = field(default_factory=list)
    """Address and contents, oldest first."""
    _bytes: int = 0

    def forget(self) -> None:
        """Look at what comes as if there had been nothing."""
        self.arrivals.clear()
        self._forget_seen()

    def saw(self, address: int, data: bytes) -> None:
        """Memory was read, or stored to without changing it."""
        self._bytes += len(data)
        if len(self.seen) >= MAX_SEEN or self._bytes > MAX_BYTES:
            self.forget()
        self.seen.append((address, data))

    def arrive(self, place: Place, registers: tuple[object, ...]) -> list[Watch] | None:
        """The batch jumps to a place: what it waits for if it only waits, else None.

        An empty list stands for time.
        """
        self.idle = 0
        last = self.arrivals.get(place)
        if last is None and len(self.arrivals) >= MAX_ARRIVALS:
            self.forget()
        found = None if last is None else self._judge(last, registers)
        if self.arrivals.keys() <= {place}:
            self._forget_seen()
        self.arrivals[place] = _Arrival(self.changes, self.clocks, registers, len(self.seen))
        return found

    def _judge(self, last: _Arrival, registers: tuple[object, ...]) -> list[Watch] | None:
        if last.clocks != self.clocks:
            return []
        if last.changes != self.changes or last.registers != registers:
            return None
        first: dict[tuple[int, int], bytes] = {}
        for address, data in self.seen[last.mark :]:
            first.setdefault((address, len(data)), data)
        if len(first) > MAX_WATCHES:
            return []
        return [Watch(address, data) for (address, _), data in first.items()]

    def _forget_seen(self) -> None:
        self.seen.clear()
        self._bytes = 0


class BatchMemory:
    """Memory as the commands use it; notices stores into the commands that were fetched."""

    def __init__(self, memory: GpuMemory) -> None:
        self._memory = memory
        self._write = memory.write
        self.is_stale = False
        """Whether something was stored into the block."""
        self._start = self._end = 0

    def set_block(self, start: int, length: int) -> None:
        """These bytes are now held by the streamer."""
        self._start = start & _FOLD
        self._end = self._start + length
        self.is_stale = False

    def read(self, address: int, length: int, /) -> bytes:
        """``length`` bytes."""
        return self._memory.read(address, length)

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        """Store all bytes."""
        self._write(address, data)
        if self._start - len(data) < address & _FOLD < self._end:
            self.is_stale = True

    def update(self, address: int, size: int, change: Callable[[int], int], /) -> int:
        """Replace a word by ``change`` of it; the old value."""
        old = self._memory.update(address, size, change)
        self._stored(address, size)
        return old

    def copy(self, target: int, source: int, length: int, /) -> None:
        """Copy bytes."""
        self._memory.copy(target, source, length)
        self._stored(target, length)

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        """Repeat bytes."""
        self._memory.fill(target, pattern, length)
        self._stored(target, length)

    def _stored(self, address: int, length: int) -> None:
        if self._start - length < address & _FOLD < self._end:
            self.is_stale = True


class LoggedMemory(BatchMemory):
    """The same while a loop is suspected."""

    def __init__(self, memory: GpuMemory, log: LoopLog) -> None:
        super().__init__(memory)
        self._log = log

    def read(self, address: int, length: int, /) -> bytes:
        """``length`` bytes."""
        data = self._memory.read(address, length)
        self._log.saw(address, data)
        return data

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        """Store all bytes."""
        self._compare(address, bytes(data))
        super().write(address, data)

    def update(self, address: int, size: int, change: Callable[[int], int], /) -> int:
        """Replace a word by ``change`` of it; the old value."""
        new = 0

        def noted(old: int) -> int:
            nonlocal new
            new = change(old)
            return new

        old = super().update(address, size, noted)
        if new == old:
            self._log.saw(address, old.to_bytes(size, "little"))
        else:
            self._log.changes += 1
        return old

    def copy(self, target: int, source: int, length: int, /) -> None:
        """Copy bytes."""
        if length <= COMPARED:
            self._compare(target, self.read(source, length))
        else:
            self._log.changes += 1
        super().copy(target, source, length)

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        """Repeat bytes."""
        if length <= COMPARED:
            repeated = pattern * (length // len(pattern) + 1)
            self._compare(target, repeated[:length])
        else:
            self._log.changes += 1
        super().fill(target, pattern, length)

    def _compare(self, address: int, data: bytes) -> None:
        """Note whether a store that comes changes anything; if it may not, itself will tell."""
        try:
            old = self._memory.read(address, len(data))
        except GpuFault:
            old = b""
        if old == data:
            self._log.saw(address, old)
        else:
            self._log.changes += 1
