"""Forked clients with rights of their own, which hand back a value."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = (
    "ALL_CAPS",
    "CAP_SYS_ADMIN",
    "CAP_SYS_NICE",
    "NOBODY",
    "Child",
    "Rights",
    "errno_of",
    "eventually",
    "run",
    "set_caps",
)

T = TypeVar("T")

NOBODY = 65534
CAP_SYS_ADMIN, CAP_SYS_NICE = 21, 23
ALL_CAPS = frozenset(range(41))
PATIENCE = 20.0  # seconds

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS = 1, 4, 8
_CAPABILITY_VERSION = 0x20080522  # of capset(2): two words of capabilities

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def set_caps(effective: Iterable[int], permitted: Iterable[int] | None = None) -> None:
    """Set the capabilities of the calling thread, and of no other one."""
    e = sum(1 << cap for cap in effective)
    p = e if permitted is None else sum(1 << cap for cap in permitted)
    low = 0xFFFF_FFFF
    head = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    data = struct.pack("=6I", e & low, p & low, 0, e >> 32, p >> 32, 0)
    _checked(_libc.capset(head, data))


@dataclass(frozen=True, slots=True)
class Rights:
    """What a child is allowed; by default what an ordinary user is."""

    uid: int = NOBODY
    gid: int = NOBODY
    groups: tuple[int, ...] = ()
    caps: frozenset[int] = frozenset()

    def take(self) -> None:
        """Become that, for good."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        _checked(_libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
        os.setresuid(self.uid, self.uid, self.uid)
        set_caps(self.caps & _effective())
        # As after an exec: else /proc shows the process as root's, and as one not to be traced.
        _checked(_libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def _effective() -> frozenset[int]:
    """What may be kept: what is permitted now."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("CapPrm:"))
    mask = int(line.split()[1], 16)
    return frozenset(cap for cap in ALL_CAPS if mask >> cap & 1)


class Child(Generic[T]):
    """A process that runs ``function``; `result` is what it returned."""

    def __init__(self, function: Callable[[], T], rights: Rights | None = None) -> None:
        self._answer, told = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(told)
            self._pidfd = os.pidfd_open(self.pid)
            return
        try:
            os.close(self._answer)
            if rights is not None:
                rights.take()
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # which a change of ids takes back
            answer = pickle.dumps((True, function()))
        except BaseException:  # noqa: BLE001 - told to the parent, whose test fails by it
            answer = pickle.dumps((False, traceback.format_exc()))
        with contextlib.suppress(OSError), open(told, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, or minus the signal that ended it; once."""
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise AssertionError(f"child {self.pid} still lives after {timeout} s")
        status = os.waitpid(self.pid, 0)[1]
        os.close(self._pidfd)
        os.close(self._answer)
        return os.waitstatus_to_exitcode(status)

    def result(self, timeout: float = PATIENCE) -> T:
        """What it returned, when it has ended; its exception is an AssertionError here."""
        data = b""
        end = time.monotonic() + timeout
        while select.select([self._answer], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(self._answer, 1 << 16)
            if not part:
                break
            data += part
        else:
            self.kill()
            self.wait()
            raise AssertionError(f"child {self.pid} did not end within {timeout} s")
        self.wait()
        good, value = pickle.loads(data)
        if not good:
            raise AssertionError(f"in the child: {value}")
        answer: T = value
        return answer


def run(function: Callable[[], T], rights: Rights | None = None) -> T:
    """Run in a child, and give back what it returned."""
    return Child(function, rights).result()


def errno_of(action: Callable[[], object]) -> str:
    """Name of the errno that an action fails with; "" when it does not."""
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def eventually(condition: Callable[[], bool], timeout: float = PATIENCE) -> bool:
    """Whether ``condition`` becomes true in time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
