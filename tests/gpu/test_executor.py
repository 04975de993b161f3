"""The GPU's process: jobs, engines, who comes first, and how things end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.gpu.gpu_process import (
    COPY,
    PAGE,
    REFERENCE_CLOCK,
    RENDER,
    VIDEO_DECODE,
    GpuProcess,
    gpu_process,
)
from xedev.client.batch import BatchBuilder, Compare
from xedev.gpu import abi
from xedev.gpu.abi import Ask, Failure, RangeKind

CODE, DATA = 0x10000, 0x80000
"""Where the batches are, and the memory that they work on."""
CODE_BO, DATA_BO = 1, 2
NOWHERE = 0x7000_0000


@pytest.fixture
def gpu() -> Iterator[GpuProcess]:
    with gpu_process() as process:
        process.bo(CODE_BO, CODE, 64 * PAGE)
        process.bo(DATA_BO, DATA, 16 * PAGE)
        yield process


class Spinner:
    """A batch that stores ``number`` to its own place, and spins until the CPU ends it."""

    def __init__(self, gpu: GpuProcess, number: int) -> None:
        self._gpu = gpu
        self.address = CODE + number * PAGE
        self._started, self._end = number * 8, number * 8 + 4
        gpu.poke(DATA_BO, self._end, 1)
        batch = BatchBuilder(self.address).store_dword(DATA + self._started, 0xC0FFEE)
        loop = batch.here
        batch.conditional_end(DATA + self._end, 0, Compare.GT).jump(loop)
        gpu.load(CODE_BO, number * PAGE, batch)

    def wait_started(self) -> None:
        self._gpu.wait_for(DATA_BO, self._started, 0xC0FFEE)

    @property
    def has_started(self) -> bool:
        return self._gpu.peek(DATA_BO, self._started) == 0xC0FFEE

    def end(self) -> None:
        self._gpu.poke(DATA_BO, self._end, 0)


def store(gpu: GpuProcess, number: int, offset: int, value: int) -> int:
    """The address of a batch that stores a number in the data."""
    gpu.load(CODE_BO, number * PAGE, BatchBuilder().store_dword(DATA + offset, value).end())
    return CODE + number * PAGE


# ---- jobs of one queue ----


def test_a_job_runs_and_is_reported(gpu: GpuProcess) -> None:
    gpu.queue(5)
    gpu.job(5, 1, store(gpu, 0, 0x100, 42))
    assert gpu.next(abi.STARTED, 5)[2:4] == (1, (RENDER, 0, 0))
    assert gpu.next(abi.DONE, 5)[2] == 1
    assert gpu.peek(DATA_BO, 0x100) == 42


def test_jobs_of_a_queue_run_in_order(gpu: GpuProcess) -> None:
    gpu.queue(5)
    for seqno in range(1, 61):
        gpu.job(5, seqno, store(gpu, seqno, 0x100, seqno))
    assert [gpu.next(abi.DONE, 5)[2] for _ in range(60)] == list(range(1, 61))
    assert gpu.peek(DATA_BO, 0x100) == 60


def test_a_job_begins_when_the_one_before_is_done(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5)
    gpu.job(5, 1, spinner.address)
    gpu.job(5, 2, store(gpu, 1, 0x100, 42))
    spinner.wait_started()
    gpu.pump(0.05)
    assert gpu.peek(DATA_BO, 0x100) == 0
    spinner.end()
    gpu.next(abi.DONE, 5)
    assert gpu.next(abi.DONE, 5)[2] == 2
    assert gpu.peek(DATA_BO, 0x100) == 42


def test_the_fence_is_written_behind_the_batch(gpu: GpuProcess) -> None:
    gpu.queue(5)
    gpu.job(5, 1, store(gpu, 0, 0x100, 42), fence=(DATA + 0x200, 0x1122334455667788))
    gpu.next(abi.DONE, 5)
    assert os.pread(gpu.files[DATA_BO], 8, 0x200) == (0x1122334455667788).to_bytes(8, "little")


def test_a_fence_that_cannot_be_written_is_a_fault(gpu: GpuProcess) -> None:
    gpu.queue(5)
    gpu.job(5, 1, store(gpu, 0, 0x100, 42), fence=(NOWHERE, 1))
    failed = gpu.next(abi.FAILED, 5)
    assert failed[2:6] == (1, Failure.FAULT, NOWHERE, 1)
    assert not gpu.seen(abi.DONE)


# ---- who comes first ----


def test_engines_work_in_parallel(gpu: GpuProcess) -> None:
    places = [(RENDER, 1), (COPY, 1), (VIDEO_DECODE, 1), (VIDEO_DECODE, 2)]
    spinners = [Spinner(gpu, number) for number in range(4)]
    for number, (engine_class, mask) in enumerate(places):
        # So long a slice that nobody gets a turn on the engine of another one.
        gpu.queue(5 + number, engine_class, mask=mask, timeslice_us=10_000_000)
        gpu.job(5 + number, 1, spinners[number].address)
    for spinner in spinners:
        spinner.wait_started()
    for number in reversed(range(4)):
        spinners[number].end()
        gpu.next(abi.DONE, 5 + number)


def test_two_spinners_share_an_engine(gpu: GpuProcess) -> None:
    spinners = [Spinner(gpu, 0), Spinner(gpu, 1)]
    for number, spinner in enumerate(spinners):
        gpu.queue(5 + number)
        gpu.job(5 + number, 1, spinner.address)
    for spinner in spinners:
        spinner.wait_started()
    # Both get on: their times on the engine grow.
    first = gpu.ticks()
    deadline = time.monotonic() + 30
    while not all(now > first[queue] for queue, now in gpu.ticks().items()):
        assert time.monotonic() < deadline
    for number, spinner in enumerate(spinners):
        spinner.end()
        gpu.next(abi.DONE, 5 + number)


def test_a_long_slice_keeps_others_of_the_same_priority_off(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, timeslice_us=10_000_000)
    gpu.queue(6)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.pump(0.1)
    assert gpu.peek(DATA_BO, 0x100) == 0
    spinner.end()
    gpu.next(abi.DONE, 6)


def test_a_higher_priority_comes_first_at_once(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, priority=1, timeslice_us=10_000_000)
    gpu.queue(6, priority=2)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.next(abi.DONE, 6)
    assert not gpu.seen(abi.DONE)
    spinner.end()
    gpu.next(abi.DONE, 5)


def test_a_lower_priority_waits_for_ever(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, priority=2, timeslice_us=1)
    gpu.queue(6, priority=0)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.pump(0.1)
    assert gpu.peek(DATA_BO, 0x100) == 0
    spinner.end()
    gpu.next(abi.DONE, 6)


def test_a_queue_that_asks_the_driver_gives_its_engine_up_in_time(gpu: GpuProcess) -> None:
    gpu.silent = {Ask.READ}
    gpu.clients[9] = bytearray(PAGE)
    gpu.map(0x50000, 0x51000, RangeKind.CLIENT, 9)
    gpu.queue(5)
    gpu.queue(6)
    gpu.job(5, 1, 0x50000)
    gpu.next(abi.STARTED, 5)
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.next(abi.DONE, 6)


def test_a_virtual_queue_takes_the_engine_that_is_free(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, VIDEO_DECODE, mask=0b01, timeslice_us=10_000_000)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.queue(6, VIDEO_DECODE, mask=0b11)
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    assert gpu.next(abi.STARTED, 6)[3] == (VIDEO_DECODE, 1, 0)
    gpu.next(abi.DONE, 6)
    spinner.end()


def test_who_waits_for_another_engine_takes_no_turn_away(gpu: GpuProcess) -> None:
    spinners = [Spinner(gpu, number) for number in range(3)]
    gpu.queue(5, VIDEO_DECODE, mask=0b01, timeslice_us=1)
    gpu.queue(6, VIDEO_DECODE, mask=0b10, timeslice_us=10_000_000)
    gpu.queue(7, VIDEO_DECODE, mask=0b10)
    for number in range(3):
        gpu.job(5 + number, 1, spinners[number].address)
    for spinner in spinners[:2]:
        spinner.wait_started()
    before = gpu.ticks()
    time.sleep(0.1)
    now = gpu.ticks()
    # It was on its engine all the time, but for what the process did itself.
    assert now[5] - before[5] > 0.09 * REFERENCE_CLOCK
    assert not spinners[2].has_started
    for spinner in spinners:
        spinner.end()
    gpu.next(abi.DONE, 7)


# ---- gangs ----


def test_a_gang_runs_on_all_its_engines_at_once(gpu: GpuProcess) -> None:
    spinners = [Spinner(gpu, 0), Spinner(gpu, 1)]
    gpu.queue(5, VIDEO_DECODE, width=2)
    gpu.job(5, 1, spinners[0].address, spinners[1].address)
    for spinner in spinners:
        spinner.wait_started()
    spinners[0].end()
    gpu.pump(0.05)
    assert not gpu.seen(abi.DONE)
    spinners[1].end()
    assert gpu.next(abi.DONE, 5)[2] == 1


@pytest.mark.parametrize("last", [0, 1])
def test_a_gang_is_done_with_its_last_batch(gpu: GpuProcess, last: int) -> None:
    spinner = Spinner(gpu, 0)
    batches = [store(gpu, 1, 0x100, 42)] * 2
    batches[last] = spinner.address
    gpu.queue(5, VIDEO_DECODE, width=2)
    for seqno in (1, 2):
        gpu.job(5, seqno, *batches, fence=(DATA + 0x200, seqno))
    spinner.wait_started()
    gpu.wait_for(DATA_BO, 0x100, 42)
    gpu.pump(0.02)
    assert gpu.peek(DATA_BO, 0x200) == 0
    spinner.end()
    assert [gpu.next(abi.DONE, 5)[2] for _ in range(2)] == [1, 2]
    assert gpu.peek(DATA_BO, 0x200) == 2


def test_a_gang_gets_its_turn_among_many(gpu: GpuProcess) -> None:
    spinners = [Spinner(gpu, number) for number in range(4)]
    for number in range(4):
        gpu.queue(5 + number, VIDEO_DECODE, mask=1 << number % 2)
        gpu.job(5 + number, 1, spinners[number].address)
    gpu.queue(9, VIDEO_DECODE, width=2)
    gpu.job(9, 1, store(gpu, 4, 0x100, 1), store(gpu, 5, 0x104, 2))
    gpu.next(abi.DONE, 9)
    assert (gpu.peek(DATA_BO, 0x100), gpu.peek(DATA_BO, 0x104)) == (1, 2)
    for spinner in spinners:
        spinner.end()


def test_a_fault_of_one_ends_the_gang(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, VIDEO_DECODE, width=2)
    gpu.job(5, 1, spinner.address, NOWHERE)
    assert gpu.next(abi.FAILED, 5)[2:5] == (1, Failure.FAULT, NOWHERE)
    gpu.queue(6, VIDEO_DECODE, width=2)
    gpu.job(6, 1, *[store(gpu, 1, 0x100, 42)] * 2)
    gpu.next(abi.DONE, 6)


# ---- how jobs fail ----


def test_a_fault_ends_the_queue_and_no_other_one(gpu: GpuProcess) -> None:
    gpu.queue(5)
    gpu.queue(6)
    gpu.job(5, 1, NOWHERE)
    gpu.job(5, 2, store(gpu, 0, 0x100, 42))
    gpu.job(6, 1, store(gpu, 1, 0x104, 43))
    assert gpu.next(abi.FAILED, 5)[2:6] == (1, Failure.FAULT, NOWHERE, 0)
    gpu.next(abi.DONE, 6)
    gpu.job(5, 3, CODE)
    gpu.pump(0.05)
    assert gpu.peek(DATA_BO, 0x100) == 0
    assert gpu.peek(DATA_BO, 0x104) == 43
    assert len(gpu.seen(abi.FAILED)) == 0


def test_an_unknown_command_is_a_hang_with_a_dump(gpu: GpuProcess) -> None:
    gpu.load(CODE_BO, 0, BatchBuilder().noop(3).dword(0xFFFF_FFFF).end())
    gpu.queue(5)
    gpu.job(5, 1, CODE)
    failed = gpu.next(abi.FAILED, 5)
    assert failed[3] == Failure.HANG
    assert any(f"{CODE + 12:#x}" in line for line in failed[6])


def test_a_job_that_takes_too_long_on_the_engine(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, timeout_ms=50)
    gpu.job(5, 1, spinner.address)
    gpu.job(5, 2, spinner.address)
    failed = gpu.next(abi.FAILED, 5)
    assert failed[2:4] == (1, Failure.TIMEOUT)
    assert failed[7] >= 0.05 * REFERENCE_CLOCK


def test_time_off_the_engine_does_not_count(gpu: GpuProcess) -> None:
    """While others are on its engine, and while its own jobs before it ran."""
    spinner, other = Spinner(gpu, 0), Spinner(gpu, 1)
    gpu.queue(5, timeout_ms=100)
    gpu.queue(6, priority=2)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, other.address)
    other.wait_started()
    time.sleep(0.3)
    other.end()
    spinner.end()
    gpu.next(abi.DONE, 5)
    assert not gpu.seen(abi.FAILED)


def test_one_that_waits_for_an_answer_times_out(gpu: GpuProcess) -> None:
    gpu.silent = {Ask.READ}
    gpu.map(0x50000, 0x51000, RangeKind.CLIENT, 9)
    gpu.queue(5, timeout_ms=50)
    gpu.job(5, 1, 0x50000)
    assert gpu.next(abi.FAILED, 5)[3] == Failure.TIMEOUT
    # An answer that comes now is nobody's.
    gpu.send(abi.REPLY, gpu.asked[-1][1], bytes(256))
    gpu.queue(6)
    gpu.job(6, 1, store(gpu, 0, 0x100, 42))
    gpu.next(abi.DONE, 6)


def test_the_time_of_answers_does_not_count(gpu: GpuProcess) -> None:
    """A device would not have asked."""

    def slowly(_key: int) -> int:
        time.sleep(0.15)
        return 0

    gpu.process_of = slowly
    batch = BatchBuilder()
    for key in range(4):
        gpu.clients[key] = bytearray(PAGE)
        gpu.map(0x50000 + key * PAGE, 0x51000 + key * PAGE, RangeKind.CLIENT, key)
        batch.store_dword(0x50000 + key * PAGE, 42)
    gpu.load(CODE_BO, 0, batch.end())
    gpu.queue(5, timeout_ms=400)
    gpu.job(5, 1, CODE)
    gpu.next(abi.DONE, 5)
    assert [memory[0] for memory in gpu.clients.values()] == [42] * 4


def test_a_reset_ends_what_has_begun(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, timeslice_us=10_000_000)
    gpu.queue(6)
    gpu.job(5, 1, spinner.address)
    gpu.job(5, 2, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.send(abi.RESET)
    assert gpu.next(abi.FAILED, 5)[2:4] == (1, Failure.RESET)
    gpu.next(abi.DONE, 6)
    assert gpu.peek(DATA_BO, 0x100) == 42


# ---- the end of a queue ----


def test_a_queue_ends_while_it_runs(gpu: GpuProcess) -> None:
    # It works, and never sleeps: each round changes something.
    gpu.load(CODE_BO, 0, BatchBuilder(CODE).atomic_inc(DATA).jump(CODE))
    gpu.queue(5)
    gpu.job(5, 1, CODE)
    while not gpu.peek(DATA_BO, 0):
        gpu.pump(0.001)
    gpu.acknowledged(abi.QUEUE_END, 5)
    assert gpu.next(abi.ENDED, 5)[2] > 0
    assert not gpu.seen(abi.DONE)
    assert not gpu.seen(abi.FAILED)
    seen = gpu.peek(DATA_BO, 0)
    gpu.pump(0.02)
    assert gpu.peek(DATA_BO, 0) == seen


def test_a_queue_ends_while_it_sleeps(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.acknowledged(abi.QUEUE_END, 5)
    gpu.queue(6)
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.next(abi.DONE, 6)


def test_a_queue_ends_while_it_waits_for_an_answer(gpu: GpuProcess) -> None:
    gpu.silent = {Ask.READ}
    gpu.map(0x50000, 0x51000, RangeKind.CLIENT, 9)
    gpu.queue(5)
    gpu.job(5, 1, 0x50000)
    gpu.next(abi.STARTED, 5)
    while not gpu.asked:
        gpu.pump()
    gpu.acknowledged(abi.QUEUE_END, 5)
    gpu.send(abi.REPLY, gpu.asked[-1][1], bytes(256))
    assert not gpu.ticks()


def test_a_queue_ends_while_it_waits_in_line(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, timeslice_us=10_000_000)
    gpu.queue(6)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.job(6, 1, store(gpu, 1, 0x100, 42))
    gpu.acknowledged(abi.QUEUE_END, 6)
    spinner.end()
    gpu.next(abi.DONE, 5)
    gpu.pump(0.02)
    assert gpu.peek(DATA_BO, 0x100) == 0


def test_a_gang_that_held_others_back_ends(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5, VIDEO_DECODE, mask=0b01, timeslice_us=10_000_000)
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    gpu.queue(6, VIDEO_DECODE, width=2)
    gpu.job(6, 1, *[store(gpu, 1, 0x100, 42)] * 2)
    gpu.queue(7, VIDEO_DECODE, mask=0b10)
    gpu.job(7, 1, store(gpu, 2, 0x104, 43))
    gpu.pump(0.02)
    assert gpu.peek(DATA_BO, 0x104) == 0
    gpu.acknowledged(abi.QUEUE_END, 6)
    gpu.next(abi.DONE, 7)
    spinner.end()


# ---- time spent ----


def test_time_on_the_engine_is_told(gpu: GpuProcess) -> None:
    spinner = Spinner(gpu, 0)
    gpu.queue(5)
    gpu.queue(6)
    begin = time.monotonic()
    gpu.job(5, 1, spinner.address)
    spinner.wait_started()
    time.sleep(0.05)
    running = gpu.ticks()
    spinner.end()
    ticks = gpu.next(abi.DONE, 5)[3]
    spent = time.monotonic() - begin
    assert 0.05 * REFERENCE_CLOCK <= running[5] <= ticks <= spent * REFERENCE_CLOCK
    assert running[6] == 0
    # It counts only while it is on an engine.
    assert gpu.ticks()[5] == gpu.ticks()[5]


def test_two_thousand_queues(gpu: GpuProcess) -> None:
    address = store(gpu, 0, 0x100, 42)
    for number in range(5, 2053):
        gpu.queue(number, number % 2)
    for number in range(5, 2053):
        gpu.job(number, 1, address)
    done = {gpu.next(abi.DONE)[1] for _ in range(2048)}
    assert done == set(range(5, 2053))
    assert len(gpu.ticks()) == 2048
