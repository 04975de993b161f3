"""The address space of a context: its page tables, and memory through them.

A range stands for a piece of something (`Pages`).  Ranges never overlap: a new one takes the place
of what was there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sortedcontainers import SortedDict

from xedev.gpu.abi import Range
from xedev.gpu.pages import BoPages, Gone, NullPages, Pages
from xedev.gpu.ports import Access, GpuFault

__all__ = ("Ppgtt", "VmMemory")

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
TLB_SIZE = 4096
COPY_PIECE = 256 << 10
_SCRATCH = NullPages()


@dataclass(frozen=True, slots=True)
class _Mapping:
    start: int
    end: int
    pages: Pages
    offset: int
    """Of ``start``."""
    read_only: bool
    atomic: bool

    def allows(self, access: Access) -> bool:
        """Whether the page-table entries do."""
        if access is Access.ATOMIC and not self.atomic:
            return False
        return access is Access.READ or not self.read_only


class Ppgtt:
    """The page tables of one VM."""

    def __init__(self, bits: int, scratch: bool, faulting: bool, is_lr: bool) -> None:
        self.mask = (1 << bits) - 1
        self.scratch = scratch
        """Whether reads of nothing give zeros, and writes to nothing vanish."""
        self.faulting = faulting
        """Whether a missing page is asked for."""
        self.is_lr = is_lr
        """Whether jobs run for as long as they like, without a fence that somebody waits for."""
        self._ranges: SortedDict[int, _Mapping] = SortedDict()
        self._tlb: dict[int, _Mapping] = {}

    def map(self, pieces: Iterable[tuple[Range, Pages | None]]) -> None:
        """Let each range stand for its pages, or for nothing; one after the other."""
        for piece, pages in pieces:
            self._clear(piece.start, piece.end)
            if pages is not None:
                rights = bool(piece.read_only), bool(piece.atomic)
                self._insert(_Mapping(piece.start, piece.end, pages, piece.offset, *rights))
        self._tlb.clear()

    def find(self, address: int) -> _Mapping | None:
        """What an address stands for; the address is within the space."""
        page = address >> PAGE_SHIFT
        mapping = self._tlb.get(page)
        if mapping is None:
            mapping = self._walk(address)
            if mapping is not None:
                if len(self._tlb) >= TLB_SIZE:
                    self._tlb.clear()
                self._tlb[page] = mapping
        return mapping

    def _walk(self, address: int) -> _Mapping | None:
        index = self._ranges.bisect_right(address) - 1
        if index < 0:
            return None
        mapping = self._ranges.peekitem(index)[1]
        return mapping if address < mapping.end else None

    def _insert(self, mapping: _Mapping) -> None:
        self._ranges[mapping.start] = mapping

    def _clear(self, start: int, end: int) -> None:
        first = self._walk(start)
        keys = list(self._ranges.irange(start, end, inclusive=(True, False)))
        if first is not None and first.start < start:
            keys.insert(0, first.start)
        for key in keys:
            old = self._ranges.pop(key)
            if old.start < start:
                self._insert(replace(old, end=start))
            if old.end > end:
                self._insert(replace(old, start=end, offset=old.offset + (end - old.start)))


FaultFunc = Callable[[int, Access], bool]
"""``(address, access)``: have the driver mend the page tables; whether it did."""
_Action = Callable[[Pages, int, int, int], None]
"""``(pages, offset, done, size)``: access ``size`` bytes, ``done`` ones after the first of all."""


class VmMemory:
    """Memory as one context sees it (see `GpuMemory`)."""

    RETRIES = 16
    """How often an access faults again after the driver said that it is mended."""

    def __init__(self, ppgtt: Ppgtt, fault: FaultFunc, checkpoint: Callable[[], None]) -> None:
        self._ppgtt = ppgtt
        self._fault = fault
        self._checkpoint = checkpoint
        self._mask = ppgtt.mask
        self._find = ppgtt.find

    def read(self, address: int, length: int, /) -> bytes:
        """``length`` bytes."""
        address &= self._mask
        mapping = self._find(address)
        if mapping is not None and address + length <= mapping.end:
            try:
                return mapping.pages.read(mapping.offset + address - mapping.start, length)
            except Gone:
                pass
        parts: list[bytes] = []
        self._access(
            address,
            length,
            Access.READ,
            lambda pages, offset, _, size: parts.append(pages.read(offset, size)),
        )
        return b"".join(parts)

    def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
        """Store all bytes."""
        address &= self._mask
        mapping = self._find(address)
        if mapping is not None and address + len(data) <= mapping.end and not mapping.read_only:
            try:
                mapping.pages.write(mapping.offset + address - mapping.start, data)
                return
            except Gone:
                pass
        view = memoryview(data).cast("B")
        self._access(
            address,
            len(view),
            Access.WRITE,
            lambda pages, offset, done, size: pages.write(offset, view[done : done + size]),
        )

    def update(self, address: int, size: int, change: Callable[[int], int], /) -> int:
        """Replace a word by ``change`` of it; the old value."""
        old = 0

        def swap(pages: Pages, offset: int, _: int, length: int) -> None:
            nonlocal old
            old = pages.update(offset, length, change)

        self._access(address & self._mask, size, Access.ATOMIC, swap)
        return old

    def copy(self, target: int, source: int, length: int, /) -> None:
        """Copy bytes, in pieces."""
        while length:
            size = self._copy_in_kernel(target & self._mask, source & self._mask, length)
            if not size:
                size = min(length, COPY_PIECE)
                self.write(target, self.read(source, size))
            target, source, length = target + size, source + size, length - size
            self._checkpoint()

    def fill(self, target: int, pattern: bytes, length: int, /) -> None:
        """Fill with a pattern, in pieces."""
        block = pattern * max(1, COPY_PIECE // len(pattern))
        while length:
            size = min(length, len(block))
            self.write(target, memoryview(block)[:size])
            target, length = target + size, length - size
            self._checkpoint()

    def _copy_in_kernel(self, target: int, source: int, length: int) -> int:
        """Have the kernel copy between two open files; how many bytes it did, 0 when it cannot."""
        to, of = self._find(target), self._find(source)
        if to is None or of is None or to.read_only or length < COPY_PIECE:
            return 0
        if not isinstance(to.pages, BoPages) or not isinstance(of.pages, BoPages):
            return 0
        size = min(length, to.end - target, of.end - source, COPY_PIECE)
        to_offset, of_offset = to.offset + target - to.start, of.offset + source - of.start
        return of.pages.copy_to(to.pages, of_offset, to_offset, size)

    def _access(self, address: int, length: int, access: Access, action: _Action) -> None:
        done = 0
        while done < length:
            done += self._piece(address + done & self._mask, length - done, access, done, action)

    def _piece(self, address: int, length: int, access: Access, done: int, action: _Action) -> int:
        """Access what lies in one mapping, or in one page of nothing; how many bytes."""
        ppgtt = self._ppgtt
        for _ in range(self.RETRIES):
            mapping = self._find(address)
            if mapping is None and ppgtt.scratch:
                return self._scratch(address, length, done, action)
            if mapping is not None and mapping.allows(access):
                size = min(length, mapping.end - address)
                try:
                    action(mapping.pages, mapping.offset + address - mapping.start, done, size)
                except Gone:
                    if ppgtt.scratch and not ppgtt.faulting:
                        return self._scratch(address, length, done, action)
                else:
                    return size
            if not ppgtt.faulting or not self._fault(address, access):
                break
        raise GpuFault(address, access)

    def _scratch(self, address: int, length: int, done: int, action: _Action) -> int:
        size = min(length, PAGE_SIZE - address % PAGE_SIZE)
        action(_SCRATCH, 0, done, size)
        return size
