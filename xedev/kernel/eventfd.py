"""Counters of client processes that the mock may count up (kernel: fs/eventfd.c)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import platform
import select
import struct
import threading

from xedev.kernel.errors import KernelError

__all__ = ("EVENTFDS_MAX", "EventFd")

EVENTFDS_MAX = 4096
"""How many may be held at once.  Each takes a descriptor of ours, where a kernel takes memory."""

_LINK = "anon_inode:[eventfd]"
_ONE = (1).to_bytes(8, "little")

_count_lock = threading.Lock()
_count = 0


class EventFd:
    """An eventfd by a descriptor of our own, which it takes over (``struct eventfd_ctx``).

    ``EINVAL`` when the descriptor is something else, ``ENOMEM`` when there are too many.
    """

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        try:
            if os.readlink(f"/proc/self/fd/{fd}") != _LINK:
                raise KernelError(errno.EINVAL, "the descriptor is no eventfd")
            _count_up()
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def signal_and_close(self) -> None:
        """Add one, unless the counter is full (kernel: ``eventfd_signal``); never sleeps."""
        if not _signal_by_aio(self._fd):
            _signal_by_write(self._fd)
        self.close()

    def close(self) -> None:
        """Let go of it."""
        global _count
        os.close(self._fd)
        with _count_lock:
            _count -= 1


def _count_up() -> None:
    global _count
    with _count_lock:
        if _count >= EVENTFDS_MAX:
            raise KernelError(errno.ENOMEM, f"{_count} eventfds wait already")
        _count += 1


# ---- counting up without sleeping ----
#
# write(2) sleeps when the counter is full and its owner did not make it O_NONBLOCK; between a look
# and the write, the owner can fill it.  The end of an asynchronous read counts as the kernel itself
# does, which never sleeps.

_IO_CALLS = {"x86_64": (206, 208, 209), "aarch64": (0, 4, 2)}
"""Numbers of io_setup(2), io_getevents(2), io_submit(2)."""
_IOCB = struct.Struct("<QIIHhIQQqQII")  # struct iocb of linux/aio_abi.h
_IOCB_CMD_PREAD, _IOCB_FLAG_RESFD = 0, 1
_IO_EVENT_SIZE = 32

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long


class _Aio:
    """Reads of nothing, one at a time."""

    def __init__(self, setup: int, getevents: int, submit: int) -> None:
        self._getevents, self._submit = getevents, submit
        self._lock = threading.Lock()
        self._null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._context = ctypes.c_ulong(0)
        self._iocb = ctypes.create_string_buffer(_IOCB.size)
        self._pointer = ctypes.c_void_p(ctypes.addressof(self._iocb))
        self._event = ctypes.create_string_buffer(_IO_EVENT_SIZE)
        if _syscall(ctypes.c_long(setup), ctypes.c_long(1), ctypes.byref(self._context)):
            os.close(self._null)
            raise OSError(ctypes.get_errno(), "io_setup")

    def signal(self, fd: int) -> bool:
        """Add one to the eventfd; False when it could not be done this way."""
        one = ctypes.c_long(1)
        with self._lock:
            _IOCB.pack_into(
                *(self._iocb, 0, 0, 0, 0, _IOCB_CMD_PREAD, 0, self._null, 0, 0, 0, 0),
                *(_IOCB_FLAG_RESFD, fd),
            )
            pointer = ctypes.byref(self._pointer)
            if _syscall(ctypes.c_long(self._submit), self._context, one, pointer) != 1:
                return False
            # It has ended; taking the result makes room for the next.
            _syscall(ctypes.c_long(self._getevents), self._context, one, one, self._event, None)
        return True


@functools.cache
def _aio(_pid: int) -> _Aio | None:
    """A context of this process; None where there are none (a seccomp filter, another machine)."""
    calls = _IO_CALLS.get(platform.machine())
    try:
        return _Aio(*calls) if calls else None
    except OSError:
        return None


def _signal_by_aio(fd: int) -> bool:
    aio = _aio(os.getpid())
    return aio is not None and aio.signal(fd)


def _signal_by_write(fd: int) -> None:
    writable = select.poll()
    writable.register(fd, select.POLLOUT)
    with contextlib.suppress(OSError):
        if writable.poll(0):
            os.write(fd, _ONE)
