"""Counters of client processes that the mock may count up (kernel: fs/eventfd.c)."""

from __future__ import annotations

import contextlib
import errno
import os
import select

from xedev.kernel.errors import KernelError

__all__ = ("EventFd",)

_LINK = "anon_inode:[eventfd]"
_ONE = (1).to_bytes(8, "little")


class EventFd:
    """An eventfd by a descriptor of our own, which it takes over (``struct eventfd_ctx``).

    ``EINVAL`` when the descriptor is something else.
    """

    def __init__(self, fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") != _LINK:
            os.close(fd)
            raise KernelError(errno.EINVAL, "the descriptor is no eventfd")
        self._fd = fd

    def signal_and_close(self) -> None:
        """Add one, unless the counter is full: then nobody can be told more."""
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        with contextlib.suppress(OSError):
            # Its owner may have made it blocking, and must not make us wait.
            if writable.poll(0):
                os.write(self._fd, _ONE)
        self.close()

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
