"""Jobs that take page faults beside jobs whose fences have to come."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gpu.gpu_process import COPY, PAGE, RENDER, VIDEO_DECODE, GpuProcess, gpu_process
from xedev.client.batch import BatchBuilder, Compare
from xedev.gpu import abi
from xedev.gpu.abi import RangeKind

CODE, DATA = 0x10000, 0x80000
CODE_BO, DATA_BO = 1, 2
USUAL, FAULTING = 1, 2
"""VMs, with the same memory."""
MANY = 3_000
BOTH = 3
"""Instances of the video decoder."""


@pytest.fixture
def gpu() -> Iterator[GpuProcess]:
    with gpu_process() as process:
        process.send(abi.VM, FAULTING, 48, False, True, True)
        process.bo(CODE_BO, CODE, 16 * PAGE)
        process.bo(DATA_BO, DATA)
        process.map(CODE, CODE + 16 * PAGE, RangeKind.BO, CODE_BO, vm=FAULTING)
        process.map(DATA, DATA + PAGE, RangeKind.BO, DATA_BO, vm=FAULTING)
        process.load(CODE_BO, 0, BatchBuilder().store_dword(DATA + 0x100, 7).end())
        process.load(CODE_BO, PAGE, _spinner())
        process.poke(DATA_BO, 4, 1)
        yield process


def _spinner() -> BatchBuilder:
    """Tells that it has begun in the first word of the data, and ends when the second is 0."""
    batch = BatchBuilder(CODE + PAGE).store_dword(DATA, 1)
    loop = batch.here
    return batch.conditional_end(DATA + 4, 0, Compare.GT).jump(loop)


STORE, SPIN = CODE, CODE + PAGE


def done(gpu: GpuProcess, queue: int) -> int:
    """How many of its jobs are."""
    return sum(message[1] == queue for message in gpu.seen(abi.DONE))


@pytest.mark.parametrize(("many", "one"), [(USUAL, FAULTING), (FAULTING, USUAL)])
def test_one_has_its_turn_beside_many_of_the_other_kind(
    gpu: GpuProcess, many: int, one: int
) -> None:
    gpu.queue(5, vm=many)
    gpu.queue(6, vm=one)
    for seqno in range(MANY):
        gpu.job(5, seqno + 1, STORE)
    gpu.job(6, 1, STORE)
    gpu.next(abi.DONE, 6)
    assert done(gpu, 5) < MANY
    while done(gpu, 5) < MANY:
        gpu.pump()


def test_a_long_job_holds_up_its_like_for_a_short_time_only(gpu: GpuProcess) -> None:
    """While one that takes faults waits for its end."""
    gpu.queue(5, VIDEO_DECODE, mask=BOTH)
    gpu.queue(6, VIDEO_DECODE, mask=BOTH, vm=FAULTING)
    gpu.queue(7, VIDEO_DECODE, mask=BOTH)
    gpu.job(5, 1, SPIN)
    gpu.wait_for(DATA_BO, 0, 1)
    gpu.job(6, 1, STORE)
    for seqno in range(20):
        gpu.job(7, seqno + 1, STORE)
        gpu.next(abi.DONE, 7)
        gpu.pump(0.01)
    assert not done(gpu, 6)
    gpu.poke(DATA_BO, 4, 0)
    gpu.next(abi.DONE, 6)
    gpu.next(abi.DONE, 5)


def test_a_long_job_that_takes_faults_goes_on_between_others(gpu: GpuProcess) -> None:
    gpu.queue(6, vm=FAULTING)
    gpu.queue(5)
    gpu.job(6, 1, SPIN)
    gpu.wait_for(DATA_BO, 0, 1)
    for seqno in range(20):
        gpu.job(5, seqno + 1, STORE)
        gpu.next(abi.DONE, 5)
        gpu.pump(0.003)
    gpu.poke(DATA_BO, 4, 0)
    gpu.next(abi.DONE, 6)


def test_groups_do_not_wait_for_each_other(gpu: GpuProcess) -> None:
    gpu.queue(5, RENDER)
    gpu.queue(6, COPY, vm=FAULTING)
    gpu.job(5, 1, SPIN)
    gpu.wait_for(DATA_BO, 0, 1)
    gpu.job(6, 1, STORE)
    gpu.next(abi.DONE, 6)
    assert not done(gpu, 5)
    gpu.poke(DATA_BO, 4, 0)
    gpu.next(abi.DONE, 5)
