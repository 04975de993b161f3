"""What stands behind GPU addresses: the contents of BOs, the memory of processes, nothing.

Contents are read and written with system calls and never by loads and stores: whoever purges them
cuts the file to nothing, and a mapping would raise SIGBUS then.  A file that got short is asked for
anew, since its contents may just have moved to another one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable

from xedev.gpu.abi import Ask
from xedev.gpu.process_memory import ResidentMemory

__all__ = ("BoPages", "ClientPages", "Gone", "NullPages", "OpenFiles", "Pages", "UnboundPages")

AskFunc = Callable[..., object]
"""``(what, ...)`` -> the driver's answer; other work is done meanwhile."""


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long),
)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_NORESERVE = 0x4000  # not in the module mmap before Python 3.13


class Gone(Exception):
    """There is nothing behind the address any more."""


class Pages(ABC):
    """One thing that ranges of addresses stand for; offsets are its own."""

    __slots__ = ()

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """All of them; `Gone`."""

    @abstractmethod
    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """All of them; `Gone`."""

    def update(self, offset: int, size: int, change: Callable[[int], int]) -> int:
        """Replace the little-endian word of ``size`` bytes by ``change`` of it, with no other work
        in between; the old value.  `Gone`."""
        old = int.from_bytes(self.read(offset, size), "little")
        self.write(offset, _word(change(old), size))
        return old


def _word(value: int, size: int) -> bytes:
    return (value & (1 << 8 * size) - 1).to_bytes(size, "little")


class UnboundPages(Pages):
    """A mapping whose page tables are made at the first access."""

    __slots__ = ()

    def read(self, offset: int, length: int) -> bytes:
        """`Gone`."""
        raise Gone

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """`Gone`."""
        raise Gone


class NullPages(Pages):
    """Zeros that cannot be changed (kernel: scratch pages, NULL mappings)."""

    __slots__ = ()

    def read(self, offset: int, length: int) -> bytes:
        """Zeros."""
        return bytes(length)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Nothing comes of it."""


class ClientPages(Pages):
    """Memory of a process; offsets are its addresses.  Pages that are there are reached at once,
    all others through the driver."""

    __slots__ = ("_ask", "_has_ended", "_is_asked", "_mm", "_resident")

    def __init__(self, mm: int, ask: AskFunc) -> None:
        self._mm = mm
        self._ask = ask
        self._is_asked = False
        self._has_ended = False
        self._resident: ResidentMemory | None = None

    def close(self) -> None:
        """Nobody needs it any more."""
        resident, self._resident = self._resident, None
        self._has_ended = True
        if resident is not None:
            resident.close()

    def read(self, offset: int, length: int) -> bytes:
        """`Gone` when the process has nothing there."""
        if not self._is_asked:
            self._open()
        if self._resident is not None:
            found = self._resident.read(offset, length)
            if found is not None:
                return found
        data = self._ask(Ask.READ, self._mm, offset, length)
        if not isinstance(data, bytes):
            raise Gone
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """`Gone` when the process has nothing there that may be written."""
        if not self._is_asked:
            self._open()
        if self._resident is not None and self._resident.write(offset, data):
            return
        if not self._ask(Ask.WRITE, self._mm, offset, bytes(data)):
            raise Gone

    def update(self, offset: int, size: int, change: Callable[[int], int]) -> int:
        """Tried until no other engine came between, be it of another device."""
        old = self.read(offset, size)
        while True:
            new = _word(change(int.from_bytes(old, "little")), size)
            found = self._ask(Ask.SWAP, self._mm, offset, old, new)
            if not isinstance(found, bytes):
                raise Gone
            if found == old:
                return int.from_bytes(old, "little")
            old = found

    def _open(self) -> None:
        """Ask whose it is, and once more: a process that runs another program meanwhile has its
        number still."""
        self._is_asked = True
        pid = self._ask(Ask.PROCESS, self._mm)
        if not isinstance(pid, int) or not pid:
            return
        try:
            resident = ResidentMemory(pid)
        except OSError:
            return
        is_same = False
        try:
            is_same = self._ask(Ask.PROCESS, self._mm) == pid
        finally:  # the queue that asks may end meanwhile
            if is_same and not self._has_ended:
                self._resident = resident
            else:
                resident.close()


class OpenFiles:
    """Descriptors of the contents that were opened last, at most ``limit``."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._files: OrderedDict[BoPages, int] = OrderedDict()

    def add(self, pages: BoPages, fd: int) -> None:
        """One more, for which the oldest one may go."""
        self._files[pages] = fd
        if len(self._files) > self._limit:
            oldest = next(iter(self._files))
            oldest.close()

    def forget(self, pages: BoPages) -> None:
        """One less; closes it."""
        fd = self._files.pop(pages, -1)
        if fd >= 0:
            os.close(fd)


class _Window:
    """A whole file, mapped for system calls to copy to, at twice the speed of copying from one
    descriptor to another.  Nobody else may touch it: where the file was cut a system call answers
    ``EFAULT``, and a store would raise SIGBUS.  OSError.
    """

    __slots__ = ("_address", "_size", "view")

    def __init__(self, fd: int) -> None:
        self._size = os.fstat(fd).st_size
        protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_NORESERVE
        # Python's own mmap would take another descriptor.
        self._address = _libc.mmap(None, self._size, protection, flags, fd, 0)
        if self._address in (None, _MAP_FAILED):
            raise OSError(ctypes.get_errno(), "the contents of a BO cannot be mapped")
        memory = (ctypes.c_char * self._size).from_address(self._address)
        self.view = memoryview(memory).cast("B")

    def close(self) -> None:
        """Unmap it."""
        self.view.release()
        _libc.munmap(self._address, self._size)


class BoPages(Pages):
    """The contents of a BO: a sparse file, asked for at the first use."""

    __slots__ = ("_ask", "_bo", "_files", "_has_ended", "_is_named", "_window", "fd")

    def __init__(self, bo: int, ask: AskFunc, files: OpenFiles) -> None:
        self._bo = bo
        self._ask = ask
        self._files = files
        self._is_named = False
        self._has_ended = False
        self._window: _Window | None = None
        self.fd = -1
        """Of the contents; negative while they are not open."""

    def close(self) -> None:
        """Let go of the descriptor; the next use asks again."""
        self.fd = -1
        window, self._window = self._window, None
        if window is not None:
            window.close()
        self._files.forget(self)

    def end(self) -> None:
        """The BO is gone, and an answer that is on its way comes too late."""
        self._has_ended = True
        self.close()

    def open(self) -> int:
        """The descriptor; `Gone`."""
        if self.fd < 0:
            answer = None if self._has_ended else self._ask(Ask.PAGES, self._bo)
            if not isinstance(answer, tuple) or self._has_ended:
                raise Gone
            path, ino = answer
            if self.fd < 0:  # others may have asked meanwhile
                self._open(path, ino)
        return self.fd

    def read(self, offset: int, length: int) -> bytes:
        """From the file; once more when it got short."""
        fd = self.fd
        if fd >= 0:
            data = os.pread(fd, length, offset)
            if len(data) == length:
                return data
            self.close()
        data = os.pread(self.open(), length, offset)
        if len(data) != length:
            raise Gone
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """To the file; once more when it got short."""
        if self.fd >= 0:
            if self._write(self.fd, offset, data):
                return
            self.close()
        if not self._write(self.open(), offset, data):
            raise Gone

    def copy_to(self, target: BoPages, offset: int, target_offset: int, length: int) -> int:
        """Copy to another file, or to another place of this one, without a look at the bytes; how
        many that were, 0 when it cannot be done so."""
        if self.fd < 0 or target.fd < 0:
            return 0
        if self is target and abs(offset - target_offset) < length:
            return 0
        try:
            if target._window is None:
                target._window = _Window(target.fd)
            place = target._window.view[target_offset : target_offset + length]
            return os.preadv(self.fd, [place], offset)
        except OSError:  # one of the files was cut
            return 0

    def _write(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> bool:
        # A file with a name is not sealed, and would grow again.
        if self._is_named and os.fstat(fd).st_size < offset + len(data):
            return False
        try:
            return os.pwrite(fd, data, offset) == len(data)
        except OSError:  # it was cut, or the machine has no memory left for more pages
            return False

    def _open(self, path: str, ino: int) -> None:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            raise Gone from None
        if os.fstat(fd).st_ino != ino:
            os.close(fd)
            raise Gone
        self.fd = fd
        self._is_named = not path.startswith("/proc/")
        self._files.add(self, fd)
