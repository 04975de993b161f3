"""Blitter commands as batches have them, and pixels one by one to compare their results with."""

from __future__ import annotations

from dataclasses import dataclass

from tests.gpu.fake_gpu import BASE, COPY, FakeMemory, FakePort
from xedev.gpu.blitter import BLITTER_COMMANDS

LINEAR, X, TILE4, TILE64 = range(4)
TILINGS = {LINEAR: "linear", X: "X", TILE4: "Tile4", TILE64: "Tile64"}
BLOCK_DEPTHS = {1: 0, 2: 1, 4: 2, 8: 3, 12: 4, 16: 5}
FAST_DEPTHS = {1: 0, 2: 1, 4: 3, 8: 4, 16: 5}
MATRIX = 1 << 17
PAGES = 1 << 19

# The bits of the offset in a tile, high to low: u of the byte in a row, v of the row.
X_BITS = "v2 v1 v0 u8 u7 u6 u5 u4 u3 u2 u1 u0"
TILE4_BITS = "v4 v3 u6 v2 u5 u4 v1 v0 u3 u2 u1 u0"
TILE64_BITS = {
    1: f"v7 v6 v5 u7 {TILE4_BITS}",
    2: f"v6 v5 u8 u7 {TILE4_BITS}",
    4: f"v6 v5 u8 u7 {TILE4_BITS}",
    8: f"v5 u9 u8 u7 {TILE4_BITS}",
    16: f"v5 u9 u8 u7 {TILE4_BITS}",
}


def tile_bits(tiling: int, pixel_size: int) -> str:
    """The bits of one tiling."""
    return {X: X_BITS, TILE4: TILE4_BITS, TILE64: TILE64_BITS[pixel_size]}[tiling]


def tile_shape(bits: str) -> tuple[int, int]:
    """Bytes across and rows down."""
    return 1 << bits.count("u"), 1 << bits.count("v")


def tiled_offset(bits: str, x: int, y: int, pitch: int) -> int:
    """The offset of a byte, bit by bit."""
    width, height = tile_shape(bits)
    offset = 0
    for name in bits.split():
        offset = offset << 1 | ((x if name[0] == "u" else y) >> int(name[1:]) & 1)
    return y // height * height * pitch + x // width * width * height + offset


@dataclass(frozen=True)
class Image:
    """A surface, in pixels."""

    address: int
    pitch: int
    """In bytes."""
    pixel_size: int
    tiling: int = LINEAR

    @property
    def field(self) -> int:
        """The pitch as commands have it."""
        return self.pitch if self.tiling == LINEAR else self.pitch // 4

    def at(self, x: int, y: int) -> int:
        """The address of a pixel."""
        x *= self.pixel_size
        if self.tiling == LINEAR:
            return self.address + y * self.pitch + x
        bits = tile_bits(self.tiling, self.pixel_size)
        return self.address + tiled_offset(bits, x, y, self.pitch)


def put(data: bytearray, image: Image, x: int, y: int, pixel: bytes) -> None:
    """Store a pixel in a copy of the memory."""
    start = image.at(x, y) - BASE
    data[start : start + image.pixel_size] = pixel


def get(data: bytes | bytearray, image: Image, x: int, y: int) -> bytes:
    """The opposite."""
    start = image.at(x, y) - BASE
    return bytes(data[start : start + image.pixel_size])


def point(x: int, y: int) -> int:
    """Two signed halves."""
    return (y & 0xFFFF) << 16 | x & 0xFFFF


def address(value: int) -> tuple[int, int]:
    """Two dwords."""
    return value & 0xFFFFFFFF, value >> 32


def header(opcode: int, dwords: int, bits: int = 0) -> int:
    """The first dword."""
    return 2 << 29 | opcode << 22 | bits | dwords - 2


def mem_copy(
    target: int, source: int, width: int, *, bits: int = 0, rows: tuple[int, int, int] = (1, 1, 1)
) -> tuple[int, ...]:
    """``rows`` are the height, the pitch of the source and that of the target."""
    height, source_pitch, target_pitch = rows
    sizes = (width - 1, height - 1, source_pitch - 1, target_pitch - 1)
    return (header(0x5A, 10, bits), *sizes, *address(source), *address(target), 0x30000006)


def mem_set(
    target: int, value: int, width: int, *, bits: int = 0, rows: tuple[int, int] = (1, 1)
) -> tuple[int, ...]:
    """``rows`` are the height and the pitch."""
    height, pitch = rows
    sizes = (width - 1, height - 1, pitch - 1)
    return (header(0x5B, 7, bits), *sizes, *address(target), value << 24 | 3)


def fast_copy(
    target: Image, corners: tuple[int, int, int, int], source: Image, x: int, y: int
) -> tuple[int, ...]:
    """``corners`` are x1, y1, x2 and y2 of the target."""
    x1, y1, x2, y2 = corners
    return (
        header(0x42, 10, source.tiling << 20 | target.tiling << 13),
        3 << 30 | FAST_DEPTHS[target.pixel_size] << 24 | 2 << 20 | target.field,
        point(x1, y1),
        point(x2, y2),
        *address(target.address),
        point(x, y),
        2 << 20 | source.field,
        *address(source.address),
    )


def block_copy(
    target: Image,
    corners: tuple[int, int, int, int],
    source: Image,
    x: int,
    y: int,
    *,
    offsets: tuple[int, int] = (0, 0),
    extension: tuple[int, ...] = (),
) -> tuple[int, ...]:
    """``offsets`` are those of the target and of the source, as dwords; the ``extension`` are the
    dwords from 12 on."""
    x1, y1, x2, y2 = corners
    return (
        header(0x41, 12 + len(extension), BLOCK_DEPTHS[target.pixel_size] << 19),
        target.tiling << 30 | 6 << 22 | target.field - 1,
        point(x1, y1),
        point(x2, y2),
        *address(target.address),
        1 << 31 | offsets[0],
        point(x, y),
        source.tiling << 30 | 6 << 24 | source.field - 1,
        *address(source.address),
        offsets[1],
        *extension,
    )


def fast_color(
    target: Image,
    corners: tuple[int, int, int, int],
    color: bytes,
    *,
    offset: int = 0,
    extension: tuple[int, ...] | None = (0, 0, 0, 0, 0),
) -> tuple[int, ...]:
    """The extension are the dwords from 11 on."""
    x1, y1, x2, y2 = corners
    padded = color.ljust(16, b"\xee")
    tail = extension or ()
    return (
        header(0x44, 11 + len(tail), BLOCK_DEPTHS[target.pixel_size] << 19),
        target.tiling << 30 | 6 << 22 | target.field - 1,
        point(x1, y1),
        point(x2, y2),
        *address(target.address),
        offset,
        *(int.from_bytes(padded[start : start + 4], "little") for start in range(0, 16, 4)),
        *tail,
    )


def surface_dwords(
    width: int, height: int, *, kind: int = 1, lod: int = 0, qpitch: int = 0, align: int = 0
) -> tuple[int, int, int]:
    """The three dwords about the images of a surface; ``align`` is the last of them."""
    size = kind << 29 | width - 1 << 14 | height - 1
    return size, lod | qpitch // 4 << 4, align


def execute(dwords: tuple[int, ...], memory: FakeMemory, port: FakePort | None = None) -> FakePort:
    """Run one command; the port that it ran on."""
    port = port or FakePort(COPY)
    BLITTER_COMMANDS[dwords[0] >> 22 & 0x7F].execute(dwords, memory, port)
    return port
