"""Batches that mean no good: faults and hangs, and nothing else."""

from __future__ import annotations

import contextlib

from hypothesis import example, given
from hypothesis import strategies as st

from tests.gpu.blits import execute, header
from tests.gpu.fake_gpu import BASE, COPY, FakeMemory, FakePort, StepLimit
from xedev.gpu.blitter import BLITTER_COMMANDS
from xedev.gpu.ports import GpuFault, GpuHang

LENGTHS = {0x41: (12, 22), 0x42: (10,), 0x44: (11, 16), 0x48: (5,), 0x5A: (10,), 0x5B: (7,)}
edges = st.sampled_from([0, 1, 0xFFFF, 0x7FFF7FFF, 0x80008000, 0xFFFFFFFF, BASE, BASE + 0x8000])
dwords = st.one_of(edges, st.integers(0, 0xFFFFFFFF), st.integers(0, 0x400))


class BoundedMemory(FakeMemory):
    """Memory that nobody may ask too much of at once; long runs are only looked at."""

    def read(self, address: int, length: int, /) -> bytes:
        assert length <= 8 << 20
        return super().read(address, length)

    def copy(self, target: int, source: int, length: int, /) -> None:
        super().copy(target, source, min(length, len(self.data) + 1))

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        super().fill(target, pattern, min(length, len(self.data) + 1))


@st.composite
def commands(draw: st.DrawFn) -> tuple[int, ...]:
    """A command of a legal length with anything in it."""
    opcode = draw(st.sampled_from(sorted(LENGTHS)))
    length = draw(st.sampled_from(LENGTHS[opcode]))
    bits = draw(st.integers(0, (1 << 22) - 1)) & ~0xFF
    return (header(opcode, length, bits), *(draw(dwords) for _ in range(length - 1)))


@given(command=commands())
@example((header(0x42, 10), 3 << 24, 0, 0x7FFF7FFF, BASE, 0, 0, 0, BASE, 0))
@example((header(0x42, 10, 2 << 13), 3 << 24, 0, 0x7FFF7FFF, BASE, 0, 0, 0, BASE, 0))
@example((header(0x5A, 10, 5 << 17), 0xFFFFFF, 0x3FFFF, 0, 0, BASE, 0, BASE, 0, 0))
@example((header(0x5A, 10), 0x3FFFF, 0, 0, 0, 0xFFFFFFF0, 0xFFFFFFFF, BASE, 0, 0))
def test_any_dwords_fault_hang_or_do_as_they_say(command: tuple[int, ...]) -> None:
    with contextlib.suppress(GpuFault, GpuHang, StepLimit):
        execute(command, BoundedMemory(), FakePort(COPY, limit=20))


@given(
    opcode=st.sampled_from(sorted(BLITTER_COMMANDS)),
    rest=st.lists(dwords, min_size=1, max_size=40),
)
def test_any_length_faults_hangs_or_does_as_it_says(opcode: int, rest: list[int]) -> None:
    with contextlib.suppress(GpuFault, GpuHang, StepLimit):
        memory, port = BoundedMemory(), FakePort(COPY, limit=20)
        execute((header(opcode, len(rest) + 1), *rest), memory, port)
