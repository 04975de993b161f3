"""How the pixels of a tiled surface lie in memory.

Every tiling is made of blocks of 4 KiB, each a small rectangle: 512 bytes by 8 rows (X) or 128
bytes by 32 rows (Tile4).  Tile64 is a tile of 64 KiB whose blocks are those of Tile4, row by row;
how many stand beside each other depends on the size of a pixel.  The bits of the offset in a tile,
high to low, with ``u`` of the byte in a row and ``v`` of the row:

================= =================================================
X                 v2 v1 v0  u8 ... u0
Tile4             v4 v3 u6 v2 u5 u4 v1 v0  u3 ... u0
Tile64, 8 bpp     v7 v6 v5 u7, then as Tile4
Tile64, 16 and 32 v6 v5 u8 u7, then as Tile4
Tile64, 64 and up v5 u9 u8 u7, then as Tile4
================= =================================================

These hold for one sample and two dimensions, and are the same on DG2 and Xe2.  Checked against the
tables of Mesa (``isl.c``: BSpec 44635, 58767 and 58786; ``isl_tiled_memcpy.c``) and the alignments
of IGT (``intel_blt.c``: ``blt_get_min_stride``).  No address bit is swizzled by another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

__all__ = (
    "BLOCK_SIZE",
    "TILE4",
    "Layout",
    "Runs",
    "X",
    "extents",
    "tile64",
    "to_blocks",
    "to_rows",
)

BLOCK_SIZE = 4096
_WORD = 8
"""The longest thing that a memoryview moves with a stride."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One tiling of surfaces with one size of pixels."""

    name: str
    width: int
    """Of a block, in bytes."""
    height: int
    """Of a block, in rows."""
    span: int
    """How many bytes of a row stay together."""
    columns: int = 1
    """Blocks of a tile beside each other."""
    rows: int = 1
    """Blocks of a tile below each other."""

    @property
    def tile_width(self) -> int:
        """In bytes."""
        return self.width * self.columns

    @property
    def tile_height(self) -> int:
        """In rows."""
        return self.height * self.rows

    def tile_row(self, pitch: int) -> int:
        """Bytes from one row of tiles to the next.  Pitches that are no whole number of tiles are
        undefined on hardware; here the result is rounded down to blocks."""
        return pitch * self.tile_height & -BLOCK_SIZE

    def block(self, column: int, row: int, pitch: int) -> int:
        """The offset of a block in a surface; ``pitch`` in bytes."""
        tile_column, column = divmod(column, self.columns)
        tile_row, row = divmod(row, self.rows)
        tile = tile_row * self.tile_row(pitch) + tile_column * self.columns * self.rows * BLOCK_SIZE
        return tile + (row * self.columns + column) * BLOCK_SIZE

    def offset(self, x: int, y: int, pitch: int) -> int:
        """The offset of byte ``x`` of row ``y`` in a surface; ``pitch`` in bytes."""
        block = self.block(x // self.width, y // self.height, pitch)
        return block + self.within(x % self.width, y % self.height)

    def within(self, x: int, y: int) -> int:
        """The same in a block."""
        if self.span == self.width:
            return y * self.width + x
        return (
            (y >> 3) << 10
            | (x >> 6) << 9
            | (y >> 2 & 1) << 8
            | (x >> 4 & 3) << 6
            | (y & 3) << 4
            | (x & 15)
        )


X = Layout("X", width=512, height=8, span=512)
TILE4 = Layout("Tile4", width=128, height=32, span=16)
_TILE64 = {
    1: Layout("Tile64", width=128, height=32, span=16, columns=2, rows=8),
    2: Layout("Tile64", width=128, height=32, span=16, columns=4, rows=4),
    4: Layout("Tile64", width=128, height=32, span=16, columns=4, rows=4),
    8: Layout("Tile64", width=128, height=32, span=16, columns=8, rows=2),
    16: Layout("Tile64", width=128, height=32, span=16, columns=8, rows=2),
}


def tile64(pixel_size: int) -> Layout:
    """Tile64 for pixels of 1, 2, 4, 8 or 16 bytes."""
    return _TILE64[pixel_size]


@dataclass(frozen=True, slots=True)
class Runs:
    """Blocks ``first`` to ``last`` of one row of them, as pieces of memory."""

    layout: Layout
    pitch: int
    """In bytes."""
    row: int

    def between(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """``(offset, column, count)`` of the blocks that follow each other."""
        step = self.layout.columns
        while first < last:
            end = last if self.layout.rows == 1 else min(last, first - first % step + step)
            yield self.layout.block(first, self.row, self.pitch), first, end - first
            first = end


@lru_cache(maxsize=1024)
def extents(
    layout: Layout, left: int, right: int, top: int, bottom: int
) -> tuple[tuple[int, int], ...]:
    """``(offset, length)`` of the pieces of one block that make up a rectangle of it."""
    found: list[tuple[int, int]] = []
    for y in range(top, bottom):
        x = left
        while x < right:
            end = min(right, x - x % layout.span + layout.span)
            found.append((layout.within(x, y), end - x))
            x = end
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(found):
        if merged and sum(merged[-1]) == offset:
            offset, length = merged[-1][0], merged.pop()[1] + length
        merged.append((offset, length))
    return tuple(merged)


def to_blocks(layout: Layout, rows: memoryview, columns: int, lines: int) -> bytearray:
    """Tile whole blocks: ``columns`` by ``lines`` of them, given as rows of bytes."""
    blocks = bytearray(len(rows))
    target, source = _cast(layout, memoryview(blocks)), _cast(layout, rows)
    for of_blocks, of_rows in _moves(layout, columns, lines):
        target[of_blocks] = source[of_rows]
    return blocks


def to_rows(layout: Layout, blocks: memoryview, columns: int, lines: int) -> bytearray:
    """Undo `to_blocks`."""
    rows = bytearray(len(blocks))
    target, source = _cast(layout, memoryview(rows)), _cast(layout, blocks)
    for of_blocks, of_rows in _moves(layout, columns, lines):
        target[of_rows] = source[of_blocks]
    return rows


def _cast(layout: Layout, view: memoryview) -> memoryview:
    return view if layout.span == layout.width else view.cast("Q")


@lru_cache(maxsize=16)
def _moves(layout: Layout, columns: int, lines: int) -> tuple[tuple[slice, slice], ...]:
    """Which slice of blocks is which slice of rows."""
    if layout.span == layout.width:
        return tuple(_whole_spans(layout, columns, lines))
    if columns >= lines:
        return tuple(_strides_across(layout, columns, lines))
    return tuple(_strides_down(layout, columns, lines))


def _whole_spans(layout: Layout, columns: int, lines: int) -> Iterator[tuple[slice, slice]]:
    for y in range(lines * layout.height):
        line, row = divmod(y, layout.height)
        for column in range(columns):
            block = (line * columns + column) * BLOCK_SIZE + row * layout.span
            span = (y * columns + column) * layout.span
            yield slice(block, block + layout.span), slice(span, span + layout.span)


def _strides_across(layout: Layout, columns: int, lines: int) -> Iterator[tuple[slice, slice]]:
    """A word of each block of a row of blocks at once."""
    block, width = BLOCK_SIZE // _WORD, layout.width // _WORD
    for line in range(lines):
        start, end = line * columns * block, (line + 1) * columns * block
        for x, y, within in _words(layout):
            row = (line * layout.height + y) * columns * width
            yield slice(start + within, end, block), slice(row + x, row + columns * width, width)


def _strides_down(layout: Layout, columns: int, lines: int) -> Iterator[tuple[slice, slice]]:
    """The same of a column of blocks."""
    block, width = BLOCK_SIZE // _WORD, layout.width // _WORD
    pitch = columns * width
    for column in range(columns):
        for x, y, within in _words(layout):
            yield (
                slice(column * block + within, None, columns * block),
                slice(y * pitch + column * width + x, None, layout.height * pitch),
            )


def _words(layout: Layout) -> Iterator[tuple[int, int, int]]:
    """``(x, y, offset)`` of the words of a block, in words but for ``y``."""
    for y in range(layout.height):
        for x in range(0, layout.width, _WORD):
            yield x // _WORD, y, layout.within(x, y) // _WORD
