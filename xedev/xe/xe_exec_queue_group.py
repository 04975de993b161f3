"""Queues that share one context (kernel: ``struct xe_exec_queue_group``, xe_exec_queue_types.h)."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.xe.xe_exec_queue import XeExecQueue

__all__ = ("XeExecQueueGroup",)

MAX_GROUP_SIZE = 64


class XeExecQueueGroup:
    """A primary queue and its secondaries.

    Each secondary holds the primary, and so the group.  A place in it is taken for good: the
    hardware cannot take a queue out of a context.
    """

    __slots__ = ("_lock", "_places", "_secondaries", "is_banned", "primary")

    def __init__(self, primary: XeExecQueue) -> None:
        self.primary = primary
        self.is_banned = False
        """Whether the work of one of them failed, and so all others will."""
        self._lock = threading.Lock()
        self._secondaries: list[XeExecQueue] = []
        """Those that live."""
        self._places = 1
        """Taken ones."""

    def add(self, queue: XeExecQueue) -> None:
        """One more secondary; ``EINVAL`` after 64 queues (kernel: ``xe_exec_queue_group_add``)."""
        with self._lock:
            if self._places >= MAX_GROUP_SIZE:
                raise KernelError(errno.EINVAL, f"the group has had {MAX_GROUP_SIZE} queues")
            self._places += 1
            self._secondaries.append(queue)

    def forget(self, queue: XeExecQueue) -> None:
        """The last reference of a secondary went, whether it was added or not."""
        with self._lock:
            if queue in self._secondaries:
                self._secondaries.remove(queue)

    def queues(self) -> list[XeExecQueue]:
        """Those that live, the primary first."""
        with self._lock:
            return [self.primary, *self._secondaries]
