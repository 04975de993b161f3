"""The deterministic GPU: one job at a time, in an order that the seed decides."""

from __future__ import annotations

from tests.gpu.gpu_process import COPY, PAGE, RENDER, VIDEO_DECODE, GpuProcess, gpu_process
from tests.gpu.test_executor import Spinner, store
from xedev.client.batch import RING_TIMESTAMP, BatchBuilder
from xedev.gpu import abi
from xedev.gpu.abi import Failure

CODE, DATA = 0x10000, 0x80000
CODE_BO, DATA_BO = 1, 2
QUEUES = 6


def prepare(gpu: GpuProcess) -> None:
    gpu.bo(CODE_BO, CODE, 64 * PAGE)
    gpu.bo(DATA_BO, DATA, 16 * PAGE)


def history(seed: int) -> list[tuple[int, int, int]]:
    """Queue, number and timestamp of each job, in the order in which they were done."""
    with gpu_process(seed) as gpu:
        prepare(gpu)
        for number in range(QUEUES):
            gpu.queue(5 + number, (RENDER, COPY)[number % 2])
        for seqno in (1, 2, 3):
            for number in range(QUEUES):
                slot = 8 * (QUEUES * seqno + number)
                batch = BatchBuilder()
                for _ in range(10 * number):
                    batch.atomic_inc(DATA + 4 * number)
                batch.store_register_mem(RING_TIMESTAMP, DATA + 0x1000 + slot)
                page = QUEUES * (seqno - 1) + number
                gpu.load(CODE_BO, page * PAGE, batch.end())
                gpu.job(5 + number, seqno, CODE + page * PAGE)
        done = [gpu.next(abi.DONE) for _ in range(3 * QUEUES)]
        assert not gpu.seen(abi.FAILED)
        return [
            (queue, seqno, gpu.peek(DATA_BO, 0x1000 + 8 * (QUEUES * seqno + queue - 5)))
            for _, queue, seqno, *_ in done
        ]


def test_a_seed_gives_the_same_order_and_the_same_times() -> None:
    assert history(1) == history(1)


def test_other_seeds_give_other_orders() -> None:
    orders = {tuple(job[:2] for job in history(seed)) for seed in range(4)}
    assert len(orders) > 1


def test_jobs_of_a_queue_keep_their_order() -> None:
    jobs = history(3)
    for number in range(QUEUES):
        assert [job[1] for job in jobs if job[0] == 5 + number] == [1, 2, 3]


def test_one_job_ends_before_the_next_one_begins() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        for number in range(QUEUES):
            gpu.queue(5 + number, (RENDER, COPY)[number % 2])
            gpu.job(5 + number, 1, store(gpu, number, 8 * number, 1))
        for _ in range(QUEUES):
            gpu.next(abi.DONE)
        kinds = [message[0] for message in gpu.messages]
        assert kinds == [abi.STARTED] * QUEUES


def test_who_sleeps_lets_others_begin_even_on_its_engine() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        spinner = Spinner(gpu, 0)
        gpu.queue(5)
        gpu.job(5, 1, spinner.address)
        spinner.wait_started()
        gpu.queue(6)
        gpu.job(6, 1, store(gpu, 1, 0x100, 42))
        gpu.next(abi.DONE, 6)
        gpu.queue(7, COPY)
        gpu.job(7, 1, store(gpu, 2, 0x104, 43))
        gpu.next(abi.DONE, 7)
        spinner.end()
        gpu.next(abi.DONE, 5)


def test_sleepers_that_share_an_engine_all_wake() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        spinners = [Spinner(gpu, number) for number in range(3)]
        for number, spinner in enumerate(spinners):
            gpu.queue(5 + number)
            gpu.job(5 + number, 1, spinner.address)
            spinner.wait_started()
        for number in (1, 0, 2):
            spinners[number].end()
            gpu.next(abi.DONE, 5 + number)


def test_a_gang_runs_one_by_one_too() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        spinners = [Spinner(gpu, 0), Spinner(gpu, 1)]
        gpu.queue(5, VIDEO_DECODE, width=2)
        gpu.job(5, 1, spinners[0].address, spinners[1].address)
        for spinner in spinners:
            spinner.wait_started()
            spinner.end()
        gpu.next(abi.DONE, 5)


def test_a_spinner_is_ended_by_real_time() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        gpu.queue(5, timeout_ms=50)
        gpu.job(5, 1, Spinner(gpu, 0).address)
        assert gpu.next(abi.FAILED, 5)[3] == Failure.TIMEOUT


def test_time_stands_still_for_who_waits_for_memory() -> None:
    with gpu_process(7) as gpu:
        prepare(gpu)
        spinner = Spinner(gpu, 0)
        gpu.queue(5)
        gpu.job(5, 1, spinner.address)
        spinner.wait_started()
        before = gpu.ticks()
        gpu.pump(0.05)
        assert gpu.ticks() == before
        spinner.end()
        gpu.next(abi.DONE, 5)
