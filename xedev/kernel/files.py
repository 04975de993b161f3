"""Open files of the mock, and the tokens that stand for descriptors."""

from __future__ import annotations

import errno
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from uapi.ioctl import IOC_NR, IOC_TYPE
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError, report_bug

__all__ = (
    "POLLERR",
    "POLLHUP",
    "POLLIN",
    "POLLOUT",
    "POLLRDNORM",
    "FdTokens",
    "File",
    "run_file_ioctl",
)

POLLIN, POLLOUT, POLLERR, POLLHUP, POLLRDNORM = 0x001, 0x004, 0x008, 0x010, 0x040


class File(ABC):
    """An open file description (kernel: ``struct file`` with its ``file_operations``).

    The transport calls `release` exactly once, when the last reference went.
    """

    seekable = False
    """Whether lseek(2) moves about in it; DRM nodes and streams refuse it."""
    is_mappable = False
    """Whether mmap(2) may share it, through the page cache: what was read once stays."""

    @property
    def size(self) -> int:
        """``st_size`` in bytes."""
        return 0

    @abstractmethod
    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """Run one ioctl.  ``data`` is the address of the argument buffer in *this* process
        (0: none); its size and direction are in ``cmd``.  Returns >= 0 or ``-errno``."""

    def ioctl_deferred(self, cmd: int, data: int, caller: Caller) -> int | Deferred[int]:
        """As `ioctl`, for a transport that cannot sleep: ``caller.may_defer`` is true, and the
        answer may be a `Deferred`, whose ``finish`` then gives the number."""
        return self.ioctl(cmd, data, caller)

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """read(2); ``EINVAL`` unless the file can be read."""
        raise KernelError(errno.EINVAL, "this file cannot be read")

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """write(2); ``EINVAL`` unless the file can be written."""
        raise KernelError(errno.EINVAL, "this file cannot be written")

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """poll(2) mask now.  ``waiter`` is kept (newest wins) and called once when the mask may
        have changed."""
        return 0

    @abstractmethod
    def release(self) -> None:
        """The last reference went (kernel: ``->release``)."""


F = TypeVar("F")


def run_file_ioctl(
    handlers: Mapping[int, Callable[[F, int, Caller], None]],
    file: F,
    cmd: int,
    data: int,
    caller: Caller,
) -> int:
    """``->ioctl`` of a file with few: ``handler(file, data, caller)`` by the exact number.

    ``ENOTTY`` for any other number, ``EFAULT`` without an argument, ``EIO`` for a bug.
    """
    try:
        handler = handlers.get(cmd)
        if handler is None:
            what = f"type {IOC_TYPE(cmd):#x} nr {IOC_NR(cmd)}"
            raise KernelError(errno.ENOTTY, f"{what} is not for a {type(file).__name__}")
        if not data:
            raise KernelError(errno.EFAULT, "no argument")
        handler(file, data, caller)
    except KernelError as error:
        caller.reason = error.reason
        return -(error.errno or errno.EIO)
    except Exception:  # noqa: BLE001 - a bug must not look like an answer
        report_bug(f"ioctl {cmd:#x} of a {type(file).__name__}")
        caller.reason = "a bug of the mock; its log has the traceback"
        return -errno.EIO
    return 0


@dataclass(slots=True)
class _Token:
    file: File
    owner: object
    tgid: int


class FdTokens:
    """Descriptors that could not be placed in the client yet.

    A server of files cannot install a descriptor in its client, so an ioctl that returns one
    answers a token instead.  The client opens the token as a file of the mount, which makes a
    real descriptor.  A token is used once, only by the process that got it, and dies with the
    DRM file that it came from.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(XE_MOCK_TOKEN_BASE)
        self._tokens: dict[int, _Token] = {}

    def install(self, file: File, owner: object, tgid: int) -> int:
        """Give ``file`` a number that is no descriptor (kernel: ``fd_install``)."""
        with self._lock:
            token = next(self._numbers)
            self._tokens[token] = _Token(file, owner, tgid)
        return token

    def claim(self, token: int, tgid: int) -> File:
        """Take the file behind ``token``: ``ENOENT`` unknown or used, ``EACCES`` not yours."""
        with self._lock:
            found = self._tokens.get(token)
            if found is None:
                raise KernelError(errno.ENOENT, f"no token {token:#x}")
            if found.tgid != tgid:
                raise KernelError(errno.EACCES, f"token {token:#x} belongs to another process")
            del self._tokens[token]
        return found.file

    def find(self, token: int) -> File | None:
        """The file behind ``token`` while it waits to be claimed."""
        found = self._tokens.get(token)
        return found.file if found is not None else None

    def drop_owner(self, owner: object) -> None:
        """Release every file that was never claimed, when its DRM file ends."""
        with self._lock:
            mine = [number for number, t in self._tokens.items() if t.owner is owner]
            files = [self._tokens.pop(number).file for number in mine]
        for file in files:
            file.release()

    def count(self, owns: Callable[[object], bool]) -> int:
        """How many tokens wait whose owner ``owns`` says yes to."""
        with self._lock:
            return sum(owns(token.owner) for token in self._tokens.values())

    def __len__(self) -> int:
        return len(self._tokens)
