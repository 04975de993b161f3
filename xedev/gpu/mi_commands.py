"""MI commands: those that every engine knows (bits 31:29 of the header are 0, 28:23 the opcode).

Encodings: xe instructions/xe_mi_commands.h, i915 gt/intel_gpu_commands.h.  Fields that these do not
name were looked up: MI_CONDITIONAL_BATCH_BUFFER_END (compare mask, which levels end), MI_ATOMIC
(operands, returned data), MI_SET_PREDICATE, MI_SEMAPHORE_WAIT and MI_LOAD_REGISTER_REG in Intel's
media-driver (mhw_mi_hwcmd) and compute-runtime, MI_PREDICATE in Mesa's iris_defines.h.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import eq, ge, gt, le, lt, ne
from struct import Struct, pack
from typing import TYPE_CHECKING, Final

from uapi import xe_drm
from xedev.gpu import registers
from xedev.gpu.command import Command, Dwords, dword_address, no_ggtt, skip
from xedev.gpu.mi_atomic import atomic
from xedev.gpu.mi_math import run_math
from xedev.gpu.ports import GpuHang, Watch

if TYPE_CHECKING:
    from xedev.gpu.command_streamer import CommandStreamer

__all__ = ("MI_COMMANDS",)

_DWORD: Final = Struct("<I")
_QWORD: Final = Struct("<Q")
_TWO_DWORDS: Final = Struct("<II")

_GGTT: Final = 1 << 22
_PREDICATE: Final = 1 << 15
"""Of commands that begin and end batches."""
_RELATIVE: Final = 1 << 19
_REMAPPED: Final = 1 << 17
_SOURCE_RELATIVE: Final = 1 << 18
_SOURCE_REMAPPED: Final = 1 << 16
_STORE_QWORD: Final = 1 << 21
_SRM_PREDICATE: Final = 1 << 21
_COPY_TARGET_GGTT: Final = 1 << 21
_SECOND_LEVEL: Final = 1 << 22
_NOOP_WRITES_ID: Final = 1 << 22
_COMPARE: Final = 1 << 21
_COMPARE_MASKED: Final = 1 << 19
_END_THIS_LEVEL: Final = 1 << 18
_SEMAPHORE_POLL: Final = 1 << 15
_SEMAPHORE_REGISTER: Final = 1 << 16
_SEMAPHORE_INDIRECT: Final = 1 << 17
_FLUSH_STORE_INDEX: Final = 1 << 21
_FLUSH_GGTT: Final = 1 << 2
_REPORT_SIZE: Final = 256

_COMPARISONS: Final[dict[int, Callable[[int, int], bool]]] = {
    0: gt,
    1: ge,
    2: lt,
    3: le,
    4: eq,
    5: ne,
}
"""What is in memory against what is in the command."""


def _comparison(header: int) -> Callable[[int, int], bool]:
    found = _COMPARISONS.get(header >> 12 & 7)
    if found is None:
        raise GpuHang("reserved comparison")
    return found


# ---- one dword ----


def _noop(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_NOOP; bit 22: keep bits 21:0 in NOPID."""
    if dwords[0] & _NOOP_WRITES_ID:
        streamer.context.registers[registers.NOPID] = dwords[0] & 0x3F_FFFF


def _arb_check(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_ARB_CHECK: others may come first; the streamer sees to that with each fetch."""
    streamer.refetch()


def _batch_buffer_end(streamer: CommandStreamer, dwords: Dwords) -> int | None:
    """MI_BATCH_BUFFER_END; bit 15: unless MI_SET_PREDICATE forbids."""
    if dwords[0] & _PREDICATE and streamer.is_nooping:
        return None
    return streamer.end_level()


def _set_predicate(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_SET_PREDICATE: whether what follows is executed, by what the result is now.

    1 and 2: not if RESULT_2 is clear or set; 3 and 4: RESULT; 15: not at all; 11: not on render.
    """
    mode = dwords[0] & 0xF
    streamer.context.predicate_enable = mode
    streamer.set_nooping(_is_forbidden(streamer, mode))


def _is_forbidden(streamer: CommandStreamer, mode: int) -> bool:
    if mode in _PREDICATE_MODES:
        offset, forbidden = _PREDICATE_MODES[mode]
        return streamer.read_register(offset) & 1 == forbidden
    if mode == _NOOP_ON_RENDER:
        return streamer.port.engine_class == xe_drm.DRM_XE_ENGINE_CLASS_RENDER
    return mode == _NOOP_ALWAYS


_PREDICATE_MODES: Final = {
    1: (registers.MI_PREDICATE_RESULT_2, 0),
    2: (registers.MI_PREDICATE_RESULT_2, 1),
    3: (registers.MI_PREDICATE_RESULT, 0),
    4: (registers.MI_PREDICATE_RESULT, 1),
}
_NOOP_ON_RENDER: Final = 11
_NOOP_ALWAYS: Final = 15


def _predicate(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_PREDICATE: compare 1:0, combine 4:3 with the result so far, load 7:6."""
    context = streamer.context
    result = registers.read_register(context, registers.MI_PREDICATE_RESULT) & 1
    source0 = registers.read_qword(context, registers.MI_PREDICATE_SRC0)
    source1 = registers.read_qword(context, registers.MI_PREDICATE_SRC1)
    delta = source0 - source1 & 0xFFFF_FFFF_FFFF_FFFF
    is_delta = delta == registers.read_qword(context, registers.MI_PREDICATE_DATA)
    compared = (1, 0, int(source0 == source1), int(is_delta))[dwords[0] & 3]
    combined = (compared, result & compared, result | compared, result ^ compared)
    load = dwords[0] >> 6 & 3
    if load < 2:
        return
    value = combined[dwords[0] >> 3 & 3] ^ (load == 3)
    registers.write_register(context, registers.MI_PREDICATE_RESULT, value)


# ---- batches ----


def _batch_buffer_start(streamer: CommandStreamer, dwords: Dwords) -> int | None:
    """MI_BATCH_BUFFER_START: a jump, or with bit 22 a call; bit 15 as for the end."""
    if dwords[0] & _PREDICATE and streamer.is_nooping:
        return None
    target = dword_address(dwords, 1)
    if dwords[0] & _SECOND_LEVEL:
        return streamer.call(target, dwords)
    return streamer.jump(target, dwords)


def _prt_batch_buffer_start(streamer: CommandStreamer, dwords: Dwords) -> int:
    """MI_PRT_BATCH_BUFFER_START: a call."""
    return streamer.call(dword_address(dwords, 1), dwords)


def _conditional_batch_buffer_end(streamer: CommandStreamer, dwords: Dwords) -> int | None:
    """MI_CONDITIONAL_BATCH_BUFFER_END: go on if memory compares with the data, else end.

    Without bit 21 a NOOP.  All levels end, with bit 18 only this one.  Bit 19: in memory there is a
    mask before the data.
    """
    header, data = dwords[0], dwords[1]
    if not header & _COMPARE or (header & _PREDICATE and streamer.is_nooping):
        return None
    no_ggtt(header)
    compare = _comparison(header)
    address = dword_address(dwords, 2)
    if header & _COMPARE_MASKED:
        mask, value = _TWO_DWORDS.unpack(streamer.memory.read(address, 8))
        value &= mask
    else:
        (value,) = _DWORD.unpack(streamer.memory.read(address, 4))
    if compare(value, data):
        return None
    return streamer.end_level() if header & _END_THIS_LEVEL else streamer.end_all()


def _semaphore_wait(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_SEMAPHORE_WAIT: wait until memory compares with the data.

    Waiting for a signal (bit 15 clear) and polling are the same here.  Bit 16 with polling: the
    address is a register's; bit 17: the data is in GPR0.
    """
    header = dwords[0]
    compare = _comparison(header)
    data = streamer.context.gpr[0] & 0xFFFF_FFFF if header & _SEMAPHORE_INDIRECT else dwords[1]
    if header & _SEMAPHORE_REGISTER and header & _SEMAPHORE_POLL:
        offset = registers.engine_offset(streamer.port, dwords[2], relative=False, remapped=False)
        while not compare(streamer.read_register(offset), data):
            streamer.wait([])
        return
    no_ggtt(header)
    address = dword_address(dwords, 2)
    while True:
        seen = streamer.memory.read(address, 4)
        if compare(_DWORD.unpack(seen)[0], data):
            return
        streamer.wait([Watch(address, seen)])


# ---- memory ----


def _store_data_imm(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_STORE_DATA_IMM: dwords, or with bit 21 qwords, one after the other."""
    header = dwords[0]
    if header & _GGTT:
        no_ggtt(header)
    address = (dwords[1] | dwords[2] << 32) & ~3
    if len(dwords) == 4 and not header & _STORE_QWORD:
        streamer.memory.write(address, _DWORD.pack(dwords[3]))
        return
    data = dwords[3:]
    if header & _STORE_QWORD and len(data) % 2:
        raise GpuHang("MI_STORE_DATA_IMM: half a qword")
    streamer.memory.write(address, pack(f"<{len(data)}I", *data))


def _copy_mem_mem(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_COPY_MEM_MEM: one dword."""
    no_ggtt(dwords[0], _GGTT | _COPY_TARGET_GGTT)
    value = streamer.memory.read(dword_address(dwords, 3), 4)
    streamer.memory.write(dword_address(dwords, 1), value)


def _flush_dw(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_FLUSH_DW: a flush, and with post-sync 15:14 a store of the data (1) or the time (3)."""
    operation = dwords[0] >> 14 & 3
    if not operation:
        return
    no_ggtt(dwords[1], _FLUSH_GGTT)
    if dwords[0] & _FLUSH_STORE_INDEX:
        raise GpuHang("MI_FLUSH_DW: the status page in a batch of a user")
    address = dword_address(dwords, 1) & ~7
    if operation == 3:
        streamer.memory.write(address, _QWORD.pack(streamer.timestamp()))
    elif operation == 1 and len(dwords) > 3:
        data = dwords[3:5]
        streamer.memory.write(address, pack(f"<{len(data)}I", *data))
    else:
        raise GpuHang("MI_FLUSH_DW: reserved post-sync operation, or no data for it")


def _report_perf_count(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_REPORT_PERF_COUNT: no counter runs, so all is 0."""
    no_ggtt(dwords[1], 1)
    streamer.memory.write(dword_address(dwords, 1) & ~0x3F, bytes(_REPORT_SIZE))


# ---- registers ----


def _load_register_imm(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_LOAD_REGISTER_IMM: pairs of register and value."""
    for operand, value in zip(dwords[1::2], dwords[2::2], strict=False):
        registers.write_register(streamer.context, _register(streamer, dwords[0], operand), value)


def _load_register_mem(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_LOAD_REGISTER_MEM: 32 bits."""
    no_ggtt(dwords[0])
    (value,) = _DWORD.unpack(streamer.memory.read(dword_address(dwords, 2), 4))
    registers.write_register(streamer.context, _register(streamer, dwords[0], dwords[1]), value)


def _load_register_reg(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_LOAD_REGISTER_REG: source, then destination, each with its own flags."""
    header = dwords[0]
    source = registers.engine_offset(
        streamer.port,
        dwords[1],
        relative=bool(header & _SOURCE_RELATIVE),
        remapped=bool(header & _SOURCE_REMAPPED),
    )
    value = streamer.read_register(source)
    registers.write_register(streamer.context, _register(streamer, header, dwords[2]), value)


def _store_register_mem(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_STORE_REGISTER_MEM: 32 bits; bit 21: only if MI_PREDICATE_RESULT is set."""
    header = dwords[0]
    no_ggtt(header)
    if header & _SRM_PREDICATE and not streamer.read_register(registers.MI_PREDICATE_RESULT) & 1:
        return
    value = streamer.read_register(_register(streamer, header, dwords[1]))
    streamer.memory.write(dword_address(dwords, 2), _DWORD.pack(value))


def _register(streamer: CommandStreamer, header: int, operand: int) -> int:
    return registers.engine_offset(
        streamer.port,
        operand,
        relative=bool(header & _RELATIVE),
        remapped=bool(header & _REMAPPED),
    )


def _math(streamer: CommandStreamer, dwords: Dwords) -> None:
    """MI_MATH."""
    run_math(dwords[1:], streamer.context.gpr, streamer.memory)


def _one(name: str) -> Command:
    """A command of one dword that means nothing here."""
    return Command(name, skip, 0, 1)


MI_COMMANDS: Final[dict[int, Command]] = {
    0x00: Command("MI_NOOP", _noop, 0, 1),
    0x01: Command("MI_SET_PREDICATE", _set_predicate, 0, 1, is_exempt=True),
    0x02: _one("MI_USER_INTERRUPT"),
    0x05: Command("MI_ARB_CHECK", _arb_check, 0, 1),
    0x08: _one("MI_ARB_ON_OFF"),
    0x09: _one("MI_MEM_FENCE"),
    0x0A: Command("MI_BATCH_BUFFER_END", _batch_buffer_end, 0, 1, is_exempt=True),
    0x0C: Command("MI_PREDICATE", _predicate, 0, 1),
    0x0D: _one("MI_TOPOLOGY_FILTER"),
    0x0E: _one("MI_SET_APPID"),
    0x1A: Command("MI_MATH", _math, minimum=2),
    0x1B: Command("MI_SEMAPHORE_SIGNAL", skip, minimum=2),
    0x1C: Command("MI_SEMAPHORE_WAIT", _semaphore_wait, minimum=4),
    0x1D: Command("MI_FORCE_WAKEUP", skip, minimum=2),
    0x20: Command("MI_STORE_DATA_IMM", _store_data_imm, length_mask=0x3FF, minimum=4),
    0x22: Command("MI_LOAD_REGISTER_IMM", _load_register_imm, minimum=3),
    0x24: Command("MI_STORE_REGISTER_MEM", _store_register_mem, minimum=4),
    0x26: Command("MI_FLUSH_DW", _flush_dw, length_mask=0x3F, minimum=3),
    0x28: Command("MI_REPORT_PERF_COUNT", _report_perf_count, length_mask=0x3F, minimum=4),
    0x29: Command("MI_LOAD_REGISTER_MEM", _load_register_mem, minimum=4),
    0x2A: Command("MI_LOAD_REGISTER_REG", _load_register_reg, minimum=3),
    0x2E: Command("MI_COPY_MEM_MEM", _copy_mem_mem, minimum=5),
    0x2F: Command("MI_ATOMIC", atomic, minimum=3),
    0x31: Command("MI_BATCH_BUFFER_START", _batch_buffer_start, minimum=3, is_exempt=True),
    0x36: Command(
        "MI_CONDITIONAL_BATCH_BUFFER_END",
        _conditional_batch_buffer_end,
        minimum=4,
        is_exempt=True,
    ),
    0x39: Command("MI_PRT_BATCH_BUFFER_START", _prt_batch_buffer_start, 0, 3),
}
