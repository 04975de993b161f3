"""Where BOs are, as clients see it by MEM_REGIONS and BO_INFO: small BARs, the order of victims,
the way back (kernel: xe_bo.c, xe_ttm_vram_mgr.c, ttm_bo.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any

import pytest

from uapi import xe_drm
from xedev.client import Device, IoctlError
from xedev.client.memory import op_map, op_prefetch
from xedev.node.local import LocalTransport
from xedev.testing.target import LocalTarget, Target
from xedev.xe.xe_bo import XeBo
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
SYSTEM, VRAM, BOTH = 1, 2, 3
DEFERRED = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
VISIBLE = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
PREEMPT = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT = PREEMPT | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE


class Card:
    """A card of a few pages; sizes, addresses and regions in pages."""

    def __init__(self, vram: int, visible: int | None = None, system: int = 64) -> None:
        self.xe = XeDevice(
            XeConfig(
                vram=vram * PAGE,
                visible_vram=None if visible is None else visible * PAGE,
                system=system * PAGE,
            )
        )
        self.target = LocalTarget(self.xe)
        self.device: Device = self.target.device()
        self.vm = self.device.vm_create()
        self._next = 0

    def create(self, pages: int, placement: int = VRAM, flags: int = 0, vm: int = 0) -> int:
        return self.device.gem_create(pages * PAGE, placement, flags=flags, vm_id=vm)

    def bind(self, *handles: int, vm: int | None = None) -> None:
        """Map BOs at new addresses, all in one call."""
        ops = []
        for handle in handles:
            size = self.device.bo_info(handle).size
            ops.append(op_map(handle, 0, self._next * PAGE, size))
            self._next += size // PAGE
        self.device.vm_bind(self.vm if vm is None else vm, ops)

    def bo(self, handle: int) -> XeBo:
        return self.xe.bos[self.device.bo_info(handle).id]

    def places(self, *handles: int) -> list[str]:
        return [self.xe.region_name(self.bo(handle).mem_type) for handle in handles]

    def used(self) -> tuple[int, int, int]:
        """Pages used in system memory, in VRAM, and in the visible part of it."""
        system, vram = self.device.query_mem_regions()
        return system.used // PAGE, vram.used // PAGE, vram.cpu_visible_used // PAGE


@pytest.fixture
def make() -> Iterator[Callable[..., Card]]:
    cards = []

    def make(*args: Any, **options: Any) -> Card:
        cards.append(Card(*args, **options))
        return cards[-1]

    yield make
    for card in cards:
        card.target.close_all()
        with closing(Device(LocalTransport(card.xe))) as device:
            assert {region.used for region in device.query_mem_regions()} == {0}


def refused(error: int) -> Any:
    return pytest.raises(OSError, check=lambda caught: caught.errno == error)


# ---- small BAR --------------------------------------------------------------------------------


def test_the_hidden_part_is_used_first(make: Callable[..., Card]) -> None:
    card = make(8, visible=3)
    steps = [
        (2, 0, (0, 2, 0)),
        (1, VISIBLE, (0, 3, 1)),
        (4, 0, (0, 7, 2)),
        (1, 0, (0, 8, 3)),
    ]
    handles = []
    for pages, flags, used in steps:
        handles.append(card.create(pages, flags=flags))
        assert card.used() == used
    seen = [card.bo(handle).visible_bytes // PAGE for handle in handles]
    assert seen == [0, 1, 1, 1]
    for handle, used in zip(handles, [(0, 6, 3), (0, 5, 2), (0, 1, 1), (0, 0, 0)], strict=True):
        card.device.gem_close(handle)
        assert card.used() == used


@pytest.mark.parametrize("placement", [VRAM, BOTH])
def test_larger_than_the_window(make: Callable[..., Card], placement: int) -> None:
    """Even if system memory would do, and though VRAM is large enough."""
    card = make(8, visible=3)
    with refused(errno.E2BIG):
        card.create(4, placement, VISIBLE)
    assert card.places(card.create(4, placement)) == ["vram0"]
    with refused(errno.E2BIG):
        card.create(9, placement)


def test_only_victims_in_the_window_make_room_there(make: Callable[..., Card]) -> None:
    card = make(8, visible=4)
    hidden = card.create(4)
    seen = [card.create(1, flags=VISIBLE) for _ in range(4)]
    assert card.used() == (0, 8, 4)
    card.create(2, flags=VISIBLE)
    assert card.places(hidden, *seen) == ["vram0", "gtt", "gtt", "vram0", "vram0"]
    assert card.used() == (2, 8, 4)


def test_a_victim_gives_only_its_visible_part(make: Callable[..., Card]) -> None:
    """The older one lies half in the window: more must go until there is room."""
    card = make(8, visible=4)
    across = card.create(6)
    assert card.used() == (0, 6, 2)
    seen = card.create(2, flags=VISIBLE)
    card.create(3, flags=VISIBLE)
    assert card.places(across, seen) == ["gtt", "gtt"]
    assert card.used() == (8, 3, 3)


def test_free_hidden_memory_does_not_help(make: Callable[..., Card]) -> None:
    card = make(8, visible=2)
    seen = card.create(2, flags=VISIBLE)
    card.create(1, flags=VISIBLE)
    assert card.places(seen) == ["gtt"]
    assert card.used() == (2, 1, 1)


def test_anybody_makes_room_anywhere(make: Callable[..., Card]) -> None:
    card = make(8, visible=4)
    seen, hidden = card.create(4, flags=VISIBLE), card.create(4)
    card.create(1)
    assert card.places(seen, hidden) == ["gtt", "vram0"]


def test_a_window_full_of_pinned_memory(make: Callable[..., Card]) -> None:
    """System memory is what remains, where it is allowed; else nothing."""
    card = make(8, visible=2)
    card.bo(card.create(2, flags=VISIBLE)).pin_count = 1
    with refused(errno.ENOMEM):
        card.create(1, VRAM, VISIBLE)
    assert card.places(card.create(1, BOTH, VISIBLE)) == ["gtt"]


def test_it_comes_back_into_the_window(make: Callable[..., Card]) -> None:
    card = make(8, visible=2)
    handle = card.create(2, flags=VISIBLE)
    other = card.create(2, flags=VISIBLE)
    assert card.places(handle, other) == ["gtt", "vram0"]
    card.bind(handle)
    assert card.places(handle, other) == ["vram0", "gtt"]
    assert card.used() == (2, 2, 2)


WAYS = [
    "in-process",
    *(pytest.param(way, marks=pytest.mark.fuse) for way in ("ioctl", "frames")),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_small_bar_of_a_mount(xe_target: Callable[..., Target[Any]], way: str) -> None:
    mib = 1 << 20
    device = xe_target(way, vram=64 * mib, visible_vram=16 * mib).device()
    device.gem_create(50 * mib, VRAM)
    _, vram = device.query_mem_regions()
    assert (vram.total_size, vram.cpu_visible_size) == (64 * mib, 16 * mib)
    assert (vram.used, vram.cpu_visible_used) == (50 * mib, 2 * mib)
    with refused(errno.E2BIG):
        device.gem_create(17 * mib, VRAM, flags=VISIBLE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vram": 1 << 20, "visible_vram": 2 << 20}, "cannot be visible"),
        ({"profile": "lnl", "visible_vram": 1 << 20}, "of 0 bytes of VRAM cannot be visible"),
    ],
)
def test_a_window_larger_than_vram(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        XeDevice(XeConfig(**options))


# ---- age --------------------------------------------------------------------------------------


def test_use_makes_nobody_younger(make: Callable[..., Card]) -> None:
    """Neither a bind of what is in its place, nor advice, export or mmap."""
    card = make(4)
    old, young = card.create(2), card.create(2)
    card.bind(old)
    card.device.madvise_purgeable(card.vm, 0, 2 * PAGE, 0)
    card.device.prime_handle_to_token(old)
    card.device.gem_mmap_offset(old)
    card.create(1)
    assert card.places(old, young) == ["gtt", "vram0"]


def test_a_move_makes_younger(make: Callable[..., Card]) -> None:
    card = make(4)
    old, young = card.create(2, BOTH), card.create(2, BOTH)
    card.bind(old)
    for region in (0, 1):
        card.device.vm_bind(card.vm, [op_prefetch(0, PAGE, region)])
    card.create(1)
    assert card.places(old, young) == ["vram0", "gtt"]


def test_deferred_memory_is_as_old_as_its_first_bind(make: Callable[..., Card]) -> None:
    card = make(4)
    deferred = card.create(2, flags=DEFERRED)
    assert card.used() == (0, 0, 0)
    other = card.create(2)
    card.bind(deferred)
    card.create(1)
    assert card.places(deferred, other) == ["vram0", "gtt"]


def test_the_same_program_has_the_same_victims() -> None:
    def program() -> list[dict[str, object]]:
        card = Card(16, visible=8, system=48)
        with closing(card.xe.trace.subscribe()) as trace:
            bos = [card.create(1 + index % 3, BOTH) for index in range(12)]
            for index, handle in enumerate(bos):
                card.bind(handle)
                if index % 4 == 0:
                    start = (card._next - (1 + index % 3)) * PAGE
                    card.device.madvise_purgeable(card.vm, start, PAGE, DONTNEED)
            seen = [card.create(2, VRAM, VISIBLE) for _ in range(6)]
            card.bind(*seen[:2])
            for handle in bos[::2]:
                with suppress(IoctlError):  # purged ones are refused
                    card.bind(handle)
            events = [
                {key: value for key, value in event.items() if key in ("event", "bo", "to", "new")}
                for event in trace.drain()
                if event["event"] in ("bo_move", "bo_state")
            ]
        card.target.close_all()
        return events

    first = program()
    assert {event["event"] for event in first} == {"bo_move", "bo_state"}
    assert [program(), program()] == [first, first]


# ---- out and back -----------------------------------------------------------------------------


def test_it_returns_where_there_is_room(make: Callable[..., Card]) -> None:
    """With a choice, the way back evicts nobody; without one, it does."""
    card = make(4)
    either, fixed = card.create(2, BOTH), card.create(2)
    blocker = card.create(4)
    assert card.places(either, fixed, blocker) == ["gtt", "gtt", "vram0"]
    card.bind(either)
    assert card.places(either, blocker) == ["gtt", "vram0"]
    card.bind(fixed)
    assert card.places(either, fixed, blocker) == ["gtt", "vram0", "gtt"]
    card.bind(either)
    assert card.places(either, fixed) == ["vram0", "vram0"]
    assert card.used() == (4, 4, 4)


def test_system_memory_is_the_end(make: Callable[..., Card]) -> None:
    """VRAM may be promised as often as system memory holds what was evicted."""
    card = make(4, system=8)
    handles = [card.create(2) for _ in range(6)]
    assert card.places(*handles) == ["gtt"] * 4 + ["vram0"] * 2
    assert card.used() == (8, 4, 4)
    with refused(errno.ENOMEM):
        card.create(1)
    with refused(errno.ENOMEM):
        card.create(1, SYSTEM)
    with refused(errno.ENOMEM):
        card.bind(handles[0])
    assert card.places(*handles) == ["gtt"] * 4 + ["vram0"] * 2
    card.device.gem_close(handles[1])
    card.bind(handles[0])
    assert card.places(handles[0], handles[4]) == ["vram0", "gtt"]


def test_overcommit_from_another_vm(make: Callable[..., Card]) -> None:
    """As IGT does it: chunks for VRAM only, private to a VM of their own, to 1.5 times of it."""
    card = make(32, system=64)
    advised, wanted = card.create(4), card.create(4)
    card.bind(advised, wanted)
    card.device.madvise_purgeable(card.vm, 0, PAGE, DONTNEED)
    pressure = card.device.vm_create()
    chunks = []
    for _ in range(48 // 4):
        chunks.append(card.create(4, flags=DEFERRED, vm=pressure))
        card.bind(chunks[-1], vm=pressure)
    states = [card.bo(handle).purgeable.state.name for handle in (advised, wanted)]
    assert states == ["PURGED", "WILLNEED"]
    assert card.places(advised, wanted) == ["none", "gtt"]
    # 48 pages of chunks in 32: the oldest four had to go after the wanted one.
    assert card.places(*chunks) == ["gtt"] * 4 + ["vram0"] * 8
    assert card.used() == (20, 32, 32)


# ---- who is spared ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "evicts"), [(0, True), (PREEMPT, False)], ids=["non-lr", "preempt"]
)
def test_a_vm_spares_all_that_it_maps(make: Callable[..., Card], flags: int, evicts: bool) -> None:
    """Not only its own BOs, also shared ones; those that other VMs map are none of its business."""
    card = make(4)
    vm = card.device.vm_create(flags)
    shared = card.create(2)
    card.bind(shared, vm=vm)
    stranger = card.create(2)
    card.bind(stranger)
    newcomers = [card.create(2, flags=DEFERRED, vm=vm) for _ in range(2)]
    card.bind(newcomers[0], vm=vm)
    if evicts:
        assert card.places(shared, stranger, newcomers[0]) == ["gtt", "vram0", "vram0"]
        return
    assert card.places(shared, stranger, newcomers[0]) == ["vram0", "gtt", "vram0"]
    with refused(errno.ENOMEM):
        card.bind(newcomers[1], vm=vm)


def test_a_prefetch_does_not_evict_its_vm(make: Callable[..., Card]) -> None:
    card = make(4)
    moved = card.create(2, BOTH)
    card.bind(moved)
    card.device.vm_bind(card.vm, [op_prefetch(0, PAGE, 0)])
    own = card.create(4, vm=card.vm)
    with refused(errno.ENOMEM):
        card.device.vm_bind(card.vm, [op_prefetch(0, PAGE, 1)])
    assert card.places(moved, own) == ["gtt", "vram0"]
    # Creation may, though.
    card.create(1, vm=card.vm)
    assert card.places(own) == ["gtt"]


def test_pinned_memory_stays(make: Callable[..., Card]) -> None:
    card = make(4)
    pinned, other = card.create(2, BOTH), card.create(2)
    card.bo(pinned).pin_count = 1
    card.create(2)
    assert card.places(pinned, other) == ["vram0", "gtt"]
    card.bind(pinned)
    with refused(errno.EBUSY):
        card.device.vm_bind(card.vm, [op_prefetch(0, PAGE, 0)])
    assert card.places(pinned) == ["vram0"]


# ---- 64 KiB -----------------------------------------------------------------------------------


def test_dg2_counts_in_64_kib() -> None:
    target = LocalTarget(XeDevice(XeConfig(profile="dg2", vram=8 << 20)))
    device = target.device()
    system, vram = device.query_mem_regions()
    assert (system.min_page_size, vram.min_page_size) == (4096, 65536)
    for size in (PAGE, vram.min_page_size // 2, vram.min_page_size + PAGE):
        with refused(errno.EINVAL):
            device.gem_create(size, BOTH)
    device.gem_create(vram.min_page_size, VRAM)
    device.gem_create(PAGE, SYSTEM)
    used = [region.used for region in device.query_mem_regions()]
    assert used == [PAGE, 65536]
    target.close_all()
