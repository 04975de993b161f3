from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu.fake_gpu import FakeGpu, at
from xedev.gpu.ports import Access, GpuFault, GpuHang

DATA = FakeGpu.DATA
HERE = at(DATA)
ATOMIC = 0x17800000
INLINE = 1 << 18
RETURN = 1 << 16
QWORD_OPERATION = 0x20
ONES = (1 << 64) - 1


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


OPERATIONS: dict[int, Callable[[int, int, int, int], int]] = {
    0x01: lambda old, a, b, bits: old & a,
    0x02: lambda old, a, b, bits: old | a,
    0x03: lambda old, a, b, bits: old ^ a,
    0x04: lambda old, a, b, bits: a,
    0x05: lambda old, a, b, bits: old + 1,
    0x06: lambda old, a, b, bits: old - 1,
    0x07: lambda old, a, b, bits: old + a,
    0x08: lambda old, a, b, bits: old - a,
    0x09: lambda old, a, b, bits: a - old,
    0x0A: lambda old, a, b, bits: max(signed(old, bits), signed(a, bits)),
    0x0B: lambda old, a, b, bits: min(signed(old, bits), signed(a, bits)),
    0x0C: lambda old, a, b, bits: max(old, a),
    0x0D: lambda old, a, b, bits: min(old, a),
    0x0E: lambda old, a, b, bits: b if old == a else old,
}


def expected(operation: int, bits: int, old: int, a: int, b: int) -> int:
    mask = (1 << bits) - 1
    new = OPERATIONS[operation](old & mask, a & mask, b & mask, bits) & mask
    return old & ~mask | new


def inline(header: int, a: int, b: int) -> tuple[int, ...]:
    low, high = 0xFFFF_FFFF, 32
    return (header | INLINE | 9, *HERE, a & low, b & low, a >> high, b >> high, 0, 0, 0, 0)


WORDS = st.integers(0, ONES) | st.sampled_from([0, 1, 0x8000_0000, 0xFFFF_FFFF, 1 << 63, ONES])


@given(
    operation=st.sampled_from(sorted(OPERATIONS)),
    bits=st.sampled_from([32, 64]),
    is_inline=st.booleans(),
    old=WORDS,
    a=WORDS,
    b=WORDS,
    is_equal=st.booleans(),
)
def test_operations(
    operation: int, bits: int, is_inline: bool, old: int, a: int, b: int, is_equal: bool
) -> None:
    a = old if is_equal else a
    opcode = operation | (QWORD_OPERATION if bits == 64 else 0)
    header = ATOMIC | opcode << 8 | (bits == 64) << 19 | RETURN
    gpu = FakeGpu()
    gpu.memory.poke64(DATA, old)
    if is_inline:
        gpu.run(*inline(header, a, b))
    else:
        gpu.context.gpr[0] = a
        gpu.context.gpr[2] = b
        gpu.run(header | 1, *HERE)
    assert gpu.data == expected(operation, bits, old, a, b)
    assert gpu.context.gpr[4] == old & ((1 << bits) - 1)


def test_increment_as_igt_writes_it() -> None:
    gpu = FakeGpu()
    gpu.memory.poke64(DATA, 0xFFFF_FFFF)
    gpu.run(0x17800501, *HERE)
    assert gpu.data == 0


def test_without_return_no_register_changes() -> None:
    gpu = FakeGpu()
    gpu.memory.poke64(DATA, 41)
    gpu.run(0x17802501, *HERE)
    assert gpu.data == 42 and not any(gpu.context.gpr)


def test_a_returned_dword_leaves_the_upper_half() -> None:
    gpu = FakeGpu()
    gpu.memory.poke64(DATA, 7)
    gpu.context.gpr[4] = ONES
    gpu.run(0x17800501 | RETURN, *HERE)
    assert gpu.context.gpr[4] == 0xFFFF_FFFF_0000_0007


def test_inline_data_can_be_short() -> None:
    gpu = FakeGpu()
    gpu.run(0x17800700 | INLINE | 3, *HERE, 5, 0)
    assert gpu.data == 5


@pytest.mark.parametrize("opcode", [0x00, 0x0F, 0x20, 0x4E, 0xFF])
def test_an_operation_that_there_is_not_hangs(opcode: int) -> None:
    with pytest.raises(GpuHang, match="MI_ATOMIC"):
        FakeGpu().run(ATOMIC | opcode << 8 | 1, *HERE)


def test_memory_that_may_not_be_written_faults() -> None:
    gpu = FakeGpu()
    gpu.memory.read_only = range(DATA, DATA + 4)
    with pytest.raises(GpuFault) as raised:
        gpu.run(0x17800501, *HERE)
    assert (raised.value.address, raised.value.access) == (DATA, Access.ATOMIC)
