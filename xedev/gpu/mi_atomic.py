"""MI_ATOMIC: one word of memory is read, changed and written with nobody in between.

The opcode is in bits 15:8 of the header; 0x20 in it makes words of 64 bits of those of 32.  The
operands follow the address, dwords of the first and the second by turns, or without inline data
(bit 18) are in GPR0 and GPR2; with bit 16 the old value goes to GPR4.  (Intel's media-driver and
compute-runtime; the opcodes that those do not list are from the hardware's public manuals.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from xedev.gpu.command import Dwords, dword_address, no_ggtt
from xedev.gpu.ports import GpuHang

if TYPE_CHECKING:
    from xedev.gpu.command_streamer import CommandStreamer

__all__ = ("atomic",)

_RETURN_DATA: Final = 1 << 16
_INLINE_DATA: Final = 1 << 18
_OPCODE_64: Final = 0x20

Operation = Callable[[int, int, int, int], int]
"""``(old, operand1, operand2, bits)``: the new value, of which the lowest ``bits`` count."""


def atomic(streamer: CommandStreamer, dwords: Dwords) -> None:
    """Execute one MI_ATOMIC; `GpuHang` for an operation that there is not."""
    header = dwords[0]
    no_ggtt(header)
    opcode = header >> 8 & 0xFF
    operation = _OPERATIONS.get(opcode & ~_OPCODE_64)
    if operation is None:
        raise GpuHang(f"MI_ATOMIC: unknown operation {opcode:#x}")
    bits = 64 if opcode & _OPCODE_64 else 32
    mask = (1 << bits) - 1
    operand1, operand2 = (operand & mask for operand in _operands(streamer, dwords))

    def change(old: int) -> int:
        return operation(old, operand1, operand2, bits) & mask

    old = streamer.memory.update(dword_address(dwords, 1), bits // 8, change)
    if header & _RETURN_DATA:
        gpr = streamer.context.gpr
        gpr[4] = gpr[4] & ~mask | old


def _operands(streamer: CommandStreamer, dwords: Dwords) -> tuple[int, int]:
    if not dwords[0] & _INLINE_DATA:
        return streamer.context.gpr[0], streamer.context.gpr[2]
    data = (*dwords[3:7], 0, 0, 0, 0)
    return data[0] | data[2] << 32, data[1] | data[3] << 32


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 else value


_OPERATIONS: Final[dict[int, Operation]] = {
    0x01: lambda old, op1, op2, bits: old & op1,
    0x02: lambda old, op1, op2, bits: old | op1,
    0x03: lambda old, op1, op2, bits: old ^ op1,
    0x04: lambda old, op1, op2, bits: op1,
    0x05: lambda old, op1, op2, bits: old + 1,
    0x06: lambda old, op1, op2, bits: old - 1,
    0x07: lambda old, op1, op2, bits: old + op1,
    0x08: lambda old, op1, op2, bits: old - op1,
    0x09: lambda old, op1, op2, bits: op1 - old,
    0x0A: lambda old, op1, op2, bits: max(old, op1, key=lambda value: _signed(value, bits)),
    0x0B: lambda old, op1, op2, bits: min(old, op1, key=lambda value: _signed(value, bits)),
    0x0C: lambda old, op1, op2, bits: max(old, op1),
    0x0D: lambda old, op1, op2, bits: min(old, op1),
    0x0E: lambda old, op1, op2, bits: op2 if old == op1 else old,
}
"""AND, OR, XOR, MOVE, INC, DEC, ADD, SUB, RSUB, IMAX, IMIN, UMAX, UMIN, CMP_WR."""
