"""Rows of jobs: each begins when those before it have, and when what it waits for is done."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from xedev.drm.drm_sched import DrmSchedEntity, DrmSchedJob
from xedev.kernel.dma_fence import DmaFence, dma_fence_context_alloc


class Job(DrmSchedJob):
    def __init__(self, name: int, begun: list[int]) -> None:
        super().__init__()
        self.name = name
        self._begun = begun

    def run(self) -> None:
        self._begun.append(self.name)


def fence() -> DmaFence:
    return DmaFence(dma_fence_context_alloc(), 1)


def test_without_dependencies_a_job_begins_at_once() -> None:
    entity, begun = DrmSchedEntity(), list[int]()
    entity.push_job(Job(1, begun), [])
    assert begun == [1]
    assert entity.is_empty


def test_one_that_waits_holds_back_those_behind_it() -> None:
    entity, begun, gate = DrmSchedEntity(), list[int](), fence()
    entity.push_job(Job(1, begun), [gate])
    entity.push_job(Job(2, begun), [])
    assert begun == []
    gate.signal(error=5)
    assert begun == [1, 2]


def test_killed_jobs_never_begin() -> None:
    entity, begun, gate = DrmSchedEntity(), list[int](), fence()
    jobs = [Job(number, begun) for number in range(3)]
    for job in jobs:
        entity.push_job(job, [gate])
    assert entity.kill() == jobs
    gate.signal()
    entity.push_job(Job(9, begun), [])
    assert begun == [9]


def test_a_long_row_of_entities_that_wait_for_each_other_does_not_fill_the_stack() -> None:
    class Link(DrmSchedJob):
        def __init__(self, out: DmaFence) -> None:
            super().__init__()
            self.out = out

        def run(self) -> None:
            self.out.signal()

    first = before = fence()
    for _ in range(5000):
        after = fence()
        DrmSchedEntity().push_job(Link(after), [before])
        before = after
    first.signal()
    assert before.is_signaled()


@given(st.lists(st.sets(st.integers(0, 4), max_size=3), max_size=8), st.permutations(range(5)))
def test_jobs_begin_in_order_and_not_too_early(waits: list[set[int]], order: list[int]) -> None:
    entity, begun, gates = DrmSchedEntity(), list[int](), [fence() for _ in range(5)]
    for number, needed in enumerate(waits):
        entity.push_job(Job(number, begun), [gates[gate] for gate in needed])
    opened: set[int] = set()
    for gate in [None, *order]:
        if gate is not None:
            gates[gate].signal()
            opened.add(gate)
        free = 0
        while free < len(waits) and waits[free] <= opened:
            free += 1
        assert begun == list(range(free))


def test_threads_that_signal_at_the_same_time_begin_each_job_once() -> None:
    entity, begun = DrmSchedEntity(), list[int]()
    gates = [fence() for _ in range(200)]
    for number, gate in enumerate(gates):
        entity.push_job(Job(number, begun), [gate])

    def signal(part: int) -> None:
        for gate in gates[part::4]:
            gate.signal()

    threads = [threading.Thread(target=signal, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun == list(range(200))
