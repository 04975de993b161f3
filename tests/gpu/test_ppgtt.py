"""Page tables: ranges that take each other's place, and what accesses find there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xedev.gpu.abi import Range, RangeKind
from xedev.gpu.pages import Gone, NullPages, Pages, UnboundPages
from xedev.gpu.ports import Access, GpuFault
from xedev.gpu.ppgtt import COPY_PIECE, Ppgtt, VmMemory

PAGE = 4096
BITS = 48
TOP = 1 << BITS


class BytePages(Pages):
    """Memory, until it is purged."""

    def __init__(self, size: int = 64 * PAGE, fill: int = 0) -> None:
        self.data = bytearray([fill]) * size

    def read(self, offset: int, length: int) -> bytes:
        if offset + length > len(self.data):
            raise Gone
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        if offset + len(data) > len(self.data):
            raise Gone
        self.data[offset : offset + len(data)] = data


def refuse(address: int, access: Access) -> bool:
    """Nobody mends anything."""
    return False


class Space:
    """An address space and one context's view of it."""

    def __init__(
        self,
        *,
        scratch: bool = False,
        faulting: bool = False,
        mend: Callable[[int, Access], bool] = refuse,
    ) -> None:
        self.ppgtt = Ppgtt(BITS, scratch, faulting, faulting)
        self.checkpoints = 0
        self.faults: list[tuple[int, Access]] = []

        def fault(address: int, access: Access) -> bool:
            self.faults.append((address, access))
            return mend(address, access)

        self.memory = VmMemory(self.ppgtt, fault, self._checkpoint)

    def _checkpoint(self) -> None:
        self.checkpoints += 1

    def map(
        self, start: int, end: int, pages: Pages | None, offset: int = 0, read_only: bool = False
    ) -> None:
        kind = RangeKind.NONE if pages is None else RangeKind.BO
        self.ppgtt.map([(Range(start, end, kind, 1, offset, read_only), pages)])


def faults(action: Callable[[], object]) -> tuple[int, Access]:
    """Where an action faults, and at what."""
    with pytest.raises(GpuFault) as raised:
        action()
    return raised.value.address, raised.value.access


# ---- plain accesses ----


def test_what_is_stored_is_there() -> None:
    space, pages = Space(), BytePages()
    space.map(0x10000, 0x12000, pages, 0x1000)
    space.memory.write(0x10FFE, b"over")
    assert space.memory.read(0x10FFC, 8) == b"\0\0over\0\0"
    assert pages.data[0x1FFE:0x2002] == b"over"


def test_an_access_may_span_mappings() -> None:
    space, low, high = Space(), BytePages(), BytePages()
    space.map(0x10000, 0x11000, low)
    space.map(0x11000, 0x12000, high, 0x3000)
    space.memory.write(0x10FFE, b"over")
    assert low.data[0xFFE:0x1000] + high.data[0x3000:0x3002] == b"over"
    assert space.memory.read(0x10FFE, 4) == b"over"


def test_canonical_addresses_are_folded() -> None:
    space = Space()
    space.map(TOP - PAGE, TOP, BytePages())
    space.memory.write((1 << 64) - PAGE, b"top")
    assert space.memory.read(TOP - PAGE, 3) == b"top"


def test_an_access_goes_on_at_address_zero() -> None:
    space = Space()
    space.map(TOP - PAGE, TOP, BytePages(fill=1))
    space.map(0, PAGE, BytePages(fill=2))
    assert space.memory.read(TOP - 2, 4) == b"\1\1\2\2"


def test_an_update_gives_the_old_value_and_wraps() -> None:
    space = Space()
    space.map(0, PAGE, BytePages())
    space.memory.write(8, b"\xff" * 8)
    assert space.memory.update(8, 4, lambda old: old + 1) == 0xFFFF_FFFF
    assert space.memory.read(8, 8) == b"\0\0\0\0\xff\xff\xff\xff"


def test_nothing_is_mapped_there() -> None:
    space = Space()
    space.map(0x10000, 0x11000, BytePages())
    memory = space.memory
    assert faults(lambda: memory.read(0x20000, 4)) == (0x20000, Access.READ)
    assert faults(lambda: memory.write(0x10FFE, b"over")) == (0x11000, Access.WRITE)
    assert faults(lambda: memory.update(0xF000, 4, lambda old: old)) == (0xF000, Access.ATOMIC)
    assert not space.faults


def test_read_only() -> None:
    space = Space(scratch=True)
    space.map(0, PAGE, BytePages(fill=7), read_only=True)
    assert space.memory.read(0, 2) == b"\7\7"
    assert faults(lambda: space.memory.write(0, b"x")) == (0, Access.WRITE)
    assert faults(lambda: space.memory.update(8, 4, lambda old: 0)) == (8, Access.ATOMIC)


def test_null_mappings() -> None:
    space = Space()
    space.map(0, PAGE, NullPages())
    space.memory.write(0, b"gone")
    assert space.memory.read(0, 4) == bytes(4)
    assert space.memory.update(0, 8, lambda old: old + 1) == 0


# ---- scratch ----


def test_scratch_reads_zeros_and_forgets_stores() -> None:
    space = Space(scratch=True)
    space.memory.write(0x5000, b"gone")
    assert space.memory.read(0x5000, 4) == bytes(4)
    assert space.memory.update(0x5000, 4, lambda old: 9) == 0


def test_scratch_around_a_mapping() -> None:
    space, pages = Space(scratch=True), BytePages(fill=1)
    space.map(0x1000, 0x2000, pages)
    assert space.memory.read(0xFFE, 4) == b"\0\0\1\1"
    space.memory.write(0, b"\5" * 3 * PAGE)
    assert pages.data[:PAGE] == b"\5" * PAGE
    assert pages.data[PAGE] == 1


def test_purged_contents_are_scratch_or_a_fault() -> None:
    for scratch in (False, True):
        space, pages = Space(scratch=scratch), BytePages(fill=1)
        space.map(0, PAGE, pages)
        pages.data.clear()
        if scratch:
            assert space.memory.read(0, 4) == bytes(4)
            space.memory.write(0, b"gone")
        else:
            assert faults(lambda space=space: space.memory.read(0, 4)) == (0, Access.READ)  # type: ignore[misc]


# ---- page faults ----


def test_the_driver_is_asked_and_the_access_goes_on() -> None:
    def mend(address: int, access: Access) -> bool:
        space.map(address & -PAGE, (address & -PAGE) + PAGE, BytePages())
        return True

    space = Space(faulting=True, mend=mend)
    space.map(0, 2 * PAGE, UnboundPages())
    space.memory.write(PAGE - 2, b"over")
    assert space.memory.read(PAGE - 2, 4) == b"over"
    assert space.faults == [(PAGE - 2, Access.WRITE), (PAGE, Access.WRITE)]


def test_the_driver_says_no() -> None:
    space = Space(faulting=True)
    space.map(0, PAGE, UnboundPages())
    assert faults(lambda: space.memory.read(4, 4)) == (4, Access.READ)
    assert faults(lambda: space.memory.write(0x9000, b"x")) == (0x9000, Access.WRITE)
    assert space.faults == [(4, Access.READ), (0x9000, Access.WRITE)]


def test_a_driver_that_mends_nothing_is_asked_a_few_times() -> None:
    space = Space(faulting=True, mend=lambda address, access: True)
    space.map(0, PAGE, UnboundPages())
    assert faults(lambda: space.memory.read(4, 4)) == (4, Access.READ)
    assert len(space.faults) == VmMemory.RETRIES


def test_a_read_only_page_may_become_writable() -> None:
    pages = BytePages()

    def mend(address: int, access: Access) -> bool:
        space.map(0, PAGE, pages)
        return True

    space = Space(faulting=True, mend=mend)
    space.map(0, PAGE, pages, read_only=True)
    assert space.memory.update(0, 4, lambda old: 5) == 0
    assert pages.data[0] == 5
    assert space.faults == [(0, Access.ATOMIC)]


def test_no_question_about_nothing_where_there_is_scratch() -> None:
    space = Space(scratch=True, faulting=True)
    assert space.memory.read(0, 4) == bytes(4)
    space.map(0, PAGE, UnboundPages())
    assert faults(lambda: space.memory.read(0, 4)) == (0, Access.READ)
    assert space.faults == [(0, Access.READ)]


# ---- long ones ----


def test_a_long_copy_comes_by_checkpoints() -> None:
    size = 3 * COPY_PIECE + PAGE
    source, target = BytePages(size), BytePages(size)
    source.data[:] = bytes(range(256)) * (size // 256)
    space = Space()
    space.map(0, size, source)
    space.map(1 << 30, (1 << 30) + size, target)
    space.memory.copy(1 << 30, 0, size)
    assert target.data == source.data
    assert space.checkpoints == 4


def test_a_fill_repeats_its_pattern_over_pieces() -> None:
    size = COPY_PIECE + 1000
    pages = BytePages(COPY_PIECE + PAGE)
    space = Space()
    space.map(0, COPY_PIECE + PAGE, pages)
    space.memory.fill(0, b"abc", size)
    assert pages.data[:size] == (b"abc" * size)[:size]
    assert not any(pages.data[size:])


def test_a_copy_that_meets_a_hole_has_done_what_came_before() -> None:
    size = 2 * COPY_PIECE
    source, target = BytePages(size, 1), BytePages(size)
    space = Space()
    space.map(0, size, source)
    space.map(1 << 30, (1 << 30) + COPY_PIECE, target)
    hole = (1 << 30) + COPY_PIECE
    assert faults(lambda: space.memory.copy(1 << 30, 0, size)) == (hole, Access.WRITE)
    assert target.data[:COPY_PIECE] == source.data[:COPY_PIECE]


# ---- a model ----

PAGES = 24
changes = st.lists(
    st.tuples(
        st.integers(0, PAGES - 1),
        st.integers(1, PAGES),
        st.sampled_from([None, 0, 1, 2]),
        st.integers(0, 8),
    ),
    max_size=30,
)


@given(changes, st.booleans())
def test_ranges_split_and_replace_as_pages_do(
    changes: list[tuple[int, int, int | None, int]], looked_at: bool
) -> None:
    """Each page stands for what was last said of it."""
    bos = [BytePages((PAGES + 8) * PAGE) for _ in range(3)]
    for number, bo in enumerate(bos):
        for page in range(PAGES + 8):
            bo.data[page * PAGE] = number * 64 + page + 1
    space = Space()
    model: dict[int, tuple[int, int]] = {}
    for first, count, bo_number, offset in changes:
        last = min(first + count, PAGES)
        pages = None if bo_number is None else bos[bo_number]
        space.map(first * PAGE, last * PAGE, pages, offset * PAGE)
        for page in range(first, last):
            model.pop(page, None)
            if bo_number is not None:
                model[page] = bo_number, offset + page - first
        if looked_at:
            assert seen(space) == expected(model)
    assert seen(space) == expected(model)


def expected(model: dict[int, tuple[int, int]]) -> list[int | None]:
    """The first byte of each page."""
    found = [model.get(page) for page in range(PAGES)]
    return [None if page is None else page[0] * 64 + page[1] + 1 for page in found]


def seen(space: Space) -> list[int | None]:
    """The same through the page tables; None for a fault."""
    bytes_: list[int | None] = []
    for page in range(PAGES):
        try:
            bytes_.append(space.memory.read(page * PAGE, 1)[0])
        except GpuFault:
            bytes_.append(None)
    return bytes_
