"""Small integers as names: the lowest free number first."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

__all__ = ("Idr",)

T = TypeVar("T")


class Idr(Generic[T]):
    """A table from small ids to objects (kernel: ``idr`` and ``xarray`` with ``ALLOC1``).

    Allocation gives the lowest free number at or above ``base``.  The caller locks.
    """

    __slots__ = ("_freed", "_next", "entries")

    def __init__(self, base: int = 1) -> None:
        self.entries: dict[int, T | None] = {}
        """Number -> object; None while a number is held back."""
        self._freed: list[int] = []
        self._next = base

    def alloc(self, entry: T) -> int:
        """Store ``entry`` under the lowest free id and return the id."""
        if self._freed:
            number = heappop(self._freed)
        else:
            number = self._next
            self._next += 1
        self.entries[number] = entry
        return number

    def find(self, number: int) -> T | None:
        """The object under ``number``, or None."""
        return self.entries.get(number)

    def remove(self, number: int) -> T | None:
        """Free ``number`` and return what it named, or None when it named nothing."""
        if number not in self.entries:
            return None
        heappush(self._freed, number)
        return self.entries.pop(number)

    def hold(self, number: int) -> T | None:
        """Take the object away but keep the number from being given out again, until `remove`;
        None when it named nothing (kernel: ``idr_replace`` with NULL)."""
        entry = self.entries.get(number)
        if entry is not None:
            self.entries[number] = None
        return entry

    def ascending(self) -> Iterator[tuple[int, T]]:
        """All (id, object) pairs by id, safe against removal while iterating."""
        pairs = sorted(self.entries.items(), key=lambda pair: pair[0])
        return ((number, entry) for number, entry in pairs if entry is not None)

    def __len__(self) -> int:
        return len(self.entries)
