"""Pages that processes share (kernel: mm/shmem.c, mm/memfd.c).

A `ShmemFile` is made when its pages are first needed, sparse: it takes memory only where it was
written.  The mock reads and writes it with system calls and never maps it, because whoever drops
the pages cuts the file to nothing, and a mapping raises SIGBUS then.  That is what a client's
mapping shall do, and what must not happen to us.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from uapi.xe_mock import XE_MOCK_PATH_MAX
from xedev.kernel.errors import KernelError

__all__ = ("MemoryKind", "ShmemConfig", "ShmemFile", "ShmemStore")

_PREFIX = "xe-mock-memory-"
_LONGEST_NAME = 100  # bytes of a file's name, with that of our directory
_DIRECTORY_MODE = 0o711  # others may open what they know the name of, and list nothing
_YOUNG = 60.0  # seconds in which a directory may be without its lock
_SHARED_MODE, _OWN_MODE = 0o666, 0o600
_COPY_PIECE = 1 << 20
# Growing is forbidden from the start and no seal can be added: a file that was cut to nothing
# stays so, whoever holds a descriptor.
_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryKind(Enum):
    """What a `ShmemFile` is."""

    MEMFD = "memfd"
    """A file without a name, reached through ``/proc``: by the same user, and root."""
    TMPFS = "tmpfs"
    """A file with a secret name, for clients of other users too.  Costs no descriptor."""


@dataclass(frozen=True, slots=True)
class ShmemConfig:
    """Where pages live.

    ``kind`` is what files are unless they need a name.  ``fd_budget`` is how many may be memfds,
    which hold a descriptor each; None for no limit of our own.  Files beyond it go to
    ``directory``, which should be on a tmpfs.
    """

    kind: MemoryKind = MemoryKind.MEMFD
    fd_budget: int | None = None
    directory: str = "/dev/shm"
    is_shared: bool = False
    """Whether clients of other users may map the files of `directory`."""


class ShmemStore:
    """Makes the files of one mock and knows how many there are."""

    def __init__(self, config: ShmemConfig | None = None) -> None:
        self.config = config or ShmemConfig()
        if len(os.fsencode(self.config.directory)) + _LONGEST_NAME > XE_MOCK_PATH_MAX:
            raise ValueError(f"the name of {self.config.directory} is too long for a path in it")
        self._lock = threading.Lock()
        self._empty_lock = threading.Lock()
        self._directory: _Directory | None = None
        self._empty: dict[bool, ShmemFile] = {}
        self.memfds = 0
        """Files that hold a descriptor."""
        self.named = 0
        """Files of the directory."""

    def create(self, size: int, *, named: bool = False) -> ShmemFile:
        """A file of ``size`` bytes, all zero; ``ENOMEM`` with the reason when there is none.

        ``named``: it must be within reach of those who cannot look into our ``/proc``.
        """
        with _no_memory(size):
            if not named and self._reserve_memfd():
                return self._create_memfd(size)
            return self._create_named(size)

    def name(self, file: ShmemFile) -> ShmemFile:
        """A named file with the contents of ``file``, which nobody may have mapped, and whose
        pages go; the same one if it has a name."""
        if file.is_named:
            return file
        twin = self.create(file.size, named=True)
        try:
            with _no_memory(file.size):
                file.copy_to(twin)
        except KernelError:
            twin.drop()
            raise
        file.drop()
        return twin

    def empty(self, *, named: bool = False) -> ShmemFile:
        """A file without a byte, the same each time: every touch of a mapping of it is SIGBUS."""
        with self._empty_lock:
            if named not in self._empty:
                self._empty[named] = self.create(0, named=named)
            return self._empty[named]

    @property
    def files(self) -> int:
        """How many there are that somebody has to drop."""
        return self.memfds + self.named - len(self._empty)

    def close(self) -> None:
        """The mock ends; files that are still open go with their users."""
        with self._empty_lock:
            empty, self._empty = self._empty, {}
        for file in empty.values():
            file.drop()
        with self._lock:
            directory, self._directory = self._directory, None
        if directory is not None:
            directory.remove()

    def _reserve_memfd(self) -> bool:
        if self.config.kind is MemoryKind.TMPFS:
            return False
        budget = self.config.fd_budget
        with self._lock:
            if budget is not None and self.memfds >= budget:
                return False
            self.memfds += 1
        return True

    def _create_memfd(self, size: int) -> ShmemFile:
        fd = -1
        try:
            fd = os.memfd_create("xe-bo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            self._forget_memfd()
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # Somebody else used the descriptors up.
            return self._create_named(size)
        return _Memfd(self, size, fd)

    def _create_named(self, size: int) -> ShmemFile:
        with self._lock:
            if self._directory is None:
                self._directory = _Directory(self.config.directory)
            directory = self._directory
        path = os.path.join(directory.path, f"bo-{secrets.token_hex(16)}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWN_MODE)
        try:
            os.ftruncate(fd, size)
            if self.config.is_shared:
                os.fchmod(fd, _SHARED_MODE)
            ino = os.fstat(fd).st_ino
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        with self._lock:
            self.named += 1
        return _Named(self, size, path, ino)

    def _forget_memfd(self) -> None:
        with self._lock:
            self.memfds -= 1

    def _forget_named(self) -> None:
        with self._lock:
            self.named -= 1


@contextlib.contextmanager
def _no_memory(size: int) -> Iterator[None]:
    try:
        yield
    except KernelError:
        raise
    except OSError as error:
        what = error.strerror or str(error)
        raise KernelError(errno.ENOMEM, f"no file for {size} bytes of pages: {what}") from None


class _Directory:
    """Our own directory below the shared one.

    Its lock is held while we live, so that the next mock can tell what a killed one has left.
    """

    def __init__(self, parent: str) -> None:
        _remove_orphans(Path(parent))
        self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
        self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        os.chmod(self.path, _DIRECTORY_MODE)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def _remove_orphans(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if _is_orphan(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_orphan(path: Path) -> bool:
    """Whether it is a directory of ours that nobody holds the lock of."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return False
    if time.time() - found.st_mtime < _YOUNG:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


class ShmemFile(ABC):
    """Pages of one object.  Not thread-safe: the owner's lock guards `drop`."""

    __slots__ = ("_store", "ino", "path", "size")

    is_named = False
    """Whether clients of any user, and of other process namespaces, can open `path`."""

    def __init__(self, store: ShmemStore, size: int, path: str, ino: int) -> None:
        self._store = store
        self.size = size
        """Bytes."""
        self.path = path
        """What a client opens to map the pages."""
        self.ino = ino
        """Its inode number, so that a client can tell it from a later file of that name."""

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; ``EFAULT`` when the pages are gone."""
        with self._opened(os.O_RDONLY) as fd:
            data = os.pread(fd, length, offset)
        if len(data) != length:
            raise _gone()
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Store ``data`` at ``offset``; ``EFAULT`` when the pages are gone."""
        with self._opened(os.O_RDWR) as fd:
            # A named file would grow again.
            if os.fstat(fd).st_size < offset + len(data):
                raise _gone()
            try:
                written = os.pwrite(fd, data, offset)
            except PermissionError:
                raise _gone() from None
        if written != len(data):
            raise _gone()

    def allocated(self) -> int:
        """Bytes of memory that it takes now."""
        with self._opened(os.O_RDONLY) as fd:
            return os.fstat(fd).st_blocks * 512

    def copy_to(self, other: ShmemFile) -> None:
        """Copy what was ever written to the same places of ``other``."""
        with self._opened(os.O_RDONLY) as source, other._opened(os.O_RDWR) as target:
            for start, end in _extents(source):
                while start < end:
                    data = os.pread(source, min(end - start, _COPY_PIECE), start)
                    if not data:
                        break
                    os.pwrite(target, data, start)
                    start += len(data)

    @abstractmethod
    def drop(self) -> None:
        """Give the pages up, once: mappings raise SIGBUS from now on."""

    @abstractmethod
    def _opened(self, flags: int) -> contextlib.AbstractContextManager[int]:
        """A descriptor, for the time of one access; ``EFAULT`` when the pages are gone."""


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that were written: ``[start, end)`` in bytes."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _gone() -> KernelError:
    return KernelError(errno.EFAULT, "the pages are gone")


class _Memfd(ShmemFile):
    __slots__ = ("_fd",)

    def __init__(self, store: ShmemStore, size: int, fd: int) -> None:
        super().__init__(store, size, f"/proc/{os.getpid()}/fd/{fd}", os.fstat(fd).st_ino)
        self._fd = fd

    def drop(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1
        self._store._forget_memfd()

    def _opened(self, flags: int) -> contextlib.AbstractContextManager[int]:
        if self._fd < 0:
            raise _gone()
        return contextlib.nullcontext(self._fd)


class _Named(ShmemFile):
    """A file of the directory; opened for each access, so that an idle one costs nothing."""

    __slots__ = ()

    is_named = True

    def drop(self) -> None:
        try:
            os.truncate(self.path, 0)
            os.unlink(self.path)
        except FileNotFoundError:
            pass  # the store's directory went first
        self._store._forget_named()

    @contextlib.contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        try:
            fd = os.open(self.path, flags | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _gone() from None
        try:
            yield fd
        finally:
            os.close(fd)
