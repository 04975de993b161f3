"""EXEC and the memory of buffer objects: eviction, purges, imports, files with names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, signals, waits_for
from tests.xe.gpu_work import ADDR, BCS, PAGE, SCRATCH, Board, wait_for
from uapi import xe_drm
from uapi.xe_mock import XE_MOCK_BO_PURGED
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map, op_unmap
from xedev.kernel.shmem import MemoryKind, ShmemConfig
from xedev.testing.target import Target

AT = 0x4000_0000
SYSTEM, VRAM = 1, 2
MIB = 1 << 20
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

Targets = Callable[..., Target[Any]]


class Bench:
    """A VM, a board in it, and jobs on it."""

    def __init__(self, target: Target[Any], flags: int = 0) -> None:
        self.target = target
        self.device: Device = target.device()
        self.board = Board(self.device, flags, pages=40)
        self.queue = self.board.queue()
        self.vm = self.board.vm

    def bo(self, address: int, size: int, placement: int, flags: int = 0) -> int:
        """A new one, bound."""
        handle = self.device.gem_create(size, placement, flags=flags)
        self.device.vm_bind(self.vm, [op_map(handle, 0, address, size)])
        return handle

    def store(self, address: int, value: int) -> int:
        """What becomes of the job."""
        return self.board.run(self.queue, self.board.storing(value, address))

    def load(self, address: int) -> int:
        """What the GPU finds."""
        self.board.write(0xDEAD)
        batch = self.board.batch(BatchBuilder().copy_dword(ADDR, address).end())
        assert self.board.run(self.queue, batch) == 1
        return self.board.read()

    def press(self, command: str) -> Any:
        return json.loads(self.target.control("pressure", command))

    def number(self, handle: int) -> int:
        return int(self.device.bo_info(handle).id)

    def region(self, handle: int) -> str:
        number = self.number(handle)
        places = {bo["id"]: str(bo["placement"]) for bo in self.target.state()["bos"]}
        return places[number]

    def close(self) -> None:
        self.board.memory.close()


@pytest.fixture
def small(xe_target: Targets) -> Iterator[Bench]:
    """A card of 4 MiB."""
    bench = Bench(xe_target("in-process", vram=4 * MIB, system=64 * MIB))
    yield bench
    bench.close()


# ---- eviction ----


def test_an_evicted_bo_is_brought_back(small: Bench) -> None:
    victim = small.bo(AT, 3 * MIB, VRAM | SYSTEM)
    assert small.store(AT, 42) == 1
    other = small.device.gem_create(3 * MIB, VRAM)
    assert small.region(victim) == "gtt"
    small.device.gem_close(other)
    assert small.load(AT) == 42
    assert small.region(victim) == "vram0"


def test_an_evicted_bo_that_may_stay_is_used_where_it_is(small: Bench) -> None:
    victim = small.bo(AT, 3 * MIB, VRAM | SYSTEM)
    assert small.store(AT, 42) == 1
    small.device.gem_create(3 * MIB, VRAM)
    assert small.load(AT) == 42
    assert small.store(AT + 2 * MIB, 43) == 1
    assert small.load(AT + 2 * MIB) == 43
    small.device.gem_close(victim)


def test_bos_that_do_not_fit_together(small: Bench) -> None:
    for number in range(2):
        small.bo(AT + number * 4 * MIB, 3 * MIB, VRAM)
    batch = small.board.storing(1, AT)
    assert error_of(lambda: small.board.exec(small.queue, batch)) == "ENOMEM"
    # One of them leaves, and all is well.
    small.device.vm_bind(small.vm, [op_unmap(AT + 4 * MIB, 3 * MIB)])
    assert small.store(AT, 42) == 1
    assert small.load(AT) == 42


def test_contents_live_through_many_evictions(small: Bench) -> None:
    small.bo(AT, 3 * MIB, VRAM | SYSTEM)
    for value in range(1, 6):
        assert small.store(AT + 2 * MIB, value) == 1
        other = small.device.gem_create(3 * MIB, VRAM)
        small.device.gem_close(other)
        assert small.load(AT + 2 * MIB) == value


# ---- purges ----


@pytest.mark.parametrize("scratch", [0, SCRATCH])
def test_a_purged_bo(xe_target: Targets, scratch: int) -> None:
    bench = Bench(xe_target("in-process"), scratch)
    handle = bench.bo(AT, MIB, VRAM)
    assert bench.store(AT, 42) == 1
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    assert bench.load(AT) == 42
    assert bench.press(f"bo {bench.number(handle)} evict")["victims"]
    assert bench.device.bo_info(handle).state == XE_MOCK_BO_PURGED
    if scratch:
        assert bench.store(AT, 43) == 1
        assert bench.load(AT) == 0
    else:
        assert bench.store(AT, 43) < 0
        assert bench.device.exec_queue_get_property(bench.queue) == 1
    bench.close()


@pytest.mark.parametrize("placement", [SYSTEM, VRAM])
def test_a_purge_leaves_alone_what_work_runs_on(xe_target: Targets, placement: int) -> None:
    bench = Bench(xe_target("in-process"))
    handle = bench.bo(AT, MIB, placement)
    number, how = bench.number(handle), "shrink" if placement == SYSTEM else "evict"
    # Advice waits for the work of its VM, so it comes first.
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    spinner = bench.board.spinner()
    done = bench.board.exec(bench.board.queue(), spinner.address)
    spinner.wait_started()
    assert bench.press(f"bo {number} {how}") == {
        "victims": [],
        "skipped": [{"bo": number, "reason": "busy"}],
    }
    spinner.end()
    wait_for(bench.device, done)
    assert bench.press(f"bo {number} {how}")["victims"]
    bench.close()


def test_a_purge_under_work_of_another_vm(xe_target: Targets) -> None:
    """What runs elsewhere has nothing to do with it."""
    bench = Bench(xe_target("in-process"))
    device = bench.device
    handle = bench.bo(AT, MIB, VRAM)
    other = Board(device)
    spinner = other.spinner()
    done = other.exec(other.queue(), spinner.address)
    spinner.wait_started()
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    assert bench.press(f"bo {bench.number(handle)} evict")["victims"]
    spinner.end()
    wait_for(device, done)
    other.memory.close()
    bench.close()


# ---- other cards ----


def test_the_gpu_of_another_card_uses_an_import(xe_targets: Callable[..., Any]) -> None:
    benches = [Bench(target) for target in xe_targets("in-process", 2)]
    exporter, importer = benches
    handle = exporter.bo(AT, MIB, SYSTEM)
    assert exporter.store(AT, 42) == 1
    fd = exporter.device.prime_handle_to_fd(handle)
    passed = exporter.device.transport.pass_fd(fd, importer.device.transport)  # type: ignore[attr-defined]
    imported = importer.device.prime_fd_to_handle(passed)
    importer.device.vm_bind(importer.vm, [op_map(imported, 0, AT, MIB)])
    assert importer.load(AT) == 42
    assert importer.store(AT + 4, 43) == 1
    assert exporter.load(AT + 4) == 43
    # What the exporter let go of lives on.
    exporter.device.vm_bind(exporter.vm, [op_unmap(AT, MIB)])
    exporter.device.gem_close(handle)
    assert importer.load(AT + 4) == 43
    exporter.device.transport.close_fd(fd)
    importer.device.transport.close_fd(passed)
    for bench in benches:
        bench.close()


# ---- files ----


def test_contents_in_files_with_names(xe_target: Targets) -> None:
    bench = Bench(xe_target("in-process", memory=ShmemConfig(kind=MemoryKind.TMPFS)))
    handle = bench.bo(AT, MIB, VRAM)
    assert bench.store(AT, 42) == 1
    with bench.device.map(handle, MIB) as memory:
        assert memory.read(0, 4) == (42).to_bytes(4, "little")
        memory.write(4, (43).to_bytes(4, "little"))
    assert bench.load(AT + 4) == 43
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    assert bench.press(f"bo {bench.number(handle)} evict")["victims"]
    assert bench.store(AT, 44) < 0
    bench.close()


def test_contents_move_to_a_file_with_a_name(xe_target: Targets) -> None:
    """A client that cannot see our descriptors maps it, after the GPU has used it."""
    target = xe_target("in-process")
    bench = Bench(target)
    handle = bench.bo(AT, MIB, VRAM)
    assert bench.store(AT, 42) == 1
    xe = target.xe  # type: ignore[attr-defined]
    bo = xe.bos[bench.number(handle)]
    with bo.resv:
        assert not bo.pages.is_named
        xe.ttm.pages(bo, named=True)
        assert bo.pages.is_named
    assert bench.load(AT) == 42
    assert bench.store(AT + 4, 43) == 1
    with bench.device.map(handle, MIB) as memory:
        assert memory.read(4, 4) == (43).to_bytes(4, "little")
    bench.close()


# ---- lifetime ----


def test_a_bo_without_a_handle_is_used_through_its_mapping(xe_target: Targets) -> None:
    bench = Bench(xe_target("in-process"))
    handle = bench.bo(AT, MIB, VRAM)
    bench.device.gem_close(handle)
    assert bench.store(AT, 42) == 1
    assert bench.load(AT) == 42
    bench.close()


def test_an_unbind_waits_for_the_job_and_keeps_its_bo(xe_target: Targets) -> None:
    """The job's fence is what the unbind waits for; the handle is closed at once."""
    bench = Bench(xe_target("in-process"))
    device, board = bench.device, bench.board
    assert bench.store(ADDR, 1) == 1  # the GPU knows the VM from now on
    gate = Gate(device)
    handle = device.gem_create(PAGE, SYSTEM)
    with device.map(handle, PAGE) as memory:
        memory.write(0, bytes(BatchBuilder().store_dword(ADDR, 42).end()))
    device.vm_bind(bench.vm, [op_map(handle, 0, AT, PAGE)])
    job = board.exec(bench.queue, AT, waits_for(gate.syncobj()))
    unbound = device.syncobj_create()
    device.vm_bind(bench.vm, [op_unmap(AT, PAGE)], [waits_for(job), signals(unbound)])
    device.gem_close(handle)
    gate.open()
    wait_for(device, unbound)
    assert board.read() == 42
    assert device.exec_queue_get_property(bench.queue) == 0
    gate.close()
    bench.close()


def test_many_bos_in_one_vm(xe_target: Targets) -> None:
    bench = Bench(xe_target("in-process"))
    queue = bench.board.queue([BCS])
    count = 600
    handles = [bench.bo(AT + number * PAGE, PAGE, SYSTEM) for number in range(count)]
    for first in range(0, count, 10):
        batch = BatchBuilder()
        for number in range(first, first + 10):
            batch.store_dword(AT + number * PAGE, number)
        assert bench.board.run(queue, bench.board.batch(batch.end())) == 1
    for number in (0, 299, 599):
        with bench.device.map(handles[number], PAGE) as memory:
            assert int.from_bytes(memory.read(0, 4), "little") == number
    bench.close()
