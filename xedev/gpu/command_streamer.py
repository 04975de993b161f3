"""The command streamer: reads a batch and executes its commands.

Commands are fetched in blocks that end with their page, so that nothing is read that the batch may
not have, and that are given up at each jump, at each wait, and when the batch stores into them by
the address that it runs at.  What the CPU writes ahead of a batch is seen no later than that.
"""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import Final

from uapi import xe_drm
from xedev.gpu import registers
from xedev.gpu.blitter import BLITTER_COMMANDS, BlitterCommand
from xedev.gpu.command import END, Command, Dwords, hang, skip
from xedev.gpu.context import Context
from xedev.gpu.gfx_commands import decode_gfx
from xedev.gpu.loops import MAX_IDLE, BatchMemory, LoggedMemory, LoopLog
from xedev.gpu.mi_commands import MI_COMMANDS
from xedev.gpu.ports import EnginePort, GpuHang, GpuMemory, Watch

__all__ = ("CommandStreamer",)

BLOCK: Final = 256
"""Bytes that are fetched at once."""
PAGE: Final = 4096
LEVELS: Final = 3
"""How deep batches may call each other."""
_ALIGNED: Final = 0xFFFF_FFFF_FFFF_FFFC
_BLOCKS: Final = tuple(Struct(f"<{dwords}I") for dwords in range(BLOCK // 4 + 1))


class CommandStreamer:
    """The part of an engine that reads commands, for one context."""

    def __init__(self, context: Context, memory: GpuMemory, port: EnginePort) -> None:
        self.context = context
        self.port = port
        self.log = LoopLog()
        self._raw_memory = memory
        self._plain = BatchMemory(memory)
        self._logged = LoggedMemory(memory, self.log)
        self.memory: BatchMemory = self._plain
        """What commands access."""
        self._all = _tables(port.engine_class)
        self._commands = self._all[False]
        self._block = b""
        self._block_start = 0

    def run(self, address: int) -> None:
        """Execute the batch at an address until it ends; `GpuFault`, `GpuHang`."""
        self._begin()
        while address != END:
            address = self._run_block(address & _ALIGNED)

    @property
    def command_address(self) -> int:
        """Where the newest command is, or would be; 0 before the first."""
        context = self.context
        if context.fetching is not None:
            return context.fetching
        return context.recent[-1][0] if context.recent else 0

    def where(self) -> list[str]:
        """What the context was at, for people, the newest first."""
        context = self.context
        lines = []
        if context.fetching is not None:
            lines.append(f"fetching commands at {context.fetching:#x}")
        for number, (address, header) in enumerate(reversed(context.recent)):
            label = "after" if number or context.fetching is not None else "at"
            name = self._all[False][header >> 16].name
            lines.append(f"{label} {address:#x}: {header:#010x} {name}")
        lines.extend(f"called from before {address:#x}" for address in reversed(context.stack))
        return lines

    # ---- for commands ----

    def jump(self, target: int, dwords: Dwords) -> int:
        """Go on elsewhere, perhaps after a wait: the batch may be spinning."""
        self._log_code(self.context.address + 4 * len(dwords))
        place = (target, *self.context.stack)
        if target <= self.context.address or place in self.log.arrivals:
            self._arrive(place)
        return target

    def call(self, target: int, dwords: Dwords) -> int:
        """Run another batch, and go on after the command when it ends."""
        if len(self.context.stack) + 1 >= LEVELS:
            raise GpuHang(f"batches call each other more than {LEVELS} deep")
        after = self.context.address + 4 * len(dwords)
        self._log_code(after)
        self.context.stack.append(after)
        return target

    def end_level(self) -> int:
        """The batch of this level is at its end: go on in that which called it."""
        self._log_code(self.context.address + 4)
        stack = self.context.stack
        return stack.pop() if stack else END

    def end_all(self) -> int:
        """All levels are at their end."""
        self.context.stack.clear()
        return END

    def wait(self, watches: list[Watch]) -> None:
        """Have others run until one of the watches changes; what was fetched is old then."""
        self.port.wait(watches)
        self.refetch()

    def refetch(self) -> None:
        """The commands that follow may have changed."""
        self.memory.is_stale = True

    @property
    def is_nooping(self) -> bool:
        """Whether MI_SET_PREDICATE makes NOOPs of commands."""
        return self._commands is self._all[True]

    def set_nooping(self, nooping: bool) -> None:
        """From the next command on."""
        self._commands = self._all[nooping]
        self.refetch()

    def timestamp(self) -> int:
        """RING_TIMESTAMP, 64 bits."""
        self.log.clocks += 1
        return self.port.timestamp()

    def context_timestamp(self) -> int:
        """CTX_TIMESTAMP, 64 bits."""
        self.log.clocks += 1
        return self.port.context_timestamp()

    def read_register(self, offset: int) -> int:
        """32 bits; ``offset`` is from the engine's base."""
        clock = registers.CLOCKS.get(offset)
        if clock is None:
            return registers.read_register(self.context, offset)
        self.log.clocks += 1
        read, shift = clock
        return read(self.port) >> shift & 0xFFFF_FFFF

    # ---- the loop ----

    def _begin(self) -> None:
        context = self.context
        context.stack.clear()
        context.recent.clear()
        context.predicate_enable = 0
        self._commands = self._all[False]
        self._stop_logging()

    def _run_block(self, start: int) -> int:
        """Execute what one fetch brings; where to go on."""
        self.port.checkpoint()
        dwords = self._fetch(start, min(BLOCK, PAGE - start % PAGE))
        end = len(dwords)
        index = 0
        commands = self._commands
        memory = self.memory
        recent = self.context.recent.append
        while index < end:
            header = dwords[index]
            command = commands[header >> 16]
            following = index + (header & command.length_mask) + command.bias
            if following > end:
                if index:
                    break
                dwords = self._fetch(start, 4 * following)
                end = len(dwords)
                continue
            recent((start + 4 * index, header))
            if following - index < command.minimum:
                raise GpuHang(f"{command.name} of {following - index} dwords")
            target = command.execute(self, dwords[index:following])
            if target is not None:
                return target
            index = following
            if memory.is_stale:
                break
        self._log_code(start + 4 * index)
        return start + 4 * index

    def _fetch(self, start: int, length: int) -> Dwords:
        context = self.context
        context.fetching = start
        self._block = self._raw_memory.read(start, length)
        context.fetching = None
        self._block_start = start
        self.memory.set_block(start, length)
        count = length // 4
        return (_BLOCKS[count] if length <= BLOCK else Struct(f"<{count}I")).unpack(self._block)

    # ---- loops ----

    def _arrive(self, place: tuple[int, ...]) -> None:
        self.memory = self._logged
        state = (*self.context.registers_now(), self.is_nooping)
        watches = self.log.arrive(place, state)
        if watches is not None:
            self.port.spin(watches)

    def _log_code(self, end: int) -> None:
        """What was executed of the block, up to an address, is part of a loop if there is one."""
        log = self.log
        if self.memory is not self._logged:
            return
        log.saw(self._block_start, self._block[: end - self._block_start])
        log.idle += 1
        if log.idle > MAX_IDLE:
            self._stop_logging()

    def _stop_logging(self) -> None:
        self.log.forget()
        self.memory = self._plain


# ---- decoding ----


class _Table(dict[int, Command]):
    """The commands of a class of engines by the upper half of their headers, as they come up."""

    def __init__(self, engine_class: int) -> None:
        super().__init__()
        self._engine_class = engine_class

    def __missing__(self, upper: int) -> Command:
        command = self[upper] = _decode(upper << 16, self._engine_class)
        return command


class _NoopTable(dict[int, Command]):
    """The same while MI_SET_PREDICATE makes NOOPs of them."""

    def __init__(self, table: _Table) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, upper: int) -> Command:
        command = self._table[upper]
        if not command.is_exempt:
            command = replace(command, execute=skip)
        self[upper] = command
        return command


_TABLES: Final[dict[int, tuple[_Table, _NoopTable]]] = {}


def _tables(engine_class: int) -> tuple[dict[int, Command], dict[int, Command]]:
    if engine_class not in _TABLES:
        table = _Table(engine_class)
        _TABLES[engine_class] = table, _NoopTable(table)
    return _TABLES[engine_class]


def _decode(header: int, engine_class: int) -> Command:
    """The command for the upper half of a header."""
    client = header >> 29
    if client == 0:
        return MI_COMMANDS.get(header >> 23 & 0x3F, _UNKNOWN_MI)
    if client == 2:
        return _decode_blitter(header, engine_class)
    if client in (3, 4, 5):
        return decode_gfx(header, engine_class)
    return Command("?", hang("unknown command client"), 0, 1, is_exempt=True)


def _decode_blitter(header: int, engine_class: int) -> Command:
    found = BLITTER_COMMANDS.get(header >> 22 & 0x7F)
    if found is None:
        return _UNKNOWN_BLITTER
    if engine_class != xe_drm.DRM_XE_ENGINE_CLASS_COPY:
        return Command(found.name, hang("not a copy engine"), 0, 1, is_exempt=True)
    return _BLITTER[header >> 22 & 0x7F]


def _blitter(found: BlitterCommand) -> Command:
    run = found.execute

    def execute(streamer: CommandStreamer, dwords: Dwords) -> None:
        run(dwords, streamer.memory, streamer.port)

    return Command(found.name, execute)


_BLITTER: Final = {opcode: _blitter(command) for opcode, command in BLITTER_COMMANDS.items()}
_UNKNOWN_MI: Final = Command("MI_?", hang("unknown MI command"), 0, 1, is_exempt=True)
_UNKNOWN_BLITTER: Final = Command("XY_?", hang("unknown blitter command"), 0, 1, is_exempt=True)
