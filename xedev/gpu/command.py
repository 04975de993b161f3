"""What a command is to the decoder, and what all kinds of commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xedev.gpu.ports import GpuHang

if TYPE_CHECKING:
    from xedev.gpu.command_streamer import CommandStreamer

__all__ = ("END", "Command", "Dwords", "Execute", "dword_address", "hang", "no_ggtt", "skip")

END = -1
"""Where a batch goes on that is at its end."""

Dwords = tuple[int, ...]
Execute = Callable[["CommandStreamer", Dwords], "int | None"]
"""``(streamer, dwords)``: execute one command; the address to go on at (`END` for none), None for
the command that follows."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command of one command client."""

    name: str
    execute: Execute
    length_mask: int = 0xFF
    """The bits of the header that hold its length in dwords, less ``bias``."""
    bias: int = 2
    minimum: int = 1
    """Dwords that it cannot do without."""
    is_exempt: bool = False
    """Whether MI_SET_PREDICATE does not make it a NOOP."""


def skip(streamer: CommandStreamer, dwords: Dwords) -> None:
    """Do nothing."""


def hang(reason: str) -> Execute:
    """For what no engine goes on after."""

    def execute(streamer: CommandStreamer, dwords: Dwords) -> int | None:
        raise GpuHang(f"{reason}: header {dwords[0]:#010x}")

    return execute


def dword_address(dwords: Dwords, index: int) -> int:
    """The address in two dwords, without the flags in its lowest bits."""
    return (dwords[index] | dwords[index + 1] << 32) & ~3


def no_ggtt(flags: int, bit: int = 1 << 22) -> None:
    """Batches of users run in the PPGTT; who names the GGTT hangs."""
    if flags & bit:
        raise GpuHang("the GGTT in a batch of a user")
