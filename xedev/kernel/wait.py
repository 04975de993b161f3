"""Sleeping until something happens, without polling, and ending on interruption."""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections.abc import Callable

from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError

__all__ = ("WaitQueue", "shut_down", "start_up", "wake_all_sleepers")


class _Sleepers:
    """All wait queues of this process that somebody sleeps on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.queues: weakref.WeakSet[WaitQueue] = weakref.WeakSet()
        self.ending = False


_sleepers = _Sleepers()


class WaitQueue:
    """Threads that wait for a condition to become true (kernel: ``wait_queue_head_t``).

    Conditions are looked at without any lock: a look may take its time, such as one at a client's
    memory, and who wakes does not wait for it.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._waiters = 0
        self._wakes = 0
        self._wakers: list[Callable[[], None]] = []

    def wake_up(self) -> None:
        """Make every sleeper look at its condition again."""
        with self._condition:
            self._wakes += 1
            self._condition.notify_all()
            wakers = list(self._wakers)
        for waker in wakers:
            waker()

    def add_waker(self, waker: Callable[[], None]) -> Callable[[], None]:
        """Have ``waker`` called at every `wake_up`, for who cannot sleep; returns what ends it."""
        with self._condition:
            self._wakers.append(waker)

        def remove() -> None:
            with self._condition:
                self._wakers.remove(waker)

        return remove

    def wait_event(
        self, predicate: Callable[[], bool], caller: Caller, timeout: float | None = None
    ) -> bool:
        """Sleep until ``predicate()`` holds; False when ``timeout`` seconds passed first.

        Raises `KernelError` ``EINTR`` when a signal arrives for the caller, or the mock ends.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if predicate():
            return True
        self._enlist()
        try:
            return self._sleep(predicate, caller, deadline)
        finally:
            with self._condition:
                self._waiters -= 1

    def _enlist(self) -> None:
        with self._condition:
            self._waiters += 1
        with _sleepers.lock:
            _sleepers.queues.add(self)

    def _sleep(self, predicate: Callable[[], bool], caller: Caller, deadline: float | None) -> bool:
        while True:
            wakes = self._wakes  # a wake-up from here on lets us look again
            if predicate():
                return True
            if _sleepers.ending:
                raise KernelError(errno.EINTR, "the device is being taken away")
            if caller.interrupted():
                raise KernelError(errno.EINTR, "a signal arrived during the wait")
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            with self._condition:
                if self._wakes == wakes:
                    self._condition.wait(left)


def wake_all_sleepers() -> None:
    """A signal arrived for some request: every sleeper asks whether it was its own."""
    with _sleepers.lock:
        queues = list(_sleepers.queues)
    for queue in queues:
        queue.wake_up()


def shut_down() -> None:
    """End every present and future sleep with ``EINTR``."""
    _sleepers.ending = True
    wake_all_sleepers()


def start_up() -> None:
    """Allow sleeping again (after `shut_down`, in the same process)."""
    _sleepers.ending = False
