"""Answers that are not ready yet.

A handler that has to wait returns a `Deferred`: what it waits for, and what it answers then.  A
transport with a thread for each request sleeps in place.  A transport that serves all requests from
one loop says so (`Caller.may_defer`), gets the object itself, goes on with its other work and
finishes it when it is ready.  The handler never knows which.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.wait import WaitQueue

__all__ = ("Deferred",)

SLEEPERS_MAX = 4096
"""Requests that may sleep at the same time, all clients together."""

T = TypeVar("T")
U = TypeVar("U")


class Deferred(Generic[T]):
    """``finish()`` is the answer, once ``ready()`` holds; ``queue`` is woken when it may.

    With a ``timeout`` in seconds the answer is also due when that has passed, ready or not;
    ``finish`` looks for itself which it was.  ``abandon()`` comes in its place when nobody waits
    any more, because a signal arrived or the client is gone.
    """

    __slots__ = ("abandon", "finish", "is_interruptible", "queue", "ready", "timeout")

    def __init__(
        self,
        queue: WaitQueue,
        ready: Callable[[], bool],
        finish: Callable[[], T],
        timeout: float | None = None,
        abandon: Callable[[], None] | None = None,
        *,
        is_interruptible: bool = True,
    ) -> None:
        self.queue = queue
        self.ready = ready
        self.finish = finish
        self.timeout = timeout
        self.abandon = abandon or _nothing
        self.is_interruptible = is_interruptible
        """False: when a signal comes the answer is finished at once."""

    def then(self, convert: Callable[[Callable[[], T]], U]) -> Deferred[U]:
        """The same wait with another end: ``convert`` gets the old one and answers."""
        finish = self.finish
        return Deferred(
            *(self.queue, self.ready, lambda: convert(finish), self.timeout, self.abandon),
            is_interruptible=self.is_interruptible,
        )

    def wait(self, caller: Caller) -> T:
        """Sleep until it is due, then finish; ``EINTR`` when a signal comes first, ``ENOMEM``
        when too many sleep already: each takes a thread."""
        try:
            with _sleeper():
                self.queue.wait_event(self.ready, caller, self.timeout)
        except KernelError:
            if self.is_interruptible:
                self.abandon()
                raise
        except BaseException:  # a bug in a look: what was set up goes all the same
            self.abandon()
            raise
        return self.finish()


class _Sleepers:
    """How many threads are in `Deferred.wait`."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0


_sleepers = _Sleepers()


@contextmanager
def _sleeper() -> Iterator[None]:
    with _sleepers.lock:
        if _sleepers.count >= SLEEPERS_MAX:
            raise KernelError(errno.ENOMEM, f"{SLEEPERS_MAX} requests wait already")
        _sleepers.count += 1
    try:
        yield
    finally:
        with _sleepers.lock:
            _sleepers.count -= 1


def _nothing() -> None:
    """Nothing was set up for the wait."""
