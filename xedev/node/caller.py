"""The caller behind a request that came through the kernel (kernel: ``current``)."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.kernel.user_memory import UserMemory
from xedev.node.process_memory import ProcessMemory, lasting_memory

__all__ = ("Fget", "ProcessCaller", "ThreadStatus", "read_status", "take_fd")

Fget = Callable[[int, int], File | None]
"""(tid, fd) -> the mock's open file there, or None; raises `KernelError` ``EBADF``."""

_FD_MAX = 0x7FFF_FFFF
_SYS_PIDFD_GETFD = 438  # the same on every architecture
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint)
_TGID = re.compile(rb"\nTgid:\t(\d+)\n")
_HEAD_OF_STATUS = 512
_ESCAPE = re.compile(r"\\(.)")
_OUR_PID_NAMESPACE = os.stat("/proc/self/ns/pid").st_ino
_INITIAL_USER_NAMESPACE = "user:[4026531837]"  # PROC_USER_INIT_INO of include/linux/proc_ns.h


@dataclass(frozen=True, slots=True)
class ThreadStatus:
    """What ``/proc/<tid>/status`` tells of a thread."""

    tgid: int
    comm: str
    groups: frozenset[int]
    effective: int
    """Effective capabilities, one bit each."""


_GONE = ThreadStatus(0, "", frozenset(), 0)


def read_status(tid: int) -> ThreadStatus:
    """The status of thread ``tid``; one without rights if there is none (any more)."""
    if not tid:
        return _GONE
    try:
        with open(f"/proc/{tid}/status", encoding="utf-8", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if ":" in line)
    except OSError:
        return _GONE
    return ThreadStatus(
        tgid=int(fields["Tgid"]),
        comm=_unescape(fields["Name"].removeprefix("\t").removesuffix("\n")),
        groups=frozenset(map(int, fields["Groups"].split())),
        effective=int(fields["CapEff"], 16),
    )


def read_tgid(tid: int) -> int:
    """The thread group of ``tid``, 0 if there is no such thread (any more).

    A quarter of the cost of `read_status`, for what most requests that ask for anything ask.
    """
    if not tid:
        return 0
    try:
        fd = os.open(f"/proc/{tid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # The name, at most 64 bytes when escaped, and few short lines stand before it.
        found = _TGID.search(os.read(fd, _HEAD_OF_STATUS))
    except OSError:
        return 0
    finally:
        os.close(fd)
    return int(found[1]) if found else 0


def _unescape(name: str) -> str:
    """The kernel escapes newlines and backslashes in ``Name``."""
    return _ESCAPE.sub(lambda match: "\n" if match[1] == "n" else "\\", name)


class ProcessCaller(Caller):
    """The thread ``tid`` of a process on this machine, with its file-system ids.

    All else is looked up when it is asked for the first time, in /proc.  A thread outside of the
    mock's pid namespace has ``tid`` 0: it has no rights, and no memory that could be reached.
    """

    # Kept as class attributes: a request that needs none of them pays for none of them.
    reason = ""
    tid = 0
    uid = 0
    gid = 0
    _tgid: int | None = None
    _status: ThreadStatus | None = None
    _memory: UserMemory | None = None

    def __init__(self, tid: int, uid: int, gid: int, fget: Fget | None = None) -> None:
        self.tid = tid
        self.uid = uid
        self.gid = gid
        self._fget = fget

    @property
    def status(self) -> ThreadStatus:
        """The thread's status, read once."""
        if self._status is None:
            self._status = read_status(self.tid)
        return self._status

    @property
    def tgid(self) -> int:
        """Id of the thread group; 0 when it is not known."""
        if self._tgid is None:
            self._tgid = read_tgid(self.tid)
        return self._tgid

    @property
    def comm(self) -> str:
        """Name of the calling thread."""
        return self.status.comm

    @property
    def groups(self) -> frozenset[int]:
        """Supplementary group ids."""
        return self.status.groups

    @property
    def memory(self) -> UserMemory:
        """The caller's memory."""
        if self._memory is None:
            self._memory = ProcessMemory(self.tid)
        return self._memory

    def mm(self) -> UserMemory:
        """The memory of the thread group."""
        return lasting_memory(self.tgid)

    def capable(self, cap: int) -> bool:
        """Whether the thread holds ``cap`` in the user namespace that owns the mock.

        The kernel asks the same of the initial namespace, which owns a real device: root in a
        container's own user namespace is nobody to it (kernel: ``capable``, kernel/capability.c).
        """
        if not self.status.effective >> cap & 1:
            return False
        return _shares_our_user_namespace(self.tid)

    def fget(self, fd: int) -> File | None:
        """The mock's open file behind the caller's ``fd``; None: not ours; ``EBADF``: not open."""
        return self._fget(self.tid, fd) if self._fget else None

    def dup_fd(self, fd: int) -> int:
        """Taken with pidfd_getfd(2) from the thread group."""
        return take_fd(self.tgid, fd)

    def sees_our_proc(self) -> bool:
        """The same user or root, in the same pid namespace.

        Kernel: ``proc_pid_get_link``, which asks as ``PTRACE_MODE_READ_FSCREDS`` does.
        """
        return self.uid in (0, os.geteuid()) and _shares_our_pid_namespace(self.tid)

    def interrupted(self) -> bool:
        """Nobody tells; the transport that knows overrides this."""
        return False


def _shares_our_user_namespace(tid: int) -> bool:
    """Whether ``tid`` lives in our own user namespace, or in the initial one above it."""
    try:
        theirs = os.readlink(f"/proc/{tid}/ns/user")
    except PermissionError:
        return _same_uid_map(tid)
    except OSError:
        return False
    return theirs in (os.readlink("/proc/self/ns/user"), _INITIAL_USER_NAMESPACE)


def take_fd(pid: int, fd: int) -> int:
    """A descriptor of our own for descriptor ``fd`` of process ``pid``: ``EBADF``."""
    if not pid or not 0 <= fd <= _FD_MAX:
        raise KernelError(errno.EBADF, f"no descriptor {fd}")
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise KernelError(errno.EBADF, f"process {pid}: {error.strerror}") from None
    try:
        ours = int(_syscall(_SYS_PIDFD_GETFD, pidfd, fd, 0))
    finally:
        os.close(pidfd)
    if ours < 0:
        why = os.strerror(ctypes.get_errno())
        raise KernelError(errno.EBADF, f"descriptor {fd} of {pid}: {why}")
    return ours


def _shares_our_pid_namespace(tid: int) -> bool:
    try:
        return os.stat(f"/proc/{tid}/ns/pid").st_ino == _OUR_PID_NAMESPACE
    except OSError:
        return False


def _same_uid_map(tid: int) -> bool:
    """The next best answer where we may not look at another user's process.

    An unprivileged user cannot make a namespace with our map: it would have to map every uid.
    """
    try:
        with open(f"/proc/{tid}/uid_map") as theirs, open("/proc/self/uid_map") as ours:
            return theirs.read() == ours.read()
    except OSError:
        return False
