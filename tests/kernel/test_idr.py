from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xedev.kernel.idr import Idr


@pytest.mark.parametrize("base", [0, 1])
def test_numbers_count_from_the_base(base: int) -> None:
    idr = Idr[str](base)
    assert [idr.alloc(name) for name in "abc"] == [base, base + 1, base + 2]


def test_the_lowest_free_number_comes_first() -> None:
    idr = Idr[str]()
    for name in "abcde":
        idr.alloc(name)
    for number in (4, 2):
        idr.remove(number)
    assert [idr.alloc(name) for name in "xyz"] == [2, 4, 6]


def test_nobody_is_found_and_removed_under_a_free_number() -> None:
    idr = Idr[str]()
    idr.alloc("a")
    assert (idr.find(1), idr.find(2), idr.remove(2)) == ("a", None, None)
    assert (idr.remove(1), idr.remove(1)) == ("a", None)
    assert idr.alloc("b") == 1, "a number that was removed twice is free once"
    assert idr.alloc("c") == 2


def test_a_number_that_is_held_back_is_not_given_out() -> None:
    idr = Idr[str]()
    idr.alloc("a")
    assert idr.hold(1) == "a"
    assert (idr.find(1), idr.hold(1)) == (None, None)
    assert idr.alloc("b") == 2
    idr.remove(1)
    assert idr.alloc("c") == 1


def test_the_walk_is_ordered_and_allows_removal() -> None:
    idr = Idr[str]()
    for name in "abcd":
        idr.alloc(name)
    idr.remove(1)
    idr.alloc("e")
    idr.hold(3)
    seen = []
    for number, name in idr.ascending():
        seen.append((number, name))
        idr.remove(number)
    assert seen == [(1, "e"), (2, "b"), (4, "d")]


@given(st.lists(st.one_of(st.none(), st.integers(1, 12)), max_size=60))
def test_as_a_table_searched_from_the_front(program: list[int | None]) -> None:
    """None allocates, a number frees it."""
    idr = Idr[int]()
    table: dict[int, int] = {}
    for entry, number in enumerate(program):
        if number is None:
            free = next(n for n in itertools.count(1) if n not in table)
            table[free] = entry
            assert idr.alloc(entry) == free
        else:
            assert idr.remove(number) == table.pop(number, None)
        assert dict(idr.ascending()) == table
        assert len(idr) == len(table)
