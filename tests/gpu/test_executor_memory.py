"""The GPU's process and memory: contents that move, memory of processes, page faults."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.gpu_process import COPY, PAGE, VIDEO_DECODE, GpuProcess, gpu_process
from xedev.client.batch import BatchBuilder
from xedev.gpu import abi
from xedev.gpu.abi import Ask, Failure, RangeKind

CODE, DATA, OTHER = 0x10000, 0x80000, 0x400000
CODE_BO, DATA_BO, OTHER_BO = 1, 2, 3
CLIENT = 9


@pytest.fixture
def gpu() -> Iterator[GpuProcess]:
    with gpu_process() as process:
        process.bo(CODE_BO, CODE, 64 * PAGE)
        process.bo(DATA_BO, DATA, 16 * PAGE)
        process.queue(5)
        yield process


def run(gpu: GpuProcess, batch: BatchBuilder, queue: int = 5, seqno: int = 1) -> None:
    """Run a batch to its end."""
    gpu.load(CODE_BO, 0, batch)
    gpu.job(queue, seqno, CODE)
    gpu.next(abi.DONE, queue)


def open_files(gpu: GpuProcess) -> int:
    """Descriptors that the process has."""
    return len(os.listdir(f"/proc/{gpu.process.pid}/fd"))


def asked(gpu: GpuProcess, what: Ask) -> int:
    """How often."""
    return sum(message[2] == what for message in gpu.asked)


# ---- contents of BOs ----


def test_contents_are_asked_for_once(gpu: GpuProcess) -> None:
    for seqno in range(1, 5):
        run(gpu, BatchBuilder().store_dword(DATA, seqno).end(), seqno=seqno)
    assert asked(gpu, Ask.PAGES) == 2


def test_contents_that_move_are_asked_for_again(gpu: GpuProcess) -> None:
    run(gpu, BatchBuilder().store_dword(DATA, 1).end())
    old = gpu.files[DATA_BO]
    new = os.memfd_create("new", os.MFD_CLOEXEC)
    os.ftruncate(new, 16 * PAGE)
    gpu.files[DATA_BO] = new
    os.ftruncate(old, 0)
    run(gpu, BatchBuilder().copy_dword(DATA + 4, DATA).store_dword(DATA, 2).end(), seqno=2)
    os.close(old)
    assert (gpu.peek(DATA_BO, 0), gpu.peek(DATA_BO, 4)) == (2, 0)


def test_a_named_file_that_was_cut_does_not_grow_again(gpu: GpuProcess, tmp_path: Path) -> None:
    name = tmp_path / "pages"
    name.write_bytes(bytes(16 * PAGE))
    os.dup2(os.open(name, os.O_RDWR), gpu.files[DATA_BO])

    def named(bo: int) -> tuple[str, int] | None:
        if bo == DATA_BO:
            return (str(name), name.stat().st_ino) if name.stat().st_size else None
        return GpuProcess._pages(gpu, bo)

    gpu._pages = named  # type: ignore[method-assign]
    run(gpu, BatchBuilder().store_dword(DATA, 7).end())
    assert name.read_bytes()[:1] == b"\7"
    os.truncate(name, 0)
    gpu.load(CODE_BO, 0, BatchBuilder().store_dword(DATA, 8).end())
    gpu.job(5, 2, CODE)
    assert gpu.next(abi.FAILED, 5)[3:5] == (Failure.FAULT, DATA)
    assert name.stat().st_size == 0


@pytest.mark.parametrize("scratch", [False, True])
def test_purged_contents(gpu: GpuProcess, scratch: bool) -> None:
    gpu.send(abi.VM, 2, 48, scratch, False, False)
    gpu.map(CODE, CODE + PAGE, RangeKind.BO, CODE_BO, vm=2)
    gpu.map(DATA, DATA + PAGE, RangeKind.BO, DATA_BO, vm=2)
    gpu.queue(6, vm=2)
    run(gpu, BatchBuilder().store_dword(DATA, 1).end(), 6)
    os.ftruncate(gpu.files[DATA_BO], 0)
    os.close(gpu.files.pop(DATA_BO))
    gpu.load(CODE_BO, 0, BatchBuilder().copy_dword(CODE + 64, DATA).end())
    gpu.poke(CODE_BO, 64, 5)
    gpu.job(6, 2, CODE)
    if scratch:
        gpu.next(abi.DONE, 6)
        assert gpu.peek(CODE_BO, 64) == 0
    else:
        assert gpu.next(abi.FAILED, 6)[3:6] == (Failure.FAULT, DATA, 0)


def test_an_answer_that_names_another_file_is_none(gpu: GpuProcess) -> None:
    pages = gpu._pages

    def wrong(bo: int) -> tuple[str, int] | None:
        found = pages(bo)
        return (found[0], found[1] + 1) if found is not None and bo == DATA_BO else found

    gpu._pages = wrong  # type: ignore[method-assign]
    gpu.load(CODE_BO, 0, BatchBuilder().store_dword(DATA, 1).end())
    gpu.job(5, 1, CODE)
    assert gpu.next(abi.FAILED, 5)[3] == Failure.FAULT


def test_forgotten_contents_are_closed(gpu: GpuProcess) -> None:
    run(gpu, BatchBuilder().store_dword(DATA, 1).end())
    before = open_files(gpu)
    gpu.map(DATA, DATA + 16 * PAGE, RangeKind.NONE)
    gpu.send(abi.FORGET, (DATA_BO, 77), ())
    gpu.ticks()
    assert open_files(gpu) == before - 1


def test_an_answer_about_a_bo_that_is_gone_opens_nothing(gpu: GpuProcess) -> None:
    run(gpu, BatchBuilder().noop().end())
    before = open_files(gpu)
    gpu.silent = {Ask.PAGES}
    gpu.load(CODE_BO, 0, BatchBuilder().store_dword(DATA, 1).end())
    gpu.job(5, 2, CODE)
    while asked(gpu, Ask.PAGES) < 2:
        gpu.pump()
    gpu.send(abi.FORGET, (DATA_BO,), ())
    gpu.send(abi.REPLY, gpu.asked[-1][1], gpu._pages(DATA_BO))
    assert gpu.next(abi.FAILED, 5)[3] == Failure.FAULT
    assert open_files(gpu) == before


def test_many_bos_take_a_limited_number_of_descriptors(gpu: GpuProcess) -> None:
    count = 700
    shared = os.memfd_create("shared", os.MFD_CLOEXEC)
    os.ftruncate(shared, PAGE)
    for number in range(count):
        gpu.files[100 + number] = shared
        gpu.map(OTHER + number * PAGE, OTHER + (number + 1) * PAGE, RangeKind.BO, 100 + number)
    for first in range(0, count, 50):
        batch = BatchBuilder()
        for number in range(first, first + 50):
            batch.store_dword(OTHER + number * PAGE + 4 * number, number + 1)
        run(gpu, batch.end(), seqno=first + 1)
    data = os.pread(shared, 4 * count, 0)
    for number in range(count):
        del gpu.files[100 + number]
    os.close(shared)
    assert [int.from_bytes(data[4 * n : 4 * n + 4], "little") for n in range(count)] == list(
        range(1, count + 1)
    )
    assert open_files(gpu) < 530


def test_a_long_copy_gives_others_turns(gpu: GpuProcess) -> None:
    size = 64 << 20
    gpu.bo(OTHER_BO, OTHER, 2 * size)
    os.pwrite(gpu.files[OTHER_BO], b"\5" * PAGE, 0)
    gpu.queue(6, COPY)
    batch = BatchBuilder()
    for offset in range(0, size, 1 << 18):
        batch.mem_copy(OTHER + size + offset, OTHER + offset, 1 << 18)
    gpu.load(CODE_BO, 8 * PAGE, batch.end())
    gpu.job(6, 1, CODE + 8 * PAGE)
    gpu.next(abi.STARTED, 6)
    run(gpu, BatchBuilder().store_dword(DATA, 1).end())
    assert not gpu.seen(abi.DONE)
    gpu.next(abi.DONE, 6)
    assert os.pread(gpu.files[OTHER_BO], PAGE, size) == b"\5" * PAGE


# ---- binds ----


def test_a_bind_has_taken_effect_when_it_is_acknowledged(gpu: GpuProcess) -> None:
    run(gpu, BatchBuilder().store_dword(DATA, 1).end())
    gpu.acknowledged(abi.MAP, 1, ((DATA, DATA + PAGE, int(RangeKind.NONE), 0, 0, 0, 0),))
    gpu.job(5, 2, CODE)
    assert gpu.next(abi.FAILED, 5)[3:6] == (Failure.FAULT, DATA, 1)


def test_a_bind_of_a_vm_that_ended_is_acknowledged(gpu: GpuProcess) -> None:
    gpu.send(abi.VM_END, 1)
    gpu.acknowledged(abi.MAP, 1, ((DATA, DATA + PAGE, int(RangeKind.NONE), 0, 0, 0, 0),))


def test_a_vm_ends_under_its_queue(gpu: GpuProcess) -> None:
    """The driver never does so; who has the page tables keeps them."""
    gpu.load(CODE_BO, 0, BatchBuilder().store_dword(DATA, 1).end())
    gpu.send(abi.VM_END, 1)
    gpu.job(5, 1, CODE)
    gpu.next(abi.DONE, 5)


# ---- memory of processes ----


@pytest.fixture
def client(gpu: GpuProcess) -> bytearray:
    gpu.clients[CLIENT] = bytearray(16 * PAGE)
    gpu.map(OTHER, OTHER + 32 * PAGE, RangeKind.CLIENT, CLIENT)
    return gpu.clients[CLIENT]


def test_memory_of_a_process_is_reached_through_the_driver(
    gpu: GpuProcess, client: bytearray
) -> None:
    client[0:4] = b"abcd"
    batch = BatchBuilder().copy_dword(OTHER + 8, OTHER).store_dword(OTHER + PAGE, 42)
    run(gpu, batch.end())
    assert client[8:12] == b"abcd"
    assert client[PAGE] == 42


def test_memory_that_a_process_has_not_is_a_fault(gpu: GpuProcess, client: bytearray) -> None:
    gpu.load(CODE_BO, 0, BatchBuilder().copy_dword(DATA, OTHER + 16 * PAGE).end())
    gpu.job(5, 1, CODE)
    assert gpu.next(abi.FAILED, 5)[3:6] == (Failure.FAULT, OTHER + 16 * PAGE, 0)


def test_atomics_of_two_engines_on_memory_of_a_process(gpu: GpuProcess, client: bytearray) -> None:
    batch = BatchBuilder()
    for _ in range(100):
        batch.atomic_inc(OTHER)
    gpu.load(CODE_BO, 0, batch.end())
    for number in (6, 7):
        gpu.queue(number, VIDEO_DECODE, mask=1 << number - 6)
        gpu.job(number, 1, CODE)
    for number in (6, 7):
        gpu.next(abi.DONE, number)
    assert int.from_bytes(client[:4], "little") == 200


@pytest.fixture(params=[mmap.MAP_PRIVATE])
def ours(request: pytest.FixtureRequest, gpu: GpuProcess) -> Iterator[tuple[int, mmap.mmap]]:
    """Two pages of this process, of which the first one was touched, mapped at `OTHER`."""
    with mmap.mmap(-1, 2 * PAGE, request.param | mmap.MAP_ANONYMOUS) as memory:
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        memory[:4] = b"abcd"
        gpu.clients[CLIENT] = bytearray()
        gpu.map(OTHER, OTHER + 2 * PAGE, RangeKind.CLIENT, CLIENT, address)
        yield address, memory
        del view


BATCH = BatchBuilder().copy_dword(OTHER + 8, OTHER).store_dword(OTHER + 12, 42).end()


def test_pages_that_are_there_are_reached_without_the_driver(
    gpu: GpuProcess, ours: tuple[int, mmap.mmap]
) -> None:
    gpu.process_of = lambda key: os.getpid()
    run(gpu, BATCH)
    assert ours[1][8:16] == b"abcd*\0\0\0"
    assert not asked(gpu, Ask.READ)
    assert not asked(gpu, Ask.WRITE)


def test_a_page_that_is_not_there_is_left_to_the_driver(
    gpu: GpuProcess, ours: tuple[int, mmap.mmap]
) -> None:
    gpu.process_of = lambda key: os.getpid()
    run(gpu, BatchBuilder().store_dword(OTHER + PAGE, 42).end())
    assert [message[2:5] for message in gpu.asked if message[2] == Ask.WRITE] == [
        (Ask.WRITE, CLIENT, ours[0] + PAGE)
    ]


@pytest.mark.parametrize("ours", [mmap.MAP_SHARED], indirect=True)
def test_stores_to_a_file_are_left_to_the_driver(
    gpu: GpuProcess, ours: tuple[int, mmap.mmap]
) -> None:
    """Its file system may want to hear of them first, and may be the client."""
    gpu.process_of = lambda key: os.getpid()
    run(gpu, BATCH)
    assert ours[1][8:16] == bytes(8)
    assert not asked(gpu, Ask.READ)
    assert asked(gpu, Ask.WRITE) == 2


@pytest.mark.parametrize("what", ["queue", "memory"])
def test_what_ends_while_its_process_is_asked_for_leaves_nothing_open(
    gpu: GpuProcess, ours: tuple[int, mmap.mmap], what: str
) -> None:
    def process_of(key: int) -> int:
        gpu.silent.add(Ask.PROCESS)  # but for this time
        return os.getpid()

    run(gpu, BatchBuilder().noop().end())
    before = open_files(gpu)
    gpu.process_of = process_of
    gpu.load(CODE_BO, 0, BATCH)
    gpu.job(5, 2, CODE)
    while asked(gpu, Ask.PROCESS) < 2:
        gpu.pump()
    assert open_files(gpu) == before + 1
    if what == "queue":
        gpu.acknowledged(abi.QUEUE_END, 5)
    else:
        gpu.silent.add(Ask.READ)
        gpu.send(abi.FORGET, (), (CLIENT,))
        gpu.send(abi.REPLY, gpu.asked[-1][1], os.getpid())
        while not asked(gpu, Ask.READ):
            gpu.pump()
    assert open_files(gpu) == before


def test_a_process_that_becomes_another_program_is_left_to_the_driver(
    gpu: GpuProcess, ours: tuple[int, mmap.mmap]
) -> None:
    answers = iter([os.getpid(), 0])
    gpu.process_of = lambda key: next(answers)
    gpu.silent.add(Ask.READ)
    gpu.load(CODE_BO, 0, BATCH)
    gpu.job(5, 1, CODE)
    while not asked(gpu, Ask.READ):
        gpu.pump()
    assert asked(gpu, Ask.PROCESS) == 2
    assert ours[1][8:12] == bytes(4)


# ---- page faults ----


def test_a_page_fault_is_mended(gpu: GpuProcess) -> None:
    seen = []

    def mend(queue: int, address: int, access: int) -> bool:
        seen.append((queue, address, access))
        gpu.map(DATA, DATA + PAGE, RangeKind.BO, DATA_BO, vm=2)
        return True

    gpu.mend = mend
    gpu.send(abi.VM, 2, 48, False, True, True)
    gpu.map(CODE, CODE + PAGE, RangeKind.BO, CODE_BO, vm=2)
    gpu.map(DATA, DATA + PAGE, RangeKind.UNBOUND, vm=2)
    gpu.queue(6, vm=2)
    run(gpu, BatchBuilder().store_dword(DATA + 8, 42).end(), 6)
    assert seen == [(6, DATA + 8, 1)]
    assert gpu.peek(DATA_BO, 8) == 42


def test_a_page_fault_that_is_not_mended(gpu: GpuProcess) -> None:
    gpu.send(abi.VM, 2, 48, False, True, True)
    gpu.queue(6, vm=2)
    gpu.job(6, 1, CODE)
    assert gpu.next(abi.FAILED, 6)[3:6] == (Failure.FAULT, CODE, 0)
    assert asked(gpu, Ask.FAULT) == 1
