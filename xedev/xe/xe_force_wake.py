"""Who keeps a GT awake (kernel: drivers/gpu/drm/xe/xe_force_wake.c)."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ("XeForceWake",)


class XeForceWake:
    """References that a GT may not sleep under, of all its domains at once."""

    def __init__(self, before_change: Callable[[], object]) -> None:
        """``before_change`` is called while the GT is still as it was."""
        self._before_change = before_change
        self._lock = threading.Lock()
        self.ref = 0

    def get(self) -> None:
        """Wake it up, and keep it so (kernel: ``xe_force_wake_get``)."""
        self._change(1)

    def put(self) -> None:
        """One reference less (kernel: ``xe_force_wake_put``)."""
        self._change(-1)

    def _change(self, by: int) -> None:
        with self._lock:
            self._before_change()
            self.ref += by
