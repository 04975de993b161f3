"""Batches that wait, and batches that only look so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.gpu.fake_gpu import BASE, COPY, MI_BATCH_BUFFER_END, FakeGpu, StepLimit, at
from xedev.gpu.ports import Watch

DATA = FakeGpu.DATA
STORE = 0x10000002
JUMP = 0x18800101
COND_END = 0x1B000002 | 1 << 21
LRI = 0x11080001
LRR = 0x15000001 | 1 << 18 | 1 << 19
SRM = 0x12080002
LRM = 0x14880002
MATH = 0x0D000000
CTX_TIMESTAMP = 0x3A8
GPR0, GPR1 = 0x600, 0x608
START, END, WAIT_COND, TICKS_DELTA, TIMESTAMP = (DATA + offset for offset in (8, 12, 16, 20, 32))
PAD = DATA
SOURCE, TARGET = DATA + 0x100, DATA + 0x200
DELTA_INVERTED = (0x080 << 20 | 0x20 << 10 | 1, 0x080 << 20 | 0x21 << 10, 0x101 << 20)
STORE_INVERTED = 0x580 << 20 | 1 << 10 | 0x31


def spinner(
    *,
    preempt: bool = False,
    ctx_ticks: int = 0,
    write_timestamp: bool = False,
    mem_copy: bool = False,
    wait_cond: bool = False,
    start_in_loop: bool = False,
) -> list[int]:
    """The program of IGT's lib/xe/xe_spin.c with its options."""
    head: list[int] = []
    if ctx_ticks:
        head += [LRI, GPR0 + 4, 0, LRR, CTX_TIMESTAMP, GPR0]
    started = [STORE, *at(START), 0xC0FFEE]
    loop = started if start_in_loop else []
    head += [] if start_in_loop else started
    if preempt:
        loop = [*loop, 0x02800000]
    if write_timestamp:
        loop = [*loop, LRR, CTX_TIMESTAMP, GPR1, SRM, GPR1, *at(TIMESTAMP)]
    if ctx_ticks:
        loop = [
            *loop,
            *(LRI, GPR1 + 4, 0, LRR, CTX_TIMESTAMP, GPR1),
            *(MATH | 3, *DELTA_INVERTED, STORE_INVERTED),
            *(SRM, GPR1, *at(TICKS_DELTA)),
            *[STORE, *at(PAD), 0] * 8,
            *(COND_END, ~ctx_ticks & 0xFFFF_FFFF, *at(TICKS_DELTA)),
        ]
    if mem_copy:
        loop = [*loop, 0x56800008, 255, 0, 255, 255, *at(SOURCE), *at(TARGET), 0]
    if wait_cond:
        loop = [*loop, 0x0E008003 | 4 << 12, 0, *at(WAIT_COND), 0]
    loop = [*loop, COND_END, 0, *at(END), JUMP, *at(BASE + 4 * len(head))]
    return head + loop


def start(gpu: FakeGpu, program: list[int]) -> None:
    gpu.memory.poke32(END, 0xFFFF_FFFF)
    gpu.memory.poke(SOURCE, bytes(range(256)))
    gpu.run(*program)


def after_spins(gpu: FakeGpu, count: int, action: Callable[[], None]) -> None:
    """Have something happen outside when the batch has spun so often."""

    def on_spin() -> None:
        if len(gpu.port.spins) == count:
            action()

    gpu.port.on_spin = on_spin


def end(gpu: FakeGpu) -> None:
    gpu.memory.poke32(END, 0)


def watched(gpu: FakeGpu) -> list[int]:
    return [watch.address for watch in gpu.port.spins[-1]]


@pytest.mark.parametrize(
    ("options", "also"),
    [
        ({}, ()),
        ({"preempt": True}, ()),
        ({"mem_copy": True}, (SOURCE, TARGET)),
        ({"wait_cond": True}, (WAIT_COND,)),
        ({"start_in_loop": True}, (START,)),
        ({"preempt": True, "mem_copy": True, "wait_cond": True}, (SOURCE, TARGET, WAIT_COND)),
    ],
)
def test_a_spinner_waits_for_what_it_reads(options: dict[str, bool], also: tuple[int, ...]) -> None:
    gpu = FakeGpu(COPY, limit=30)
    after_spins(gpu, 5, lambda: end(gpu))
    start(gpu, spinner(**options))
    assert len(gpu.port.spins) == 5
    assert {END, *also} <= set(watched(gpu))
    assert all(BASE <= a < BASE + 0x200 for a in watched(gpu) if a not in {END, *also})
    assert gpu.memory.peek32(START) == 0xC0FFEE


def test_what_is_watched_has_its_value() -> None:
    gpu = FakeGpu()
    after_spins(gpu, 1, lambda: end(gpu))
    program = spinner()
    start(gpu, program)
    loop = b"".join(dword.to_bytes(4, "little") for dword in program[4:])
    assert set(gpu.port.spins[0]) == {Watch(END, b"\xff" * 4), Watch(BASE + 16, loop)}


@pytest.mark.parametrize("preempt", [False, True])
def test_a_spinner_for_a_time_waits_for_time(preempt: bool) -> None:
    gpu = FakeGpu(limit=2000)
    start(gpu, spinner(ctx_ticks=100, preempt=preempt))
    assert set(gpu.port.spins) == {()}
    assert 90 <= len(gpu.port.spins) <= 100
    assert ~gpu.memory.peek32(TICKS_DELTA) & 0xFFFF_FFFF == 100


def test_a_spinner_for_a_time_can_be_ended_early() -> None:
    gpu = FakeGpu()
    after_spins(gpu, 3, lambda: end(gpu))
    start(gpu, spinner(ctx_ticks=1_000_000))
    assert len(gpu.port.spins) == 3


def test_a_spinner_that_writes_the_time_waits_for_time() -> None:
    gpu = FakeGpu()
    after_spins(gpu, 3, lambda: end(gpu))
    start(gpu, spinner(write_timestamp=True))
    assert gpu.port.spins == [()] * 3
    assert gpu.memory.peek32(TIMESTAMP) == gpu.port.context_ticks


def test_a_spinner_waits_on_its_condition_first() -> None:
    gpu = FakeGpu()
    gpu.memory.poke32(WAIT_COND, 1)
    after_spins(gpu, 1, lambda: gpu.memory.poke32(WAIT_COND, 0))
    gpu.memory.poke32(END, 0)
    gpu.run(*spinner(wait_cond=True))
    assert gpu.port.spins == [(Watch(WAIT_COND, b"\1\0\0\0"),)]


def test_an_endless_spinner_spins_at_every_turn() -> None:
    gpu = FakeGpu(limit=100)
    with pytest.raises(StepLimit):
        start(gpu, spinner())
    assert len(gpu.port.spins) >= 48


def test_a_jump_to_itself_waits_for_its_own_bytes() -> None:
    gpu = FakeGpu(limit=100)
    after_spins(gpu, 2, lambda: gpu.memory.poke32(BASE, MI_BATCH_BUFFER_END))
    gpu.run(JUMP, *at(BASE))
    own = JUMP.to_bytes(4, "little") + BASE.to_bytes(8, "little")
    assert gpu.port.spins == [(Watch(BASE, own),)] * 2


def test_a_loop_is_seen_across_blocks() -> None:
    gpu = FakeGpu(limit=500)
    after_spins(gpu, 2, lambda: end(gpu))
    gpu.memory.poke32(END, 1)
    gpu.run(*[0] * 200, COND_END, 0, *at(END), JUMP, *at(BASE))
    assert len(gpu.port.spins) == 2
    code = sorted((w.address, w.value) for w in gpu.port.spins[0] if w.address != END)
    assert code[0][0] == BASE
    assert sum(len(value) for _, value in code) == 4 * 207


def test_a_loop_of_two_batches_is_seen() -> None:
    gpu = FakeGpu(limit=500)
    after_spins(gpu, 2, lambda: end(gpu))
    gpu.memory.poke32(END, 1)
    second = BASE + 0x1000
    gpu.memory.poke32(second, JUMP, *at(BASE))
    gpu.run(COND_END, 0, *at(END), JUMP, *at(second))
    assert {END, BASE, second} <= set(watched(gpu))


def test_a_loop_around_a_called_batch_is_seen() -> None:
    gpu = FakeGpu(limit=500)
    after_spins(gpu, 2, lambda: end(gpu))
    gpu.memory.poke32(END, 1)
    second = BASE + 0x1000
    gpu.memory.poke32(second, COND_END, 0, *at(END), MI_BATCH_BUFFER_END)
    gpu.run(JUMP | 1 << 22, *at(second), JUMP, *at(BASE))
    assert {END, BASE, second} <= set(watched(gpu))


def test_a_register_that_comes_back_to_its_value_is_no_work() -> None:
    gpu = FakeGpu(limit=100)
    after_spins(gpu, 2, lambda: end(gpu))
    gpu.memory.poke32(END, 1)
    gpu.run(LRI, GPR0, 1, LRM, GPR0, *at(END), COND_END, 0, *at(END), JUMP, *at(BASE))
    assert len(gpu.port.spins) == 2


# ---- work ----


def test_a_loop_that_counts_in_memory_is_work() -> None:
    """IGT's xe_exec_store, cond-batch."""
    gpu = FakeGpu()
    gpu.run(
        *(0x17800501, *at(DATA), 0x04800003),
        *(COND_END | 5 << 12, 25, *at(DATA), JUMP & ~0x100, *at(BASE)),
    )
    assert gpu.data == 25 and not gpu.port.spins


def test_a_loop_that_counts_in_a_register_is_work() -> None:
    gpu = FakeGpu()
    gpu.context.gpr[1] = 1
    step = (0x080 << 20 | 0x20 << 10, 0x080 << 20 | 0x21 << 10 | 1, 0x100 << 20)
    gpu.run(
        *(MATH | 3, *step, 0x180 << 20 | 0x31),
        *(SRM, GPR0, *at(DATA), COND_END | 2 << 12, 20, *at(DATA), JUMP, *at(BASE)),
    )
    assert gpu.data == 20 and not gpu.port.spins


def test_a_loop_that_counts_in_a_register_alone_is_work() -> None:
    gpu = FakeGpu(limit=50)
    gpu.context.gpr[1] = 1
    step = (0x080 << 20 | 0x20 << 10, 0x080 << 20 | 0x21 << 10 | 1, 0x100 << 20)
    with pytest.raises(StepLimit):
        gpu.run(MATH | 3, *step, 0x180 << 20 | 0x31, JUMP, *at(BASE))
    assert not gpu.port.spins


@pytest.mark.parametrize(
    "work",
    [
        [STORE, *at(DATA), 1, STORE, *at(DATA), 2],
        [0x56C00005, 3, 0, 0, *at(DATA), 1 << 24, 0x56C00005, 3, 0, 0, *at(DATA), 2 << 24],
        [0x17800501, *at(DATA)],
        [0x56800008, 3, 0, 0, 0, *at(SOURCE), *at(TARGET), 0, STORE, *at(TARGET), 2],
    ],
)
def test_a_loop_that_stores_something_new_is_work(work: list[int]) -> None:
    gpu = FakeGpu(COPY, limit=50)
    with pytest.raises(StepLimit):
        gpu.run(*work, JUMP, *at(BASE))
    assert not gpu.port.spins


def test_calls_of_the_same_batch_one_after_the_other_are_no_loop() -> None:
    gpu = FakeGpu()
    second = BASE + 0x1000
    gpu.memory.poke32(second, JUMP, *at(second - 0x100))
    gpu.memory.poke32(second - 0x100, MI_BATCH_BUFFER_END)
    gpu.run(*[JUMP | 1 << 22, *at(second)] * 5)
    assert not gpu.port.spins


def test_a_chain_of_batches_downwards_is_no_loop() -> None:
    gpu = FakeGpu()
    top = BASE + 0x4000
    for address in range(top, BASE + 0x100, -0x100):
        gpu.memory.poke32(address, JUMP, *at(address - 0x100))
    gpu.memory.poke32(BASE + 0x100, MI_BATCH_BUFFER_END)
    gpu.streamer.run(top)
    assert not gpu.port.spins


def test_a_loop_too_long_to_be_looked_at_runs_until_it_ends() -> None:
    gpu = FakeGpu(limit=2000)
    end_of_loop = BASE + 0x6000
    gpu.memory.poke32(end_of_loop, COND_END, 0, *at(END), JUMP, *at(BASE))
    gpu.memory.poke32(END, 1)
    checkpoint = gpu.port.checkpoint

    def ends_in_the_end() -> None:
        checkpoint()
        if gpu.port.checkpoints == 1000:
            end(gpu)

    gpu.port.checkpoint = ends_in_the_end  # type: ignore[method-assign]
    gpu.streamer.run(BASE)
    assert gpu.port.checkpoints >= 1000 and not gpu.port.spins


def test_a_loop_that_reads_too_much_to_be_watched_waits_for_time() -> None:
    gpu = FakeGpu(limit=2000)
    gpu.memory.poke32(END, 1)
    after_spins(gpu, 3, lambda: end(gpu))
    loads = [dword for i in range(100) for dword in (LRM, GPR0, *at(DATA + 0x400 + 4 * i))]
    gpu.run(*loads, COND_END, 0, *at(END), JUMP, *at(BASE))
    assert gpu.port.spins == [()] * 3


def test_a_loop_around_a_loop_that_counts_waits_in_the_outer_one() -> None:
    gpu = FakeGpu(limit=2000)
    gpu.context.gpr[1:3] = 1, 3
    gpu.memory.poke32(END, 1)
    after_spins(gpu, 2, lambda: end(gpu))
    head = [COND_END, 0, *at(END), LRI, GPR0, 0]
    inner = BASE + 4 * len(head)
    load = 0x080 << 20
    count = (load | 0x20 << 10, load | 0x21 << 10 | 1, 0x100 << 20, 0x180 << 20 | 0x31)
    compare = (load | 0x20 << 10, load | 0x21 << 10 | 2, 0x101 << 20, 0x580 << 20 | 3 << 10 | 0x32)
    gpu.run(
        *head,
        *(MATH | 7, *count, *compare),
        *(LRR, 0x618, 0x3BC, 0x00800001, JUMP | 1 << 15, *at(inner), 0x00800000),
        *(JUMP, *at(BASE)),
    )
    assert gpu.context.gpr[0] == 3
    assert len(gpu.port.spins) == 2
    assert {END, BASE} <= set(watched(gpu))
