from __future__ import annotations

import pytest

from tests.gpu.fake_gpu import (
    BASE,
    COMPUTE,
    COPY,
    MI_BATCH_BUFFER_END,
    MMIO_BASES,
    RENDER,
    FakeGpu,
    at,
)
from xedev.gpu.ports import GpuHang, Watch

DATA = FakeGpu.DATA
HERE = at(DATA)
THERE = at(DATA + 8)
STORE = 0x10000002
GGTT = 1 << 22
GPR = 0x600
LRI = 0x11000000 | 1 << 19
SRM = 0x12000002 | 1 << 19
LRM = 0x14800002 | 1 << 19
PREDICATE_RESULT = 0x418
PREDICATE_RESULT_2 = 0x3BC
CTX_TIMESTAMP = 0x3A8
RING_TIMESTAMP = 0x358
QUEUE_TIMESTAMP = 0x4C0


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


def load_imm(register: int, value: int) -> tuple[int, ...]:
    return (LRI | 1, register, value)


def store_register(register: int, address: int) -> tuple[int, ...]:
    return (SRM, register, *at(address))


# ---- MI_STORE_DATA_IMM ----


def test_a_dword_is_stored(gpu: FakeGpu) -> None:
    gpu.memory.poke64(DATA, 0xFFFF_FFFF_FFFF_FFFF)
    gpu.run(STORE, *HERE, 0xC0FFEE)
    assert gpu.data == 0xFFFF_FFFF_00C0_FFEE


def test_a_qword_is_stored(gpu: FakeGpu) -> None:
    gpu.run(0x10200003, *HERE, 0x89ABCDEF, 0x01234567)
    assert gpu.data == 0x0123_4567_89AB_CDEF


def test_more_data_goes_to_the_dwords_that_follow(gpu: FakeGpu) -> None:
    count = 300
    gpu.run(0x10000000 | count + 1, *HERE, *range(count))
    stored = gpu.memory.read(DATA, 4 * count)
    assert stored == b"".join(i.to_bytes(4, "little") for i in range(count))


def test_several_qwords_are_stored(gpu: FakeGpu) -> None:
    gpu.run(0x10200005, *HERE, 1, 2, 3, 4)
    assert (gpu.data, gpu.memory.peek64(DATA + 8)) == (1 | 2 << 32, 3 | 4 << 32)


def test_half_a_qword_hangs(gpu: FakeGpu) -> None:
    with pytest.raises(GpuHang, match="half a qword"):
        gpu.run(0x10200002, *HERE, 1)


def test_the_low_bits_of_an_address_are_flags(gpu: FakeGpu) -> None:
    gpu.run(STORE, DATA | 3, 0, 7)
    assert gpu.data == 7


# ---- registers ----


@pytest.mark.parametrize("engine_class", sorted(MMIO_BASES))
@pytest.mark.parametrize("number", [0, 7, 15])
def test_a_register_is_loaded_and_stored_by_relative_offset(engine_class: int, number: int) -> None:
    gpu = FakeGpu(engine_class)
    register = GPR + 8 * number
    gpu.run(
        *(LRI | 3, register, 0x11111111, register + 4, 0x22222222),
        *store_register(register, DATA),
        *store_register(register + 4, DATA + 4),
    )
    assert gpu.data == 0x22222222_11111111


def test_a_register_is_loaded_by_its_absolute_offset() -> None:
    gpu = FakeGpu(RENDER)
    gpu.run(0x11000001, 0x2600, 5, 0x12000002, 0x2600, *HERE)
    assert gpu.data == 5


def test_the_register_of_another_engine_is_neither_written_nor_read() -> None:
    gpu = FakeGpu(COMPUTE)
    gpu.memory.poke32(DATA, 9)
    gpu.run(0x11000001, 0x2600, 5, 0x12000002, 0x2600, *HERE)
    assert gpu.data == 0 and not any(gpu.context.gpr)


@pytest.mark.parametrize(("engine_class", "offset"), [(COMPUTE, 0x2600), (COPY, 0x22600)])
def test_remapping_takes_the_first_engine_for_this_one(engine_class: int, offset: int) -> None:
    gpu = FakeGpu(engine_class)
    gpu.port.mmio_base += 0x4000
    gpu.run(0x11000001 | 1 << 17, offset, 5, 0x12000002 | 1 << 17, offset, *HERE)
    assert gpu.data == 5


def test_a_write_to_a_register_that_is_not_whitelisted_is_dropped(gpu: FakeGpu) -> None:
    gpu.memory.poke32(DATA, 9)
    gpu.run(*load_imm(0x30, 5), *store_register(0x30, DATA))
    assert gpu.data == 0


def test_a_clock_cannot_be_set(gpu: FakeGpu) -> None:
    gpu.run(*load_imm(CTX_TIMESTAMP, 0x7777), *store_register(CTX_TIMESTAMP, DATA))
    assert gpu.data == 1


def test_a_masked_register_takes_the_bits_that_the_mask_names() -> None:
    gpu = FakeGpu(COPY)
    gpu.run(
        *load_imm(0x200, 0x0003_0003),
        *load_imm(0x200, 0x0001_0000),
        *store_register(0x200, DATA),
    )
    assert gpu.data == 2


def test_a_register_is_loaded_from_memory(gpu: FakeGpu) -> None:
    gpu.memory.poke32(DATA, 0x1234)
    gpu.run(LRM, GPR, *HERE)
    assert gpu.context.gpr[0] == 0x1234


def test_half_a_register_keeps_the_other(gpu: FakeGpu) -> None:
    gpu.context.gpr[0] = 0x2222_2222_1111_1111
    gpu.run(*load_imm(GPR, 3))
    gpu.run(*load_imm(GPR + 4, 4))
    assert gpu.context.gpr[0] == 4 << 32 | 3


@pytest.mark.parametrize(
    ("flags", "source", "target"),
    [
        (1 << 18 | 1 << 19, GPR, GPR + 8),
        (1 << 18, GPR, 0x1A608),
        (1 << 19, 0x1A600, GPR + 8),
        (1 << 16 | 1 << 17, 0x2600, 0x2608),
    ],
)
def test_a_register_is_loaded_from_another(
    gpu: FakeGpu, flags: int, source: int, target: int
) -> None:
    gpu.context.gpr[0] = 0x55
    gpu.run(0x15000001 | flags, source, target)
    assert gpu.context.gpr[1] == 0x55


@pytest.mark.parametrize(
    ("register", "ticks"), [(RING_TIMESTAMP, 1), (CTX_TIMESTAMP, 2), (QUEUE_TIMESTAMP, 2)]
)
def test_a_clock_is_read_in_halves(gpu: FakeGpu, register: int, ticks: int) -> None:
    gpu.port.ticks = 0x1_0000_0010
    gpu.port.context_ticks = 0x2_0000_0020
    gpu.run(*store_register(register, DATA), *store_register(register + 4, DATA + 4))
    assert gpu.data == ticks << 32 | ticks * 0x10 + 1


def test_the_address_of_the_command_can_be_read(gpu: FakeGpu) -> None:
    gpu.run(0, *store_register(0x140, DATA), *store_register(0x168, DATA + 4))
    assert gpu.data == BASE + 4


def test_a_noop_can_leave_a_number(gpu: FakeGpu) -> None:
    gpu.run(1 << 22 | 0x12345, *store_register(0x94, DATA))
    assert gpu.data == 0x12345


# ---- predicates ----


@pytest.mark.parametrize(
    ("mode", "register", "value", "stored"),
    [
        (0, PREDICATE_RESULT_2, 0, 1),
        (1, PREDICATE_RESULT_2, 0, 0),
        (1, PREDICATE_RESULT_2, 1, 1),
        (2, PREDICATE_RESULT_2, 0, 1),
        (2, PREDICATE_RESULT_2, 1, 0),
        (1, 0x214, 1, 1),
        (3, PREDICATE_RESULT, 0, 0),
        (3, PREDICATE_RESULT, 1, 1),
        (4, PREDICATE_RESULT, 1, 0),
        (4, PREDICATE_RESULT, 0, 1),
        (15, PREDICATE_RESULT, 1, 0),
    ],
)
def test_set_predicate_makes_noops_of_what_follows(
    gpu: FakeGpu, mode: int, register: int, value: int, stored: int
) -> None:
    gpu.run(
        *load_imm(register, value),
        *(0x00800000 | mode, STORE, *HERE, 1),
        *(0x00800000, STORE, *THERE, 2),
    )
    assert (gpu.data, gpu.memory.peek32(DATA + 8)) == (stored, 2)


@pytest.mark.parametrize(("engine_class", "stored"), [(RENDER, 0), (COMPUTE, 1)])
def test_set_predicate_for_render_only(engine_class: int, stored: int) -> None:
    gpu = FakeGpu(engine_class)
    gpu.run(0x0080000B, STORE, *HERE, 1)
    assert gpu.data == stored


def test_a_batch_begins_without_predicate(gpu: FakeGpu) -> None:
    gpu.run(0x0080000F, STORE, *HERE, 1)
    gpu.run(STORE, *THERE, 1)
    assert (gpu.data, gpu.memory.peek32(DATA + 8)) == (0, 1)


def test_a_predicated_jump_is_taken_by_the_result(gpu: FakeGpu) -> None:
    target = BASE + 0x1000
    gpu.memory.poke32(target, STORE, *HERE, 1, MI_BATCH_BUFFER_END)
    batch = (0x00800001, 0x18800101 | 1 << 15, *at(target), 0x00800000, STORE, *THERE, 1)
    gpu.run(*load_imm(PREDICATE_RESULT_2, 0), *batch)
    assert (gpu.data, gpu.memory.peek32(DATA + 8)) == (0, 1)
    gpu.memory.poke64(DATA, 0, 0)
    gpu.run(*load_imm(PREDICATE_RESULT_2, 1), *batch)
    assert (gpu.data, gpu.memory.peek32(DATA + 8)) == (1, 0)


def test_a_jump_that_is_not_predicated_is_taken_anyhow(gpu: FakeGpu) -> None:
    target = BASE + 0x1000
    gpu.memory.poke32(target, 0x00800000, STORE, *HERE, 1, MI_BATCH_BUFFER_END)
    gpu.run(0x0080000F, 0x18800101, *at(target))
    assert gpu.data == 1


def test_a_predicated_end_is_passed(gpu: FakeGpu) -> None:
    gpu.run(0x0080000F, MI_BATCH_BUFFER_END | 1 << 15, 0x00800000, STORE, *HERE, 1)
    assert gpu.data == 1


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        (2 << 6 | 0, 0, 1),
        (2 << 6 | 1, 1, 0),
        (2 << 6 | 2, 0, 1),
        (3 << 6 | 2, 1, 0),
        (2 << 6 | 3, 0, 0),
        (2 << 6 | 1 << 3 | 2, 0, 0),
        (2 << 6 | 1 << 3 | 2, 1, 1),
        (2 << 6 | 2 << 3 | 1, 1, 1),
        (2 << 6 | 3 << 3 | 2, 1, 0),
        (0 << 6 | 2, 0, 0),
    ],
)
def test_mi_predicate(gpu: FakeGpu, command: int, before: int, after: int) -> None:
    gpu.run(
        *(LRI | 9, PREDICATE_RESULT, before, 0x400, 5, 0x408, 5, 0x404, 1, 0x40C, 1),
        *load_imm(0x410, 1),
        0x06000000 | command,
        *store_register(PREDICATE_RESULT, DATA),
    )
    assert gpu.data == after


def test_mi_predicate_compares_with_a_difference(gpu: FakeGpu) -> None:
    gpu.run(
        *(LRI | 5, 0x400, 9, 0x408, 5, 0x410, 4),
        *(0x06000000 | 2 << 6 | 3, *store_register(PREDICATE_RESULT, DATA)),
    )
    assert gpu.data == 1


@pytest.mark.parametrize("result", [0, 1])
def test_a_predicated_store_of_a_register(gpu: FakeGpu, result: int) -> None:
    gpu.run(
        *(LRI | 3, PREDICATE_RESULT, result, GPR, 5),
        *(SRM | 1 << 21, GPR, *HERE),
    )
    assert gpu.data == 5 * result


# ---- copies, flushes, reports ----


def test_a_dword_is_copied(gpu: FakeGpu) -> None:
    gpu.memory.poke64(DATA + 8, 0x1111_1111_2222_2222)
    gpu.run(0x17000003, *HERE, *THERE)
    assert gpu.data == 0x2222_2222


def test_a_flush_stores_32_bits(gpu: FakeGpu) -> None:
    gpu.memory.poke64(DATA, 0xFFFF_FFFF_FFFF_FFFF)
    gpu.run(0x13004002, *HERE, 7)
    assert gpu.data == 0xFFFF_FFFF_0000_0007


def test_a_flush_stores_64_bits(gpu: FakeGpu) -> None:
    gpu.run(0x13004003, *HERE, 7, 8)
    assert gpu.data == 8 << 32 | 7


def test_a_flush_stores_the_time(gpu: FakeGpu) -> None:
    gpu.port.ticks = 0x5_0000_0000
    gpu.run(0x1300C003, *HERE, 0, 0)
    assert gpu.data == 0x5_0000_0001


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flush_without_post_sync_stores_nothing(gpu: FakeGpu, length: int) -> None:
    gpu.run(0x13000000 | 1 << 18 | length, *HERE, *[1] * (length - 1))
    assert not gpu.memory.written


@pytest.mark.parametrize("header", [0x13004001, 0x13008003, 0x13204003])
def test_a_flush_that_cannot_store_hangs(gpu: FakeGpu, header: int) -> None:
    with pytest.raises(GpuHang, match="MI_FLUSH_DW"):
        gpu.run(header, *HERE, 0, 0)


def test_a_performance_report_is_zeros(gpu: FakeGpu) -> None:
    gpu.memory.poke(DATA, b"\xff" * 260)
    gpu.run(0x14000002, DATA | 0x10, 0, 77)
    assert gpu.memory.read(DATA, 260) == bytes(256) + b"\xff" * 4


@pytest.mark.parametrize(
    "dwords",
    [
        (0x01000000,),
        (0x02800101,),
        (0x04000001,),
        (0x04800003,),
        (0x06800000,),
        (0x07000000,),
        (0x0D800000, 0),
        (0x0E800000, 0),
    ],
)
def test_commands_that_mean_nothing_here_are_passed(gpu: FakeGpu, dwords: tuple[int, ...]) -> None:
    gpu.run(*dwords, STORE, *HERE, 1)
    assert gpu.data == 1


# ---- comparisons ----

COMPARISONS = [
    (0, 5, 4, True),
    (0, 5, 5, False),
    (0, 0xFFFF_FFFF, 0, True),
    (1, 5, 5, True),
    (1, 4, 5, False),
    (2, 4, 5, True),
    (2, 5, 5, False),
    (3, 5, 5, True),
    (3, 6, 5, False),
    (4, 5, 5, True),
    (4, 5, 6, False),
    (5, 5, 6, True),
    (5, 5, 5, False),
]


@pytest.mark.parametrize(("op", "memory", "data", "holds"), COMPARISONS)
def test_a_batch_goes_on_while_the_condition_holds(
    gpu: FakeGpu, op: int, memory: int, data: int, holds: bool
) -> None:
    gpu.memory.poke32(DATA + 8, memory)
    gpu.run(0x1B000002 | 1 << 21 | op << 12, data, *THERE, STORE, *HERE, 1)
    assert gpu.data == holds


def test_without_compare_the_condition_is_a_noop(gpu: FakeGpu) -> None:
    gpu.run(0x1B000002, 5, *THERE, STORE, *HERE, 1)
    assert gpu.data == 1


def test_the_condition_can_have_a_mask(gpu: FakeGpu) -> None:
    gpu.memory.poke32(DATA + 8, 0x0F, 0xF5)
    gpu.run(0x1B000002 | 1 << 21 | 1 << 19 | 4 << 12, 5, *THERE, STORE, *HERE, 1)
    assert gpu.data == 1


@pytest.mark.parametrize(("flags", "stored"), [(0, 0), (1 << 18, 1)])
def test_the_condition_ends_all_levels_or_one(gpu: FakeGpu, flags: int, stored: int) -> None:
    second = BASE + 0x1000
    gpu.memory.poke32(second, 0x1B000002 | 1 << 21 | flags, 5, *THERE)
    gpu.run(0x18800001 | 1 << 22, *at(second), STORE, *HERE, 1)
    assert gpu.data == stored


@pytest.mark.parametrize(("op", "memory", "data", "holds"), COMPARISONS)
def test_a_semaphore_waits_until_the_comparison_holds(
    gpu: FakeGpu, op: int, memory: int, data: int, holds: bool
) -> None:
    good = data + (1, 0, -1, 0, 0, 1)[op]
    gpu.port.on_spin = lambda: gpu.memory.poke32(DATA + 8, good)
    gpu.memory.poke32(DATA + 8, memory)
    gpu.run(0x0E008002 | op << 12, data, *THERE, STORE, *HERE, 1)
    assert gpu.data == 1
    watch = Watch(DATA + 8, memory.to_bytes(4, "little"))
    assert gpu.port.spins == ([] if holds else [(watch,)])


def test_a_semaphore_with_a_token_and_without_polling(gpu: FakeGpu) -> None:
    gpu.port.on_spin = lambda: gpu.memory.poke32(DATA + 8, 1)
    gpu.run(0x0E000003 | 4 << 12, 1, *THERE, 0, STORE, *HERE, 1)
    assert gpu.data == 1 and len(gpu.port.spins) == 1


def test_a_semaphore_is_polled_again_after_a_change_that_does_not_help(gpu: FakeGpu) -> None:
    values = iter([1, 2, 3])
    gpu.port.on_spin = lambda: gpu.memory.poke32(DATA + 8, next(values))
    gpu.run(0x0E008002 | 1 << 12, 3, *THERE)
    assert [watch.value[0] for (watch,) in gpu.port.spins] == [0, 1, 2]


def test_a_semaphore_compares_with_a_register(gpu: FakeGpu) -> None:
    gpu.context.gpr[0] = 0xF_0000_0007
    gpu.memory.poke32(DATA + 8, 7)
    gpu.run(0x0E008003 | 1 << 17 | 4 << 12, 0, *THERE, 0)
    assert not gpu.port.spins


def test_a_semaphore_polls_a_register(gpu: FakeGpu) -> None:
    gpu.run(0x0E008003 | 1 << 16 | 1 << 12, 5, gpu.port.mmio_base + RING_TIMESTAMP, 0, 0)
    assert gpu.port.spins == [()] * 4


@pytest.mark.parametrize("header", [0x0E00E002, 0x1B20F002])
def test_a_reserved_comparison_hangs(gpu: FakeGpu, header: int) -> None:
    with pytest.raises(GpuHang, match="comparison"):
        gpu.run(header, 0, *THERE)


# ---- the GGTT ----


@pytest.mark.parametrize(
    "dwords",
    [
        (STORE | GGTT, *HERE, 0),
        (SRM | GGTT, GPR, *HERE),
        (LRM | GGTT, GPR, *HERE),
        (0x17800501 | GGTT, *HERE),
        (0x0E008002 | GGTT, 0, *HERE),
        (0x1B200002 | GGTT, 0, *HERE),
        (0x17000003 | GGTT, *HERE, *THERE),
        (0x17000003 | 1 << 21, *HERE, *THERE),
        (0x13004003, DATA | 4, 0, 0, 0),
        (0x14000002, DATA | 1, 0, 0),
    ],
)
def test_the_ggtt_hangs(gpu: FakeGpu, dwords: tuple[int, ...]) -> None:
    with pytest.raises(GpuHang, match="GGTT"):
        gpu.run(*dwords)
    assert not gpu.memory.written
