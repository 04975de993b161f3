"""A small tree of files that misbehave on request: what the FUSE adapter is tested with."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from uapi.ioctl import IO, IOC, IOC_NONE, IOR, IOW, IOWR
from xedev.kernel.caller import CAP_SYS_ADMIN, Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, File
from xedev.kernel.wait import WaitQueue
from xedev.node.vfs import Attr

__all__ = (
    "BAD",
    "CALLER",
    "COPY_OUT_AND_FAIL",
    "DATA_OF_IO",
    "FGET",
    "FILL_NOTHING",
    "MEMORY_READ",
    "MEMORY_WRITE",
    "NOOP",
    "RESULT",
    "SLEEP",
    "STUBBORN",
    "WAKE",
    "CallerInfo",
    "FakeTree",
    "MemoryArgs",
    "Value",
)

BLOCK_SIZE = 64
SEEKABLE_SIZE = 12345


class Value(ctypes.Structure):
    _fields_ = (("value", ctypes.c_int64),)


class CallerInfo(ctypes.Structure):
    _fields_ = (
        ("tid", ctypes.c_int32),
        ("tgid", ctypes.c_int32),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("admin", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("comm", ctypes.c_char * 16),
    )


class MemoryArgs(ctypes.Structure):
    """``address`` and ``length`` of the client's memory; read: ``sum`` of its bytes goes out."""

    _fields_ = (
        ("address", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
        ("sum", ctypes.c_uint64),
    )


NOOP = IOWR("x", 0x7F, BLOCK_SIZE)
RESULT = IOWR("x", 1, 8)
"""Returns the value given."""
BAD = IOW("x", 2, 8)
"""Misbehaves in the way with the number given, see `MISBEHAVIOURS`."""
COPY_OUT_AND_FAIL = IOWR("x", 3, 8)
FILL_NOTHING = IOR("x", 4, 4096)
"""Leaves the buffer as it is, and returns how many of its bytes are not 0."""
DATA_OF_IO = IOC(IOC_NONE, "x", 5, 8)
"""No direction, with a size all the same; returns whether there was a buffer."""
SLEEP = IO("x", 6)
"""Sleeps until a signal, or `WAKE`."""
WAKE = IO("x", 7)
STUBBORN = IO("x", 8)
"""Works for a second without a look at signals."""
CALLER = IOR("x", 9, CallerInfo)
MEMORY_READ = IOWR("x", 10, MemoryArgs)
MEMORY_WRITE = IOW("x", 11, MemoryArgs)
FGET = IOWR("x", 12, 8)
"""Descriptor in; returns the number of the open behind it, 0 when it is not ours."""


class _NotAnExit(BaseException):
    """Neither an Exception, nor expected by anybody."""


def _raise(error: BaseException) -> object:
    raise error


_MISBEHAVE: dict[str, Callable[[], object]] = {
    "ValueError": lambda: _raise(ValueError("a bug")),
    "OSError without errno": lambda: _raise(OSError("a bug")),
    "errno 0": lambda: _raise(OSError(0, "a bug")),
    "errno -22": lambda: _raise(OSError(-22, "a bug")),
    "errno 4096": lambda: _raise(OSError(4096, "a bug")),
    "None": lambda: None,
    "text": lambda: "a bug",
    "True": lambda: True,
    "2**31": lambda: 2**31,
    "-600": lambda: -600,
    "-4096": lambda: -4096,
    "BaseException": lambda: _raise(_NotAnExit()),
    "SystemExit": lambda: _raise(SystemExit(0)),
}
MISBEHAVIOURS = tuple(_MISBEHAVE)


class FakeFile(File):
    """One open of the node."""

    def __init__(self, tree: FakeTree, number: int) -> None:
        self._tree = tree
        self.number = number
        self.releases = 0
        self._written = b""
        self._waiter: Callable[[], None] | None = None

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """Do what the number says; may return or raise what no file should."""
        handler = self._tree.ioctls.get(cmd)
        return handler(self, data, caller) if handler else -errno.ENOTTY

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """What was written last, by anybody."""
        tree = self._tree
        if nonblock and not tree.message:
            raise KernelError(errno.EAGAIN, "nothing was written")
        tree.queue.wait_event(lambda: bool(tree.message), caller)
        message, tree.message = tree.message, b""
        return message[:size]

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """Leave a message and wake everybody; a size as text is a bug."""
        if data == b"bug":
            return "three"  # type: ignore[return-value]
        self._tree.message = data
        self._tree.write_sizes.append(len(data))
        self._tree.wake()
        return len(data)

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Readable while there is a message."""
        if waiter is not None:
            self._waiter = waiter
        return POLLOUT | (POLLIN if self._tree.message else 0)

    def wake(self) -> None:
        """The mask may have changed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    def release(self) -> None:
        """Count, so that a second one is seen."""
        self.releases += 1


class SeekableFile(FakeFile):
    """One open of a file with a size."""

    seekable = True

    @property
    def size(self) -> int:
        return SEEKABLE_SIZE

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """Zeros up to the end."""
        return bytes(min(size, max(0, SEEKABLE_SIZE - offset)))


class StatisticsFile(FakeFile):
    """What the test wants to know of the daemon, as JSON."""

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """A new report at offset 0."""
        return json.dumps(self._tree.statistics()).encode() if offset == 0 else b""


class FakeTree:
    """``/node``, ``/seekable``, ``/once`` (gone after its open), ``/statistics``, ``/link``."""

    def __init__(self) -> None:
        self.files: list[FakeFile] = []
        self.queue = WaitQueue()
        self.woken = 0
        self.sleeping = 0
        self.message = b""
        self.write_sizes: list[int] = []
        self.truncated: list[int] = []
        self.once_is_there = True
        self.errors: Callable[[], int] = lambda: 0
        self._lock = threading.Lock()
        self._modes = {
            "/": stat.S_IFDIR | 0o755,
            "/directory": stat.S_IFDIR | 0o755,
            "/directory/inner": stat.S_IFREG | 0o644,
            "/node": stat.S_IFREG | 0o666,
            "/seekable": stat.S_IFREG | 0o600,
            "/once": stat.S_IFREG | 0o600,
            "/statistics": stat.S_IFREG | 0o600,
            "/link": stat.S_IFLNK | 0o777,
        }
        self._owner = os.geteuid(), os.getegid()
        self._owners: dict[str, tuple[int, int]] = {}
        self._inodes = {path: 100 + i for i, path in enumerate(self._modes)}
        self.ioctls: dict[int, Callable[[FakeFile, int, Caller], int]] = {
            NOOP: lambda file, data, caller: 0,
            RESULT: lambda file, data, caller: Value.from_address(data).value,
            BAD: self._misbehave,
            COPY_OUT_AND_FAIL: self._copy_out_and_fail,
            FILL_NOTHING: lambda file, data, caller: sum(map(bool, ctypes.string_at(data, 4096))),
            DATA_OF_IO: lambda file, data, caller: int(data != 0),
            SLEEP: self._sleep,
            WAKE: lambda file, data, caller: self.wake(),
            STUBBORN: self._ignore_signals,
            CALLER: self._describe_caller,
            MEMORY_READ: self._read_memory,
            MEMORY_WRITE: self._write_memory,
            FGET: self._fget,
        }

    # ---- Filesystem ----

    def getattr(self, path: str) -> Attr:
        """ENOENT for what is not there (any more)."""
        if path not in self._modes or (path == "/once" and not self.once_is_there):
            raise KernelError(errno.ENOENT, path)
        uid, gid = self._owners.get(path, self._owner)
        size = SEEKABLE_SIZE if path == "/seekable" else 0
        return Attr(self._inodes[path], self._modes[path], uid, gid, size, 1, 10**9)

    def readdir(self, path: str) -> list[str]:
        """Names below."""
        prefix = path.rstrip("/") + "/"
        return [p.removeprefix(prefix) for p in self._modes if _is_directly_below(prefix, p)]

    def readlink(self, path: str) -> str:
        """To the node."""
        return "node"

    def chmod(self, path: str, mode: int) -> None:
        """Keep it."""
        self._modes[path] = stat.S_IFMT(self._modes[path]) | stat.S_IMODE(mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Keep it; -1 changes nothing."""
        before = self._owners.get(path, self._owner)
        self._owners[path] = (before[0] if uid < 0 else uid, before[1] if gid < 0 else gid)

    def truncate(self, path: str, length: int) -> None:
        """Remember it."""
        self.truncated.append(length)

    def utimens(self, path: str) -> None:
        """Nothing."""

    def open(self, path: str, flags: int, caller: Caller) -> File:
        """A new open file; EBUSY for one that is not to be opened."""
        kinds: dict[str, type[FakeFile]] = {
            "/node": FakeFile,
            "/seekable": SeekableFile,
            "/once": SeekableFile,
            "/statistics": StatisticsFile,
        }
        if path not in kinds:
            raise KernelError(errno.EBUSY, "not this one")
        if path == "/once":
            self.once_is_there = False
        with self._lock:
            file = kinds[path](self, len(self.files) + 1)
            self.files.append(file)
        return file

    # ---- the ioctls ----

    def wake(self) -> int:
        """Let every sleeper go."""
        self.woken += 1
        self.queue.wake_up()
        for file in list(self.files):
            file.wake()
        return 0

    def _misbehave(self, file: FakeFile, data: int, caller: Caller) -> int:
        way = MISBEHAVIOURS[Value.from_address(data).value]
        return _MISBEHAVE[way]()  # type: ignore[return-value]

    def _copy_out_and_fail(self, file: FakeFile, data: int, caller: Caller) -> int:
        Value.from_address(data).value = 4711
        return -errno.EBUSY

    def _sleep(self, file: FakeFile, data: int, caller: Caller) -> int:
        before = self.woken
        with self._lock:
            self.sleeping += 1
        try:
            self.queue.wait_event(lambda: self.woken != before, caller)
        finally:
            with self._lock:
                self.sleeping -= 1
        return 0

    def _ignore_signals(self, file: FakeFile, data: int, caller: Caller) -> int:
        time.sleep(1)
        return 0

    def _describe_caller(self, file: FakeFile, data: int, caller: Caller) -> int:
        info = CallerInfo.from_address(data)
        info.tid, info.tgid = caller.tid, caller.tgid
        info.uid, info.gid = caller.uid, caller.gid
        info.admin = caller.capable(CAP_SYS_ADMIN)
        info.comm = caller.comm.encode()
        return 0

    def _read_memory(self, file: FakeFile, data: int, caller: Caller) -> int:
        args = MemoryArgs.from_address(data)
        args.sum = sum(caller.memory.read(args.address, args.length))
        return 0

    def _write_memory(self, file: FakeFile, data: int, caller: Caller) -> int:
        args = MemoryArgs.from_address(data)
        pattern = bytes(range(1, 256)) * (args.length // 255 + 1)
        caller.memory.write(args.address, pattern[: args.length])
        return 0

    def _fget(self, file: FakeFile, data: int, caller: Caller) -> int:
        found = caller.fget(Value.from_address(data).value)
        return found.number if isinstance(found, FakeFile) else 0

    # ---- statistics ----

    def statistics(self) -> dict[str, object]:
        """How the daemon is."""
        nodes = [file for file in self.files if type(file) is FakeFile]
        return {
            "opened": len(nodes),
            "released": sum(file.releases == 1 for file in nodes),
            "released_again": sum(file.releases > 1 for file in self.files),
            "sleeping": self.sleeping,
            "thread_states": _count_thread_states(),
            "threads": len(list(Path("/proc/self/task").iterdir())),
            "rss_kib": _rss_kib(),
            "cpu": time.process_time(),
            "switches": resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw,
            "write_sizes": self.write_sizes,
            "truncated": self.truncated,
            "errors": self.errors(),
        }


def _is_directly_below(prefix: str, path: str) -> bool:
    return path.startswith(prefix) and path != prefix and "/" not in path.removeprefix(prefix)


def _rss_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _count_thread_states() -> int:
    """All of the interpreter's, also those of threads that are not in Python just now."""
    api = ctypes.pythonapi
    for function in (api.PyInterpreterState_Get, api.PyInterpreterState_ThreadHead):
        function.restype = ctypes.c_void_p
    api.PyInterpreterState_ThreadHead.argtypes = (ctypes.c_void_p,)
    api.PyThreadState_Next.restype = ctypes.c_void_p
    api.PyThreadState_Next.argtypes = (ctypes.c_void_p,)
    state = api.PyInterpreterState_ThreadHead(api.PyInterpreterState_Get())
    count = 0
    while state:
        count += 1
        state = api.PyThreadState_Next(state)
    return count
