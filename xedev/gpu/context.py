"""What a logical context carries from command to command."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ("RECENT_COMMANDS", "Context")

RECENT_COMMANDS = 8


@dataclass(slots=True)
class Context:
    """The register file of one logical context, and where it stands in its batches."""

    gpr: list[int] = field(default_factory=lambda: [0] * 16)
    """CS_GPR: 64 bits each."""
    registers: dict[int, int] = field(default_factory=dict)
    """The others that hold what is written, by their offset from the engine's base."""
    predicate_enable: int = 0
    """Of the last MI_SET_PREDICATE."""
    stack: list[int] = field(default_factory=list)
    """Where the batches that called go on, outermost first."""
    fetching: int | None = None
    """Where commands are being read, while they are."""
    recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=RECENT_COMMANDS))
    """Address and header of the last commands; the newest is the one that runs."""

    @property
    def address(self) -> int:
        """Of the command that runs."""
        return self.recent[-1][0] if self.recent else 0

    def registers_now(self) -> tuple[object, ...]:
        """All that commands can read besides memory and clocks, to be compared."""
        return (*self.gpr, self.predicate_enable, *sorted(self.registers.items()))
