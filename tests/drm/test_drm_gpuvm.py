"""The map of mappings, alone and behind VM_BIND, against a plain table of pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import op_map, op_map_null, op_unmap
from xedev.drm.drm_gpuvm import DrmGpuva, DrmGpuvm, Remap, Unmap
from xedev.kernel.errors import KernelBug
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import XeDevice

PAGE = 4096
SPACE = 24


def _vma(start: int, end: int) -> DrmGpuva:
    return DrmGpuva(start, end, None, 0)


def _space(*bounds: tuple[int, int]) -> DrmGpuvm[DrmGpuva]:
    space = DrmGpuvm[DrmGpuva](SPACE)
    for start, end in bounds:
        space.insert(_vma(start, end))
    return space


def _bounds(vmas: object) -> list[tuple[int, int]]:
    assert isinstance(vmas, list)
    return [(vma.start, vma.end) for vma in vmas]


# --- the map alone -------------------------------------------------------------------------


def test_it_is_ordered_however_it_was_filled() -> None:
    space = _space((8, 12), (0, 4), (4, 8))
    assert _bounds(list(space)) == [(0, 4), (4, 8), (8, 12)]
    assert len(space) == 3


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (0, 24, [(2, 4), (4, 8), (10, 12)]),
        (3, 5, [(2, 4), (4, 8)]),
        (4, 8, [(4, 8)]),
        (5, 6, [(4, 8)]),
        (0, 2, []),
        (8, 10, []),
        (12, 24, []),
        (11, 24, [(10, 12)]),
    ],
)
def test_a_range_finds_what_touches_it(start: int, end: int, found: list[tuple[int, int]]) -> None:
    assert _bounds(_space((2, 4), (4, 8), (10, 12)).find_range(start, end)) == found


@pytest.mark.parametrize(
    ("start", "end", "prev", "after"),
    [
        (4, 12, None, None),
        (0, 16, None, None),
        (0, 8, None, (8, 12)),
        (8, 16, (4, 8), None),
        (6, 8, (4, 6), (8, 12)),
        (4, 8, None, (8, 12)),
        (8, 12, (4, 8), None),
    ],
)
def test_what_a_hole_leaves_of_a_mapping(
    start: int, end: int, prev: tuple[int, int] | None, after: tuple[int, int] | None
) -> None:
    (change,) = _space((4, 12)).sm_unmap_ops(start, end)
    assert (change.va.start, change.va.end) == (4, 12)
    if prev is None and after is None:
        assert isinstance(change, Unmap)
        return
    assert isinstance(change, Remap)
    assert (change.prev, change.next) == (prev, after)


@pytest.mark.parametrize(("start", "end"), [(0, 4), (12, 16), (16, 20)])
def test_a_hole_beside_a_mapping_leaves_it_alone(start: int, end: int) -> None:
    assert _space((4, 12)).sm_unmap_ops(start, end) == []


@pytest.mark.parametrize(
    ("addr", "length", "valid"),
    [(0, 24, True), (23, 1, True), (24, 0, True), (24, 1, False), (0, 25, False), (1, 24, False)],
)
def test_what_lies_in_the_space(addr: int, length: int, valid: bool) -> None:
    assert _space().range_valid(addr, length) is valid


def test_a_taken_place_is_a_bug() -> None:
    space = _space((4, 8))
    with pytest.raises(KernelBug):
        space.insert(_vma(6, 8))
    with pytest.raises(KernelBug):
        space.remove(_vma(4, 8))


class Piece(NamedTuple):
    """What a page is mapped to: which mapping it came from, and how far into it."""

    number: int
    offset: int


class Mapping(DrmGpuva):
    __slots__ = ("number",)

    def __init__(self, start: int, end: int, number: int, offset: int) -> None:
        super().__init__(start, end, None, offset)
        self.number = number


ranges = st.tuples(st.integers(0, SPACE - 1), st.integers(1, SPACE)).map(
    lambda pair: (pair[0], min(pair[0] + pair[1], SPACE))
)


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=40))
def test_splitting_as_a_table_of_pages(program: list[tuple[bool, tuple[int, int]]]) -> None:
    """True maps a range anew, False makes a hole."""
    space = DrmGpuvm[Mapping](SPACE)
    table: dict[int, Piece] = {}
    for number, (is_map, (start, end)) in enumerate(program):
        for change in space.sm_unmap_ops(start, end):
            va = change.va
            space.remove(va)
            bounds = (change.prev, change.next) if isinstance(change, Remap) else ()
            for keep in bounds:
                if keep is not None:
                    offset = va.offset + keep[0] - va.start
                    space.insert(Mapping(*keep, va.number, offset))
        for page in range(start, end):
            table.pop(page, None)
        if is_map:
            space.insert(Mapping(start, end, number, 0))
            table |= {page: Piece(number, page - start) for page in range(start, end)}
        mapped = {
            page: Piece(va.number, va.offset + page - va.start)
            for va in space
            for page in range(va.start, va.end)
        }
        assert mapped == table
        assert space.find_range(0, SPACE) == list(space)
        for page in range(SPACE):
            assert bool(space.find_range(page, page + 1)) == (page in table)


# --- behind VM_BIND ------------------------------------------------------------------------

MIRROR = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
FAULT_MODE = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE


class Setup(NamedTuple):
    target: LocalTarget
    device: Device
    vm: int
    bo: int


@pytest.fixture(scope="module")
def setup() -> Iterator[Setup]:
    target = LocalTarget(XeDevice())
    device = target.device()
    vm = device.vm_create(FAULT_MODE)
    yield Setup(target, device, vm, device.gem_create(SPACE * PAGE, 1))
    target.close_all()


class Interval(NamedTuple):
    """A mapping as the naive list knows it; pages. ``kind`` tells mappings that differ apart."""

    start: int
    end: int
    kind: str
    offset: int


def _cut(intervals: list[Interval], start: int, end: int) -> list[Interval]:
    """What a hole leaves."""
    left = []
    for one in intervals:
        if one.end <= start or end <= one.start:
            left.append(one)
            continue
        if one.start < start:
            left.append(one._replace(end=start))
        if end < one.end:
            skipped = end - one.start if one.kind == "bo" else 0
            left.append(one._replace(start=end, offset=one.offset + skipped))
    return left


def _map_naively(
    intervals: list[Interval], start: int, end: int, kind: str, offset: int
) -> list[Interval]:
    if kind == "mirror":
        # A mirror swallows the mirrors that it touches; nothing else is ever joined.
        touched = [
            one
            for one in intervals
            if one.kind == "mirror" and one.start <= end and start <= one.end
        ]
        start = min([start, *(one.start for one in touched)])
        end = max([end, *(one.end for one in touched)])
    return sorted([*_cut(intervals, start, end), Interval(start, end, kind, offset)])


bind_plans = st.lists(
    st.tuples(
        st.sampled_from(("bo", "null", "mirror", "mirror", "hole")), ranges, st.integers(0, 3)
    ),
    max_size=12,
)


@given(bind_plans)
def test_binds_as_a_list_of_intervals(
    setup: Setup, program: list[tuple[str, tuple[int, int], int]]
) -> None:
    intervals: list[Interval] = []
    device, vm = setup.device, setup.vm
    device.vm_bind(vm, [op_unmap(0, SPACE * PAGE)])
    for kind, (start, end), offset in program:
        addr, length = start * PAGE, (end - start) * PAGE
        if kind == "hole":
            device.vm_bind(vm, [op_unmap(addr, length)])
            intervals = _cut(intervals, start, end)
        elif kind == "bo":
            offset = min(offset, SPACE - (end - start))
            device.vm_bind(vm, [op_map(setup.bo, offset * PAGE, addr, length)])
            intervals = _map_naively(intervals, start, end, kind, offset)
        else:
            flags = MIRROR if kind == "mirror" else 0
            op = op_map(0, 0, addr, length, flags=flags) if flags else op_map_null(addr, length)
            device.vm_bind(vm, [op])
            intervals = _map_naively(intervals, start, end, kind, 0)
        assert _shown(setup) == intervals


def _shown(setup: Setup) -> list[Interval]:
    (vm,) = setup.target.state()["vms"]
    return [
        Interval(vma["start"] // PAGE, vma["end"] // PAGE, vma["kind"], vma["offset"] // PAGE)
        for vma in vm["vmas"]
    ]


def test_a_mirror_that_was_advised_is_not_swallowed(setup: Setup) -> None:
    device, vm = setup.device, setup.vm
    device.vm_bind(vm, [op_unmap(0, SPACE * PAGE)])
    device.vm_bind(vm, [op_map(0, 0, 0, 4 * PAGE, flags=MIRROR)])
    device.madvise_atomic(vm, 2 * PAGE, 2 * PAGE, xe_drm.DRM_XE_ATOMIC_DEVICE)
    device.vm_bind(vm, [op_map(0, 0, 4 * PAGE, 4 * PAGE, flags=MIRROR)])
    assert [(one.start, one.end) for one in _shown(setup)] == [(0, 2), (2, 4), (4, 8)]


def test_what_a_split_leaves_inherits_all_advice(setup: Setup) -> None:
    device, vm = setup.device, setup.vm
    device.vm_bind(vm, [op_unmap(0, SPACE * PAGE)])
    device.vm_bind(
        vm, [op_map(setup.bo, 0, 0, 6 * PAGE, flags=xe_drm.DRM_XE_VM_BIND_FLAG_READONLY)]
    )
    device.madvise_pat(vm, 0, PAGE, 3)
    device.madvise_atomic(vm, 0, PAGE, xe_drm.DRM_XE_ATOMIC_DEVICE)
    device.madvise_purgeable(vm, 0, PAGE, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED)
    device.vm_bind(vm, [op_unmap(2 * PAGE, 2 * PAGE)])
    (shown,) = setup.target.state()["vms"]
    kept = [(vma["flags"], vma["pat_index"], vma["atomic"], vma["state"]) for vma in shown["vmas"]]
    expected = (xe_drm.DRM_XE_VM_BIND_FLAG_READONLY, 3, xe_drm.DRM_XE_ATOMIC_DEVICE, "DONTNEED")
    assert kept == [expected, expected]
    # A map over all of it starts afresh; that needs a BO that somebody needs.
    device.madvise_purgeable(vm, 0, PAGE, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED)
    device.vm_bind(vm, [op_map(setup.bo, 0, 0, 6 * PAGE)])
    (shown,) = setup.target.state()["vms"]
    (vma,) = shown["vmas"]
    assert (vma["flags"], vma["pat_index"], vma["atomic"], vma["state"]) == (0, 2, 0, "WILLNEED")
