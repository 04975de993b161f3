"""Where memory is when there is too little: sizes, the order of victims, who is spared."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from typing import Any

import pytest

from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import op_map, op_prefetch
from xedev.drm.ttm import MemType, TtmManager
from xedev.kernel.errors import KernelBug, KernelError
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
VRAM_PAGES = 8
SYSTEM_PAGES = 8

SYSTEM, VRAM, BOTH = 1, 2, 3
DEFERRED = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
VISIBLE = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

NON_LR = 0
PREEMPT = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT = PREEMPT | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
NO_OVERCOMMIT = FAULT | xe_drm.DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT


class Memory:
    """A device with little memory, and what the tests ask of it."""

    def __init__(self) -> None:
        config = XeConfig(vram=VRAM_PAGES * PAGE, system=SYSTEM_PAGES * PAGE)
        self.target = LocalTarget(XeDevice(config))
        self.device: Device = self.target.device()
        self.vm = self.device.vm_create()
        self._next_page = 0

    def create(self, pages: int, placement: int, flags: int = 0, vm: int = 0) -> int:
        return self.device.gem_create(pages * PAGE, placement, flags=flags, vm_id=vm)

    def bind(self, *handles: int, vm: int | None = None, flags: int = 0) -> None:
        """Map BOs at addresses of their own, all in one call."""
        ops = []
        for handle in handles:
            size = self.device.bo_info(handle).size
            ops.append(op_map(handle, 0, self._next_page * PAGE, size, flags=flags))
            self._next_page += size // PAGE
        self.device.vm_bind(self.vm if vm is None else vm, ops)

    def unneeded(self, pages: int, placement: int) -> int:
        """A DONTNEED BO."""
        handle = self.create(pages, placement)
        start = self._next_page * PAGE
        self.bind(handle)
        self.device.madvise_purgeable(self.vm, start, pages * PAGE, DONTNEED)
        return handle

    def look(self, handle: int) -> tuple[str, str]:
        """Place and state."""
        wanted = self.device.bo_info(handle).id
        bo = next(bo for bo in self.target.state()["bos"] if bo["id"] == wanted)
        return bo["placement"], bo["state"]

    def places(self, *handles: int) -> list[str]:
        return [self.look(handle)[0] for handle in handles]

    def used(self, region: str) -> int:
        """Pages."""
        (device,) = self.target.state()["devices"]
        found = next(entry for entry in device["regions"] if entry["name"] == region)
        return int(found["used"]) // PAGE

    def pressure(self, command: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.target.control("pressure", command))
        return answer

    def victims(self, answer: dict[str, Any]) -> list[tuple[int, str]]:
        return [(victim["bo"], victim["action"]) for victim in answer["victims"]]

    def id(self, handle: int) -> int:
        return self.device.bo_info(handle).id


@pytest.fixture
def memory() -> Iterator[Memory]:
    memory = Memory()
    yield memory
    memory.target.close_all()


def _refused(error: int) -> Any:
    return pytest.raises(OSError, check=lambda caught: caught.errno == error)


# --- one manager ---------------------------------------------------------------------------


def test_what_never_fits_and_what_does_not_fit_now() -> None:
    manager = TtmManager("m", MemType.VRAM0, 8, 4)
    manager.charge(6, False)
    for size, visible in ((9, False), (5, True)):
        with pytest.raises(KernelError) as caught:
            manager.check_possible(size, visible)
        assert caught.value.errno == errno.E2BIG
    manager.check_possible(8, False)
    manager.check_possible(4, True)
    assert manager.has_room(2, False)
    assert not manager.has_room(3, False)
    assert manager.has_room(2, True)
    manager.charge(1, True)
    assert manager.has_room(1, True)
    assert not manager.has_room(2, True)


def test_the_visible_part_is_used_last() -> None:
    manager = TtmManager("m", MemType.VRAM0, 8, 4)
    assert manager.small_bar
    assert manager.charge(3, False) == 0
    assert manager.charge(2, True) == 2
    assert manager.charge(3, False) == 2, "one more hidden, the rest visible"
    assert not manager.has_room(1, False)
    manager.uncharge(3, 2)
    manager.uncharge(2, 2)
    manager.uncharge(3, 0)
    assert (manager.used, manager.visible_used) == (0, 0)


def test_giving_back_too_much_is_a_bug() -> None:
    manager = TtmManager("m", MemType.VRAM0, 8)
    manager.charge(2, False)
    with pytest.raises(KernelBug):
        manager.uncharge(3, 0)


# --- sizes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", [VRAM, BOTH])
def test_larger_than_vram_is_never_tried(memory: Memory, placement: int) -> None:
    """Even where system memory would be allowed."""
    with _refused(errno.E2BIG):
        memory.create(VRAM_PAGES + 1, placement)
    assert memory.target.state()["bos"] == []


def test_vram_first_and_system_memory_as_fallback(memory: Memory) -> None:
    resident = memory.create(VRAM_PAGES, BOTH, vm=memory.vm)
    assert memory.places(resident) == ["vram0"]
    # Eviction comes before the fallback: there is room in system memory for the old one.
    another = memory.create(VRAM_PAGES, BOTH)
    assert memory.places(resident, another) == ["gtt", "vram0"]
    # No room for a third: neither VRAM, whose victim has nowhere to go, nor system memory.
    with _refused(errno.ENOMEM):
        memory.create(1, BOTH)


def test_the_fallback_is_used_when_nobody_can_be_evicted(memory: Memory) -> None:
    preempt = memory.device.vm_create(PREEMPT)
    resident = memory.create(VRAM_PAGES, VRAM, vm=preempt)
    deferred = memory.create(1, BOTH, DEFERRED, vm=preempt)
    memory.bind(deferred, vm=preempt)
    assert memory.places(resident, deferred) == ["vram0", "gtt"]


def test_no_system_memory(memory: Memory) -> None:
    memory.create(SYSTEM_PAGES, SYSTEM)
    with _refused(errno.ENOMEM):
        memory.create(1, SYSTEM)
    memory.create(1, SYSTEM, DEFERRED)
    assert memory.used("gtt") == SYSTEM_PAGES


def test_deferred_memory_is_used_at_the_first_bind(memory: Memory) -> None:
    handle = memory.create(4, VRAM, DEFERRED)
    assert memory.look(handle)[0] == "none"
    assert memory.used("vram0") == 0
    memory.bind(handle)
    assert memory.look(handle)[0] == "vram0"
    assert memory.used("vram0") == 4


def test_a_fault_vm_takes_memory_at_the_fault(memory: Memory) -> None:
    vm = memory.device.vm_create(FAULT)
    handle = memory.create(4, VRAM, DEFERRED)
    memory.bind(handle, vm=vm)
    assert memory.look(handle)[0] == "none"
    memory.bind(handle, vm=vm, flags=IMMEDIATE)
    assert memory.look(handle)[0] == "vram0"


def test_memory_comes_back_with_the_last_reference(memory: Memory) -> None:
    handle = memory.create(VRAM_PAGES, VRAM)
    memory.bind(handle)
    memory.device.gem_close(handle)
    assert memory.used("vram0") == VRAM_PAGES
    memory.device.vm_destroy(memory.vm)
    assert memory.used("vram0") == 0


# --- VRAM: plain LRU -----------------------------------------------------------------------


def test_the_oldest_goes_first(memory: Memory) -> None:
    handles = [memory.create(2, VRAM) for _ in range(4)]
    memory.create(4, VRAM)
    assert memory.places(*handles) == ["gtt", "gtt", "vram0", "vram0"]


def test_advice_does_not_move_anybody_forward(memory: Memory) -> None:
    """VRAM has no preference for DONTNEED: it goes when its turn comes."""
    old = memory.create(4, VRAM)
    unneeded = memory.unneeded(4, VRAM)
    memory.create(2, VRAM)
    assert (memory.look(old), memory.look(unneeded)) == (
        ("gtt", "WILLNEED"),
        ("vram0", "DONTNEED"),
    )
    memory.create(4, VRAM)
    assert memory.look(unneeded) == ("none", "PURGED")
    assert memory.used("gtt") == 4, "its contents went nowhere"


def test_coming_back_makes_young(memory: Memory) -> None:
    one, two = (memory.create(4, VRAM) for _ in range(2))
    memory.create(4, VRAM)
    assert memory.places(one, two) == ["gtt", "vram0"]
    memory.bind(one)
    assert memory.places(one, two) == ["vram0", "gtt"]


def test_many_small_ones_make_room_for_a_large_one() -> None:
    target = LocalTarget(XeDevice(XeConfig(vram=1024 * PAGE, system=2048 * PAGE)))
    device = target.device()
    for _ in range(1024):
        device.gem_create(PAGE, VRAM)
    device.gem_create(1024 * PAGE, VRAM)
    regions = {region["name"]: region for region in target.state()["devices"][0]["regions"]}
    assert regions["gtt"]["used"] == regions["vram0"]["used"] == 1024 * PAGE
    target.close_all()


def test_a_victim_without_a_refuge_stays(memory: Memory) -> None:
    memory.create(SYSTEM_PAGES, SYSTEM)
    handle = memory.create(VRAM_PAGES, VRAM)
    with _refused(errno.ENOMEM):
        memory.create(1, VRAM)
    assert memory.look(handle) == ("vram0", "WILLNEED")


def test_an_unneeded_victim_needs_no_refuge(memory: Memory) -> None:
    memory.create(SYSTEM_PAGES, SYSTEM)
    memory.create(4, VRAM)
    unneeded = memory.unneeded(4, VRAM)
    memory.create(4, VRAM)
    assert memory.look(unneeded) == ("none", "PURGED")


def test_a_refuge_is_made_by_the_shrinker(memory: Memory) -> None:
    unneeded = memory.unneeded(SYSTEM_PAGES, SYSTEM)
    old = memory.create(VRAM_PAGES, VRAM)
    memory.create(1, VRAM)
    assert memory.look(unneeded) == ("none", "PURGED")
    assert memory.look(old) == ("gtt", "WILLNEED")


def test_pressure_evicts_as_an_allocation_does(memory: Memory) -> None:
    one = memory.create(2, VRAM)
    two = memory.unneeded(2, VRAM)
    three = memory.create(2, VRAM)
    answer = memory.pressure(f"region vram0 {3 * PAGE} evict")
    assert memory.victims(answer) == [(memory.id(one), "moved"), (memory.id(two), "purged")]
    assert memory.places(one, two, three) == ["gtt", "none", "vram0"]


# --- system memory: DONTNEED first ---------------------------------------------------------


def test_the_shrinker_takes_the_unneeded_only(memory: Memory) -> None:
    wanted = memory.create(2, SYSTEM)
    one, two = (memory.unneeded(2, SYSTEM) for _ in range(2))
    memory.create(4, SYSTEM)
    assert [memory.look(handle)[1] for handle in (wanted, one, two)] == [
        "WILLNEED",
        "PURGED",
        "DONTNEED",
    ]
    memory.create(2, SYSTEM)
    assert memory.look(two)[1] == "PURGED"
    with _refused(errno.ENOMEM):
        memory.create(1, SYSTEM)
    assert memory.look(wanted) == ("gtt", "WILLNEED")


def test_the_shrinker_begins_with_what_the_gpu_does_not_map(memory: Memory) -> None:
    """Pages in SYSTEM before pages in TT, whatever their age."""
    mapped = memory.unneeded(2, SYSTEM)
    # An export gives a deferred BO its pages where it is, which is SYSTEM.
    unmapped = memory.create(2, SYSTEM, DEFERRED)
    token = memory.device.prime_handle_to_token(unmapped)
    fd = memory.device.transport.open_fd(token, 0)
    vm = memory.device.vm_create(FAULT)
    memory.device.vm_bind(vm, [op_map(unmapped, 0, 0, 2 * PAGE)])
    memory.device.madvise_purgeable(vm, 0, 2 * PAGE, DONTNEED)
    id_ = memory.id(unmapped)
    again = memory.device.prime_fd_to_handle(fd)
    assert again == unmapped
    memory.device.close_fd(fd)
    memory.device.gem_close(unmapped)  # with the last handle goes the export
    answer = memory.pressure(f"region gtt {4 * PAGE} shrink")
    assert memory.victims(answer) == [(id_, "purged"), (memory.id(mapped), "purged")]


def test_an_exported_bo_is_no_victim(memory: Memory) -> None:
    handle = memory.create(2, SYSTEM)
    memory.bind(handle)
    memory.device.prime_handle_to_token(handle)
    memory.device.madvise_purgeable(memory.vm, 0, 2 * PAGE, DONTNEED)
    answer = memory.pressure(f"bo {memory.id(handle)} shrink")
    assert (answer["victims"], len(answer["skipped"])) == ([], 1)
    assert memory.look(handle) == ("gtt", "WILLNEED")


def test_nothing_is_taken_from_the_empty(memory: Memory) -> None:
    handle = memory.create(2, SYSTEM, DEFERRED)
    for how in ("shrink", "evict"):
        assert memory.pressure(f"bo {memory.id(handle)} {how}")["victims"] == []


# --- a VM's own BOs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vm_flags", "bind_flags", "evicts"),
    [
        pytest.param(NON_LR, 0, True, id="non-lr"),
        pytest.param(PREEMPT, 0, False, id="preempt"),
        pytest.param(FAULT, IMMEDIATE, True, id="fault"),
        pytest.param(NO_OVERCOMMIT, IMMEDIATE, False, id="fault-no-overcommit"),
    ],
)
@pytest.mark.parametrize("array", [False, True], ids=["one", "array"])
def test_whether_a_bind_evicts_its_own_vm(
    memory: Memory, vm_flags: int, bind_flags: int, evicts: bool, array: bool
) -> None:
    """An array of binds never does, a VM that must have all its BOs resident never does."""
    vm = memory.device.vm_create(vm_flags)
    resident = memory.create(VRAM_PAGES, VRAM, vm=vm)
    memory.bind(resident, vm=vm, flags=bind_flags)
    newcomers = [memory.create(2, VRAM, DEFERRED, vm=vm) for _ in range(1 + array)]
    if evicts and not array:
        memory.bind(*newcomers, vm=vm, flags=bind_flags)
        assert memory.places(resident, *newcomers) == ["gtt", "vram0"]
        return
    with _refused(errno.ENOMEM):
        memory.bind(*newcomers, vm=vm, flags=bind_flags)
    assert memory.look(resident) == ("vram0", "WILLNEED")
    assert set(memory.places(*newcomers)) == {"none"}


@pytest.mark.parametrize("vm_flags", [NON_LR, PREEMPT])
def test_others_are_always_evicted(memory: Memory, vm_flags: int) -> None:
    vm = memory.device.vm_create(vm_flags)
    other = memory.create(VRAM_PAGES, VRAM, vm=memory.vm)
    mine = memory.create(2, VRAM, DEFERRED, vm=vm)
    memory.bind(mine, vm=vm)
    assert memory.places(other, mine) == ["gtt", "vram0"]


def test_a_bind_does_not_evict_what_it_binds(memory: Memory) -> None:
    one = memory.create(VRAM_PAGES, VRAM)
    two = memory.create(2, VRAM, DEFERRED)
    with _refused(errno.ENOMEM):
        memory.bind(one, two)
    assert memory.places(one, two) == ["vram0", "none"]


# --- prefetch ------------------------------------------------------------------------------


def test_prefetch_moves_within_the_list_of_places(memory: Memory) -> None:
    handle = memory.create(2, BOTH)
    memory.device.vm_bind(memory.vm, [op_map(handle, 0, 0, 2 * PAGE)])
    memory.device.vm_bind(memory.vm, [op_prefetch(0, PAGE, 0)])
    assert memory.look(handle)[0] == "gtt"
    memory.device.vm_bind(memory.vm, [op_prefetch(0, PAGE, 1)])
    assert memory.look(handle)[0] == "vram0"
    fixed = memory.create(2, VRAM)
    memory.device.vm_bind(memory.vm, [op_map(fixed, 0, 4 * PAGE, 2 * PAGE)])
    with _refused(errno.EINVAL):
        memory.device.vm_bind(memory.vm, [op_prefetch(4 * PAGE, PAGE, 0)])


def test_visible_memory_is_all_there_is(memory: Memory) -> None:
    """The profile's BAR is as large as its VRAM."""
    handle = memory.create(VRAM_PAGES, VRAM, VISIBLE)
    assert memory.places(handle) == ["vram0"]
