from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xedev.drm.drm_vma_manager import (
    DRM_FILE_PAGE_OFFSET_SIZE,
    DRM_FILE_PAGE_OFFSET_START,
    DrmVmaOffsetManager,
)
from xedev.kernel.errors import KernelError

PAGE = 4096
START = DRM_FILE_PAGE_OFFSET_START * PAGE
END = START + DRM_FILE_PAGE_OFFSET_SIZE * PAGE


def _pages(offset: int) -> int:
    """Pages from the beginning of the space."""
    return (offset - START) // PAGE


def test_offsets_begin_above_four_gib() -> None:
    manager = DrmVmaOffsetManager[str]()
    assert manager.add("a", 1) == 1 << 32
    assert manager.add("b", 3) == (1 << 32) + PAGE
    assert manager.add("c", 1) == (1 << 32) + 4 * PAGE


def test_the_smallest_hole_that_fits_is_taken() -> None:
    manager = DrmVmaOffsetManager[str]()
    # Holes of 8, 2 and 4 pages, each between two that stay.
    offsets = [manager.add(f"{n}", n) for n in (8, 1, 2, 1, 4, 1)]
    for place, pages in ((0, 8), (2, 2), (4, 4)):
        manager.remove(offsets[place], pages)
    assert manager.add("best", 3) == offsets[4]
    assert manager.add("exact", 2) == offsets[2]
    assert manager.add("largest", 5) == offsets[0]


def test_of_equal_holes_the_lowest_is_taken() -> None:
    manager = DrmVmaOffsetManager[str]()
    offsets = [manager.add("x", 2) for _ in range(5)]
    for place in (3, 1):
        manager.remove(offsets[place], 2)
    assert manager.add("y", 2) == offsets[1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_holes_side_by_side_become_one(order: tuple[int, ...]) -> None:
    manager = DrmVmaOffsetManager[str]()
    offsets = [manager.add("x", 2) for _ in range(3)]
    manager.add("end", 1)
    for place in order:
        manager.remove(offsets[place], 2)
    assert manager.add("whole", 6) == offsets[0]


def test_only_the_beginning_of_a_node_is_found() -> None:
    manager = DrmVmaOffsetManager[str]()
    offset = manager.add("a", 2)
    assert manager.exact_lookup(offset) == "a"
    assert manager.exact_lookup(offset + PAGE) is None
    assert manager.exact_lookup(0) is None
    manager.remove(offset, 2)
    assert manager.exact_lookup(offset) is None


def test_a_full_space() -> None:
    manager = DrmVmaOffsetManager[str]()
    with pytest.raises(KernelError) as caught:
        manager.add("too large", DRM_FILE_PAGE_OFFSET_SIZE + 1)
    assert caught.value.errno == errno.ENOSPC
    all_of_it = manager.add("all", DRM_FILE_PAGE_OFFSET_SIZE)
    with pytest.raises(KernelError) as caught:
        manager.add("one more", 1)
    assert caught.value.errno == errno.ENOSPC
    manager.remove(all_of_it, DRM_FILE_PAGE_OFFSET_SIZE)
    assert manager.add("one more", 1) == START


def _naive_place(nodes: dict[int, int], pages: int) -> int:
    """The lowest of the smallest holes, found by looking at all nodes (start -> pages)."""
    holes = []
    at = START
    for start in sorted(nodes):
        holes.append((_pages(start) - _pages(at), at))
        at = start + nodes[start] * PAGE
    holes.append((_pages(END) - _pages(at), at))
    return min(hole for hole in holes if hole[0] >= pages)[1]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=80))
def test_as_a_list_searched_from_the_front(program: list[tuple[bool, int]]) -> None:
    """True adds a node of so many pages, False removes the so-manieth."""
    manager = DrmVmaOffsetManager[int]()
    nodes: dict[int, int] = {}
    for add, number in program:
        if add:
            expected = _naive_place(nodes, number)
            assert manager.add(number, number) == expected
            nodes[expected] = number
        elif nodes:
            start = sorted(nodes)[number % len(nodes)]
            manager.remove(start, nodes.pop(start))
        for start, pages in nodes.items():
            assert manager.exact_lookup(start) == pages
    for start, pages in nodes.items():
        manager.remove(start, pages)
    assert manager.add(0, DRM_FILE_PAGE_OFFSET_SIZE) == START, "not one hole in the end"
