"""The one who sleeps in poll(2) on a file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

__all__ = ("PollWaiter",)


class PollWaiter:
    """Holds at most one function, the newest, and calls it at most once."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        # A deque takes and gives in one step, so that two threads never wake the same sleeper.
        self._waiter: deque[Callable[[], None]] = deque(maxlen=1)

    def replace(self, waiter: Callable[[], None] | None) -> None:
        """Take a new sleeper, if there is one."""
        if waiter is not None:
            self._waiter.append(waiter)

    def wake(self) -> None:
        """The file's mask may have changed."""
        if not self._waiter:
            return
        try:
            waiter = self._waiter.pop()
        except IndexError:
            return
        waiter()
