"""Batches: levels, fetching, what is told after a failure, and bytes that are no batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu.fake_gpu import (
    BASE,
    COMPUTE,
    COPY,
    MI_BATCH_BUFFER_END,
    RENDER,
    FakeGpu,
    FakeMemory,
    FakePort,
    StepLimit,
    at,
)
from xedev.gpu.command_streamer import CommandStreamer
from xedev.gpu.context import Context
from xedev.gpu.mi_commands import MI_COMMANDS
from xedev.gpu.ports import Access, GpuFault, GpuHang

DATA = FakeGpu.DATA
HERE = at(DATA)
OTHER = BASE + 0x2000
STORE = 0x10000002
JUMP = 0x18800101
CALL = 0x18800101 | 1 << 22
PRT = 0x1C800000
NOOP = 0


@pytest.fixture
def gpu() -> FakeGpu:
    return FakeGpu()


def store(offset: int, value: int) -> tuple[int, ...]:
    return (STORE, *at(DATA + offset), value)


def stored(gpu: FakeGpu, count: int) -> list[int]:
    return [gpu.memory.peek32(DATA + 4 * i) for i in range(count)]


# ---- levels ----


def test_an_empty_batch(gpu: FakeGpu) -> None:
    gpu.run()
    assert not gpu.memory.written


def test_a_jump_does_not_come_back(gpu: FakeGpu) -> None:
    gpu.memory.poke32(OTHER, *store(0, 1), MI_BATCH_BUFFER_END)
    gpu.run(JUMP, *at(OTHER), *store(4, 2))
    assert stored(gpu, 2) == [1, 0]


@pytest.mark.parametrize("header", [CALL, PRT, PRT | 1])
def test_a_call_comes_back(gpu: FakeGpu, header: int) -> None:
    gpu.memory.poke32(OTHER, *store(0, 1), MI_BATCH_BUFFER_END)
    gpu.run(header, *at(OTHER), *store(4, 2))
    assert stored(gpu, 2) == [1, 2]


def test_a_jump_within_a_call_stays_in_its_level(gpu: FakeGpu) -> None:
    gpu.memory.poke32(OTHER, JUMP, *at(OTHER + 0x1000))
    gpu.memory.poke32(OTHER + 0x1000, *store(0, 1), MI_BATCH_BUFFER_END)
    gpu.run(CALL, *at(OTHER), *store(4, 2))
    assert stored(gpu, 2) == [1, 2]


def test_calls_go_three_levels_deep(gpu: FakeGpu) -> None:
    gpu.memory.poke32(OTHER, CALL, *at(OTHER + 0x1000), MI_BATCH_BUFFER_END)
    gpu.memory.poke32(OTHER + 0x1000, *store(0, 1), MI_BATCH_BUFFER_END)
    gpu.run(CALL, *at(OTHER), *store(4, 2))
    assert stored(gpu, 2) == [1, 2]


def test_a_batch_that_calls_itself_hangs(gpu: FakeGpu) -> None:
    with pytest.raises(GpuHang, match="3 deep"):
        gpu.run(CALL, *at(BASE))


def test_the_low_bits_of_the_address_of_a_batch_are_ignored(gpu: FakeGpu) -> None:
    gpu.memory.poke32(BASE, *store(0, 1), MI_BATCH_BUFFER_END)
    gpu.streamer.run(BASE + 2)
    assert stored(gpu, 1) == [1]


def test_a_batch_at_a_high_address() -> None:
    high = 0xFFFF_8000_0000_0000
    memory = FakeMemory(base=0x8000_0000_0000)
    memory.data[:20] = b"".join(
        i.to_bytes(4, "little") for i in (STORE, *at(high + 0x100), 7, MI_BATCH_BUFFER_END)
    )
    CommandStreamer(Context(), memory, FakePort()).run(high)
    assert memory.peek32(high + 0x100) == 7


def test_registers_last_from_batch_to_batch(gpu: FakeGpu) -> None:
    gpu.run(0x11080001, 0x600, 5)
    gpu.run(0x12080002, 0x600, *HERE)
    assert stored(gpu, 1) == [5]


# ---- fetching ----


@pytest.mark.parametrize("noops", [0, 60, 61, 62, 63, 64, 1020, 1021, 1022, 1023])
def test_a_command_may_cross_blocks_and_pages(gpu: FakeGpu, noops: int) -> None:
    gpu.run(*[NOOP] * noops, *store(0, 1), *store(4, 2))
    assert stored(gpu, 2) == [1, 2]


def test_a_command_longer_than_a_block(gpu: FakeGpu) -> None:
    gpu.run(NOOP, 0x10000000 | 101, *HERE, *range(1, 101), *store(400, 7))
    assert stored(gpu, 101) == [*range(1, 101), 7]


def test_nothing_is_read_after_the_page_of_the_end() -> None:
    memory = FakeMemory(0x1000)
    memory.poke32(BASE + 0xFEC, *(STORE, *at(BASE), 1), MI_BATCH_BUFFER_END)
    CommandStreamer(Context(), memory, FakePort()).run(BASE + 0xFEC)
    assert memory.peek32(BASE) == 1


def test_a_batch_without_end_faults_behind_its_last_page() -> None:
    gpu = FakeGpu()
    end = BASE + len(gpu.memory.data)
    with pytest.raises(GpuFault) as raised:
        gpu.streamer.run(end - 16)
    assert (raised.value.address, raised.value.access) == (end, Access.READ)
    assert gpu.streamer.where()[0] == f"fetching commands at {end:#x}"


def test_what_a_batch_stores_ahead_of_itself_is_executed(gpu: FakeGpu) -> None:
    gpu.run(STORE, *at(BASE + 16), MI_BATCH_BUFFER_END, *store(0, 1))
    assert stored(gpu, 1) == [0]


def test_an_atomic_ahead_of_itself_too(gpu: FakeGpu) -> None:
    gpu.context.gpr[0] = MI_BATCH_BUFFER_END
    gpu.run(0x17800401, *at(BASE + 12), *store(0, 1))
    assert stored(gpu, 1) == [0]


@pytest.mark.parametrize("command", [(0x02800000,), (0x0E008002 | 4 << 12, 1, *at(DATA + 64))])
def test_what_the_cpu_writes_while_a_batch_waits_is_executed(
    gpu: FakeGpu, command: tuple[int, ...]
) -> None:
    """As NEO's ring: a semaphore, and behind it what is written later."""
    first = gpu.port.checkpoint

    def checkpoint() -> None:
        first()
        if gpu.port.checkpoints == 2:
            gpu.memory.poke32(BASE + 4 * len(command), *store(0, 5))

    gpu.port.checkpoint = checkpoint  # type: ignore[method-assign]
    gpu.port.on_spin = lambda: gpu.memory.poke32(DATA + 64, 1)
    gpu.run(*command, MI_BATCH_BUFFER_END, NOOP, NOOP, NOOP)
    assert stored(gpu, 1) == [5]


def test_others_come_first_within_a_long_batch(gpu: FakeGpu) -> None:
    gpu.run(*[NOOP] * 6400)
    assert gpu.port.checkpoints >= 100


# ---- failures ----


def test_a_fault_says_what_and_where(gpu: FakeGpu) -> None:
    with pytest.raises(GpuFault) as raised:
        gpu.run(NOOP, *store(0, 1), STORE, *at(0x4000), 1)
    assert (raised.value.address, raised.value.access) == (0x4000, Access.WRITE)
    assert gpu.streamer.where() == [
        f"at {BASE + 20:#x}: 0x10000002 MI_STORE_DATA_IMM",
        f"after {BASE + 4:#x}: 0x10000002 MI_STORE_DATA_IMM",
        f"after {BASE:#x}: 0x00000000 MI_NOOP",
    ]


def test_what_was_called_from_where_is_told(gpu: FakeGpu) -> None:
    gpu.memory.poke32(OTHER, 0x01800000)
    with pytest.raises(GpuHang):
        gpu.run(CALL, *at(OTHER))
    assert gpu.streamer.where() == [
        f"at {OTHER:#x}: 0x01800000 MI_?",
        f"after {BASE:#x}: 0x18c00101 MI_BATCH_BUFFER_START",
        f"called from before {BASE + 12:#x}",
    ]


def test_only_the_last_commands_are_told(gpu: FakeGpu) -> None:
    with pytest.raises(GpuHang):
        gpu.run(*[NOOP] * 100, 0x01800000)
    assert len(gpu.streamer.where()) == 8


def test_after_a_failure_the_next_batch_runs(gpu: FakeGpu) -> None:
    gpu.memory.poke32(OTHER, 0x01800000)
    with pytest.raises(GpuHang):
        gpu.run(0x0080000F, CALL, *at(OTHER))
    gpu.run(*store(0, 1))
    assert stored(gpu, 1) == [1]
    assert len(gpu.streamer.where()) == 2


MINIMUM = [
    (opcode, command.minimum) for opcode, command in MI_COMMANDS.items() if command.minimum > 2
]


@pytest.mark.parametrize(("opcode", "minimum"), [m for m in MINIMUM if m[0] != 0x39])
def test_a_command_that_is_too_short_hangs(gpu: FakeGpu, opcode: int, minimum: int) -> None:
    with pytest.raises(GpuHang, match=f"of {minimum - 1} dwords"):
        gpu.run(opcode << 23 | minimum - 3)


# ---- bytes that are no batch ----

HEADERS = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.builds(
        lambda opcode, flags, length: opcode << 23 | flags << 8 | length,
        st.sampled_from(sorted(MI_COMMANDS)),
        st.integers(0, 0x7FFF),
        st.integers(0, 12),
    ),
    st.builds(
        lambda opcode, flags, length: 2 << 29 | opcode << 22 | flags << 8 | length,
        st.sampled_from([0x41, 0x42, 0x44, 0x48, 0x5A, 0x5B]),
        st.integers(0, 0x3FFF),
        st.integers(0, 22),
    ),
    st.sampled_from([0x7A000004, 0x72080026, 0x18800101, 0x0E008003, 0x1B200002]),
)
OPERANDS = st.one_of(
    st.integers(0, 0xFFFF_FFFF),
    st.sampled_from([0, 1, BASE, BASE + 4, BASE + 64, DATA, DATA + 8, 0x600, 0x3A8]),
)


@given(
    engine_class=st.sampled_from([RENDER, COPY, COMPUTE]),
    dwords=st.lists(HEADERS | OPERANDS, max_size=80),
)
def test_whatever_is_executed_ends_faults_hangs_or_runs_on(
    engine_class: int, dwords: list[int]
) -> None:
    gpu = FakeGpu(engine_class, limit=200)
    try:
        gpu.run(*dwords)
    except (GpuFault, GpuHang, StepLimit):
        assert gpu.streamer.where()
