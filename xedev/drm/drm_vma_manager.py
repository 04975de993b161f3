"""Fake mmap offsets (kernel: drivers/gpu/drm/drm_vma_manager.c)."""

from __future__ import annotations

import errno
import threading
from typing import Generic, TypeVar

from sortedcontainers import SortedDict, SortedSet

from xedev.kernel.errors import KernelError

__all__ = ("DRM_FILE_PAGE_OFFSET_SIZE", "DRM_FILE_PAGE_OFFSET_START", "DrmVmaOffsetManager")

PAGE_SHIFT = 12
DRM_FILE_PAGE_OFFSET_START = (0xFFFF_FFFF >> PAGE_SHIFT) + 1
"""First page of the fake space, so that no offset is below 4 GiB."""
DRM_FILE_PAGE_OFFSET_SIZE = (0xFFFF_FFFF >> PAGE_SHIFT) * 256
"""Pages of the fake space: about 1 TiB."""

T = TypeVar("T")


class DrmVmaOffsetManager(Generic[T]):
    """Hands out page ranges of the fake space: the smallest hole that fits, lowest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[int, T] = {}
        start, size = DRM_FILE_PAGE_OFFSET_START, DRM_FILE_PAGE_OFFSET_SIZE
        self._hole_by_start: SortedDict[int, int] = SortedDict({start: size})
        self._holes: SortedSet[tuple[int, int]] = SortedSet([(size, start)])

    def add(self, owner: T, pages: int) -> int:
        """Reserve ``pages`` for ``owner``; returns the byte offset.  ``ENOSPC`` without room."""
        with self._lock:
            at = self._holes.bisect_left((pages, 0))
            if at == len(self._holes):
                raise KernelError(errno.ENOSPC, "no room in the mmap offset space")
            size, start = self._holes[at]
            self._drop_hole(start, size)
            if size > pages:
                self._add_hole(start + pages, size - pages)
            self._nodes[start] = owner
        return start << PAGE_SHIFT

    def remove(self, offset: int, pages: int) -> None:
        """Give a range back and join it with the holes beside it."""
        start = offset >> PAGE_SHIFT
        with self._lock:
            del self._nodes[start]
            at = self._hole_by_start.bisect_left(start)
            if at < len(self._hole_by_start):
                after, size = self._hole_by_start.peekitem(at)
                if after == start + pages:
                    self._drop_hole(after, size)
                    pages += size
            if at:
                before, size = self._hole_by_start.peekitem(at - 1)
                if before + size == start:
                    self._drop_hole(before, size)
                    start, pages = before, pages + size
            self._add_hole(start, pages)

    def exact_lookup(self, offset: int) -> T | None:
        """What begins exactly at byte ``offset`` (kernel: ``drm_vma_offset_exact_lookup``)."""
        return self._nodes.get(offset >> PAGE_SHIFT)

    def _add_hole(self, start: int, size: int) -> None:
        self._hole_by_start[start] = size
        self._holes.add((size, start))

    def _drop_hole(self, start: int, size: int) -> None:
        del self._hole_by_start[start]
        self._holes.remove((size, start))
