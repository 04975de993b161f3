"""The commands of the blitter on tiled surfaces, against pixels one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gpu.blits import (
    LINEAR,
    TILE4,
    TILE64,
    TILINGS,
    Image,
    X,
    block_copy,
    execute,
    fast_color,
    fast_copy,
    get,
    put,
    tile_bits,
    tile_shape,
)
from tests.gpu.fake_gpu import BASE, COPY, FakeMemory, FakePort

SIZE = 4 << 20
HALF = SIZE // 2
NOISE = random.Random(3).randbytes(SIZE)
tilings = st.sampled_from(sorted(TILINGS))
pixel_sizes = st.sampled_from([1, 2, 4, 8, 16])


def _memory() -> FakeMemory:
    memory = FakeMemory(SIZE)
    memory.data[:] = NOISE
    return memory


def _image(address: int, tiling: int, pixel_size: int, tiles: int = 2) -> Image:
    width = 512 if tiling == LINEAR else tile_shape(tile_bits(tiling, pixel_size))[0]
    return Image(address, width * tiles, pixel_size, tiling)


@st.composite
def rects(draw: st.DrawFn, image: Image) -> tuple[int, int, int, int]:
    """Corners of a rectangle of an image, small or as wide as it, over some tiles."""
    across = image.pitch // image.pixel_size
    left, right = sorted(draw(st.tuples(st.integers(0, across), st.integers(0, across))))
    top = draw(st.integers(0, 150))
    return left, top, right, top + draw(st.integers(0, 100))


def _copied(
    data: bytes, target: Image, corners: tuple[int, int, int, int], source: Image, x: int, y: int
) -> bytearray:
    wanted = bytearray(data)
    x1, y1, x2, y2 = corners
    for row in range(y2 - y1):
        for column in range(x2 - x1):
            pixel = get(data, source, x + column, y + row)
            put(wanted, target, x1 + column, y1 + row, pixel)
    return wanted


@given(of=tilings, to=tilings, pixel_size=pixel_sizes, fast=st.booleans(), data=st.data())
def test_copies_between_all_tilings(
    of: int, to: int, pixel_size: int, fast: bool, data: st.DataObject
) -> None:
    source, target = _image(BASE, of, pixel_size), _image(BASE + HALF, to, pixel_size)
    corners = data.draw(rects(target))
    right, bottom = source.pitch // pixel_size - (corners[2] - corners[0]), 100
    x, y = data.draw(st.integers(0, max(right, 0))), data.draw(st.integers(0, bottom))
    if right < 0:
        corners = (corners[0], corners[1], corners[2] + right, corners[3])
    memory = _memory()
    command = fast_copy if fast else block_copy
    execute(command(target, corners, source, x, y), memory)
    assert memory.data == _copied(NOISE, target, corners, source, x, y)


@given(tiling=tilings, pixel_size=pixel_sizes, data=st.data())
def test_fills_in_all_tilings(tiling: int, pixel_size: int, data: st.DataObject) -> None:
    image = _image(BASE, tiling, pixel_size)
    x1, y1, x2, y2 = data.draw(rects(image))
    color = random.Random(x1).randbytes(pixel_size)
    memory, wanted = _memory(), bytearray(NOISE)
    execute(fast_color(image, (x1, y1, x2, y2), color), memory)
    for y in range(y1, y2):
        for x in range(x1, x2):
            put(wanted, image, x, y, color)
    assert memory.data == wanted


@given(
    first=tilings,
    second=tilings,
    pixel_size=pixel_sizes,
    width=st.integers(1, 130),
    height=st.integers(1, 130),
    corner=st.tuples(st.integers(0, 70), st.integers(0, 70)),
)
def test_pixels_come_back_through_two_tilings(
    first: int, second: int, pixel_size: int, width: int, height: int, corner: tuple[int, int]
) -> None:
    pitch = width * pixel_size
    image, result = Image(BASE, pitch, pixel_size), Image(BASE + (1 << 19), pitch, pixel_size)
    one = Image(BASE + (1 << 20), 4096, pixel_size, first)
    other = Image(BASE + (2 << 20), 4096, pixel_size, second)
    x, y = corner
    here, there = (0, 0, width, height), (x, y, x + width, y + height)
    memory = _memory()
    execute(block_copy(one, there, image, 0, 0), memory)
    execute(block_copy(other, here, one, x, y), memory)
    execute(fast_copy(result, here, other, 0, 0), memory)
    size = pitch * height
    assert memory.data[1 << 19 :][:size] == NOISE[:size]


@pytest.mark.parametrize("tiling", [X, TILE4, TILE64])
def test_the_low_bits_of_the_address_of_a_tiled_surface_are_ignored(tiling: int) -> None:
    source, target = Image(BASE, 64, 4), Image(BASE + HALF, 1024, 4, tiling)
    off = Image(target.address + 0xABC, 1024, 4, tiling)
    memory, wanted = _memory(), _copied(NOISE, target, (5, 6, 12, 13), source, 0, 0)
    execute(block_copy(off, (5, 6, 12, 13), source, 0, 0), memory)
    assert memory.data == wanted
    execute(fast_copy(off, (5, 6, 12, 13), source, 0, 0), memory)
    assert memory.data == wanted
    execute(fast_color(off, (5, 6, 6, 7), b"1234"), memory)
    assert get(memory.data, target, 5, 6) == b"1234"


@pytest.mark.parametrize("tiling", [X, TILE4, TILE64])
def test_a_copy_inside_one_surface_moves_what_does_not_overlap(tiling: int) -> None:
    image = Image(BASE, 1024, 4, tiling)
    memory = _memory()
    execute(block_copy(image, (128, 64, 250, 128), image, 0, 0), memory)
    assert memory.data == _copied(NOISE, image, (128, 64, 250, 128), image, 0, 0)


@pytest.mark.parametrize("tiling", [X, TILE4, TILE64])
def test_large_surfaces_are_copied_in_bands(tiling: int) -> None:
    width, height = 200, 400
    image = Image(BASE, width * 16, 16)
    other = Image(BASE + HALF, 4096, 16, tiling)
    back = Image(BASE + HALF - width * 16 * 64, width * 16, 16)
    memory, port = _memory(), FakePort(COPY)
    execute(block_copy(other, (1, 3, width + 1, height + 3), image, 0, 0), memory, port)
    assert memory.data == _copied(NOISE, other, (1, 3, width + 1, height + 3), image, 0, 0)
    assert port.checkpoints > 1
    before = bytes(memory.data)
    execute(fast_copy(back, (0, 0, width, 64), other, 1, 300), memory, port)
    assert memory.data == _copied(before, back, (0, 0, width, 64), other, 1, 300)


@pytest.mark.parametrize("tiling", [X, TILE4, TILE64])
def test_whole_tiles_are_stored_in_few_calls(tiling: int) -> None:
    image, target = Image(BASE, 4096, 4), Image(BASE + HALF, 4096, 4, tiling)
    memory = _memory()
    execute(block_copy(target, (0, 0, 1024, 128), image, 0, 0), memory)
    assert len(memory.written) <= {X: 16, TILE4: 4, TILE64: 32}[tiling]
    assert sum(len(data) for _, data in memory.written) == 4096 * 128
    memory.written.clear()
    execute(fast_color(target, (0, 0, 1024, 128), b"abcd"), memory)
    assert len(memory.written) <= {X: 16, TILE4: 4, TILE64: 32}[tiling]


@pytest.mark.parametrize("tiling", [X, TILE4, TILE64])
@pytest.mark.parametrize("corners", [(1, 1, 9, 9), (0, 0, 9, 9), (20, 1, 140, 9), (3, 0, 300, 70)])
def test_no_byte_is_stored_twice(tiling: int, corners: tuple[int, int, int, int]) -> None:
    image, target = Image(BASE, 4096, 4), Image(BASE + HALF, 4096, 4, tiling)
    size = (corners[2] - corners[0]) * (corners[3] - corners[1]) * 4
    memory = _memory()
    execute(block_copy(target, corners, image, 0, 0), memory)
    assert sum(len(data) for _, data in memory.written) == size
    memory.written.clear()
    execute(fast_color(target, corners, b"abcd"), memory)
    assert sum(len(data) for _, data in memory.written) == size


def test_coordinates_before_a_surface_are_tiles_before_it() -> None:
    target, source = Image(BASE + HALF, 1024, 4, TILE4), Image(BASE, 64, 4)
    memory = _memory()
    execute(block_copy(target, (-3, -2, 4, 5), source, 0, 0), memory)
    assert memory.data == _copied(NOISE, target, (-3, -2, 4, 5), source, 0, 0)
