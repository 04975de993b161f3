"""The fences of a reservation, and waiting for them."""

from __future__ import annotations

import threading

import pytest

from tests.kernel.fakes import FakeCaller
from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_fence import DmaFence, dma_fence_context_alloc
from xedev.kernel.dma_resv import ResvFences, dma_resv_wait


def make(count: int) -> list[DmaFence]:
    return [DmaFence(dma_fence_context_alloc(), 1) for _ in range(count)]


def test_only_what_is_pending_counts() -> None:
    fences, (first, second) = ResvFences(), make(2)
    assert not fences.is_busy
    fences.add(first)
    fences.add(second)
    assert fences.pending() == [first, second]
    first.signal()
    assert fences.pending() == [second]
    second.signal()
    assert not fences.is_busy


def test_the_last_one_of_a_context_stands_for_all() -> None:
    fences, context = ResvFences(), dma_fence_context_alloc()
    row = [DmaFence(context, seqno) for seqno in range(1, 100)]
    for fence in row:
        fences.add(fence)
    assert fences.pending() == [row[-1]]


def test_signalled_fences_do_not_pile_up() -> None:
    fences = ResvFences()
    for fence in make(1000):
        fences.add(fence)
        fence.signal()
    assert len(fences._fences) < 20


def test_nothing_pending_is_answered_at_once() -> None:
    assert dma_resv_wait([ResvFences(), ResvFences()], lambda: 7) == 7


def test_the_answer_comes_when_the_fences_of_all_usages_are_signalled() -> None:
    (first, second), usages = make(2), (ResvFences(), ResvFences())
    usages[0].add(first)
    usages[1].add(second)
    answer = dma_resv_wait(usages, lambda: 7)
    assert isinstance(answer, Deferred)
    first.signal()
    assert not answer.ready()
    timer = threading.Timer(0.02, second.signal)
    timer.start()
    assert answer.wait(FakeCaller()) == 7
    timer.join()


@pytest.mark.parametrize("how", ["interrupted", "abandoned"])
def test_a_wait_that_ends_early_does_the_work_all_the_same(how: str) -> None:
    (fence,), usage, done = make(1), ResvFences(), list[int]()
    usage.add(fence)

    def finish() -> int:
        done.append(1)
        return 7

    answer = dma_resv_wait([usage], finish)
    assert isinstance(answer, Deferred)
    if how == "abandoned":
        answer.abandon()
    else:
        caller = FakeCaller()
        caller.signalled = True
        assert answer.wait(caller) == 7
    assert done == [1]
