"""The commands of the blitter (bits 31:29 of the header are 2, 28:22 the opcode).

Encodings were checked against IGT (``intel_blt.c``), i915 (``XY_CTRL_SURF_COPY_BLT`` and the
workaround batch with ``XY_FAST_COLOR_BLT``), a public definition of ``MEM_COPY`` and Mesa (the
genxml of Xe_HP and ``blorp_genX_exec.h``); for the tilings see `xedev.gpu.tiling`.  What has no
meaning here is ignored: MOCS, which memory a surface lies in, encryption and everything about
compression, since no surface is compressed.

Coordinates are signed, and are not clipped: nothing public says that hardware does.  A surface that
is tiled begins at a multiple of 4 KiB, whatever the low bits of its address are, and Tile64 too:
devices bind at such addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uapi import xe_drm
from xedev.gpu.ports import EnginePort, GpuHang, GpuMemory
from xedev.gpu.surface import (
    LinearSurface,
    Rect,
    Surface,
    TiledSurface,
    copy_rect,
    copy_run,
    fill_rect,
)
from xedev.gpu.tiling import TILE4, Layout, X, tile64

__all__ = ("BLITTER_COMMANDS", "BlitterCommand")

Dwords = tuple[int, ...]
Execute = Callable[[Dwords, GpuMemory, EnginePort], None]

PAGE = 256
"""Bytes that MEM_COPY counts in page mode."""
CCS_BLOCK = 8
"""Bytes of compression metadata for a page of 4 KiB (Xe2)."""
DEPTHS = {0: 1, 1: 2, 2: 4, 3: 8, 4: 12, 5: 16}
"""Bytes of a pixel."""
FAST_COPY_DEPTHS = {0: 1, 1: 2, 3: 4, 4: 8, 5: 16}
SURFTYPE_2D = 1
SURFTYPE_3D = 2
SURFTYPE_CUBE = 3
VALIGN = {0: 4, 1: 4, 2: 8, 3: 16}
"""Rows."""


@dataclass(frozen=True, slots=True)
class BlitterCommand:
    """One opcode."""

    name: str
    execute: Execute
    """``(dwords, memory, port)``, with all dwords of the command.  Raises `GpuFault` and, for what
    is no legal command, `GpuHang`."""


def _bits(dword: int, high: int, low: int) -> int:
    return dword >> low & (1 << high - low + 1) - 1


def _address(dwords: Dwords, index: int) -> int:
    return dwords[index] | dwords[index + 1] << 32


def _signed(value: int) -> int:
    return (value & 0xFFFF ^ 0x8000) - 0x8000


def _point(dword: int) -> tuple[int, int]:
    """``(x, y)`` in pixels."""
    return _signed(dword), _signed(dword >> 16)


def _offset(dword: int) -> tuple[int, int]:
    """Where in a tile the surface begins, in pixels."""
    return _bits(dword, 13, 0), _bits(dword, 29, 16)


def _rect(dwords: Dwords, index: int, pixel_size: int) -> Rect:
    """The rectangle of two dwords; the second point is not in it."""
    (x1, y1), (x2, y2) = _point(dwords[index]), _point(dwords[index + 1])
    return Rect(x1 * pixel_size, y1, x2 * pixel_size, y2)


def _pixel_size(code: int, depths: dict[int, int]) -> int:
    if code not in depths:
        raise GpuHang(f"colour depth {code} is reserved")
    return depths[code]


def _layout(tiling: int, pixel_size: int) -> Layout | None:
    """Linear, X, Tile4, Tile64: the numbers are the same in all commands."""
    if tiling == 0:
        return None
    if pixel_size not in FAST_COPY_DEPTHS.values():
        raise GpuHang("96 bits per pixel are linear only")
    return {1: X, 2: TILE4, 3: tile64(pixel_size)}[tiling]


def _surface(memory: GpuMemory, address: int, pitch: int, layout: Layout | None) -> Surface:
    """Pitches count bytes, but dwords when the surface is tiled."""
    if layout is None:
        return LinearSurface(memory, address, pitch)
    return TiledSurface(memory, address, pitch * 4, layout)


def _mem_copy(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """Bytes, or pages of 256 bytes; in one run, or in rows whose pitch always counts bytes."""
    source, target = _address(dwords, 5), _address(dwords, 7)
    pages = _bits(dwords[0], 19, 19)
    width = (_bits(dwords[1], 23, 0) + 1) * PAGE if pages else _bits(dwords[1], 17, 0) + 1
    if not _is_matrix(dwords[0]):
        copy_run(memory, port, target, source, width)
        return
    rect = Rect(0, 0, width, _bits(dwords[2], 17, 0) + 1)
    rows = LinearSurface(memory, source, _bits(dwords[3], 17, 0) + 1)
    copy_rect(port, LinearSurface(memory, target, _bits(dwords[4], 17, 0) + 1), rect, rows, 0, 0)


def _mem_set(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """Likewise, with the byte in the upper bits of the last dword.  IGT's mem-set-linear-0x8fffe
    has a width of more than 18 bits; as with MEM_COPY of pages, a row of it has up to 24."""
    is_matrix = _is_matrix(dwords[0])
    width, height = _bits(dwords[1], 17 if is_matrix else 23, 0) + 1, _bits(dwords[2], 17, 0) + 1
    rows = LinearSurface(memory, _address(dwords, 4), _bits(dwords[3], 17, 0) + 1)
    rect = Rect(0, 0, width, height if is_matrix else 1)
    fill_rect(port, rows, rect, bytes((_bits(dwords[6], 31, 24),)))


def _is_matrix(header: int) -> bool:
    kind = _bits(header, 18, 17)
    if kind > 1:
        raise GpuHang(f"copy type {kind} is reserved")
    return bool(kind)


def _xy_fast_copy_blt(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """The bits that tell Tile4 from the Y tiling of old are always 1 on Xe2; they are ignored."""
    pixel_size = _pixel_size(_bits(dwords[1], 26, 24), FAST_COPY_DEPTHS)
    target = _surface(
        memory,
        _address(dwords, 4),
        _bits(dwords[1], 15, 0),
        _layout(_bits(dwords[0], 14, 13), pixel_size),
    )
    source = _surface(
        memory,
        _address(dwords, 8),
        _bits(dwords[7], 15, 0),
        _layout(_bits(dwords[0], 21, 20), pixel_size),
    )
    x, y = _point(dwords[6])
    copy_rect(port, target, _rect(dwords, 2, pixel_size), source, x * pixel_size, y)


def _xy_block_copy_blt(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """The special modes resolve compressed pixels in place, and so have nothing to do but to copy.
    The dwords from 12 on say which image of a mipmap or an array is meant."""
    _one_sample(dwords[0])
    pixel_size = _pixel_size(_bits(dwords[0], 21, 19), DEPTHS)
    to = _layout(_bits(dwords[1], 31, 30), pixel_size)
    of = _layout(_bits(dwords[8], 31, 30), pixel_size)
    target = _surface(memory, _address(dwords, 4), _bits(dwords[1], 17, 0) + 1, to)
    source = _surface(memory, _address(dwords, 9), _bits(dwords[8], 17, 0) + 1, of)
    x, y = _sum(_offset(dwords[6]), _image(dwords[16:19], to, pixel_size))
    rect = _rect(dwords, 2, pixel_size).moved(x * pixel_size, y)
    x, y = _sum(_point(dwords[7]), _offset(dwords[11]), _image(dwords[19:22], of, pixel_size))
    copy_rect(port, target, rect, source, x * pixel_size, y)


def _xy_fast_color_blt(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """The colour is a pixel as it lies in memory."""
    _one_sample(dwords[0])
    pixel_size = _pixel_size(_bits(dwords[0], 21, 19), DEPTHS)
    layout = _layout(_bits(dwords[1], 31, 30), pixel_size)
    target = _surface(memory, _address(dwords, 4), _bits(dwords[1], 17, 0) + 1, layout)
    color = b"".join(dword.to_bytes(4, "little") for dword in dwords[7:11])[:pixel_size]
    x, y = _sum(_offset(dwords[6]), _image(dwords[13:16], layout, pixel_size))
    fill_rect(port, target, _rect(dwords, 2, pixel_size).moved(x * pixel_size, y), color)


def _one_sample(header: int) -> None:
    if _bits(header, 11, 9):
        raise GpuHang("surfaces with several samples are not modelled")


def _sum(*points: tuple[int, int]) -> tuple[int, int]:
    return sum(x for x, _ in points), sum(y for _, y in points)


def _image(dwords: Dwords, layout: Layout | None, pixel_size: int) -> tuple[int, int]:
    """Where in a surface an image of a mipmap or an array begins, in pixels (Mesa's ``isl``: level
    1 below level 0, the others to the right of it, and each layer QPitch rows below the last)."""
    if not dwords:
        return 0, 0
    size, levels, alignment = dwords
    kind, level, layer = _bits(size, 31, 29), _bits(levels, 3, 0), _bits(alignment, 31, 21)
    tile64_used = layout is not None and layout.columns > 1
    if kind == SURFTYPE_3D and tile64_used:
        raise GpuHang("3D surfaces in Tile64 are not modelled")
    if not level and not layer:
        return 0, 0
    if kind not in (SURFTYPE_2D, SURFTYPE_3D, SURFTYPE_CUBE):
        raise GpuHang(f"surface type {kind} has neither levels nor layers here")
    if tile64_used and level and level >= _bits(alignment, 11, 8):
        raise GpuHang("the tail of a mipmap is not modelled")
    x, y = _level(size, level, _alignment(alignment, layout, pixel_size))
    return x, y + layer * _bits(levels, 18, 4) * 4


def _alignment(dword: int, layout: Layout | None, pixel_size: int) -> tuple[int, int]:
    """Images begin at multiples of this, in pixels."""
    if layout is not None and layout.columns > 1:
        return layout.tile_width // pixel_size, layout.tile_height
    return max((16 << _bits(dword, 1, 0)) // pixel_size, 1), VALIGN[_bits(dword, 4, 3)]


def _level(size: int, level: int, alignment: tuple[int, int]) -> tuple[int, int]:
    width, height = _bits(size, 27, 14) + 1, _bits(size, 13, 0) + 1
    x = y = 0
    for above in range(level):
        if above == 1:
            x += _align(max(width >> above, 1), alignment[0])
        else:
            y += _align(max(height >> above, 1), alignment[1])
    return x, y


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _xy_ctrl_surf_copy_blt(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
    """Copy compression metadata, of which there is none: that of a surface (indirect access) reads
    as zeros, which say that nothing is compressed, and takes no writes.  The size is Xe2's."""
    size = (_bits(dwords[0], 18, 9) + 1) * CCS_BLOCK
    source, target = (_address(dwords, index) & (1 << 57) - 1 for index in (1, 3))
    source_direct, target_direct = _bits(dwords[0], 21, 21), _bits(dwords[0], 20, 20)
    if source_direct and target_direct:
        copy_run(memory, port, target, source, size)
    elif target_direct:
        memory.fill(target, bytes(CCS_BLOCK), size)
    elif source_direct:
        memory.read(source, size)


def _command(name: str, lengths: tuple[int, ...], execute: Execute) -> BlitterCommand:
    def checked(dwords: Dwords, memory: GpuMemory, port: EnginePort) -> None:
        if port.engine_class != xe_drm.DRM_XE_ENGINE_CLASS_COPY:
            raise GpuHang(f"{name} on an engine of class {port.engine_class}")
        if len(dwords) not in lengths:
            raise GpuHang(f"{name} of {len(dwords)} dwords")
        execute(dwords, memory, port)

    return BlitterCommand(name, checked)


BLITTER_COMMANDS: dict[int, BlitterCommand] = {
    0x41: _command("XY_BLOCK_COPY_BLT", (12, 22), _xy_block_copy_blt),
    0x42: _command("XY_FAST_COPY_BLT", (10,), _xy_fast_copy_blt),
    0x44: _command("XY_FAST_COLOR_BLT", (11, 16), _xy_fast_color_blt),
    0x48: _command("XY_CTRL_SURF_COPY_BLT", (5,), _xy_ctrl_surf_copy_blt),
    0x5A: _command("MEM_COPY", (10,), _mem_copy),
    0x5B: _command("MEM_SET", (7,), _mem_set),
}
