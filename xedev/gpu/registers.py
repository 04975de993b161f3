"""The registers that a batch can reach, by their offsets from the engine's base.

Sources: i915 gt/intel_engine_regs.h, xe regs/xe_engine_regs.h; Mesa's genxml for those of the
render engine.  Whatever is not listed reads as 0, and writes to it are dropped, as on the hardware
for registers that are not whitelisted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from uapi import xe_drm
from xedev.gpu.context import Context
from xedev.gpu.ports import EnginePort

__all__ = (
    "CLOCKS",
    "MI_PREDICATE_DATA",
    "MI_PREDICATE_RESULT",
    "MI_PREDICATE_RESULT_2",
    "MI_PREDICATE_SRC0",
    "MI_PREDICATE_SRC1",
    "NOPID",
    "engine_offset",
    "read_qword",
    "read_register",
    "write_register",
)

CS_GPR: Final = 0x600
_CS_GPR_END: Final = CS_GPR + 16 * 8
NOPID: Final = 0x94
RING_BBADDR: Final = 0x140
RING_BBADDR_UDW: Final = 0x168
BCS_SWCTRL: Final = 0x200
_MI_PREDICATE_RESULT_2_RENDER: Final = 0x214
RING_TIMESTAMP: Final = 0x358
CTX_TIMESTAMP: Final = 0x3A8
MI_PREDICATE_RESULT_2: Final = 0x3BC
MI_PREDICATE_SRC0: Final = 0x400
MI_PREDICATE_SRC1: Final = 0x408
MI_PREDICATE_DATA: Final = 0x410
MI_PREDICATE_RESULT: Final = 0x418
MI_PREDICATE_RESULT_1: Final = 0x41C
QUEUE_TIMESTAMP: Final = 0x4C0

_ALIASES: Final = {_MI_PREDICATE_RESULT_2_RENDER: MI_PREDICATE_RESULT_2}
_MASKED: Final = frozenset({BCS_SWCTRL})
"""The upper half of what is written says which bits of the lower half count."""

_PLAIN: Final = frozenset(
    {
        BCS_SWCTRL,
        0x3B8,  # RING_PREDICATE_RESULT
        MI_PREDICATE_RESULT_2,
        *range(MI_PREDICATE_SRC0, MI_PREDICATE_RESULT_1 + 4, 4),
        *range(0x420, 0x444, 4),  # 3DPRIM_*: what an indirect draw takes
        *range(0x500, 0x50C, 4),  # GPGPU_DISPATCHDIM*
    }
)
"""Storage and nothing else."""

CLOCKS: Final[dict[int, tuple[Callable[[EnginePort], int], int]]] = {
    RING_TIMESTAMP: (lambda port: port.timestamp(), 0),
    RING_TIMESTAMP + 4: (lambda port: port.timestamp(), 32),
    CTX_TIMESTAMP: (lambda port: port.context_timestamp(), 0),
    CTX_TIMESTAMP + 4: (lambda port: port.context_timestamp(), 32),
    QUEUE_TIMESTAMP: (lambda port: port.context_timestamp(), 0),
    QUEUE_TIMESTAMP + 4: (lambda port: port.context_timestamp(), 32),
}
"""Who tells the time, and from which bit on."""

_SPACE: Final = 0x1000
_FIRST_OF_CLASS: Final = {
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: 0x2000,
    xe_drm.DRM_XE_ENGINE_CLASS_COPY: 0x22000,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: 0x1C0000,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: 0x1C8000,
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: 0x2000,
}
"""What MMIO remapping takes for the engine that runs the batch; compute poses as render."""


def engine_offset(port: EnginePort, operand: int, *, relative: bool, remapped: bool) -> int:
    """The offset from this engine's base of a register operand, -1 for another's register.

    ``relative`` is the header's "add CS MMIO start offset", ``remapped`` its "MMIO remap enable".
    """
    offset = operand & 0x7F_FFFC
    if relative:
        return offset if offset < _SPACE else -1
    own = offset - port.mmio_base
    if 0 <= own < _SPACE:
        return own
    remappable = offset - _FIRST_OF_CLASS.get(port.engine_class, 0)
    if remapped and 0 <= remappable < _SPACE:
        return remappable
    return -1


def read_register(context: Context, offset: int) -> int:
    """The 32 bits of a register that is no clock."""
    if CS_GPR <= offset < _CS_GPR_END:
        value = context.gpr[offset - CS_GPR >> 3]
        return value >> 32 if offset & 4 else value & 0xFFFF_FFFF
    if offset == RING_BBADDR:
        return context.address & 0xFFFF_FFFF
    if offset == RING_BBADDR_UDW:
        return context.address >> 32
    return context.registers.get(_ALIASES.get(offset, offset), 0)


def read_qword(context: Context, offset: int) -> int:
    """The 64 bits of a register and the one after it."""
    return read_register(context, offset) | read_register(context, offset + 4) << 32


def write_register(context: Context, offset: int, value: int) -> None:
    """Set 32 bits; nothing happens where a batch may not write."""
    if CS_GPR <= offset < _CS_GPR_END:
        index = offset - CS_GPR >> 3
        if offset & 4:
            context.gpr[index] = context.gpr[index] & 0xFFFF_FFFF | value << 32
        else:
            context.gpr[index] = context.gpr[index] & ~0xFFFF_FFFF | value
        return
    offset = _ALIASES.get(offset, offset)
    if offset not in _PLAIN:
        return
    if offset in _MASKED:
        mask = value >> 16
        value = context.registers.get(offset, 0) & ~mask | value & mask
    context.registers[offset] = value
