"""The device without a mount: an in-process transport for `xedev.client`.

It behaves as ioctl(2) on the mounted node does, down to what is copied when.  Beyond that it can
play other processes than the one it runs in, for tests of who may do what.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial

from uapi.ioctl import IOC_DIR, IOC_NONE, IOC_READ, IOC_SIZE, IOC_WRITE
from xedev.client.transport import Buffer, IoctlError
from xedev.drm.drm_device import DrmMinor
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.kernel.sw_sync import SwSyncTimeline
from xedev.kernel.user_memory import UserMemory
from xedev.node.caller import read_status, take_fd
from xedev.node.process_memory import ProcessMemory
from xedev.node.tree import Device

__all__ = ("LOCAL_FD_BASE", "LocalCaller", "LocalTransport")

LOCAL_FD_BASE = 0x50000000
"""First number of the descriptors made here; no process has real ones so large."""

_BOTH = IOC_READ | IOC_WRITE


@cache
def _memory_of(pid: int) -> ProcessMemory:
    return ProcessMemory(pid)


@dataclass(frozen=True, slots=True)
class _Process:
    """Whom a transport plays.  Capabilities: None for those that we really have."""

    tgid: int
    uid: int
    gid: int
    comm: str
    caps: frozenset[int] | None


class LocalCaller(Caller):
    """A thread of this process, or of the one it plays."""

    __slots__ = ("_process",)

    def __init__(self, process: _Process) -> None:
        self._process = process
        self.reason = ""

    @property
    def tid(self) -> int:
        """The real thread, unless another process is played, which has one thread."""
        tgid = self._process.tgid
        return threading.get_native_id() if tgid == os.getpid() else tgid

    @property
    def tgid(self) -> int:
        """The process."""
        return self._process.tgid

    @property
    def uid(self) -> int:
        """Effective user id."""
        return self._process.uid

    @property
    def gid(self) -> int:
        """Effective group id."""
        return self._process.gid

    @property
    def comm(self) -> str:
        """Name of the process."""
        return self._process.comm

    @property
    def memory(self) -> UserMemory:
        """Our own memory; through system calls, so that a bad address is ``EFAULT`` here too."""
        return _memory_of(os.getpid())

    def mm(self) -> UserMemory:
        """Our own memory, which lasts as long as we do."""
        return self.memory

    def capable(self, cap: int) -> bool:
        """The capability was given to the transport, or is really ours."""
        caps = self._process.caps
        if caps is not None:
            return cap in caps
        return bool(read_status(threading.get_native_id()).effective >> cap & 1)

    def fget(self, fd: int) -> File | None:
        """The file behind a descriptor made here; None for a real one; ``EBADF``."""
        open_file = _descriptors.get((self._process.tgid, fd))
        if open_file is not None:
            return open_file.file
        try:
            os.fstat(fd)
        except (OSError, OverflowError):
            raise KernelError(errno.EBADF, f"fd {fd} is not open") from None
        return None

    def dup_fd(self, fd: int) -> int:
        """A real descriptor of this process."""
        return take_fd(os.getpid(), fd)

    def sees_our_proc(self) -> bool:
        """It is our own process, unless another user's is played."""
        return self.uid in (0, os.geteuid())

    def interrupted(self) -> bool:
        """Signals are Python's business here: none ends a wait."""
        return False


class _OpenFile:
    """A file with the number of descriptors that refer to it."""

    __slots__ = ("file", "refs")

    def __init__(self, file: File) -> None:
        self.file = file
        self.refs = 0


# (tgid, number) -> open file.  One table for all devices: a dma-buf of one may meet another.
_descriptors: dict[tuple[int, int], _OpenFile] = {}
_numbers = itertools.count(LOCAL_FD_BASE)
_lock = threading.Lock()


def _install(tgid: int, open_file: _OpenFile) -> int:
    with _lock:
        fd = next(_numbers)
        open_file.refs += 1
        _descriptors[tgid, fd] = open_file
    return fd


def _lookup(tgid: int, fd: int) -> _OpenFile:
    open_file = _descriptors.get((tgid, fd))
    if open_file is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return open_file


def _close(tgid: int, fd: int) -> None:
    with _lock:
        open_file = _descriptors.pop((tgid, fd), None)
        if open_file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        open_file.refs -= 1
        last = open_file.refs == 0
    if last:
        open_file.file.release()


class LocalTransport:
    """An open DRM file of a device in this process (`xedev.client.transport.Transport`).

    ``minor`` names the node; without it, it is the render node.  ``tgid``, ``uid``, ``gid``,
    ``comm`` and ``caps`` (capability numbers) make up another process than our own; each process
    has its own descriptors.
    """

    name = "in-process"
    path = "in-process"

    def __init__(
        self,
        device: Device,
        minor: str | None = None,
        *,
        tgid: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        comm: str | None = None,
        caps: Collection[int] | None = None,
    ) -> None:
        self.device = device
        self._process = _Process(
            tgid=os.getpid() if tgid is None else tgid,
            uid=os.geteuid() if uid is None else uid,
            gid=os.getegid() if gid is None else gid,
            comm=read_status(os.getpid()).comm if comm is None else comm,
            caps=None if caps is None else frozenset(caps),
        )
        self.file = device.open(_find_minor(device, minor), os.O_RDWR, self.caller())
        self._fd = _install(self._process.tgid, _OpenFile(self.file))

    def caller(self) -> LocalCaller:
        """Who makes the next request."""
        return LocalCaller(self._process)

    def fileno(self) -> int:
        """The descriptor of the DRM file, as ioctls take it; system calls do not know it."""
        return self._fd

    def ioctl(self, cmd: int, arg: ctypes.Structure | None, buffers: Sequence[Buffer] = ()) -> int:
        """Run an ioctl; `IoctlError` with its errno.  ``buffers`` are found by their addresses."""
        return self._run(self.file, cmd, arg)

    def _run(self, file: File, cmd: int, arg: ctypes.Structure | None) -> int:
        caller = self.caller()
        result = _ioctl(file, cmd, arg, caller)
        if result < 0:
            raise IoctlError(-result, cmd, caller.reason)
        return result

    # ---- descriptors ----

    def open_fd(self, token: int, flags: int) -> int:
        """Turn a token into a descriptor: ENOENT unknown, EACCES another process's."""
        file = self.device.tokens.claim(token, self._process.tgid)
        return _install(self._process.tgid, _OpenFile(file))

    def open_sw_sync(self) -> int:
        """Open a timeline of sw_sync; a descriptor made here."""
        timeline = SwSyncTimeline(self.device.tokens, self._process.comm)
        return _install(self._process.tgid, _OpenFile(timeline))

    def close_fd(self, fd: int) -> None:
        """Close a descriptor: EBADF."""
        _close(self._process.tgid, fd)

    def pass_fd(self, fd: int, receiver: LocalTransport | None = None) -> int:
        """A second descriptor for the same open file: dup(2), or SCM_RIGHTS to ``receiver``."""
        to = self if receiver is None else receiver
        return _install(to._process.tgid, _lookup(self._process.tgid, fd))

    def fd_ioctl(self, fd: int, cmd: int, arg: ctypes.Structure | None) -> int:
        """ioctl(2) on a descriptor made here, such as a dma-buf's."""
        return self._run(_lookup(self._process.tgid, fd).file, cmd, arg)

    def fd_size(self, fd: int) -> int:
        """What lseek(2) to the end says, in bytes."""
        return _lookup(self._process.tgid, fd).file.size

    def hold_lease(self, token: int, fd: int) -> Callable[[], None]:
        """Keep the lease of a mapping as a descriptor made here; returns its end."""
        lease = self.open_fd(token, os.O_RDONLY)
        return partial(_close, self._process.tgid, lease)

    def close(self) -> None:
        """Close the DRM file; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _close(self._process.tgid, fd)


def _find_minor(device: Device, name: str | None) -> DrmMinor:
    for minor in device.minors:
        if minor.name == name or (name is None and minor.is_render):
            return minor
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _ioctl(file: File, cmd: int, arg: ctypes.Structure | None, caller: Caller) -> int:
    """Hand the argument over as the kernel does: only what the number says, only that way."""
    direction = IOC_DIR(cmd)
    size = IOC_SIZE(cmd)
    if arg is None or direction == IOC_NONE or not size:
        return file.ioctl(cmd, 0, caller)
    if ctypes.sizeof(arg) < size:
        raise ValueError(f"ioctl {cmd:#x} takes {size} bytes, not {ctypes.sizeof(arg)}")
    if direction == _BOTH:
        return file.ioctl(cmd, ctypes.addressof(arg), caller)
    buffer = ctypes.create_string_buffer(size)
    if direction & IOC_WRITE:
        ctypes.memmove(buffer, ctypes.addressof(arg), size)
    result = file.ioctl(cmd, ctypes.addressof(buffer), caller)
    if direction & IOC_READ:
        ctypes.memmove(ctypes.addressof(arg), buffer, size)
    return result
