"""Rectangles of pixels in memory: read, written, filled and copied.

A rectangle counts bytes across and rows down.  Long ones are done in bands, so that none holds more
than a little memory, and other work comes first between two of them.  Bytes outside a rectangle are
never written, and never read where that could fault: what is read besides lies in pages of 4 KiB
that hold some of the rectangle.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from xedev.gpu.ports import EnginePort, GpuMemory
from xedev.gpu.tiling import BLOCK_SIZE, Layout, Runs, extents, to_blocks, to_rows

__all__ = ("LinearSurface", "Rect", "Surface", "TiledSurface", "copy_rect", "copy_run", "fill_rect")

BAND = 1 << 20
"""Bytes that one band moves at most."""
BAND_WIDTH = 32 << 10
"""How wide a band of tiles is, so that one row of blocks is no more than `BAND`."""
BAND_HEIGHT = 1024
"""Rows of a band, at most: each may be a call of its own."""
_PAGE = 4096
_ADDRESSES = (1 << 64) - 1
_Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Rect:
    """``left`` and ``right`` in bytes, ``top`` and ``bottom`` in rows; the ends are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """In bytes."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In rows."""
        return self.bottom - self.top

    @property
    def empty(self) -> bool:
        """Whether nothing is in it."""
        return self.width <= 0 or self.height <= 0

    def moved(self, x: int, y: int) -> Rect:
        """The same rectangle elsewhere."""
        return Rect(self.left + x, self.top + y, self.right + x, self.bottom + y)


class Surface(ABC):
    """Pixels at ``address``, with ``pitch`` bytes from row to row."""

    def __init__(self, memory: GpuMemory, address: int, pitch: int) -> None:
        self.memory = memory
        self.address = address
        self.pitch = pitch

    @property
    @abstractmethod
    def layout(self) -> Layout | None:
        """The tiling, if any."""

    @abstractmethod
    def read(self, rect: Rect) -> _Buffer:
        """The rows of a rectangle, one after the other."""

    @abstractmethod
    def write(self, rect: Rect, rows: _Buffer) -> None:
        """Store such rows."""

    @abstractmethod
    def fill(self, rect: Rect, pattern: bytes) -> None:
        """Fill a rectangle with a pixel."""

    def _at(self, offset: int) -> int:
        return self.address + offset & _ADDRESSES


class LinearSurface(Surface):
    """Rows one after the other."""

    @property
    def layout(self) -> None:
        """None."""

    def run(self, rect: Rect) -> bool:
        """Whether a rectangle is one run of bytes."""
        return rect.height == 1 or rect.width == self.pitch

    def start(self, rect: Rect) -> int:
        """Where a rectangle begins."""
        return self._at(rect.top * self.pitch + rect.left)

    def read(self, rect: Rect) -> _Buffer:
        """Rows with small gaps between them come in one read."""
        start, pitch, width = self.start(rect), self.pitch, rect.width
        if self.run(rect):
            return self.memory.read(start, rect.height * width)
        if pitch - width >= _PAGE:
            rows = (self.memory.read(start + y * pitch, width) for y in range(rect.height))
            return b"".join(rows)
        everything = memoryview(self.memory.read(start, (rect.height - 1) * pitch + width))
        return b"".join(everything[y : y + width] for y in _steps(pitch, rect.height))

    def write(self, rect: Rect, rows: _Buffer) -> None:
        """Each row is stored alone: the gaps are somebody else's."""
        start, pitch, width = self.start(rect), self.pitch, rect.width
        if self.run(rect):
            self.memory.write(start, rows)
            return
        view = memoryview(rows)
        for row in range(rect.height):
            self.memory.write(start + row * pitch, view[row * width : (row + 1) * width])

    def fill(self, rect: Rect, pattern: bytes) -> None:
        """Likewise."""
        if self.run(rect):
            self.memory.fill(self.start(rect), pattern, rect.width * rect.height)
            return
        start = self.start(rect)
        for row in range(rect.height):
            self.memory.fill(start + row * self.pitch, pattern, rect.width)


def _steps(pitch: int, count: int) -> Iterator[int]:
    return (row * pitch for row in range(count))


class TiledSurface(Surface):
    """Rows in tiles."""

    def __init__(self, memory: GpuMemory, address: int, pitch: int, layout: Layout) -> None:
        super().__init__(memory, address & -BLOCK_SIZE, pitch)
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """The tiling."""
        return self._layout

    def read(self, rect: Rect) -> _Buffer:
        """Whole blocks are read: each is a page that holds some of the rectangle."""
        blocks = _blocks(self._layout, rect)
        rows = to_rows(
            self._layout, memoryview(self.read_blocks(rect)), blocks.width, blocks.height
        )
        return _cut(rows, _canvas(self._layout, rect), rect)

    def write(self, rect: Rect, rows: _Buffer) -> None:
        """What is around the rectangle in its blocks stays as it is."""
        blocks = _blocks(self._layout, rect)
        canvas = _paste(rows, _canvas(self._layout, rect), rect)
        self.write_blocks(rect, to_blocks(self._layout, canvas, blocks.width, blocks.height))

    def read_blocks(self, rect: Rect) -> bytearray:
        """All blocks that hold some of a rectangle, row by row."""
        blocks = _blocks(self._layout, rect)
        parts: list[bytes] = []
        for row in range(blocks.top, blocks.bottom):
            runs = Runs(self._layout, self.pitch, row).between(blocks.left, blocks.right)
            for offset, _, count in runs:
                parts.append(self.memory.read(self._at(offset), count * BLOCK_SIZE))
        return bytearray().join(parts)

    def write_blocks(self, rect: Rect, blocks: bytearray) -> None:
        """Store what such blocks hold of a rectangle."""
        view = memoryview(blocks)
        for address, offset, length in self._pieces(rect):
            self.memory.write(address, view[offset : offset + length])

    def fill(self, rect: Rect, pattern: bytes) -> None:
        """Pixels look the same wherever they lie."""
        for address, _, length in self._pieces(rect):
            self.memory.fill(address, pattern, length)

    def _pieces(self, rect: Rect) -> Iterator[tuple[int, int, int]]:
        """``(address, offset in the blocks, length)`` of the runs that are in a rectangle."""
        layout, blocks = self._layout, _blocks(self._layout, rect)
        for row in range(blocks.top, blocks.bottom):
            base = (row - blocks.top) * blocks.width - blocks.left
            top = max(rect.top - row * layout.height, 0)
            bottom = min(rect.bottom - row * layout.height, layout.height)
            whole = top == 0 and bottom == layout.height
            first, last = _inner(layout, rect) if whole else (blocks.left, blocks.left)
            for column in (*range(blocks.left, first), *range(last, blocks.right)):
                start = self._at(layout.block(column, row, self.pitch))
                left = max(rect.left - column * layout.width, 0)
                right = min(rect.right - column * layout.width, layout.width)
                for offset, length in extents(layout, left, right, top, bottom):
                    yield start + offset, (base + column) * BLOCK_SIZE + offset, length
            for offset, column, count in Runs(layout, self.pitch, row).between(first, last):
                yield self._at(offset), (base + column) * BLOCK_SIZE, count * BLOCK_SIZE


def _blocks(layout: Layout, rect: Rect) -> Rect:
    """The blocks that hold some of a rectangle, counted in blocks."""
    return Rect(
        rect.left // layout.width,
        rect.top // layout.height,
        -(-rect.right // layout.width),
        -(-rect.bottom // layout.height),
    )


def _inner(layout: Layout, rect: Rect) -> tuple[int, int]:
    """The columns of blocks that are in a rectangle from side to side."""
    first, last = -(-rect.left // layout.width), rect.right // layout.width
    return first, max(first, last)


def _canvas(layout: Layout, rect: Rect) -> Rect:
    """The smallest rectangle of whole blocks around another one."""
    blocks = _blocks(layout, rect)
    return Rect(
        blocks.left * layout.width,
        blocks.top * layout.height,
        blocks.right * layout.width,
        blocks.bottom * layout.height,
    )


def _cut(rows: bytearray, canvas: Rect, rect: Rect) -> _Buffer:
    if canvas == rect:
        return rows
    view = memoryview(rows)
    first = (rect.top - canvas.top) * canvas.width + rect.left - canvas.left
    starts = (first + row for row in _steps(canvas.width, rect.height))
    return b"".join(view[start : start + rect.width] for start in starts)


def _paste(rows: _Buffer, canvas: Rect, rect: Rect) -> memoryview:
    view = memoryview(rows)
    if canvas == rect:
        return view
    result = bytearray(canvas.width * canvas.height)
    start = (rect.top - canvas.top) * canvas.width + rect.left - canvas.left
    for row in _steps(rect.width, rect.height):
        result[start : start + rect.width] = view[row : row + rect.width]
        start += canvas.width
    return memoryview(result)


def fill_rect(port: EnginePort, target: Surface, rect: Rect, pattern: bytes) -> None:
    """Fill a rectangle with a pixel, wherever it begins."""
    if rect.empty:
        return
    if isinstance(target, LinearSurface) and target.run(rect):
        target.fill(rect, pattern)
        return
    width = rect.width if target.layout is None else BAND_WIDTH
    for band in _bands(rect, width, 0 if target.layout is None else target.layout.height):
        target.fill(band, pattern)
        port.checkpoint()


def copy_rect(
    port: EnginePort, target: Surface, rect: Rect, source: Surface, left: int, top: int
) -> None:
    """Copy to a rectangle from the one of the same size that begins at (``left``, ``top``) of
    ``source``.

    Surfaces that overlap are undefined on hardware; here a band is read before it is written, and
    the bands go upwards when the target is the later one.
    """
    if rect.empty:
        return
    origin = rect.moved(left - rect.left, top - rect.top)
    if _both_runs(target, rect, source, origin):
        assert isinstance(target, LinearSurface) and isinstance(source, LinearSurface)
        size = rect.width * rect.height
        copy_run(target.memory, port, target.start(rect), source.start(origin), size)
        return
    layouts = [layout for layout in (target.layout, source.layout) if layout is not None]
    width = BAND_WIDTH if layouts else BAND
    grain = max((layout.height for layout in layouts), default=0)
    for band in _bands(rect, width, grain, upwards=target.address > source.address):
        _copy_band(target, band, source, band.moved(left - rect.left, top - rect.top))
        port.checkpoint()


def copy_run(memory: GpuMemory, port: EnginePort, target: int, source: int, length: int) -> None:
    """Copy a run of bytes, as memmove does: overlaps are undefined on hardware."""
    if abs(target - source) >= length:
        memory.copy(target, source, length)
        return
    pieces = range(0, length, BAND)
    for start in reversed(pieces) if target > source else pieces:
        size = min(BAND, length - start)
        memory.write(target + start, memory.read(source + start, size))
        port.checkpoint()


def _both_runs(target: Surface, rect: Rect, source: Surface, origin: Rect) -> bool:
    if not isinstance(target, LinearSurface) or not isinstance(source, LinearSurface):
        return False
    return target.run(rect) and source.run(origin)


def _copy_band(target: Surface, rect: Rect, source: Surface, origin: Rect) -> None:
    if isinstance(target, TiledSurface) and isinstance(source, TiledSurface):
        layout = target.layout
        across, down = (rect.left - origin.left) % layout.width, rect.top - origin.top
        if layout == source.layout and across == 0 and down % layout.height == 0:
            target.write_blocks(rect, source.read_blocks(origin))
            return
    target.write(rect, source.read(origin))


def _bands(rect: Rect, width: int, grain: int, *, upwards: bool = False) -> Iterator[Rect]:
    """Cut a rectangle into pieces, at multiples of ``width`` and of ``grain`` if that is not 0."""
    height = min(BAND_HEIGHT, max(BAND // min(width, rect.width), 1))
    left, top = rect.left, rect.top
    if grain:
        height = max(height - height % grain, grain)
        left, top = left - left % width, top - top % height
    lefts, tops = range(left, rect.right, width), range(top, rect.bottom, height)
    for y in reversed(tops) if upwards else tops:
        for x in reversed(lefts) if upwards else lefts:
            yield Rect(
                max(x, rect.left),
                max(y, rect.top),
                min(x + width, rect.right),
                min(y + height, rect.bottom),
            )
