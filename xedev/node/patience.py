"""Waiting for others, but not for good."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ("bounded", "is_readable", "read_to_end")

T = TypeVar("T")


def bounded(function: Callable[[], T], timeout: float) -> T:
    """Call a function that may hang, as calls into a mount do; TimeoutError after so many seconds.

    Passes on its OSError.
    """
    results: list[T] = []
    failures: list[OSError] = []

    def run() -> None:
        try:
            results.append(function())
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    if failures:
        raise failures[0]
    if not results:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    return results[0]


def is_readable(fd: int, timeout: float) -> bool:
    """Wait until ``fd`` can be read or has ended; False after ``timeout`` seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout * 1000))


def read_to_end(fd: int, timeout: float) -> tuple[bytes, bool]:
    """What a pipe brings within ``timeout`` seconds, and whether its other end is closed."""
    data = bytearray()
    deadline = time.monotonic() + timeout
    while is_readable(fd, max(0.0, deadline - time.monotonic())):
        part = os.read(fd, 1 << 16)
        if not part:
            return bytes(data), True
        data += part
    return bytes(data), False
