"""Whether a GT sleeps (kernel: xe_gt_idle.c)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from xedev.kernel.sysfs import Attribute

__all__ = ("XeGtIdle", "gtidle_attributes")

NS_PER_MS = 1_000_000


class XeGtIdle:
    """Counts the time without work (kernel: ``struct xe_gt_idle``)."""

    def __init__(self, name: str, is_awake: Callable[[], bool]) -> None:
        self.name = name
        self._is_awake = is_awake
        self._lock = threading.Lock()
        self._looked = time.monotonic_ns()
        self._idle = 0

    @property
    def status(self) -> str:
        """``gt-c6`` asleep, ``gt-c0`` awake."""
        return "gt-c0" if self._is_awake() else "gt-c6"

    def residency_ms(self) -> int:
        """How long it slept: from one look to the next it did what it does at the second one."""
        awake = self._is_awake()
        with self._lock:
            now = time.monotonic_ns()
            if not awake:
                self._idle += now - self._looked
            self._looked = now
            return self._idle // NS_PER_MS


def gtidle_attributes(idle: XeGtIdle, directory: str) -> Iterator[Attribute]:
    """The files of ``gtidle``."""
    yield Attribute(f"{directory}/name", lambda: f"{idle.name}\n")
    yield Attribute(f"{directory}/idle_status", lambda: f"{idle.status}\n")
    yield Attribute(f"{directory}/idle_residency_ms", lambda: f"{idle.residency_ms()}\n")
