"""Commands as words: what the builder makes of a call, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xedev.client.batch import (
    CTX_TIMESTAMP,
    Alu,
    AtomicOp,
    BatchBuilder,
    Compare,
    gpr,
)

Build = Callable[[BatchBuilder], BatchBuilder]

A = 0x1234_5678_9AB8  # an address whose upper half is not 0, a multiple of 8
LO, HI = 0x5678_9AB8, 0x1234
B = 0x0000_0001_001A_0000
B_LO, B_HI = 0x001A_0000, 0x1


def test_a_batch_of_one_store() -> None:
    batch = BatchBuilder().store_dword(A, 0xC0FFEE).end()
    assert batch.dwords == (0x10000002, LO, HI, 0x00C0FFEE, 0x05000000)
    assert bytes(batch) == bytes.fromhex("02000010 b89a7856 34120000 eeffc000 00000005")
    assert len(batch) == len(bytes(batch)) == 20


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda b: b.noop(), [0]),
        (lambda b: b.noop(3), [0, 0, 0]),
        (lambda b: b.arb_check(), [0x02800000]),
        (lambda b: b.end(), [0x05000000]),
        (lambda b: b.jump(A), [0x18800101, LO, HI]),
        (lambda b: b.call(A), [0x18C00101, LO, HI]),
        (lambda b: b.conditional_end(A, 0, Compare.GT), [0x1B200002, 0, LO, HI]),
        (lambda b: b.conditional_end(A, 7, Compare.NE), [0x1B205002, 7, LO, HI]),
        (lambda b: b.semaphore_wait(A, 1), [0x0E00C003, 1, LO, HI, 0]),
        (lambda b: b.semaphore_wait(A, 1, Compare.GTE), [0x0E009003, 1, LO, HI, 0]),
        (lambda b: b.semaphore_wait(A, 1, Compare.LT, poll=False), [0x0E002003, 1, LO, HI, 0]),
        (lambda b: b.dword(0xDEADBEEF, -1), [0xDEADBEEF, 0xFFFFFFFF]),
    ],
)
def test_control(build: Build, words: list[int]) -> None:
    assert build(BatchBuilder()).dwords == tuple(words)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda b: b.store_dword(A, 1, 2), [0x10000003, LO, HI, 1, 2]),
        (lambda b: b.store_dword(A, -2), [0x10000002, LO, HI, 0xFFFFFFFE]),
        (lambda b: b.store_qword(A, 0x1_0000_0002), [0x10200003, LO, HI, 2, 1]),
        (lambda b: b.store_qword(A, 3, -1), [0x10200005, LO, HI, 3, 0, 0xFFFFFFFF, 0xFFFFFFFF]),
        (lambda b: b.copy_dword(A, B), [0x17000003, LO, HI, B_LO, B_HI]),
        (lambda b: b.atomic_inc(A), [0x17800501, LO, HI]),
        (lambda b: b.atomic_dec(A), [0x17800601, LO, HI]),
        (lambda b: b.atomic_inc(A, qword=True), [0x17882501, LO, HI]),
        (lambda b: b.atomic(AtomicOp.ADD, A), [0x17800701, LO, HI]),
        (
            lambda b: b.atomic(AtomicOp.ADD, A, 5),
            [0x17840709, LO, HI, 5, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            lambda b: b.atomic(AtomicOp.COMPARE_WRITE, A, 5, 6, to_gpr=True),
            [0x17850E09, LO, HI, 5, 6, 0, 0, 0, 0, 0, 0],
        ),
        (
            lambda b: b.atomic(
                AtomicOp.COMPARE_WRITE, A, 0x1111_2222_3333, 0x4444_5555_6666, qword=True
            ),
            [0x178C2E09, LO, HI, 0x22223333, 0x55556666, 0x1111, 0x4444, 0, 0, 0, 0],
        ),
    ],
)
def test_memory(build: Build, words: list[int]) -> None:
    assert build(BatchBuilder()).dwords == tuple(words)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda b: b.load_register_imm(gpr(1), 9), [0x11080001, 0x608, 9]),
        (lambda b: b.load_register_imm(0x2608, 9, relative=False), [0x11000001, 0x2608, 9]),
        (lambda b: b.load_registers_imm([(4, 5), (8, 6)]), [0x11080003, 4, 5, 8, 6]),
        (lambda b: b.load_gpr(15, 0x1_0000_0002), [0x11080003, 0x678, 2, 0x67C, 1]),
        # The source stands first in the command.
        (lambda b: b.load_register_reg(gpr(0), CTX_TIMESTAMP), [0x150C0001, 0x3A8, 0x600]),
        (lambda b: b.load_register_reg(8, 4, relative=False), [0x15000001, 4, 8]),
        (lambda b: b.load_register_mem(gpr(2), A), [0x14880002, 0x610, LO, HI]),
        (lambda b: b.load_register_mem(4, A, relative=False), [0x14800002, 4, LO, HI]),
        (lambda b: b.store_register_mem(gpr(2), A), [0x12080002, 0x610, LO, HI]),
        (lambda b: b.store_register_mem(4, A, relative=False), [0x12000002, 4, LO, HI]),
    ],
)
def test_registers(build: Build, words: list[int]) -> None:
    assert build(BatchBuilder()).dwords == tuple(words)


def test_math() -> None:
    """GPR1 = not (GPR1 - GPR0), as a spinner has it, and each kind of word once."""
    batch = BatchBuilder().math(
        Alu.load(Alu.SRCA, 1), Alu.load(Alu.SRCB, 0), Alu.SUB, Alu.storeinv(1, Alu.ACCU)
    )
    assert batch.dwords == (0x0D000003, 0x08008001, 0x08008400, 0x10100000, 0x58000431)
    words = [
        (Alu.load(Alu.SRCB, 15), 0x0800840F),
        (Alu.loadinv(Alu.SRCA, Alu.CF), 0x48008033),
        (Alu.load0(Alu.SRCA), 0x08108000),
        (Alu.load1(Alu.SRCB), 0x48108400),
        (Alu.store(15, Alu.ZF), 0x18003C32),
        (Alu.NOOP, 0x00000000),
        (Alu.ADD, 0x10000000),
        (Alu.AND, 0x10200000),
        (Alu.OR, 0x10300000),
        (Alu.XOR, 0x10400000),
        (Alu.SHL, 0x10500000),
        (Alu.SHR, 0x10600000),
        (Alu.SAR, 0x10700000),
    ]
    assert [hex(word) for word, _ in words] == [hex(number) for _, number in words]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda b: b.flush_dw(), [0x13000003, 0, 0, 0, 0]),
        (lambda b: b.flush_dw(A, 0x1_0000_0002), [0x13004003, LO, HI, 2, 1]),
        (lambda b: b.flush_dw(A, timestamp=True), [0x1300C003, LO, HI, 0, 0]),
        (lambda b: b.pipe_control(), [0x7A000004, 0x00100000, 0, 0, 0, 0]),
        (lambda b: b.pipe_control(A, 5 << 32), [0x7A000004, 0x00104000, LO, HI, 0, 5]),
        (lambda b: b.pipe_control(A, timestamp=True), [0x7A000004, 0x0010C000, LO, HI, 0, 0]),
    ],
)
def test_flushes(build: Build, words: list[int]) -> None:
    assert build(BatchBuilder()).dwords == tuple(words)


def test_copies_of_bytes() -> None:
    batch = BatchBuilder().mem_copy(A, B + 1, 100)
    assert batch.dwords == (0x56800008, 99, 0, 0, 0, B_LO + 1, B_HI, LO, HI, 0)
    batch = BatchBuilder().mem_set(A + 3, 0xAB, 0x40000)
    assert batch.dwords == (0x56C00005, 0x3FFFF, 0, 0, LO + 3, HI, 0xAB000000)


def test_long_copies_become_pages_or_several_commands() -> None:
    target, source = 0x10_0000, 0x80_0000
    batch = BatchBuilder().mem_copy(target, source, 0x10_0000)
    assert batch.dwords == (0x56880008, 0xFFF, 0, 0, 0, source, 0, target, 0, 0)
    batch = BatchBuilder().mem_copy(target, source, 0x40001)
    assert batch.dwords == (
        *(0x56800008, 0x3FFFF, 0, 0, 0, source, 0, target, 0, 0),
        *(0x56800008, 0, 0, 0, 0, source + 0x40000, 0, target + 0x40000, 0, 0),
    )
    batch = BatchBuilder().mem_set(target, 1, 0x50000)
    assert batch.dwords == (
        *(0x56C00005, 0x3FFFF, 0, 0, target, 0, 0x01000000),
        *(0x56C00005, 0x0FFFF, 0, 0, target + 0x40000, 0, 0x01000000),
    )


@pytest.mark.parametrize(
    ("bpp", "depth"), [(8, 0), (16, 0x01000000), (32, 0x03000000), (64, 0x04000000)]
)
def test_fast_copy(bpp: int, depth: int) -> None:
    batch = BatchBuilder().fast_copy(A, B, 64, 3, target_pitch=1024, source_pitch=512, bpp=bpp)
    corner = 3 << 16 | 64
    assert batch.dwords == (0x50800008, depth | 1024, 0, corner, LO, HI, 0, 512, B_LO, B_HI)


@pytest.mark.parametrize(
    ("bpp", "depth", "color", "words"),
    [
        (8, 0x000000, 0xAB, (0xAB, 0, 0, 0)),
        (32, 0x100000, 0xDEADBEEF, (0xDEADBEEF, 0, 0, 0)),
        (64, 0x180000, 0x1_0000_0002, (2, 1, 0, 0)),
        (128, 0x280000, 0x4_00000003_00000002_00000001, (1, 2, 3, 4)),
    ],
)
def test_fast_color(bpp: int, depth: int, color: int, words: tuple[int, ...]) -> None:
    batch = BatchBuilder().fast_color(B, 16, 4, pitch=256, color=color, bpp=bpp, system=True)
    rows = (255, 0, 4 << 16 | 16, B_LO, B_HI, 0x80000000, *words, 0, 0, 0x2003C003, 0, 0)
    assert batch.dwords == (0x5100000E | depth, *rows)
    batch = BatchBuilder().fast_color(B, 16, 4, pitch=256, color=color, bpp=bpp)
    assert batch.dwords[6] == 0


# --- addresses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "halves"),
    [
        (0, (0, 0)),
        (0x7FFF_FFFF_FFFC, (0xFFFFFFFC, 0x7FFF)),
        # The upper half of the address space, in both spellings.
        (0x8000_0000_0000, (0, 0xFFFF8000)),
        (0xFFFF_8000_0000_0000, (0, 0xFFFF8000)),
        (0xFFFF_FFFF_F000, (0xFFFFF000, 0xFFFFFFFF)),
        (0xFFFF_FFFF_FFFF_F000, (0xFFFFF000, 0xFFFFFFFF)),
    ],
)
def test_addresses_are_canonical(address: int, halves: tuple[int, int]) -> None:
    assert BatchBuilder().jump(address).dwords[1:] == halves


@pytest.mark.parametrize("address", [1 << 48, 0x1_8000_0000_0000, 0xFFFF_7FFF_FFFF_F000, -4, 2])
def test_what_is_no_address(address: int) -> None:
    with pytest.raises(ValueError, match="address"):
        BatchBuilder().jump(address)
    with pytest.raises(ValueError, match="address"):
        BatchBuilder(address)


def test_a_loop() -> None:
    batch = BatchBuilder(B).noop()
    loop = batch.here
    batch.arb_check().jump(loop)
    assert (batch.address, loop, batch.here) == (B, B + 4, B + 20)
    assert batch.dwords[-2:] == (B_LO + 4, B_HI)


def test_without_an_address_it_is_nowhere() -> None:
    with pytest.raises(ValueError, match="address"):
        _ = BatchBuilder().here


# --- what does not fit ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        lambda b: b.dword(1 << 32),
        lambda b: b.dword(1, 1 << 32),
        lambda b: b.noop(-1),
        lambda b: b.conditional_end(A, 0, 6),
        lambda b: b.semaphore_wait(A, 1 << 32),
        lambda b: b.store_dword(A + 2, 0),
        lambda b: b.store_dword(A, 1 << 32),
        lambda b: b.store_dword(A, -(1 << 31) - 1),
        lambda b: b.store_dword(A, *[0] * 0x3FF),
        lambda b: b.store_qword(A + 4, 0),
        lambda b: b.store_qword(A, 1 << 64),
        lambda b: b.copy_dword(A, A + 1),
        lambda b: b.atomic(9, A),
        lambda b: b.atomic(AtomicOp.ADD, A, 1 << 32),
        lambda b: b.atomic_inc(A + 2),
        lambda b: b.atomic_inc(A + 4, qword=True),
        lambda b: b.load_register_imm(gpr(0) + 1, 0),
        lambda b: b.load_register_imm(1 << 23, 0),
        lambda b: b.load_register_imm(-4, 0),
        lambda b: b.load_registers_imm([]),
        lambda b: b.load_registers_imm([(0, 0)] * 129),
        lambda b: b.load_gpr(16, 0),
        lambda b: b.math(),
        lambda b: b.math(*[Alu.NOOP] * 257),
        lambda b: b.math(Alu.load(16, 0)),
        lambda b: b.flush_dw(A),
        lambda b: b.flush_dw(value=1),
        lambda b: b.flush_dw(timestamp=True),
        lambda b: b.flush_dw(A, 1, timestamp=True),
        lambda b: b.flush_dw(A + 4, 1),
        lambda b: b.pipe_control(A),
        lambda b: b.mem_copy(A, B, 0),
        lambda b: b.mem_set(A, 256, 1),
        lambda b: b.mem_set(A, 0, -1),
        lambda b: b.fast_copy(A, B, 4, 1, target_pitch=16, source_pitch=16, bpp=24),
        lambda b: b.fast_copy(A, B, 4, 1, target_pitch=16, source_pitch=12),
        lambda b: b.fast_copy(A, B, 4, 1, target_pitch=1 << 16, source_pitch=16),
        lambda b: b.fast_copy(A, B, 0, 1, target_pitch=16, source_pitch=16),
        lambda b: b.fast_copy(A, B, 1, 1 << 15, target_pitch=16, source_pitch=16),
        lambda b: b.fast_copy(A + 2, B, 4, 1, target_pitch=16, source_pitch=16),
        lambda b: b.fast_color(B, 4, 1, pitch=16, color=1 << 32),
        lambda b: b.fast_color(B, 4, 0, pitch=16, color=0),
        lambda b: b.fast_color(B, 1, (1 << 14) + 1, pitch=16, color=0),
        lambda b: b.fast_color(B, 4, 1, pitch=(1 << 18) + 4, color=0),
    ],
)
def test_refused_commands_leave_nothing(build: Build) -> None:
    batch = BatchBuilder().noop()
    with pytest.raises(ValueError):
        build(batch)
    assert batch.dwords == (0,)


def test_the_largest_that_fit() -> None:
    assert BatchBuilder().store_dword(A, *[0] * 0x3FE).dwords[0] == 0x100003FF
    assert BatchBuilder().load_registers_imm([(0, 0)] * 128).dwords[0] == 0x110800FF
    assert BatchBuilder().math(*[Alu.NOOP] * 256).dwords[0] == 0x0D0000FF
    batch = BatchBuilder().fast_color(0, 1 << 14, 1 << 14, pitch=1 << 18, color=0)
    assert (batch.dwords[1], batch.dwords[13]) == (0x3FFFF, 0x2FFFFFFF)
