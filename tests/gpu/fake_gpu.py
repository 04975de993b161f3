"""A flat memory and an engine's port for the tests of commands: nothing else runs beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xedev.gpu.command_streamer import CommandStreamer
from xedev.gpu.context import Context
from xedev.gpu.ports import Access, GpuFault, Watch

BASE = 0x10_0000
RENDER, COPY, VIDEO_DECODE, VIDEO_ENHANCE, COMPUTE = range(5)
MMIO_BASES = {
    RENDER: 0x2000,
    COPY: 0x22000,
    VIDEO_DECODE: 0x1C0000,
    VIDEO_ENHANCE: 0x1C8000,
    COMPUTE: 0x1A000,
}


class StepLimit(Exception):
    """The batch ran longer than the test lets it."""


class FakeMemory:
    """``size`` bytes from ``base`` on, all mapped; every other address faults."""

    def __init__(self, size: int = 0x10000, base: int = BASE) -> None:
        self.base = base
        self.data = bytearray(size)
        self.read_only = range(0)
        self.written: list[tuple[int, bytes]] = []
        """What the commands stored, oldest first."""

    def read(self, address: int, length: int, /) -> bytes:
        start = self._offset(address, length, Access.READ)
        return bytes(self.data[start : start + length])

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        start = self._offset(address, len(data), Access.WRITE)
        self.written.append((address, bytes(data)))
        self.data[start : start + len(data)] = data

    def update(self, address: int, size: int, change: Callable[[int], int], /) -> int:
        start = self._offset(address, size, Access.ATOMIC)
        old = int.from_bytes(self.data[start : start + size], "little")
        self.write(address, change(old).to_bytes(size, "little"))
        return old

    def copy(self, target: int, source: int, length: int, /) -> None:
        self.write(target, self.read(source, length))

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        self.write(target, (pattern * (length // len(pattern) + 1))[:length])

    def poke(self, address: int, data: bytes) -> None:
        """Store as the CPU does: unseen by ``written``, with no rights looked at."""
        start = address - self.base
        self.data[start : start + len(data)] = data

    def poke32(self, address: int, *values: int) -> None:
        self.poke(address, b"".join(value.to_bytes(4, "little") for value in values))

    def poke64(self, address: int, *values: int) -> None:
        self.poke(address, b"".join(value.to_bytes(8, "little") for value in values))

    def peek32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def peek64(self, address: int) -> int:
        return int.from_bytes(self.read(address, 8), "little")

    def _offset(self, address: int, length: int, access: Access) -> int:
        start = (address & (1 << 48) - 1) - self.base
        if start < 0 or start + length > len(self.data):
            raise GpuFault(address, access)
        if access is not Access.READ and address in self.read_only:
            raise GpuFault(address, access)
        return start


class FakePort:
    """An engine of a class; time passes by one tick for each look at the clock."""

    def __init__(self, engine_class: int = COMPUTE, *, limit: int = 10_000) -> None:
        self.engine_class = engine_class
        self.mmio_base = MMIO_BASES[engine_class]
        self.ticks = 0
        self.context_ticks = 0
        self.checkpoints = 0
        self.spins: list[tuple[Watch, ...]] = []
        """What each spin watched."""
        self.on_spin: Callable[[], None] | None = None
        """What happens elsewhere while the batch spins."""
        self._limit = limit

    def timestamp(self) -> int:
        self.ticks += 1
        return self.ticks

    def context_timestamp(self) -> int:
        self.context_ticks += 1
        return self.context_ticks

    def checkpoint(self) -> None:
        self.checkpoints += 1
        self._step()

    def spin(self, watches: Sequence[Watch]) -> None:
        self.spins.append(tuple(watches))
        self._step()
        if self.on_spin is not None:
            self.on_spin()

    wait = spin

    def _step(self) -> None:
        self._limit -= 1
        if self._limit < 0:
            raise StepLimit


class FakeGpu:
    """Memory, an engine and a context, with a place for a batch and one for data."""

    BATCH = BASE
    DATA = BASE + 0x8000

    def __init__(self, engine_class: int = COMPUTE, *, limit: int = 10_000) -> None:
        self.memory = FakeMemory()
        self.port = FakePort(engine_class, limit=limit)
        self.context = Context()
        self.streamer = CommandStreamer(self.context, self.memory, self.port)

    @property
    def data(self) -> int:
        """The qword at DATA."""
        return self.memory.peek64(self.DATA)

    def run(self, *dwords: int) -> None:
        """Execute a batch of these dwords; the end is added."""
        self.memory.poke32(self.BATCH, *dwords, MI_BATCH_BUFFER_END)
        self.streamer.run(self.BATCH)


MI_BATCH_BUFFER_END = 0x0A << 23


def at(address: int) -> tuple[int, int]:
    """An address as two dwords."""
    return address & 0xFFFF_FFFF, address >> 32
