"""How a check fails, and how a bug is told from a failed check."""

from __future__ import annotations

import errno as _errno
import logging
import os

__all__ = ("KernelBug", "KernelError", "errno_name", "report_bug", "warn_on")

logger = logging.getLogger("xedev")


class KernelError(OSError):
    """A request was refused: the errno the client gets, and which check said no.

    This is the only exception that a client's input may raise.  ``reason`` is for people: it
    appears in the trace and in the reply frame, like the kernel's ``XE_IOCTL_DBG`` line.
    """

    reason: str

    def __init__(self, error: int, reason: str) -> None:
        super().__init__(error, os.strerror(error))
        self.reason = reason

    def __str__(self) -> str:
        return f"{errno_name(self.errno or 0)}: {self.reason}"


class KernelBug(AssertionError):
    """A broken invariant of the mock itself.  Never the answer to a client's input."""


def errno_name(error: int) -> str:
    """``22`` -> ``"EINVAL"``; a number without a name is given as it is."""
    return _errno.errorcode.get(error, str(error))


def report_bug(where: str) -> None:
    """Log the exception being handled as a bug of the mock (it fails the test run)."""
    logger.error("bug in %s", where, exc_info=True)


def warn_on(condition: bool, message: str) -> None:
    """Raise `KernelBug` when a condition holds that must never hold (kernel: ``WARN_ON``)."""
    if condition:
        raise KernelBug(message)
