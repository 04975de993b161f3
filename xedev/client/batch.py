"""Batches of commands, put together command by command.

>>> batch = BatchBuilder().store_dword(0x1A0000, 42).end()
>>> batch.dwords
(268435458, 1703936, 0, 42, 83886080)

Addresses are the GPU's: 48 bits wide, or canonical (bit 47 repeated above), in which form they go
into the batch. Registers are offsets from the base of the engine that runs the batch, which is
what ``relative`` stands for; without it they are offsets in the whole device. A ValueError tells of
an argument that does not fit its field.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import chain
from typing import Final

__all__ = (
    "CTX_TIMESTAMP",
    "PREDICATE_RESULT_1",
    "RING_TIMESTAMP",
    "Alu",
    "AtomicOp",
    "BatchBuilder",
    "Compare",
    "gpr",
)

# --- registers -----------------------------------------------------------------------------

#: Ticks for which this context has been on an engine; its upper half is 4 further on.
CTX_TIMESTAMP: Final = 0x3A8
#: Ticks of the GT's clock; likewise.
RING_TIMESTAMP: Final = 0x358
PREDICATE_RESULT_1: Final = 0x41C

_GPRS = 16


def gpr(number: int) -> int:
    """The lower half of general-purpose register ``number``; the upper is 4 further on."""
    return 0x600 + 8 * _fitting(number, _GPRS, "general-purpose register")


# --- what operations there are -------------------------------------------------------------


class Compare(IntEnum):
    """How memory must relate to the value in the command, both as unsigned numbers."""

    GT = 0
    GTE = 1
    LT = 2
    LTE = 3
    EQ = 4
    NE = 5


class AtomicOp(IntEnum):
    """What MI_ATOMIC makes of the old value in memory and its operand."""

    AND = 0x1
    OR = 0x2
    XOR = 0x3
    MOVE = 0x4
    INC = 0x5
    DEC = 0x6
    ADD = 0x7
    SUB = 0x8
    IMAX = 0xA
    IMIN = 0xB
    UMAX = 0xC
    UMIN = 0xD
    COMPARE_WRITE = 0xE  # where memory is the first operand, it becomes the second


class Alu:
    """The words of MI_MATH. Numbers 0 to 15 are the general-purpose registers."""

    SRCA: Final = 0x20
    SRCB: Final = 0x21
    ACCU: Final = 0x31
    ZF: Final = 0x32
    CF: Final = 0x33

    # Words without operands: they take SRCA and SRCB, and set ACCU, ZF and CF.
    NOOP: Final = 0x000 << 20
    ADD: Final = 0x100 << 20
    SUB: Final = 0x101 << 20
    AND: Final = 0x102 << 20
    OR: Final = 0x103 << 20
    XOR: Final = 0x104 << 20
    SHL: Final = 0x105 << 20
    SHR: Final = 0x106 << 20
    SAR: Final = 0x107 << 20

    @staticmethod
    def load(target: int, source: int) -> int:
        """SRCA or SRCB becomes a register or flag."""
        return _alu(0x080, target, source)

    @staticmethod
    def loadinv(target: int, source: int) -> int:
        """The same with all bits turned."""
        return _alu(0x480, target, source)

    @staticmethod
    def load0(target: int) -> int:
        """SRCA or SRCB becomes 0."""
        return _alu(0x081, target, 0)

    @staticmethod
    def load1(target: int) -> int:
        """SRCA or SRCB becomes all ones."""
        return _alu(0x481, target, 0)

    @staticmethod
    def store(target: int, source: int) -> int:
        """A register becomes ACCU, ZF or CF."""
        return _alu(0x180, target, source)

    @staticmethod
    def storeinv(target: int, source: int) -> int:
        """The same with all bits turned."""
        return _alu(0x580, target, source)


_ALU_OPERANDS = frozenset({*range(_GPRS), Alu.SRCA, Alu.SRCB, Alu.ACCU, Alu.ZF, Alu.CF})


def _alu(opcode: int, operand1: int, operand2: int) -> int:
    for operand in (operand1, operand2):
        if operand not in _ALU_OPERANDS:
            raise ValueError(f"no ALU operand {operand:#x}")
    return opcode << 20 | operand1 << 10 | operand2


# --- headers and fields --------------------------------------------------------------------

_NOOP = 0
_ARB_CHECK = 0x0280_0000
_BATCH_BUFFER_END = 0x0500_0000
_MATH = 0x0D00_0000
_SEMAPHORE_WAIT = 0x0E00_0003  # with a dword for the token
_STORE_DATA_IMM = 0x1000_0000
_LOAD_REGISTER_IMM = 0x1100_0000
_STORE_REGISTER_MEM = 0x1200_0002
_FLUSH_DW = 0x1300_0003
_LOAD_REGISTER_MEM = 0x1480_0002
_LOAD_REGISTER_REG = 0x1500_0001
_COPY_MEM_MEM = 0x1700_0003
_ATOMIC = 0x1780_0001
_ATOMIC_INLINE = 0x1784_0009
_BATCH_BUFFER_START = 0x1880_0001
_CONDITIONAL_BATCH_BUFFER_END = 0x1B00_0002
_PIPE_CONTROL = 0x7A00_0004
_FAST_COPY = 0x5080_0008
_FAST_COLOR = 0x5100_000E
_MEM_COPY = 0x5680_0008
_MEM_SET = 0x56C0_0005

_STORE_QWORDS = 1 << 21
_RELATIVE = 1 << 19
_SOURCE_RELATIVE = 1 << 18
_POLL = 1 << 15
_DO_COMPARE = 1 << 21
_PPGTT = 1 << 8
_SECOND_LEVEL = 1 << 22
_ATOMIC_QWORD = 1 << 19
_ATOMIC_RETURN = 1 << 16
_QWORD_OPERATION = 0x20
_WRITE_VALUE = 1 << 14
_WRITE_TIMESTAMP = 3 << 14
_CS_STALL = 1 << 20
_PAGES = 1 << 19
_SYSTEM_MEMORY = 1 << 31
_SURFACE_2D = 1 << 29

#: Bits per pixel -> the code in XY_FAST_COPY, and in the other blits.
_COPY_DEPTH = {8: 0, 16: 1, 32: 3, 64: 4, 128: 5}
_COLOR_DEPTH = {8: 0, 16: 1, 32: 2, 64: 3, 96: 4, 128: 5}

_ADDRESS_BITS = 48
_REGISTERS = 1 << 23  # bytes of registers that a command can name
_PAGE = 256  # what MEM_COPY counts in when it does not count bytes
_LINEAR_MAX = 1 << 18  # bytes that one MEM_COPY or MEM_SET of bytes can do
_PAGES_MAX = 1 << 24
_STORE_MAX = 0x3FE  # dwords that the length field of a store has room for
_MATH_MAX = 256
_COORDINATES = 1 << 15
_COLOR_SIDE = 1 << 14
_COPY_PITCH = 1 << 16
_COLOR_PITCH = 1 << 18


def _fitting(value: int, limit: int, what: str, multiple: int = 1) -> int:
    if not 0 <= value < limit or value % multiple:
        raise ValueError(f"{what} {value:#x}: below {limit:#x}, a multiple of {multiple}")
    return value


def _dword(value: int, what: str = "value") -> int:
    """A number of 32 bits; negative ones as two's complement."""
    if not -(1 << 31) <= value < 1 << 32:
        raise ValueError(f"{what} {value:#x} has more than 32 bits")
    return value & 0xFFFF_FFFF


def _qword(value: int) -> tuple[int, int]:
    """The halves of a number of 64 bits, lower first."""
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"value {value:#x} has more than 64 bits")
    return value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF


def _address(address: int, multiple: int = 4) -> tuple[int, int]:
    """The halves of an address in canonical form."""
    upper = address >> (_ADDRESS_BITS - 1)
    if upper not in (0, 1, (1 << 17) - 1):
        raise ValueError(f"address {address:#x} is neither canonical nor of 48 bits")
    if address % multiple:
        raise ValueError(f"address {address:#x} is no multiple of {multiple}")
    return _qword(address | (0xFFFF << _ADDRESS_BITS if upper else 0))


def _register(offset: int) -> int:
    return _fitting(offset, _REGISTERS, "register", 4)


def _pieces(length: int, size: int) -> Iterable[tuple[int, int]]:
    """Offset and length of the pieces of at most ``size`` that make up ``length``."""
    return ((at, min(size, length - at)) for at in range(0, length, size))


class BatchBuilder:
    """A batch that grows by a command with each call; calls can be chained.

    With ``address``, where the batch will stand, it knows where it is (`here`), so that it can
    jump within itself. `bytes` of it is what has to stand there; `len` counts bytes.
    """

    def __init__(self, address: int | None = None) -> None:
        if address is not None:
            _address(address)
        self._base = address
        self._dwords: list[int] = []

    # --- what has been built --------------------------------------------------------------

    def __bytes__(self) -> bytes:
        return struct.pack(f"<{len(self._dwords)}I", *self._dwords)

    def __len__(self) -> int:
        return 4 * len(self._dwords)

    @property
    def dwords(self) -> tuple[int, ...]:
        """The batch in words of 32 bits."""
        return tuple(self._dwords)

    @property
    def address(self) -> int:
        """Where the batch will stand; ValueError when nobody said so."""
        if self._base is None:
            raise ValueError("the batch was not told its address")
        return self._base

    @property
    def here(self) -> int:
        """Where the next command will stand; ValueError as for `address`."""
        return self.address + len(self)

    def dword(self, *raw: int) -> BatchBuilder:
        """Append words as they are."""
        # Checked before the first is kept: a refused command leaves no half of it.
        self._dwords.extend([_dword(word, "word") for word in raw])
        return self

    # --- control --------------------------------------------------------------------------

    def noop(self, count: int = 1) -> BatchBuilder:
        """Do nothing, ``count`` times (MI_NOOP)."""
        if count < 0:
            raise ValueError(f"{count} commands")
        return self.dword(*[_NOOP] * count)

    def arb_check(self) -> BatchBuilder:
        """Let another context have the engine (MI_ARB_CHECK)."""
        return self.dword(_ARB_CHECK)

    def end(self) -> BatchBuilder:
        """End the batch, or return to where it was called (MI_BATCH_BUFFER_END)."""
        return self.dword(_BATCH_BUFFER_END)

    def jump(self, address: int) -> BatchBuilder:
        """Go on at ``address`` (MI_BATCH_BUFFER_START)."""
        return self.dword(_BATCH_BUFFER_START | _PPGTT, *_address(address))

    def call(self, address: int) -> BatchBuilder:
        """Run what stands at ``address`` up to its `end`, then go on here. One level only."""
        return self.dword(_BATCH_BUFFER_START | _PPGTT | _SECOND_LEVEL, *_address(address))

    def conditional_end(self, address: int, value: int, op: Compare) -> BatchBuilder:
        """Go on while the dword in memory relates to ``value`` as ``op`` says, otherwise end
        (MI_CONDITIONAL_BATCH_BUFFER_END)."""
        header = _CONDITIONAL_BATCH_BUFFER_END | _DO_COMPARE | Compare(op) << 12
        return self.dword(header, _dword(value), *_address(address))

    def semaphore_wait(
        self, address: int, value: int, op: Compare = Compare.EQ, *, poll: bool = True
    ) -> BatchBuilder:
        """Wait until the dword in memory relates to ``value`` as ``op`` says
        (MI_SEMAPHORE_WAIT).

        Without ``poll`` the engine waits for a signal from another, which mere stores are not.
        """
        header = _SEMAPHORE_WAIT | (_POLL if poll else 0) | Compare(op) << 12
        return self.dword(header, _dword(value), *_address(address), 0)

    # --- memory ---------------------------------------------------------------------------

    def store_dword(self, address: int, value: int, *more: int) -> BatchBuilder:
        """Store dwords from ``address`` on (MI_STORE_DATA_IMM)."""
        data = [_dword(item) for item in (value, *more)]
        return self._store(0, _address(address), data)

    def store_qword(self, address: int, value: int, *more: int) -> BatchBuilder:
        """Store qwords from ``address`` on (MI_STORE_DATA_IMM)."""
        data = list(chain.from_iterable(_qword(item) for item in (value, *more)))
        return self._store(_STORE_QWORDS, _address(address, 8), data)

    def _store(self, flags: int, address: tuple[int, int], data: Sequence[int]) -> BatchBuilder:
        if len(data) > _STORE_MAX:
            raise ValueError(f"{len(data)} dwords in one store, at most {_STORE_MAX}")
        return self.dword(_STORE_DATA_IMM | flags | len(data) + 1, *address, *data)

    def copy_dword(self, target: int, source: int) -> BatchBuilder:
        """Copy a dword (MI_COPY_MEM_MEM)."""
        return self.dword(_COPY_MEM_MEM, *_address(target), *_address(source))

    def atomic(
        self,
        op: AtomicOp,
        address: int,
        operand: int | None = None,
        operand2: int = 0,
        *,
        qword: bool = False,
        to_gpr: bool = False,
    ) -> BatchBuilder:
        """Change memory in one go (MI_ATOMIC): a dword, or with ``qword`` eight bytes.

        Without ``operand`` the operands are general-purpose registers 0 and 2. ``to_gpr``: the
        old value goes to register 4.
        """
        code = AtomicOp(op) | (_QWORD_OPERATION if qword else 0)
        flags = code << 8 | (_ATOMIC_QWORD if qword else 0) | (_ATOMIC_RETURN if to_gpr else 0)
        where = _address(address, 8 if qword else 4)
        if operand is None:
            return self.dword(_ATOMIC | flags, *where)
        halves = [_qword(item) if qword else (_dword(item), 0) for item in (operand, operand2)]
        # The dwords of the two take turns, and there is room for four of each.
        words = [*chain.from_iterable(zip(*halves, strict=True)), 0, 0, 0, 0]
        return self.dword(_ATOMIC_INLINE | flags, *where, *words)

    def atomic_inc(self, address: int, *, qword: bool = False) -> BatchBuilder:
        """Add one (MI_ATOMIC)."""
        return self.atomic(AtomicOp.INC, address, qword=qword)

    def atomic_dec(self, address: int, *, qword: bool = False) -> BatchBuilder:
        """Take one off (MI_ATOMIC)."""
        return self.atomic(AtomicOp.DEC, address, qword=qword)

    # --- registers ------------------------------------------------------------------------

    def load_register_imm(
        self, register: int, value: int, *, relative: bool = True
    ) -> BatchBuilder:
        """Set a register (MI_LOAD_REGISTER_IMM)."""
        return self.load_registers_imm([(register, value)], relative=relative)

    def load_registers_imm(
        self, pairs: Sequence[tuple[int, int]], *, relative: bool = True
    ) -> BatchBuilder:
        """Set up to 128 registers, pairs of register and value (MI_LOAD_REGISTER_IMM)."""
        if not 1 <= len(pairs) <= 128:
            raise ValueError(f"{len(pairs)} registers in one command")
        header = _LOAD_REGISTER_IMM | 2 * len(pairs) - 1 | (_RELATIVE if relative else 0)
        words = chain.from_iterable((_register(at), _dword(value)) for at, value in pairs)
        return self.dword(header, *words)

    def load_gpr(self, number: int, value: int) -> BatchBuilder:
        """Set all 64 bits of a general-purpose register (MI_LOAD_REGISTER_IMM)."""
        lower, upper = _qword(value)
        return self.load_registers_imm([(gpr(number), lower), (gpr(number) + 4, upper)])

    def load_register_reg(self, target: int, source: int, *, relative: bool = True) -> BatchBuilder:
        """Copy a register (MI_LOAD_REGISTER_REG)."""
        header = _LOAD_REGISTER_REG | (_RELATIVE | _SOURCE_RELATIVE if relative else 0)
        return self.dword(header, _register(source), _register(target))

    def load_register_mem(
        self, register: int, address: int, *, relative: bool = True
    ) -> BatchBuilder:
        """Set a register to a dword in memory (MI_LOAD_REGISTER_MEM)."""
        header = _LOAD_REGISTER_MEM | (_RELATIVE if relative else 0)
        return self.dword(header, _register(register), *_address(address))

    def store_register_mem(
        self, register: int, address: int, *, relative: bool = True
    ) -> BatchBuilder:
        """Store a register (MI_STORE_REGISTER_MEM)."""
        header = _STORE_REGISTER_MEM | (_RELATIVE if relative else 0)
        return self.dword(header, _register(register), *_address(address))

    def math(self, *words: int) -> BatchBuilder:
        """Compute with the general-purpose registers (MI_MATH); ``words`` are made by `Alu`."""
        if not 1 <= len(words) <= _MATH_MAX:
            raise ValueError(f"{len(words)} words, 1 to {_MATH_MAX}")
        return self.dword(_MATH | len(words) - 1, *words)

    # --- flushes --------------------------------------------------------------------------

    def flush_dw(
        self, address: int | None = None, value: int | None = None, *, timestamp: bool = False
    ) -> BatchBuilder:
        """Wait for what was written, then store the qword ``value`` or the time (MI_FLUSH_DW).

        Not for render and compute engines, which have `pipe_control`.
        """
        operation, where, data = _post_sync(address, value, timestamp)
        return self.dword(_FLUSH_DW | operation, *where, *data)

    def pipe_control(
        self, address: int | None = None, value: int | None = None, *, timestamp: bool = False
    ) -> BatchBuilder:
        """Wait for what came before, then store the qword ``value`` or the time (PIPE_CONTROL).

        For render and compute engines.
        """
        operation, where, data = _post_sync(address, value, timestamp)
        return self.dword(_PIPE_CONTROL, operation | _CS_STALL, *where, *data)

    # --- copy engines ---------------------------------------------------------------------

    def mem_copy(self, target: int, source: int, length: int) -> BatchBuilder:
        """Copy ``length`` bytes between ranges that do not overlap (MEM_COPY).

        One command does 256 KiB, or 4 GiB where everything is a multiple of 256; more become
        several commands.
        """
        _positive(length)
        pages = length > _LINEAR_MAX and not (target | source | length) % _PAGE
        unit, most = (_PAGE, _PAGES_MAX) if pages else (1, _LINEAR_MAX)
        header = _MEM_COPY | (_PAGES if pages else 0)
        words: list[int] = []
        for at, size in _pieces(length, unit * most):
            places = (*_address(source + at, 1), *_address(target + at, 1))
            words += [header, size // unit - 1, 0, 0, 0, *places, 0]
        return self.dword(*words)

    def mem_set(self, target: int, byte: int, length: int) -> BatchBuilder:
        """Fill ``length`` bytes with ``byte`` (MEM_SET); one command for every 256 KiB."""
        _positive(length)
        fill = _fitting(byte, 1 << 8, "byte") << 24
        words: list[int] = []
        for at, size in _pieces(length, _LINEAR_MAX):
            words += [_MEM_SET, size - 1, 0, 0, *_address(target + at, 1), fill]
        return self.dword(*words)

    def fast_copy(
        self,
        target: int,
        source: int,
        width: int,
        height: int,
        *,
        target_pitch: int,
        source_pitch: int,
        bpp: int = 32,
    ) -> BatchBuilder:
        """Copy a rectangle of pixels between linear surfaces (XY_FAST_COPY_BLT).

        ``width`` and ``height`` are pixels of ``bpp`` bits, pitches bytes from line to line.
        """
        code, size = _depth(_COPY_DEPTH, bpp)
        for pitch in (target_pitch, source_pitch):
            _pitch(pitch, width * size, _COPY_PITCH, size)
        return self.dword(
            _FAST_COPY,
            code << 24 | target_pitch,
            0,
            _corner(width, height, _COORDINATES),
            *_address(target, size),
            0,
            source_pitch,
            *_address(source, size),
        )

    def fast_color(
        self,
        target: int,
        width: int,
        height: int,
        *,
        pitch: int,
        color: int,
        bpp: int = 32,
        system: bool = False,
    ) -> BatchBuilder:
        """Fill a rectangle of pixels of a linear surface (XY_FAST_COLOR_BLT).

        Units as with `fast_copy`; ``color`` has ``bpp`` bits. ``system``: the surface is in
        system memory.
        """
        code, size = _depth(_COLOR_DEPTH, bpp)
        _pitch(pitch, width * size, _COLOR_PITCH + 1, size)
        corner = _corner(width, height, _COLOR_SIDE + 1)
        _fitting(color, 1 << bpp, "color")
        return self.dword(
            _FAST_COLOR | code << 19,
            pitch - 1,
            0,
            corner,
            *_address(target, size),
            _SYSTEM_MEMORY if system else 0,
            *(color >> shift & 0xFFFF_FFFF for shift in (0, 32, 64, 96)),
            0,
            0,
            _SURFACE_2D | (width - 1) << 14 | height - 1,
            0,
            0,
        )


# --- fields of several commands ------------------------------------------------------------


def _post_sync(
    address: int | None, value: int | None, timestamp: bool
) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """The operation that stores something after a flush, its address and its data."""
    if value is not None and timestamp:
        raise ValueError("either a value or the time is stored")
    if (address is None) != (value is None and not timestamp):
        raise ValueError("an address, and what is stored there, go together")
    if address is None:
        return 0, (0, 0), (0, 0)
    operation = _WRITE_TIMESTAMP if value is None else _WRITE_VALUE
    return operation, _address(address, 8), _qword(value or 0)


def _positive(length: int) -> None:
    if length < 1:
        raise ValueError(f"{length} bytes")


def _depth(codes: dict[int, int], bpp: int) -> tuple[int, int]:
    """The code of a pixel size, and the size in bytes."""
    if bpp not in codes:
        raise ValueError(f"{bpp} bits per pixel, not one of {sorted(codes)}")
    return codes[bpp], bpp // 8


def _pitch(pitch: int, line: int, limit: int, pixel: int) -> None:
    _fitting(pitch, limit, "pitch", pixel)
    if pitch < line:
        raise ValueError(f"pitch {pitch}: a line has {line} bytes")


def _corner(width: int, height: int, limit: int) -> int:
    """Where a rectangle from 0, 0 on ends."""
    if not 0 < width < limit or not 0 < height < limit:
        raise ValueError(f"{width} times {height} pixels, less than {limit} each")
    return height << 16 | width
