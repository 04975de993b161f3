"""What libfuse is told when a callback ends: a result, an errno, or that the mock is broken."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable

__all__ = ("Answers",)

logger = logging.getLogger("xedev")

_MAX_ERRNO = 511  # the kernel takes no more from a FUSE server
_MAX_RESULT = 2**31 - 1
# Codes which only exist inside of the kernel, where a signal makes them EINTR for the client.
_INTERNAL_CODES = {
    512: errno.EINTR,  # ERESTARTSYS
    513: errno.EINTR,  # ERESTARTNOINTR
    514: errno.EINTR,  # ERESTARTNOHAND
    515: errno.ENOTTY,  # ENOIOCTLCMD
    516: errno.EINTR,  # ERESTART_RESTARTBLOCK
}


class Answers:
    """Turns whatever a callback did into an int that libfuse may see.

    A refusal (an OSError with an errno) goes to the client.  Everything else that is not a result
    is a bug of the mock: it is logged, counted, and the client gets ``EIO``, never success and
    never ``EINVAL``, which would look like a considered answer.
    """

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._lock = threading.Lock()
        self.errors = 0
        """Bugs so far."""

    def guard(self, callback: Callable[..., int], *arguments: object) -> int:
        """Call ``callback`` and answer for it."""
        try:
            return self.result(callback.__name__, callback(*arguments))
        except BaseException as error:  # noqa: BLE001 -- ctypes would answer success
            return self.exception(callback.__name__, error)

    def result(self, where: str, value: object) -> int:
        """The answer for a returned ``value``: >= 0, or ``-errno``."""
        if isinstance(value, int) and not isinstance(value, bool):
            if -_MAX_ERRNO <= value <= _MAX_RESULT:
                return int(value)
            if -value in _INTERNAL_CODES:
                return -_INTERNAL_CODES[-value]
        self._count()
        logger.error("bug in %s: it returned %r", where, value)
        return -errno.EIO

    def exception(self, where: str, error: BaseException) -> int:
        """The answer for a raised ``error``."""
        code = error.errno if isinstance(error, OSError) else None
        if isinstance(code, int) and 0 < code <= _MAX_ERRNO:
            return -code
        if code in _INTERNAL_CODES:
            return -_INTERNAL_CODES[code]
        self._count()
        logger.error("bug in %s", where, exc_info=error)
        if isinstance(error, Exception):
            return -errno.EIO
        self._stop()  # SystemExit and its like: somebody wants this process to end
        return -errno.EFAULT

    def _count(self) -> None:
        with self._lock:
            self.errors += 1
