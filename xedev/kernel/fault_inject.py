"""Making a named step fail on purpose (kernel: ``ALLOW_ERROR_INJECTION``)."""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass

from xedev.kernel.errors import KernelError, errno_name

__all__ = ("FaultInjector",)


@dataclass(slots=True)
class _Fault:
    countdown: int
    error: int


class FaultInjector:
    """Named points in the driver, each of which can be told to fail its nth next passage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str, _Fault] = {}
        self.points: set[str] = set()
        self.passed: dict[str, int] = {}
        self.counting = False

    def declare(self, *points: str) -> None:
        """Make names known, so that a misspelt one can be refused."""
        self.points.update(points)

    def arm(self, point: str, nth: int, error: int) -> None:
        """Let the ``nth`` passage from now of ``point`` fail with ``error``; 0 disarms it.

        ``EINVAL`` for an unknown point or a number out of range.
        """
        if point not in self.points:
            raise KernelError(errno.EINVAL, f"no failure point {point!r}")
        if nth < 0 or not 0 < error < 512:
            raise KernelError(errno.EINVAL, "the nth call counts from 1, an errno from 1 to 511")
        with self._lock:
            if nth == 0:
                self._faults.pop(point, None)
            else:
                self._faults[point] = _Fault(nth, error)

    def clear(self) -> None:
        """Disarm every point."""
        with self._lock:
            self._faults.clear()

    def check(self, point: str) -> None:
        """Pass ``point``: raises the armed errno when its turn has come."""
        if self.counting:
            self.passed[point] = self.passed.get(point, 0) + 1
        if not self._faults:
            return
        with self._lock:
            fault = self._faults.get(point)
            if fault is None:
                return
            fault.countdown -= 1
            if fault.countdown:
                return
            del self._faults[point]
        raise KernelError(fault.error, f"failure injected at {point}")

    def describe(self) -> str:
        """One line a point: name, calls until it fails, errno (``-`` when not armed)."""
        lines = []
        for point in sorted(self.points):
            fault = self._faults.get(point)
            state = f"{fault.countdown} {errno_name(fault.error)}" if fault else "-"
            lines.append(f"{point} {state}")
        return "\n".join(lines) + "\n"
