"""The callbacks that libfuse calls: from C arguments to the tree, its files and back."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.node.caller import Fget, ProcessCaller
from xedev.node.fuse_answers import Answers
from xedev.node.fuse_binding import Binding, FuseContext
from xedev.node.fuse_open_files import OpenFiles, OpenRecord, PollHandles
from xedev.node.fuse_threads import ThreadKeeper
from xedev.node.vfs import Attr, Filesystem

__all__ = ("Callbacks", "FuseCaller")

_IOC_NONE, _IOC_READ = 0, 2  # direction, the two uppermost bits of an ioctl number
_FUSE_IOCTL_DIR = 1 << 4  # the descriptor is a directory's
_MAX_VIEWS = 64
_UNCHANGED_ID = 0xFFFFFFFF  # uid_t and gid_t -1

_memset = ctypes.PyDLL(None).memset
_memset.argtypes = (ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t)
_memset.restype = None


class FuseCaller(ProcessCaller):
    """The caller of the request that this thread works on."""

    def __init__(self, worker: _Worker) -> None:
        self.tid = worker.context.pid
        self._worker = worker

    # libfuse overwrites the context with the thread's next request; an object that lives longer
    # than its request is a bug.

    @property
    def uid(self) -> int:  # type: ignore[override]
        """File-system user id of the calling thread."""
        return int(self._worker.context.uid)

    @property
    def gid(self) -> int:  # type: ignore[override]
        """File-system group id of the calling thread."""
        return int(self._worker.context.gid)

    def fget(self, fd: int) -> File | None:
        """The mock's open file behind the caller's ``fd``; None: not ours; ``EBADF``: not open."""
        return self._worker.fget(self.tid, fd)

    def interrupted(self) -> bool:
        """Whether the kernel has asked to give up this request."""
        return self._worker.interrupted() != 0


class _Worker:
    """What is kept for one thread of libfuse."""

    __slots__ = ("context", "fget", "handle_offset", "handles", "interrupted")

    def __init__(self, binding: Binding, fget: Fget) -> None:
        # libfuse allocates the context once for each thread.
        self.context = FuseContext.from_address(binding.calls.get_context())
        self.fget = fget
        self.interrupted = binding.calls.interrupted
        self.handle_offset = binding.handle_offset
        self.handles: dict[int, ctypes.c_uint64] = {}

    def handle(self, info: int) -> int:
        """The ``fh`` of the ``struct fuse_file_info`` at address ``info``."""
        view = self.handles.get(info)
        if view is None:
            view = self._view(info)
        return view.value

    def _view(self, info: int) -> ctypes.c_uint64:
        # The structure is on the thread's stack, nearly always at the same few places: a view
        # of each is worth keeping.
        if len(self.handles) >= _MAX_VIEWS:
            self.handles.clear()
        view = self.handles[info] = ctypes.c_uint64.from_address(info + self.handle_offset)
        return view


def _guarded(method: Any) -> Any:
    """Mark a callback that answers for its own exceptions."""
    method.guarded = True
    return method


class Callbacks:
    """``struct fuse_operations`` over a `Filesystem`.

    `getattr`, `truncate` and the like take the optional last arguments that libfuse3 added.
    ``flush`` is left out on purpose: it comes with each close of each duplicate of a descriptor
    and means nothing here, and the kernel stops asking a server that has none.
    """

    def __init__(
        self,
        binding: Binding,
        filesystem: Filesystem,
        opens: OpenFiles,
        answers: Answers,
        fget: Fget,
        *,
        on_init: Callable[[int, int, int], None],
        on_destroy: Callable[[], None],
    ) -> None:
        self._binding = binding
        self._filesystem = filesystem
        self._opens = opens
        self._files = opens.files
        self._answers = answers
        self._fget = fget
        self._on_init = on_init
        self._on_destroy = on_destroy
        self._directories: dict[int, str] = {}
        self._directory_handles = itertools.count(1)
        self._local = threading.local()
        self.threads = ThreadKeeper()

    def table(self) -> dict[str, Callable[..., int]]:
        """Every callback, by its name in ``struct fuse_operations``."""
        names = (
            *("init", "destroy", "getattr", "readlink", "chmod", "chown", "truncate", "utimens"),
            *("opendir", "readdir", "releasedir"),
            *("open", "read", "write", "ioctl", "poll", "release"),
        )
        own = {name: getattr(self, name) for name in names}
        return {**own, "fgetattr": self.fgetattr, "ftruncate": self.ftruncate, **_REFUSALS}

    def _worker(self) -> _Worker:
        """This thread's state; made at its first callback."""
        try:
            return self._local.worker  # type: ignore[no-any-return]
        except AttributeError:
            self.threads.keep()
            worker = self._local.worker = _Worker(self._binding, self._fget)
            return worker

    # ---- files: the short way -----------------------------------------------------------------

    @_guarded
    def ioctl(self, path: None, cmd: int, arg: int, info: int, flags: int, data: int) -> int:
        """Run one ioctl.  Written out flat: its cost is paid by every call of every client."""
        try:
            try:
                worker = self._local.worker
                handle = worker.handles[info].value
            except (AttributeError, KeyError):
                worker = self._worker()
                handle = worker.handle(info)
            if flags & _FUSE_IOCTL_DIR:  # with libfuse3; libfuse2 never asks
                return -errno.ENOTTY
            direction = cmd >> 30
            if direction == _IOC_READ:
                _memset(data, 0, cmd >> 16 & 0x3FFF)  # libfuse2 does not; what is left goes out
            elif direction == _IOC_NONE:
                data = 0  # whatever the size field says, there is no buffer
            result = self._files[handle].ioctl(cmd, data, FuseCaller(worker))
            if type(result) is int and -512 < result < 0x80000000:
                return result
            return self._answers.result("ioctl", result)
        except BaseException as error:  # noqa: BLE001 -- ctypes would answer success
            return self._answers.exception("ioctl", error)

    @_guarded
    def read(self, path: None, buffer: int, size: int, offset: int, info: int) -> int:
        """Read into the ``size`` bytes at ``buffer``."""
        try:
            worker = self._worker()
            nonblock = ctypes.c_int.from_address(info).value & os.O_NONBLOCK != 0
            file = self._files[worker.handle(info)]
            data = file.read(size, offset, nonblock, FuseCaller(worker))
            length = len(data)
            if length > size:
                raise BufferError(f"{length} bytes read where {size} were asked for")
            ctypes.memmove(buffer, data, length)
            return length
        except BaseException as error:  # noqa: BLE001 -- ctypes would answer success
            return self._answers.exception("read", error)

    @_guarded
    def write(self, path: None, buffer: int, size: int, offset: int, info: int) -> int:
        """Write the ``size`` bytes at ``buffer``."""
        try:
            worker = self._worker()
            nonblock = ctypes.c_int.from_address(info).value & os.O_NONBLOCK != 0
            file = self._files[worker.handle(info)]
            data = ctypes.string_at(buffer, size)
            result = file.write(data, offset, nonblock, FuseCaller(worker))
            return self._answers.result("write", result)
        except BaseException as error:  # noqa: BLE001 -- ctypes would answer success
            return self._answers.exception("write", error)

    # ---- files --------------------------------------------------------------------------------

    def open(self, path: bytes, info: int) -> int:
        """Open a file: its handle goes into the ``struct fuse_file_info``."""
        name = os.fsdecode(path)
        file_info = self._binding.file_info(info)
        # Before the open, since a path that can be opened once is gone after it.
        attr = self._filesystem.getattr(name)
        file = self._filesystem.open(name, file_info.flags, FuseCaller(self._worker()))
        calls = self._binding.calls
        poll = PollHandles(calls.notify_poll, calls.destroy_pollhandle)
        file_info.fh = self._opens.add(OpenRecord(file, name, attr, poll))
        file_info.direct_io = 0 if file.is_mappable else 1
        file_info.nonseekable = 0 if file.seekable else 1
        return 0

    def poll(self, path: None, info: int, handle: int, mask: int | None) -> int:
        """Report what is ready; ``handle``, unless 0, is to be woken when that changes."""
        record = self._opens.records[self._worker().handle(info)]
        if handle:
            record.poll.replace(handle)
        ready = record.file.poll(record.poll.wake if handle else None)
        ctypes.c_uint.from_address(mask or 0).value = ready
        return 0

    def release(self, path: None, info: int) -> int:
        """The last reference to an open file went.  Nobody's request: there is no caller."""
        self._opens.release(self._worker().handle(info))
        return 0

    # ---- the tree -----------------------------------------------------------------------------

    def getattr(self, path: bytes | None, stat: int, info: int | None = None) -> int:
        """stat(2) and fstat(2)."""
        if info:
            return self.fgetattr(None, stat, info)
        self._worker()
        name = os.fsdecode(path or b"")
        self._fill_stat(stat, self._attr(name, self._opens.at_path))
        return 0

    def fgetattr(self, path: None, stat: int, info: int) -> int:
        """fstat(2) where the kernel knows which open file it means."""
        record = self._opens.records[self._worker().handle(info)]
        self._fill_stat(stat, self._attr(record.path, lambda _: record))
        return 0

    def _attr(self, name: str, find_open: Callable[[str], OpenRecord | None]) -> Attr:
        """What the tree says; for an open file whose path has gone, what it said at open."""
        try:
            return self._filesystem.getattr(name)
        except KernelError:
            record = find_open(name)
            if record is None:
                raise
        attr = record.attr
        size = record.file.size
        return Attr(attr.ino, attr.mode, attr.uid, attr.gid, size, attr.nlink, attr.mtime_ns)

    def _fill_stat(self, address: int, attr: Attr) -> None:
        stat = self._binding.stat(address)
        ctypes.memset(address, 0, ctypes.sizeof(stat))
        stat.st_ino = attr.ino
        stat.st_mode = attr.mode
        stat.st_nlink = attr.nlink
        stat.st_uid = attr.uid
        stat.st_gid = attr.gid
        stat.st_size = attr.size
        seconds, nanoseconds = divmod(attr.mtime_ns, 10**9)
        for time in (stat.st_atimespec, stat.st_mtimespec, stat.st_ctimespec):
            time.tv_sec = seconds
            time.tv_nsec = nanoseconds

    def opendir(self, path: bytes, info: int) -> int:
        """Give the directory a handle, since readdir gets no path."""
        self._worker()
        handle = next(self._directory_handles)
        self._directories[handle] = os.fsdecode(path)
        self._binding.file_info(info).fh = handle
        return 0

    def releasedir(self, path: None, info: int) -> int:
        """The directory is closed."""
        del self._directories[self._worker().handle(info)]
        return 0

    def readdir(
        self, path: None, buffer: int, filler: int, offset: int, info: int, flags: int = 0
    ) -> int:
        """Hand all names to libfuse, which does the paging."""
        directory = self._directories[self._worker().handle(info)]
        fill = _FILLERS[self._binding.major](filler)
        more = (0,) if self._binding.major == 3 else ()
        stat = self._binding.module.c_stat()
        for name in (".", "..", *self._filesystem.readdir(directory)):
            stat.st_ino, stat.st_mode = self._entry(directory, name)
            if fill(buffer, os.fsencode(name), ctypes.addressof(stat), 0, *more):
                break
        return 0

    def _entry(self, directory: str, name: str) -> tuple[int, int]:
        """Inode number and file type of a directory entry; 0 where they cannot be told."""
        try:
            attr = self._filesystem.getattr(os.path.normpath(os.path.join(directory, name)))
        except KernelError:
            return 0, 0
        return attr.ino, attr.mode

    def readlink(self, path: bytes, buffer: int, size: int) -> int:
        """Copy the target with its terminating zero, cut to ``size``."""
        self._worker()
        target = os.fsencode(self._filesystem.readlink(os.fsdecode(path)))[: size - 1] + b"\0"
        ctypes.memmove(buffer, target, len(target))
        return 0

    def chmod(self, path: bytes | None, mode: int, info: int | None = None) -> int:
        """Change the permission bits."""
        self._filesystem.chmod(self._path(path, info), mode)
        return 0

    def chown(self, path: bytes | None, uid: int, gid: int, info: int | None = None) -> int:
        """Change the owner."""
        ids = (-1 if number == _UNCHANGED_ID else number for number in (uid, gid))
        self._filesystem.chown(self._path(path, info), *ids)
        return 0

    def truncate(self, path: bytes | None, length: int, info: int | None = None) -> int:
        """truncate(2) and ftruncate(2)."""
        self._filesystem.truncate(self._path(path, info), length)
        return 0

    def ftruncate(self, path: None, length: int, info: int) -> int:
        """ftruncate(2) of libfuse2."""
        return self.truncate(path, length, info)

    def utimens(self, path: bytes | None, times: int | None, info: int | None = None) -> int:
        """Times were set."""
        self._filesystem.utimens(self._path(path, info))
        return 0

    def _path(self, path: bytes | None, info: int | None) -> str:
        worker = self._worker()
        if path is not None:
            return os.fsdecode(path)
        return self._opens.records[worker.handle(info or 0)].path

    # ---- the mount ----------------------------------------------------------------------------

    def init(self, connection: int, config: int | None = None) -> int:
        """The kernel greeted us: from now on requests come."""
        worker = self._worker()
        self._on_init(worker.context.fuse, connection, config or 0)
        return 0

    def destroy(self, private: int | None) -> int:
        """libfuse ends.  Comes in the thread that runs its loop, which is Python's own."""
        self._on_destroy()
        return 0


_FILLERS = {
    2: ctypes.PYFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong
    ),
    3: ctypes.PYFUNCTYPE(
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong),
        ctypes.c_int,
    ),
}
"""``fuse_fill_dir_t`` of each major version; libfuse3 added flags."""


def _refuse(name: str, error: int) -> Callable[..., int]:
    def refusal(*_arguments: object) -> int:
        return -error

    refusal.__name__ = name
    return refusal


# What the kernel answers where a directory has no such inode operation (fs/namei.c).
_REFUSALS = {
    "create": _refuse("create", errno.EACCES),
    # A file without ->fsync (fs/sync.c, vfs_fsync_range).
    "fsync": _refuse("fsync", errno.EINVAL),
    **{
        name: _refuse(name, errno.EPERM)
        for name in ("mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link")
    },
}
