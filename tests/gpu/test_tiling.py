"""Where the bytes of tiled surfaces lie."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu import blits
from xedev.gpu.tiling import BLOCK_SIZE, TILE4, Layout, Runs, X, extents, tile64, to_blocks, to_rows

BITS = {
    "X": (X, blits.X_BITS),
    "Tile4": (TILE4, blits.TILE4_BITS),
    **{f"Tile64 {size * 8}": (tile64(size), bits) for size, bits in blits.TILE64_BITS.items()},
}
LAYOUTS = {name: layout for name, (layout, _) in BITS.items()}
layouts = st.sampled_from(sorted(LAYOUTS)).map(LAYOUTS.__getitem__)


@pytest.mark.parametrize("name", sorted(BITS))
@given(x=st.integers(0, 4095), y=st.integers(0, 1023))
def test_each_bit_of_the_offset_comes_from_one_coordinate(name: str, x: int, y: int) -> None:
    layout, bits = BITS[name]
    assert layout.offset(x, y, 4096) == blits.tiled_offset(bits, x, y, 4096)


@pytest.mark.parametrize(
    ("layout", "x", "y", "offset"),
    [
        (X, 511, 0, 511),
        (X, 0, 1, 512),
        (X, 512, 0, 4096),
        (X, 0, 8, 8 * 1024),
        (TILE4, 15, 0, 15),
        (TILE4, 16, 0, 64),
        (TILE4, 0, 1, 16),
        (TILE4, 0, 4, 256),
        (TILE4, 64, 0, 512),
        (TILE4, 0, 8, 1024),
        (TILE4, 127, 31, 4095),
        (TILE4, 128, 0, 4096),
        (TILE4, 0, 32, 32 * 1024),
        (tile64(1), 128, 0, 4096),
        (tile64(1), 0, 32, 8192),
        (tile64(1), 256, 0, 65536),
        (tile64(4), 0, 32, 16384),
        (tile64(4), 512, 0, 65536),
        (tile64(16), 896, 0, 7 * 4096),
        (tile64(16), 0, 32, 8 * 4096),
        (tile64(16), 0, 64, 64 * 1024),
    ],
)
def test_known_offsets_of_a_surface_of_1024_bytes_a_row(
    layout: Layout, x: int, y: int, offset: int
) -> None:
    assert layout.offset(x, y, 1024) == offset


@pytest.mark.parametrize(
    ("pixel_size", "width", "height"),
    [(1, 256, 256), (2, 512, 128), (4, 512, 128), (8, 1024, 64), (16, 1024, 64)],
)
def test_a_tile64_is_64_kib_of_a_shape_that_goes_by_the_pixel(
    pixel_size: int, width: int, height: int
) -> None:
    layout = tile64(pixel_size)
    assert (layout.tile_width, layout.tile_height) == (width, height)


@given(layout=layouts, columns=st.integers(1, 5), lines=st.integers(1, 5), seed=st.integers())
def test_tiled_rows_are_where_the_offsets_say(
    layout: Layout, columns: int, lines: int, seed: int
) -> None:
    rows = random.Random(seed).randbytes(columns * lines * BLOCK_SIZE)
    blocks = to_blocks(layout, memoryview(rows), columns, lines)
    assert to_rows(layout, memoryview(blocks), columns, lines) == rows
    pick = random.Random(seed)
    for _ in range(64):
        x, y = pick.randrange(columns * layout.width), pick.randrange(lines * layout.height)
        block = y // layout.height * columns + x // layout.width
        within = layout.within(x % layout.width, y % layout.height)
        assert blocks[block * BLOCK_SIZE + within] == rows[y * columns * layout.width + x]


@given(layout=layouts, data=st.data())
def test_extents_are_a_rectangle_of_a_block_and_apart_from_each_other(
    layout: Layout, data: st.DataObject
) -> None:
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, layout.width)] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, layout.height)] * 2)))
    pieces = extents(layout, left, right, top, bottom)
    bytes_in = [offset + n for offset, length in pieces for n in range(length)]
    wanted = {layout.within(x, y) for x in range(left, right) for y in range(top, bottom)}
    assert sorted(bytes_in) == sorted(wanted)
    assert all(end[0] + end[1] < start[0] for end, start in itertools.pairwise(pieces))


def test_a_whole_block_is_one_extent() -> None:
    assert extents(TILE4, 0, 128, 0, 32) == ((0, 4096),)
    assert extents(TILE4, 0, 128, 0, 8) == ((0, 1024),)
    assert extents(X, 0, 512, 3, 5) == ((1536, 1024),)


@given(layout=layouts, row=st.integers(-9, 9), first=st.integers(-9, 9), count=st.integers(0, 20))
def test_runs_of_blocks_join_what_lies_together(
    layout: Layout, row: int, first: int, count: int
) -> None:
    pitch = layout.tile_width * 8
    found = [
        (offset + n * BLOCK_SIZE, column + n)
        for offset, column, size in Runs(layout, pitch, row).between(first, first + count)
        for n in range(size)
    ]
    wanted = range(first, first + count)
    assert found == [(layout.block(column, row, pitch), column) for column in wanted]


def test_a_row_of_tiles_is_one_run() -> None:
    assert list(Runs(TILE4, 4096, 1).between(0, 32)) == [(128 << 10, 0, 32)]
    assert list(Runs(tile64(4), 1024, 1).between(1, 6)) == [(20480, 1, 3), (81920, 4, 2)]


def test_a_pitch_of_no_whole_tiles_still_begins_rows_of_tiles_at_pages() -> None:
    assert X.tile_row(516) == 4096
    assert tile64(16).tile_row(1536) == 96 << 10
