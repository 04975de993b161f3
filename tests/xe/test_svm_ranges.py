"""Ranges of mirrors: prefetched, counted, advised on, given up with the memory behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.xe.gate import Gate, error_of, signals, waits_for
from tests.xe.gpu_work import PAGE
from tests.xe.mirrors import AUTORESET, PROT_READ, SIZE_2M, Mirror, Pages
from uapi import xe_drm
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map, op_map_userptr, op_prefetch, op_unmap
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

FAULTS = "svm_pagefault_count"
ATOMIC_DEVICE, ATOMIC_CPU = xe_drm.DRM_XE_ATOMIC_DEVICE, xe_drm.DRM_XE_ATOMIC_CPU
Targets = Callable[..., Target[LocalTransport]]


class Counted(Mirror):
    """A mirror on a device whose counters are seen."""

    def __init__(self, target: Target[LocalTransport]) -> None:
        super().__init__(target.device())
        self.target = target

    def counter(self, name: str) -> int:
        lines = self.target.debug("gt0/stats").splitlines()
        return int(dict(line.split(": ") for line in lines)[name])

    def prefetch(self, pages: Pages, region: int = 0) -> None:
        op = op_prefetch(pages.address, pages.size, region)
        self.device.vm_bind(self.board.vm, [op])

    def advice(self, pages: Pages) -> list[int]:
        """On atomics, of each VMA that touches the pages."""
        found = self.device.vm_query_mem_range_attrs(self.board.vm, pages.address, pages.size)
        return [attr.atomic.val for attr in found]

    def advise(self, pages: Pages, value: int) -> None:
        self.device.madvise_atomic(self.board.vm, pages.address, pages.size, value)

    def increment(self, address: int) -> bool:
        return self.run(BatchBuilder().atomic_inc(address))


@pytest.fixture
def mirror(xe_target: Targets) -> Iterator[Counted]:
    mirror = Counted(xe_target("in-process"))
    yield mirror
    mirror.board.memory.close()


# ---- faults, and what comes before them ----


def test_a_fault_maps_as_much_as_it_can(mirror: Counted) -> None:
    large = Pages(SIZE_2M + PAGE)
    for offset in (0, 64 * PAGE, SIZE_2M - PAGE):
        assert mirror.store(large.address + offset, 1)
    assert mirror.counter(FAULTS) == mirror.counter("svm_2M_pagefault_count") == 1
    assert mirror.store(large.address + SIZE_2M, 1)
    assert mirror.counter("svm_4K_pagefault_count") == 1
    large.close()


@pytest.mark.parametrize("is_live", [False, True])
def test_what_was_prefetched_does_not_fault(mirror: Counted, pages: Pages, is_live: bool) -> None:
    other = Pages(PAGE)
    if is_live:
        assert mirror.store(other.address, 1)
    before = mirror.counter(FAULTS)
    mirror.prefetch(pages)
    assert mirror.store(pages.address + 5 * PAGE, 42)
    assert pages.read(5 * PAGE) == 42
    assert mirror.counter(FAULTS) == before
    other.close()


def test_a_prefetch_takes_what_is_there(mirror: Counted, pages: Pages) -> None:
    pages.unmap(4 * PAGE, 4 * PAGE)
    mirror.prefetch(pages)
    assert mirror.store(pages.address + 3 * PAGE, 1)
    assert mirror.store(pages.address + 8 * PAGE, 1)
    assert mirror.counter(FAULTS) == 0
    assert mirror.load(pages.address + 4 * PAGE) is None


def test_a_prefetch_of_what_may_not_be_written(mirror: Counted, pages: Pages) -> None:
    pages.protect(PROT_READ)
    assert error_of(lambda: mirror.prefetch(pages)) == "EPERM"


def test_a_prefetched_mirror_is_busy(mirror: Counted, pages: Pages) -> None:
    mirror.prefetch(pages)
    assert mirror.unbind(pages.address, pages.size) == "EBUSY"


def test_a_bo_beside_it_does_not_disturb_a_mirror(mirror: Counted, pages: Pages) -> None:
    """The mirrors on both sides become one again, which is nothing that the GPU has to know."""
    device, board = mirror.device, mirror.board
    assert mirror.store(pages.address, 1)
    place = pages.address + (1 << 29)
    device.vm_bind(board.vm, [op_map(board.bo, 0, place, PAGE)])
    assert mirror.load(place) is not None
    mirror.bind(place, PAGE)
    before = mirror.counter(FAULTS)
    assert mirror.store(pages.address, 2)
    assert pages.read() == 2
    assert mirror.counter(FAULTS) == before
    assert mirror.load(place) is None, "the BO is not there any more"


def test_a_mirror_is_taken_from_beside_another(mirror: Counted, pages: Pages) -> None:
    assert mirror.store(pages.address, 1)
    free = pages.address + (1 << 29)
    mirror.device.vm_bind(mirror.board.vm, [op_unmap(free, PAGE)])
    before = mirror.counter(FAULTS)
    assert mirror.store(pages.address, 2)
    assert mirror.counter(FAULTS) == before


def test_a_file_in_place_of_memory_that_the_gpu_has_used(mirror: Counted, pages: Pages) -> None:
    """As a BO has that is mapped where something was freed."""
    assert mirror.store(pages.address, 1)
    pages.unmap()
    file = Pages(pages.size, shared=True, address=pages.address)
    assert mirror.unbind(pages.address, pages.size) == ""
    mirror.bind(pages.address, pages.size)
    assert mirror.store(pages.address, 2)
    assert file.read() == 2
    assert mirror.unbind(pages.address, pages.size) == "EBUSY"


# ---- advice ----


def test_new_advice_makes_the_gpu_look_again_and_old_advice_does_not(
    mirror: Counted, pages: Pages
) -> None:
    mirror.advise(pages, ATOMIC_DEVICE)
    assert mirror.store(pages.address, 1)
    faults = mirror.counter(FAULTS)
    mirror.advise(pages, ATOMIC_DEVICE)
    assert mirror.store(pages.address, 2)
    assert mirror.counter(FAULTS) == faults
    mirror.advise(pages, ATOMIC_CPU)
    assert mirror.store(pages.address, 3)
    assert mirror.counter(FAULTS) == faults + 1
    assert not mirror.increment(pages.address)


def test_advice_on_a_part_ends_the_ranges_across_its_edges(mirror: Counted) -> None:
    large = Pages(SIZE_2M)
    assert mirror.store(large.address, 1)
    vm, half = mirror.board.vm, SIZE_2M // 2
    mirror.device.madvise_atomic(vm, large.address, half, ATOMIC_CPU)
    assert not mirror.increment(large.address)
    assert mirror.increment(large.address + half)
    assert (large.read(), large.read(half)) == (1, 1)
    assert mirror.counter("svm_2M_pagefault_count") == 1
    large.close()


def test_atomics_need_memory_that_can_be_brought_to_the_card(xe_target: Targets) -> None:
    """Private memory can; shared memory only where the device's atomics reach the host's."""
    mirror = Counted(xe_target("in-process", profile="bmg"))
    private, shared = Pages(PAGE), Pages(PAGE, shared=True)
    assert mirror.increment(private.address)
    assert mirror.store(shared.address, 7)
    assert not mirror.increment(shared.address)
    assert shared.read() == 7
    mirror.advise(shared, ATOMIC_DEVICE)
    assert mirror.increment(shared.address)
    assert (private.read(), shared.read()) == (1, 8)
    private.close()
    shared.close()
    mirror.board.memory.close()


def test_atomics_on_shared_memory_of_an_integrated_device(xe_target: Targets) -> None:
    mirror = Counted(xe_target("in-process", profile="lnl"))
    shared = Pages(PAGE, shared=True)
    assert mirror.increment(shared.address)
    assert shared.read() == 1
    shared.close()
    mirror.board.memory.close()


@pytest.mark.parametrize("profile", ["bmg", "lnl"])
def test_atomics_on_user_memory_that_is_mapped_already(xe_target: Targets, profile: str) -> None:
    """A load before changes nothing of what they need."""
    mirror, user = Counted(xe_target("in-process", profile=profile)), Pages(PAGE)
    address = 1 << 30
    mirror.device.vm_bind(mirror.board.vm, [op_map_userptr(user.address, address, PAGE)])
    assert mirror.load(address) == 0
    assert mirror.increment(address) is (profile == "lnl")
    mirror.device.madvise_atomic(mirror.board.vm, address, PAGE, ATOMIC_DEVICE)
    assert mirror.increment(address)
    user.close()
    mirror.board.memory.close()


# ---- memory that goes, and the advice with it ----


@pytest.mark.parametrize("flags", [0, AUTORESET])
def test_advice_goes_with_the_memory_if_that_was_asked_for(
    mirror: Counted, pages: Pages, flags: int
) -> None:
    mirror.bind(pages.address - SIZE_2M, 2 * SIZE_2M, flags)
    mirror.advise(pages, ATOMIC_DEVICE)
    assert mirror.store(pages.address, 1)
    pages.unmap()
    if flags:
        assert mirror.advice(pages) == [0]
        bounds = mirror.device.vm_query_mem_range_attrs(mirror.board.vm, pages.address, PAGE)
        assert bounds[0].start < pages.address
        assert bounds[0].end > pages.address + pages.size
    else:
        assert mirror.advice(pages) == [ATOMIC_DEVICE]


def test_only_the_part_that_went_loses_its_advice(mirror: Counted, pages: Pages) -> None:
    mirror.bind(pages.address - SIZE_2M, 2 * SIZE_2M, AUTORESET)
    mirror.advise(pages, ATOMIC_CPU)
    pages.unmap(8 * PAGE, PAGE)
    mirror.prefetch(pages)
    pages.unmap(9 * PAGE, PAGE)
    assert mirror.load(pages.address) == 0
    assert mirror.advice(pages) == [ATOMIC_CPU, 0, ATOMIC_CPU]


def test_a_vm_ends_that_cannot_take_its_advice_back(mirror: Counted, pages: Pages) -> None:
    mirror.bind(pages.address - SIZE_2M, 2 * SIZE_2M, AUTORESET)
    mirror.advise(pages, ATOMIC_DEVICE)
    assert mirror.store(pages.address, 1)
    pages.unmap()
    mirror.target.control("fail", "xe_vma_create 1 ENOMEM")
    assert error_of(lambda: mirror.advise(pages, ATOMIC_CPU)) == "ENOMEM"
    assert error_of(lambda: mirror.advise(pages, ATOMIC_CPU)) == "ENOENT"


def test_the_gpu_keeps_what_it_had_of_the_rest(mirror: Counted, pages: Pages) -> None:
    other = Pages(PAGE)
    mirror.bind(other.address - SIZE_2M, 2 * SIZE_2M, AUTORESET)
    mirror.bind(pages.address - SIZE_2M, 2 * SIZE_2M, AUTORESET)
    mirror.advise(pages, ATOMIC_DEVICE)
    assert mirror.store(pages.address, 1)
    assert mirror.store(other.address, 1)
    pages.unmap()
    assert mirror.store(other.address, 2)
    pages.map_again()
    assert mirror.store(pages.address, 3)
    assert (pages.read(), other.read()) == (3, 2)
    other.close()


# ---- BOs whose last mapping goes late ----


def test_a_bo_without_a_handle_lives_until_its_unbind_is_done() -> None:
    with Device(LocalTransport(XeDevice())) as device:
        gate = Gate(device)
        vm, bo, out = device.vm_create(), device.gem_create(PAGE, 1), device.syncobj_create()
        device.vm_bind(vm, [op_map(bo, 0, 0x100000, PAGE)])
        device.gem_close(bo)
        device.vm_bind(vm, [op_unmap(0x100000, PAGE)], [waits_for(gate.syncobj()), signals(out)])
        gate.open()
        device.syncobj_wait([out], 1 << 62)
        gate.close()
