from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu.fake_gpu import FakeGpu
from xedev.gpu.ports import GpuFault, GpuHang

DATA = FakeGpu.DATA
ONES = (1 << 64) - 1
LOAD, LOADINV, LOAD0, LOAD1, LOADIND = 0x080, 0x480, 0x081, 0x481, 0x082
ADD, SUB, AND, OR, XOR, SHL, SHR, SAR = range(0x100, 0x108)
STORE, STOREINV, STOREIND = 0x180, 0x580, 0x181
FENCE_RD, FENCE_WR = 0x001, 0x002
SRCA, SRCB, ACCU, ZF, CF = 0x20, 0x21, 0x31, 0x32, 0x33


def alu(opcode: int, operand1: int = 0, operand2: int = 0) -> int:
    return opcode << 20 | operand1 << 10 | operand2


def run_math(gpu: FakeGpu, *words: int) -> None:
    gpu.run(0x0D000000 | len(words) - 1, *words)


def result(operation: int, a: int, b: int) -> tuple[int, int, int]:
    gpu = FakeGpu()
    gpu.context.gpr[0:2] = a, b
    run_math(
        gpu,
        alu(LOAD, SRCA, 0),
        alu(LOAD, SRCB, 1),
        alu(operation),
        alu(STORE, 2, ACCU),
        alu(STORE, 3, ZF),
        alu(STORE, 15, CF),
    )
    return gpu.context.gpr[2], gpu.context.gpr[3], gpu.context.gpr[15]


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


PLAIN: dict[int, Callable[[int, int], int]] = {
    ADD: lambda a, b: a + b,
    SUB: lambda a, b: a - b,
    AND: lambda a, b: a & b,
    OR: lambda a, b: a | b,
    XOR: lambda a, b: a ^ b,
}
WORDS = st.integers(0, ONES) | st.sampled_from([0, 1, ONES, 1 << 63])


@given(operation=st.sampled_from(sorted(PLAIN)), a=WORDS, b=WORDS)
def test_arithmetic_and_its_flags(operation: int, a: int, b: int) -> None:
    exact = PLAIN[operation](a, b)
    carry = ONES if not 0 <= exact <= ONES else 0
    zero = 0 if exact & ONES else ONES
    assert result(operation, a, b) == (exact & ONES, zero, carry)


@given(a=WORDS, b=st.integers(0, 63))
def test_shifts(a: int, b: int) -> None:
    assert result(SHL, a, b)[0] == a << b & ONES
    assert result(SHR, a, b)[0] == a >> b
    assert result(SAR, a, b)[0] == signed(a) >> b & ONES


def test_a_shift_by_all_bits_or_more_leaves_none() -> None:
    assert result(SHL, 1, 1 << 40)[0] == 0
    assert result(SHR, ONES, 64)[0] == 0
    assert result(SAR, 1 << 63, ONES)[0] == ONES


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (alu(LOADINV, SRCA, 0), ONES ^ 0x1234),
        (alu(LOAD0, SRCA), 0),
        (alu(LOAD1, SRCA), ONES),
    ],
)
def test_ways_to_load(word: int, expected: int) -> None:
    gpu = FakeGpu()
    gpu.context.gpr[0] = 0x1234
    run_math(gpu, word, alu(LOAD0, SRCB), alu(ADD), alu(STORE, 1, ACCU))
    assert gpu.context.gpr[1] == expected


def test_a_result_is_stored_inverted() -> None:
    gpu = FakeGpu()
    run_math(gpu, alu(LOAD0, SRCA), alu(LOAD0, SRCB), alu(ADD), alu(STOREINV, 1, ACCU))
    assert gpu.context.gpr[1] == ONES


def test_results_can_be_operands_again() -> None:
    gpu = FakeGpu()
    gpu.context.gpr[0] = 5
    run_math(
        gpu,
        *(alu(LOAD, SRCA, 0), alu(LOAD, SRCB, 0), alu(ADD)),
        *(alu(LOAD, SRCA, ACCU), alu(ADD), alu(STORE, 1, ACCU)),
    )
    assert gpu.context.gpr[1] == 15


def test_memory_is_loaded_and_stored_at_an_address_in_a_register() -> None:
    gpu = FakeGpu()
    gpu.memory.poke64(DATA, 0x1122334455667788)
    gpu.context.gpr[0] = DATA
    gpu.context.gpr[1] = 8
    run_math(
        gpu,
        *(alu(LOAD, SRCA, 0), alu(LOAD0, SRCB), alu(ADD)),
        *(alu(LOADIND, 2, ACCU), alu(FENCE_RD)),
        *(alu(LOAD, SRCB, 1), alu(ADD), alu(STOREIND, ACCU, 2), alu(FENCE_WR), alu(0)),
    )
    assert gpu.context.gpr[2] == 0x1122334455667788
    assert gpu.memory.peek64(DATA + 8) == 0x1122334455667788


def test_an_address_that_is_not_mapped_faults() -> None:
    gpu = FakeGpu()
    with pytest.raises(GpuFault):
        run_math(gpu, alu(LOADIND, 2, 0))


@pytest.mark.parametrize(
    "word",
    [
        alu(0x0FF),
        alu(LOAD, ACCU, 0),
        alu(LOAD, SRCA, 0x3F),
        alu(LOAD, SRCA, SRCB),
        alu(STORE, SRCA, ACCU),
        alu(STORE, 16, ACCU),
    ],
)
def test_what_means_nothing_hangs(word: int) -> None:
    with pytest.raises(GpuHang, match="MI_MATH"):
        run_math(FakeGpu(), word)
