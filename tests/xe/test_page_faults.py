"""Faulting VMs: what is bound late, what is refused, and what the driver tells of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.xe.gate import error_of
from tests.xe.gpu_work import ADDR, FAULT, PAGE, SCRATCH, Board
from uapi import xe_drm
from uapi.xe_mock import XE_MOCK_BO_PURGED
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map, op_unmap
from xedev.testing.target import Target

AT = 0x4000_0000
SYSTEM, VRAM = 1, 2
MIB = 1 << 20
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
MAX_FAULTS = 50


class Bench:
    """A faulting VM, a board in it, and jobs on it."""

    def __init__(self, target: Target[Any], flags: int = FAULT) -> None:
        self.target = target
        self.device: Device = target.device()
        self.board = Board(self.device, flags, pages=64)
        self.vm = self.board.vm
        self._count = 0

    def bind(self, handle: int, address: int = AT, size: int = PAGE, flags: int = 0) -> None:
        self.device.vm_bind(self.vm, [op_map(handle, 0, address, size, flags=flags)])

    def run(self, batch: BatchBuilder) -> bool:
        """On a new queue; False when it was banned."""
        queue = self.board.queue()
        self._count += 1
        self.board.exec_lr(queue, self.board.batch(batch.end()), self._count)
        fence = self.board.fence_address
        error = error_of(
            lambda: self.device.wait_user_fence(
                fence, self._count, exec_queue_id=queue, timeout=20_000_000_000
            )
        )
        assert error in ("", "EIO")
        assert self.device.exec_queue_get_property(queue) == (error != "")
        self.device.exec_queue_destroy(queue)
        return not error

    def store(self, address: int, value: int) -> bool:
        return self.run(BatchBuilder().store_dword(address, value))

    def load(self, address: int) -> int | None:
        """What the GPU finds; None for a fault."""
        self.board.write(0xDEAD)
        return self.board.read() if self.run(BatchBuilder().copy_dword(ADDR, address)) else None

    def faults(self) -> list[tuple[int, int, int]]:
        """Address, access and type of each."""
        return [
            (fault.address, fault.access_type, fault.fault_type)
            for fault in self.device.vm_get_faults(self.vm)
        ]

    def press(self, command: str) -> Any:
        return json.loads(self.target.control("pressure", command))

    def cpu_read(self, handle: int, size: int = PAGE) -> int:
        with self.device.map(handle, size) as memory:
            return int.from_bytes(memory.read(0, 4), "little")


@pytest.fixture
def bench(xe_target: Callable[..., Target[Any]]) -> Iterator[Bench]:
    bench = Bench(xe_target("in-process"))
    yield bench
    bench.board.memory.close()


@pytest.fixture
def scratch_bench(xe_target: Callable[..., Target[Any]]) -> Iterator[Bench]:
    bench = Bench(xe_target("in-process"), FAULT | SCRATCH)
    yield bench
    bench.board.memory.close()


# ---- late binding ----


def test_a_bo_is_bound_at_the_first_access(bench: Bench) -> None:
    handle = bench.device.gem_create(PAGE, SYSTEM)
    bench.bind(handle)
    assert bench.store(AT, 42)
    assert bench.load(AT) == 42
    assert bench.cpu_read(handle) == 42
    assert not bench.faults()


def test_a_bo_that_was_never_backed(bench: Bench) -> None:
    defer = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
    handle = bench.device.gem_create(MIB, VRAM, flags=defer)
    bench.bind(handle, size=MIB)
    assert bench.load(AT + MIB - 4) == 0
    assert bench.store(AT, 42)
    assert bench.load(AT) == 42


def test_what_is_unbound_faults(bench: Bench) -> None:
    handle = bench.device.gem_create(PAGE, SYSTEM)
    bench.bind(handle)
    assert bench.store(AT, 42)
    bench.device.vm_bind(bench.vm, [op_unmap(AT, PAGE)])
    assert not bench.store(AT, 43)
    assert bench.cpu_read(handle) == 42


def test_a_bind_over_a_bind(bench: Bench) -> None:
    first, second = (bench.device.gem_create(2 * PAGE, SYSTEM) for _ in range(2))
    bench.bind(first, size=2 * PAGE)
    assert bench.store(AT, 1)
    assert bench.store(AT + PAGE, 2)
    bench.device.vm_bind(bench.vm, [op_map(second, 0, AT, PAGE)])
    assert bench.load(AT) == 0
    assert bench.load(AT + PAGE) == 2


# ---- what is refused, and recorded ----


def test_nothing_is_mapped(bench: Bench) -> None:
    assert bench.load(AT + 12) is None
    assert not bench.store(AT + PAGE, 1)
    not_present = xe_drm.FAULT_TYPE_NOT_PRESENT
    assert bench.faults() == [
        (AT, xe_drm.FAULT_ACCESS_TYPE_READ, not_present),
        (AT + PAGE, xe_drm.FAULT_ACCESS_TYPE_WRITE, not_present),
    ]


def test_a_store_to_a_read_only_mapping(bench: Bench) -> None:
    handle = bench.device.gem_create(PAGE, SYSTEM)
    bench.bind(handle, flags=READ_ONLY)
    assert bench.load(AT) == 0
    assert not bench.store(AT, 1)
    write = xe_drm.FAULT_ACCESS_TYPE_WRITE, xe_drm.FAULT_TYPE_WRITE_ACCESS
    assert bench.faults() == [(AT, *write)]
    assert bench.cpu_read(handle) == 0


def test_addresses_are_told_in_canonical_form(bench: Bench) -> None:
    address = (1 << 64) - PAGE
    assert not bench.store(address, 1)
    assert bench.faults()[0][0] == (1 << 64) - PAGE


def test_the_first_fifty_are_kept(bench: Bench) -> None:
    for number in range(MAX_FAULTS + 3):
        assert bench.load(AT + number * PAGE) is None
    assert [fault[0] for fault in bench.faults()] == [AT + n * PAGE for n in range(MAX_FAULTS)]
    # Reading takes nothing away.
    assert len(bench.faults()) == MAX_FAULTS


def test_each_vm_has_its_own_faults(bench: Bench) -> None:
    """Also one that takes none: IGT's vm-get-property-exercise counts on it."""
    board = Board(bench.device)
    assert board.run(board.queue(), board.storing(1, AT)) < 0
    (fault,) = bench.device.vm_get_faults(board.vm)
    assert (fault.address, fault.access_type) == (AT, xe_drm.FAULT_ACCESS_TYPE_WRITE)
    assert not bench.faults()


# ---- purgeable BOs ----


def purgeable(bench: Bench) -> int:
    """A BO whose contents may go, bound and used."""
    handle = bench.device.gem_create(MIB, VRAM)
    bench.bind(handle, size=MIB)
    assert bench.store(AT, 42)
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    return handle


def purge(bench: Bench, handle: int) -> None:
    number = bench.device.bo_info(handle).id
    assert bench.press(f"bo {number} evict")["victims"]
    assert bench.device.bo_info(handle).state == XE_MOCK_BO_PURGED


def test_contents_stay_until_the_purge(bench: Bench) -> None:
    purgeable(bench)
    assert bench.load(AT) == 42


def test_a_fault_of_what_may_go(bench: Bench) -> None:
    handle = bench.device.gem_create(MIB, VRAM)
    bench.bind(handle, size=MIB)
    bench.device.madvise_purgeable(bench.vm, AT, MIB, DONTNEED)
    assert bench.load(AT) is None
    assert len(bench.faults()) == 1


def test_a_fault_of_what_is_gone(bench: Bench) -> None:
    handle = purgeable(bench)
    purge(bench, handle)
    assert bench.load(AT) is None
    assert not bench.store(AT, 1)
    assert len(bench.faults()) == 2


def test_scratch_in_place_of_what_is_gone(scratch_bench: Bench) -> None:
    bench = scratch_bench
    handle = purgeable(bench)
    purge(bench, handle)
    assert bench.load(AT) == 0
    assert bench.store(AT, 1)
    assert bench.load(AT) == 0
    assert not bench.faults()


def test_scratch_where_nothing_is_mapped(scratch_bench: Bench) -> None:
    assert scratch_bench.store(AT, 1)
    assert scratch_bench.load(AT) == 0
    assert not scratch_bench.faults()


def test_scratch_takes_no_page_fault_from_a_bo(scratch_bench: Bench) -> None:
    handle = scratch_bench.device.gem_create(PAGE, SYSTEM)
    scratch_bench.bind(handle)
    assert scratch_bench.store(AT, 42)
    assert scratch_bench.cpu_read(handle) == 42


# ---- eviction ----


def test_an_evicted_bo_comes_back_with_a_fault(xe_target: Callable[..., Target[Any]]) -> None:
    bench = Bench(xe_target("in-process", vram=4 * MIB, system=64 * MIB))
    victim = bench.device.gem_create(3 * MIB, VRAM | SYSTEM)
    bench.bind(victim, size=3 * MIB)
    assert bench.store(AT, 42)
    number = bench.device.bo_info(victim).id
    other = bench.device.gem_create(3 * MIB, VRAM)
    places = {bo["id"]: bo["placement"] for bo in bench.target.state()["bos"]}
    assert places[number] == "gtt"
    assert bench.load(AT) == 42
    bench.device.gem_close(other)
    assert bench.store(AT, 43)
    assert bench.cpu_read(victim, 3 * MIB) == 43
    bench.board.memory.close()


def test_two_bos_take_turns_in_vram(xe_target: Callable[..., Target[Any]]) -> None:
    """Either fits, both do not: each fault brings one back."""
    bench = Bench(xe_target("in-process", vram=4 * MIB, system=64 * MIB))
    defer = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
    for number in range(2):
        handle = bench.device.gem_create(3 * MIB, VRAM, flags=defer)
        bench.bind(handle, AT + number * 4 * MIB, 3 * MIB)
    for value in range(1, 5):
        for number in range(2):
            address = AT + number * 4 * MIB
            assert bench.load(address) == (value - 1) * 10 + number * (value > 1)
            assert bench.store(address, value * 10 + number)
    assert not bench.faults()
    bench.board.memory.close()
