"""The commands of the blitter on memory that is not tiled."""

from __future__ import annotations

import random

import pytest

from tests.gpu.blits import (
    MATRIX,
    PAGES,
    Image,
    block_copy,
    execute,
    fast_color,
    fast_copy,
    get,
    header,
    mem_copy,
    mem_set,
    put,
    surface_dwords,
)
from tests.gpu.fake_gpu import BASE, COPY, RENDER, FakeMemory, FakePort
from xedev.gpu.blitter import BLITTER_COMMANDS
from xedev.gpu.ports import GpuFault, GpuHang

SIZE = 1 << 20
HALF = BASE + SIZE // 2


@pytest.fixture
def memory() -> FakeMemory:
    """A mebibyte of noise."""
    memory = FakeMemory(SIZE)
    memory.data[:] = random.Random(1).randbytes(SIZE)
    return memory


def test_headers_are_those_of_public_programs() -> None:
    surface = Image(BASE, 64, 4)
    corners = (0, 0, 1, 1)
    assert fast_copy(surface, corners, surface, 0, 0)[0] == 0x50800008
    assert block_copy(surface, corners, surface, 0, 0)[0] & ~(7 << 19) == 0x5040000A
    assert fast_color(surface, corners, b"")[0] & ~(7 << 19) == 0x5100000E
    assert fast_color(surface, corners, b"", extension=None)[0] & 0xFF == 9
    assert mem_copy(0, 0, 1)[0] == 0x56800008
    assert mem_set(0, 0, 1)[0] == 0x56C00005


def test_the_table_has_the_names_of_the_commands() -> None:
    assert {code: command.name for code, command in BLITTER_COMMANDS.items()} == {
        0x41: "XY_BLOCK_COPY_BLT",
        0x42: "XY_FAST_COPY_BLT",
        0x44: "XY_FAST_COLOR_BLT",
        0x48: "XY_CTRL_SURF_COPY_BLT",
        0x5A: "MEM_COPY",
        0x5B: "MEM_SET",
    }


def test_the_fill_of_a_kernel_workaround_writes_four_rows_of_one_pixel(memory: FakeMemory) -> None:
    # i915's batch of XY_FAST_COLOR_BLT, for 8 bits per pixel and a pitch of 64 bytes
    dwords = [0x5100000E, 0x3F, 0, 4 << 16 | 1, BASE, 0, 0, 0, 0, 0, 0, 0, 0, 0x20004004, 0x10, 0]
    execute(tuple(dwords), memory)
    assert memory.written == [(BASE + 64 * row, b"\0") for row in range(4)]


@pytest.mark.parametrize("length", [1, 2, 4095, 4096, 0x40000])
def test_mem_copy_of_bytes(memory: FakeMemory, length: int) -> None:
    wanted = bytearray(memory.data)
    wanted[SIZE // 2 + 3 : SIZE // 2 + 3 + length] = wanted[5 : 5 + length]
    execute(mem_copy(HALF + 3, BASE + 5, length), memory)
    assert memory.data == wanted


def test_mem_copy_of_pages_counts_256_bytes(memory: FakeMemory) -> None:
    wanted = bytearray(memory.data)
    wanted[SIZE // 2 :] = wanted[: SIZE // 2]
    execute(mem_copy(HALF, BASE, SIZE // 512, bits=PAGES), memory)
    assert memory.data == wanted


def test_mem_copy_in_bytes_has_18_bits_of_width(memory: FakeMemory) -> None:
    dwords = list(mem_copy(HALF, BASE, 16))
    dwords[1] |= 1 << 18
    execute(tuple(dwords), memory)
    assert memory.written == [(HALF, bytes(memory.data[:16]))]


@pytest.mark.parametrize(
    ("width", "height", "source_pitch", "target_pitch"),
    [(16, 5, 64, 32), (1, 7, 1, 1), (100, 3, 100, 300), (100, 9, 5000, 128), (64, 4, 16, 64)],
)
def test_mem_copy_of_a_matrix(
    memory: FakeMemory, width: int, height: int, source_pitch: int, target_pitch: int
) -> None:
    wanted = bytearray(memory.data)
    for row in range(height):
        source, target = row * source_pitch, SIZE // 2 + row * target_pitch
        wanted[target : target + width] = memory.data[source : source + width]
    rows = (height, source_pitch, target_pitch)
    execute(mem_copy(HALF, BASE, width, bits=MATRIX, rows=rows), memory)
    assert memory.data == wanted


def test_mem_copy_of_a_matrix_of_pages_has_pitches_in_bytes(memory: FakeMemory) -> None:
    wanted = bytearray(memory.data)
    for row in range(3):
        target = SIZE // 2 + row * 600
        wanted[target : target + 512] = memory.data[row * 1024 : row * 1024 + 512]
    execute(mem_copy(HALF, BASE, 2, bits=MATRIX | PAGES, rows=(3, 1024, 600)), memory)
    assert memory.data == wanted


@pytest.mark.parametrize("distance", [-5000, -7, 7, 5000])
def test_mem_copy_onto_itself_moves(memory: FakeMemory, distance: int) -> None:
    wanted = bytearray(memory.data)
    wanted[8192 + distance : 28192 + distance] = memory.data[8192:28192]
    execute(mem_copy(BASE + 8192 + distance, BASE + 8192, 20000), memory)
    assert memory.data == wanted


@pytest.mark.parametrize("distance", [-4096, 4096])
def test_long_runs_onto_themselves_move_too(distance: int) -> None:
    memory, length = FakeMemory(4 << 20), 3 << 20
    memory.data[:] = random.Random(4).randbytes(4 << 20)
    wanted = bytearray(memory.data)
    wanted[8192 + distance : 8192 + distance + length] = memory.data[8192 : 8192 + length]
    port = execute(mem_copy(BASE + 8192 + distance, BASE + 8192, length >> 8, bits=PAGES), memory)
    assert memory.data == wanted
    assert port.checkpoints > 1


@pytest.mark.parametrize("distance", [-70_000, 70_000])
def test_rows_moved_up_or_down_over_many_bands_keep_their_bytes(distance: int) -> None:
    memory = FakeMemory(4 << 20)
    memory.data[:] = random.Random(2).randbytes(4 << 20)
    wanted, start, pitch = bytearray(memory.data), 1 << 20, 1000
    for row in range(2000):
        at = start + row * pitch
        wanted[at + distance : at + distance + 900] = memory.data[at : at + 900]
    source = BASE + start
    port = execute(
        mem_copy(source + distance, source, 900, bits=MATRIX, rows=(2000, pitch, pitch)), memory
    )
    assert memory.data == wanted
    assert port.checkpoints > 1


def test_mem_set_fills_one_run(memory: FakeMemory) -> None:
    wanted = bytearray(memory.data)
    wanted[7 : 7 + 5000] = b"\xa5" * 5000
    execute(mem_set(BASE + 7, 0xA5, 5000, rows=(9, 1)), memory)
    assert memory.data == wanted


def test_mem_set_fills_a_matrix(memory: FakeMemory) -> None:
    wanted = bytearray(memory.data)
    for row in range(9):
        wanted[row * 100 : row * 100 + 30] = b"\x5a" * 30
    execute(mem_set(BASE, 0x5A, 30, bits=MATRIX, rows=(9, 100)), memory)
    assert memory.data == wanted


def test_a_surface_without_gaps_is_one_run(memory: FakeMemory) -> None:
    surface, other = Image(BASE, 64, 4), Image(HALF, 64, 4)
    execute(fast_copy(other, (0, 0, 16, 100), surface, 0, 0), memory)
    assert [(start, len(data)) for start, data in memory.written] == [(HALF, 6400)]
    execute(fast_color(surface, (0, 0, 16, 100), b"abcd"), memory)
    assert memory.written[1:] == [(BASE, b"abcd" * 1600)]


@pytest.mark.parametrize("pixel_size", [1, 2, 4, 8, 12, 16])
def test_block_copy_of_each_depth(memory: FakeMemory, pixel_size: int) -> None:
    target, source = Image(HALF, 1000, pixel_size), Image(BASE + 4, 700, pixel_size)
    wanted = bytearray(memory.data)
    for x in range(11):
        for y in range(7):
            put(wanted, target, x + 3, y + 2, get(memory.data, source, x + 1, y + 9))
    execute(block_copy(target, (3, 2, 14, 9), source, 1, 9), memory)
    assert memory.data == wanted


@pytest.mark.parametrize("pixel_size", [1, 2, 4, 8, 16])
def test_fast_copy_of_each_depth(memory: FakeMemory, pixel_size: int) -> None:
    target, source = Image(HALF, 1000, pixel_size), Image(BASE + 4, 700, pixel_size)
    wanted = bytearray(memory.data)
    for x in range(11):
        for y in range(7):
            put(wanted, target, x + 3, y + 2, get(memory.data, source, x + 1, y + 9))
    execute(fast_copy(target, (3, 2, 14, 9), source, 1, 9), memory)
    assert memory.data == wanted


@pytest.mark.parametrize("extension", [None, (0, 0, 0, 0, 0)])
@pytest.mark.parametrize("pixel_size", [1, 2, 4, 8, 12, 16])
def test_fast_color_of_each_depth(
    memory: FakeMemory, pixel_size: int, extension: tuple[int, ...] | None
) -> None:
    target, color = Image(HALF, 500, pixel_size), bytes(range(1, 1 + pixel_size))
    wanted = bytearray(memory.data)
    for x in range(3, 30):
        for y in range(2, 9):
            put(wanted, target, x, y, color)
    execute(fast_color(target, (3, 2, 30, 9), color, extension=extension), memory)
    assert memory.data == wanted


def test_points_are_signed_and_offsets_move_the_surfaces(memory: FakeMemory) -> None:
    target, source = Image(HALF, 256, 4), Image(BASE + 4096, 128, 4)
    wanted = bytearray(memory.data)
    for x in range(8):
        for y in range(5):
            put(
                wanted, target, x - 4 + 6, y - 2 + 5, get(memory.data, source, x - 1 + 3, y - 3 + 1)
            )
    offsets = (5 << 16 | 6, 1 << 16 | 3)
    execute(block_copy(target, (-4, -2, 4, 3), source, -1, -3, offsets=offsets), memory)
    assert memory.data == wanted


@pytest.mark.parametrize("corners", [(5, 0, 5, 9), (5, 0, 4, 9), (0, 3, 9, 3), (0, 3, 9, -3)])
def test_an_empty_rectangle_touches_nothing(
    memory: FakeMemory, corners: tuple[int, int, int, int]
) -> None:
    surface, nowhere = Image(BASE, 64, 4), Image(8, 64, 4)
    execute(fast_copy(nowhere, corners, surface, 0, 0), memory)
    execute(block_copy(nowhere, corners, surface, 0, 0), memory)
    execute(fast_color(nowhere, corners, b""), memory)
    assert memory.written == []


@pytest.mark.parametrize(
    ("lod", "layer", "x", "y"),
    [
        (0, 0, 0, 0),
        (0, 3, 0, 3 * 120),
        (1, 0, 0, 52),
        (2, 0, 36, 52),
        (3, 0, 36, 52 + 12),
        (4, 1, 36, 120 + 52 + 12 + 8),
    ],
)
def test_the_extension_says_which_image_of_a_mipmap_or_an_array_is_meant(
    memory: FakeMemory, lod: int, layer: int, x: int, y: int
) -> None:
    # 70 by 50 pixels of 4 bytes, images at multiples of 4 pixels (16 bytes) and 4 rows
    target, source = Image(HALF, 512, 4), Image(BASE, 512, 4)
    images = surface_dwords(70, 50, lod=lod, qpitch=120, align=layer << 21 | 1 << 3)
    plain = surface_dwords(70, 50)
    wanted = bytearray(memory.data)
    put(wanted, target, x + 2, y + 1, get(memory.data, source, 0, 0))
    copy = (0, 0, 0, 0, *images, *plain)
    execute(block_copy(target, (2, 1, 3, 2), source, 0, 0, extension=copy), memory)
    assert memory.data == wanted
    back = (0, 0, 0, 0, *plain, *images)
    execute(block_copy(source, (9, 9, 10, 10), target, 2, 1, extension=back), memory)
    assert get(memory.data, source, 9, 9) == get(memory.data, source, 0, 0)
    color = (0, 0, *images)
    execute(fast_color(target, (2, 1, 3, 2), b"wxyz", extension=color), memory)
    assert get(memory.data, target, x + 2, y + 1) == b"wxyz"


SOURCE_DIRECT, TARGET_DIRECT = 1 << 21, 1 << 20


def _ctrl_surf_copy(bits: int, blocks: int, target: int, source: int) -> tuple[int, ...]:
    mocs = 3 << 28
    return (
        header(0x48, 5, bits | blocks - 1 << 9),
        source & 0xFFFFFFFF,
        source >> 32 | mocs,
        target & 0xFFFFFFFF,
        target >> 32 | mocs,
    )


def test_compression_metadata_reads_as_zeros(memory: FakeMemory) -> None:
    execute(_ctrl_surf_copy(TARGET_DIRECT, 1024, BASE + 64, 0), memory)
    assert memory.written == [(BASE + 64, bytes(8192))]


def test_compression_metadata_takes_no_writes(memory: FakeMemory) -> None:
    execute(_ctrl_surf_copy(SOURCE_DIRECT, 16, HALF, BASE), memory)
    execute(_ctrl_surf_copy(0, 16, HALF, BASE), memory)
    assert memory.written == []


def test_metadata_that_is_dropped_has_to_be_there_all_the_same(memory: FakeMemory) -> None:
    with pytest.raises(GpuFault):
        execute(_ctrl_surf_copy(SOURCE_DIRECT, 16, HALF, 64), memory)


def test_metadata_in_buffers_is_copied(memory: FakeMemory) -> None:
    execute(_ctrl_surf_copy(SOURCE_DIRECT | TARGET_DIRECT, 4, HALF, BASE), memory)
    assert memory.written == [(HALF, bytes(memory.data[:32]))]


def test_high_addresses_are_whole(memory: FakeMemory) -> None:
    far = FakeMemory(4096, 0x7F12_3456_7000)
    execute(mem_set(0x7F12_3456_7010, 0xFF, 16), far)
    execute(mem_copy(0x7F12_3456_7100, 0x7F12_3456_7010, 16), far)
    surface = Image(0x7F12_3456_7200, 64, 4)
    execute(fast_color(surface, (0, 0, 4, 1), b"\xff" * 4), far)
    assert far.data[0x10:0x20] == far.data[0x100:0x110] == far.data[0x200:0x210] == b"\xff" * 16
    execute(fast_copy(surface, (4, 0, 8, 1), surface, 0, 0), far)
    execute(block_copy(surface, (8, 0, 12, 1), surface, 4, 0), far)
    assert far.data[0x200:0x230] == b"\xff" * 48


def test_other_engines_hang(memory: FakeMemory) -> None:
    for opcode, command in BLITTER_COMMANDS.items():
        with pytest.raises(GpuHang, match=command.name):
            execute((header(opcode, 10), *[0] * 9), memory, FakePort(RENDER))


@pytest.mark.parametrize(
    ("opcode", "lengths"),
    [(0x41, (12, 22)), (0x42, (10,)), (0x44, (11, 16)), (0x48, (5,)), (0x5A, (10,)), (0x5B, (7,))],
)
def test_other_lengths_hang(memory: FakeMemory, opcode: int, lengths: tuple[int, ...]) -> None:
    for length in range(2, 40):
        if length not in lengths:
            with pytest.raises(GpuHang, match=f"of {length} dwords"):
                execute((header(opcode, length), *[0] * (length - 1)), memory)


SURFACE = Image(BASE, 4096, 4)
CORNERS = (0, 0, 1, 1)


def _tiled_96(tiling: int) -> tuple[int, ...]:
    return block_copy(Image(BASE, 4096, 12, tiling), CORNERS, Image(BASE, 4096, 12), 0, 0)


def _with(dwords: tuple[int, ...], index: int, bits: int) -> tuple[int, ...]:
    return (*dwords[:index], dwords[index] | bits, *dwords[index + 1 :])


@pytest.mark.parametrize(
    ("dwords", "reason"),
    [
        (_with(fast_copy(SURFACE, CORNERS, SURFACE, 0, 0), 1, 7 << 24), "depth 7"),
        (_with(block_copy(SURFACE, CORNERS, SURFACE, 0, 0), 0, 7 << 19), "depth 7"),
        (_with(fast_color(SURFACE, CORNERS, b""), 0, 6 << 19), "depth 6"),
        (_with(block_copy(SURFACE, CORNERS, SURFACE, 0, 0), 0, 1 << 9), "samples"),
        (_with(fast_color(SURFACE, CORNERS, b""), 0, 2 << 9), "samples"),
        (_tiled_96(1), "96 bits"),
        (_tiled_96(2), "96 bits"),
        (_tiled_96(3), "96 bits"),
        (mem_copy(BASE, BASE, 1, bits=2 << 17), "copy type 2"),
        (mem_set(BASE, 0, 1, bits=3 << 17), "copy type 3"),
        (
            fast_color(SURFACE, CORNERS, b"", extension=(0, 0, 0, 1, 0)),
            "surface type 0",
        ),
        (
            fast_color(Image(BASE, 4096, 4, 3), CORNERS, b"", extension=(0, 0, 2 << 29, 0, 0)),
            "3D surfaces",
        ),
        (
            fast_color(Image(BASE, 4096, 4, 3), CORNERS, b"", extension=(0, 0, 1 << 29, 5, 5 << 8)),
            "tail",
        ),
    ],
)
def test_impossible_encodings_hang(
    memory: FakeMemory, dwords: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(GpuHang, match=reason):
        execute(dwords, memory)
    assert memory.written == []


@pytest.mark.parametrize(
    "dwords",
    [
        mem_copy(8, BASE, 64),
        mem_copy(BASE, 8, 64),
        mem_copy(BASE + SIZE - 32, BASE, 64),
        mem_set(8, 0, 64),
        fast_copy(Image(8, 64, 4), CORNERS, SURFACE, 0, 0),
        fast_copy(SURFACE, CORNERS, Image(8, 64, 4), 0, 0),
        fast_copy(SURFACE, (0, 0, 4, 400), SURFACE, 0, 0),
        block_copy(SURFACE, (0, -1, 1, 1), SURFACE, 0, 0),
        fast_color(SURFACE, (0, -1, 1, 1), b""),
    ],
)
def test_what_is_not_mapped_faults(memory: FakeMemory, dwords: tuple[int, ...]) -> None:
    with pytest.raises(GpuFault):
        execute(dwords, memory)


def test_gaps_between_rows_are_never_written_nor_read_when_they_are_pages() -> None:
    class Watching(FakeMemory):
        reads: list[int]

        def read(self, address: int, length: int, /) -> bytes:
            self.reads.append(length)
            return super().read(address, length)

    memory = Watching(SIZE)
    memory.reads = []
    execute(mem_copy(HALF, BASE, 16, bits=MATRIX, rows=(10, 4096 + 16, 64)), memory)
    assert set(memory.reads) == {16}
    assert {len(data) for _, data in memory.written} == {16}


def test_a_huge_rectangle_takes_little_memory_and_lets_others_work() -> None:
    class Counting(FakeMemory):
        longest = 0

        def read(self, address: int, length: int, /) -> bytes:
            self.longest = max(self.longest, length)
            return super().read(BASE, min(length, 64)).ljust(length, b"\0")

        def write(self, address: int, data: bytes | bytearray | memoryview, /) -> None:
            self.longest = max(self.longest, len(data))

    class Enough(Exception):
        pass

    class Stopping(FakePort):
        def checkpoint(self) -> None:
            super().checkpoint()
            if self.checkpoints == 8:
                raise Enough

    for target in (Image(BASE, 0x8000, 16), Image(BASE, 0x20000, 16, 2), Image(BASE, 4096, 16, 3)):
        for source in (Image(BASE, 0x8000, 16), Image(BASE, 0x10000, 16, 1)):
            memory = Counting()
            command = block_copy(target, (0, 0, 32767, 32767), source, 0, 0)
            with pytest.raises(Enough):
                execute(command, memory, Stopping(COPY))
            assert memory.longest <= 2 << 20
