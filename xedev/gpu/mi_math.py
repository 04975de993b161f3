"""MI_MATH: the small arithmetic unit of a command streamer, on 64-bit registers.

A word is opcode 31:20, operand1 19:10, operand2 9:0 (i915 gt/intel_gpu_commands.h).  LOADIND and
STOREIND reach memory at an address in a register, shifts and flags are as Mesa's mi_builder.h uses
them: a stored flag is 0 or all ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from xedev.gpu.ports import GpuHang, GpuMemory

__all__ = ("run_math",)

_ONES: Final = 0xFFFF_FFFF_FFFF_FFFF
_SRCA: Final = 0x20
_SRCB: Final = 0x21
_ACCU: Final = 0x31
_ZF: Final = 0x32
_CF: Final = 0x33
_GPRS: Final = 16
_LOADABLE: Final = frozenset({_SRCA, _SRCB})
_STORABLE: Final = frozenset({_ACCU, _ZF, _CF})


@dataclass(slots=True)
class _Alu:
    """The unit during one MI_MATH; ``values`` are its own registers by operand number."""

    gpr: list[int]
    memory: GpuMemory
    values: dict[int, int]

    def read(self, operand: int) -> int:
        if operand < _GPRS:
            return self.gpr[operand]
        if operand in _STORABLE:
            return self.values[operand]
        raise GpuHang(f"MI_MATH: operand {operand:#x} cannot be read")

    def write(self, operand: int, value: int) -> None:
        if operand >= _GPRS:
            raise GpuHang(f"MI_MATH: operand {operand:#x} cannot be stored to")
        self.gpr[operand] = value

    def load(self, operand: int, value: int) -> None:
        if operand not in _LOADABLE:
            raise GpuHang(f"MI_MATH: operand {operand:#x} cannot be loaded")
        self.values[operand] = value

    def finish(self, value: int, *, carry: bool = False) -> None:
        """The result of arithmetic, and its flags."""
        value &= _ONES
        self.values[_ACCU] = value
        self.values[_ZF] = 0 if value else _ONES
        self.values[_CF] = _ONES if carry else 0


def run_math(words: Iterable[int], gpr: list[int], memory: GpuMemory) -> None:
    """Execute the words one after the other; `GpuHang` for one that means nothing."""
    alu = _Alu(gpr, memory, dict.fromkeys((_SRCA, _SRCB, _ACCU, _ZF, _CF), 0))
    for word in words:
        operation = _OPERATIONS.get(word >> 20)
        if operation is None:
            raise GpuHang(f"MI_MATH: unknown opcode {word >> 20:#x}")
        operation(alu, word >> 10 & 0x3FF, word & 0x3FF)


def _nothing(alu: _Alu, op1: int, op2: int) -> None:
    """NOOP, FENCE_RD, FENCE_WR: all is in order here."""


def _load(alu: _Alu, op1: int, op2: int) -> None:
    alu.load(op1, alu.read(op2))


def _loadinv(alu: _Alu, op1: int, op2: int) -> None:
    alu.load(op1, alu.read(op2) ^ _ONES)


def _load0(alu: _Alu, op1: int, op2: int) -> None:
    alu.load(op1, 0)


def _load1(alu: _Alu, op1: int, op2: int) -> None:
    alu.load(op1, _ONES)


def _loadind(alu: _Alu, op1: int, op2: int) -> None:
    alu.write(op1, int.from_bytes(alu.memory.read(alu.read(op2), 8), "little"))


def _store(alu: _Alu, op1: int, op2: int) -> None:
    alu.write(op1, alu.read(op2))


def _storeinv(alu: _Alu, op1: int, op2: int) -> None:
    alu.write(op1, alu.read(op2) ^ _ONES)


def _storeind(alu: _Alu, op1: int, op2: int) -> None:
    alu.memory.write(alu.read(op1), alu.read(op2).to_bytes(8, "little"))


def _add(alu: _Alu, op1: int, op2: int) -> None:
    total = alu.values[_SRCA] + alu.values[_SRCB]
    alu.finish(total, carry=total > _ONES)


def _sub(alu: _Alu, op1: int, op2: int) -> None:
    difference = alu.values[_SRCA] - alu.values[_SRCB]
    alu.finish(difference, carry=difference < 0)


def _and(alu: _Alu, op1: int, op2: int) -> None:
    alu.finish(alu.values[_SRCA] & alu.values[_SRCB])


def _or(alu: _Alu, op1: int, op2: int) -> None:
    alu.finish(alu.values[_SRCA] | alu.values[_SRCB])


def _xor(alu: _Alu, op1: int, op2: int) -> None:
    alu.finish(alu.values[_SRCA] ^ alu.values[_SRCB])


def _shl(alu: _Alu, op1: int, op2: int) -> None:
    alu.finish(alu.values[_SRCA] << min(alu.values[_SRCB], 64))


def _shr(alu: _Alu, op1: int, op2: int) -> None:
    alu.finish(alu.values[_SRCA] >> min(alu.values[_SRCB], 64))


def _sar(alu: _Alu, op1: int, op2: int) -> None:
    value = alu.values[_SRCA]
    signed = value - (1 << 64) if value >> 63 else value
    alu.finish(signed >> min(alu.values[_SRCB], 64))


_OPERATIONS: Final[dict[int, Callable[[_Alu, int, int], None]]] = {
    0x000: _nothing,
    0x001: _nothing,
    0x002: _nothing,
    0x080: _load,
    0x480: _loadinv,
    0x081: _load0,
    0x481: _load1,
    0x082: _loadind,
    0x100: _add,
    0x101: _sub,
    0x102: _and,
    0x103: _or,
    0x104: _xor,
    0x105: _shl,
    0x106: _shr,
    0x107: _sar,
    0x180: _store,
    0x580: _storeinv,
    0x181: _storeind,
}
