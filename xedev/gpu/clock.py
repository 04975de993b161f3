"""The clock of the hardware."""

from __future__ import annotations

import time

__all__ = ("Clock", "VirtualClock")

NS_PER_S = 1_000_000_000


class Clock:
    """Real time: CLOCK_MONOTONIC, as the driver's queries have it."""

    is_virtual = False

    def __init__(self, reference_clock: int) -> None:
        self.reference_clock = reference_clock
        """Hertz."""

    def now(self) -> int:
        """Nanoseconds."""
        return time.monotonic_ns()

    def ticks(self, nanoseconds: int) -> int:
        """The same in ticks of the GT's clock."""
        return nanoseconds * self.reference_clock // NS_PER_S

    def worked(self) -> None:
        """Some commands were run."""

    def pass_time(self, nanoseconds: int) -> None:
        """A batch waits for time to pass."""


class VirtualClock(Clock):
    """Time that passes with the work done, and so is the same in each run.

    It stands still while a batch waits for memory to change, and makes a leap for who only looks at
    the clock.
    """

    is_virtual = True

    PER_CHECKPOINT = 10_000
    """Nanoseconds for the commands between two checkpoints."""

    def __init__(self, reference_clock: int) -> None:
        super().__init__(reference_clock)
        self._now = NS_PER_S

    def now(self) -> int:
        """Nanoseconds of virtual time."""
        return self._now

    def worked(self) -> None:
        """Some commands were run."""
        self._now += self.PER_CHECKPOINT

    def pass_time(self, nanoseconds: int) -> None:
        """A batch waits for time to pass."""
        self._now += nanoseconds
