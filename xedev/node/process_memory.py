"""The memory of another process (kernel: mm/process_vm_access.c)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from weakref import WeakValueDictionary

from xedev.kernel.errors import KernelError
from xedev.kernel.process_vm_access import process_vm_readv, process_vm_writev
from xedev.kernel.user_memory import CpuVma, UserMemory, check_range

__all__ = ("LastingMemory", "ProcessMemory", "lasting_memory")

_SCRATCH_SIZE = 16384  # bytes; larger copies get a buffer of their own
_SCRATCH_PIECES = 4
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
_HOW_TO_ALLOW = (
    "it runs under another user, or Yama asks for prctl(PR_SET_PTRACER) in the client; "
    "the write/read protocol needs no such right"
)

_QUERY = struct.Struct("<9Q4I2Q")
"""``struct procmap_query`` of linux/fs.h."""
_PROCMAP_QUERY = 3 << 30 | _QUERY.size << 16 | ord("f") << 8 | 17
_VMA_READ, _VMA_WRITE, _COVERING_OR_NEXT = 0x1, 0x2, 0x10


class _Scratch(threading.local):
    """Buffers of one thread, so that a small copy allocates nothing."""

    def __init__(self) -> None:
        # struct iovec: one of ours, then theirs
        self.vectors = (ctypes.c_uint64 * (2 + 2 * _SCRATCH_PIECES))()
        self.ours = ctypes.addressof(self.vectors)
        self.theirs = self.ours + 16
        self._buffer = ctypes.create_string_buffer(_SCRATCH_SIZE)
        self.buffer = ctypes.addressof(self._buffer)


_scratch = _Scratch()


class ProcessMemory(UserMemory):
    """The memory that thread ``tid`` sees.

    Copies go through process_vm_readv(2) and process_vm_writev(2), which heed the protection of
    pages as ``copy_from_user`` does.  ``/proc/<tid>/mem`` overrides it: a write to a read-only
    page would succeed there.  So that file is only for where a seccomp filter forbids the system
    calls, and protections are then looked up in ``/proc/<tid>/maps``.

    Nothing is kept from one request to the next: an exec gives a process new memory, and the
    kernel gives a thread id to another process.
    """

    __slots__ = ("_tid",)

    def __init__(self, tid: int) -> None:
        self._tid = tid

    @property
    def pid(self) -> int:
        """The thread, which stands for its process."""
        return self._tid

    def read(self, address: int, length: int) -> bytes:
        """Copy ``length`` bytes from ``address``; ``EFAULT``."""
        if not length:
            return b""
        check_range(address, length)
        if length > _SCRATCH_SIZE:
            return self._read_large(address, length)
        scratch = _scratch
        buffer = scratch.buffer
        scratch.vectors[:4] = [buffer, length, address, length]
        got = process_vm_readv(self._tid, scratch.ours, 1, scratch.theirs, 1, 0)
        if got == length:
            return ctypes.string_at(buffer, length)
        return self._read_otherwise(got, address, length)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy ``data`` to ``address``; ``EFAULT``."""
        length = len(data) if isinstance(data, bytes) else data.nbytes
        if not length:
            return
        check_range(address, length)
        data = bytes(data)
        scratch = _scratch
        if length <= _SCRATCH_SIZE:
            ctypes.memmove(scratch.buffer, data, length)
            buffer = scratch.buffer
        else:
            buffer = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        scratch.vectors[:4] = [buffer, length, address, length]
        put = process_vm_writev(self._tid, scratch.ours, 1, scratch.theirs, 1, 0)
        if put != length:
            self._write_otherwise(put, address, data)

    def write_all(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Copy a few small pieces with one system call."""
        data = b"".join(piece for _, piece in pieces)
        if not data or len(data) > _SCRATCH_SIZE or len(pieces) > _SCRATCH_PIECES:
            super().write_all(pieces)
            return
        scratch = _scratch
        vectors: list[ctypes.c_uint64 | int] = [scratch.buffer, len(data)]
        for address, piece in pieces:
            check_range(address, len(piece))
            vectors += (address, len(piece))
        scratch.vectors[: len(vectors)] = vectors
        ctypes.memmove(scratch.buffer, data, len(data))
        put = process_vm_writev(self._tid, scratch.ours, 1, scratch.theirs, len(pieces), 0)
        if put != len(data):
            super().write_all(pieces)

    def probe(self, address: int, length: int, *, write: bool) -> None:
        """Look the range up in ``/proc/<tid>/maps``: no page of it is touched, however many."""
        check_range(address, length)
        end = address + length
        if not self._allows("r", address, end):
            raise _fault("read", address, length)
        if write and not self._allows("w", address, end):
            raise KernelError(errno.EPERM, f"{length} bytes at {address:#x} are read-only")

    def _read_large(self, address: int, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        scratch = _scratch
        scratch.vectors[:4] = [ctypes.addressof(buffer), length, address, length]
        got = process_vm_readv(self._tid, scratch.ours, 1, scratch.theirs, 1, 0)
        return buffer.raw if got == length else self._read_otherwise(got, address, length)

    def _read_otherwise(self, got: int, address: int, length: int) -> bytes:
        if not _was_forbidden(got):
            raise _fault("read", address, length)
        mem = self._open_mem("r", address, length)
        try:
            data = os.pread(mem, length, address)
        except OSError:
            data = b""
        finally:
            os.close(mem)
        if len(data) != length:
            raise _fault("read", address, length)
        return data

    def _write_otherwise(self, put: int, address: int, data: bytes) -> None:
        if not _was_forbidden(put):
            raise _fault("write", address, len(data))
        mem = self._open_mem("w", address, len(data))
        try:
            put = os.pwrite(mem, data, address)
        except OSError:
            put = 0
        finally:
            os.close(mem)
        if put != len(data):
            raise _fault("write", address, len(data))

    def _open_mem(self, access: str, address: int, length: int) -> int:
        """A descriptor of the memory file, after a look at the protections for ``access``."""
        try:
            mem = os.open(f"/proc/{self._tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            reason = f"no access to the memory of {self._tid} ({error.strerror}): {_HOW_TO_ALLOW}"
            raise KernelError(errno.EFAULT, reason) from None
        if not self._allows(access, address, address + length):
            os.close(mem)
            raise _fault("read" if access == "r" else "write", address, length)
        return mem

    def find_vma(self, address: int) -> CpuVma | None:
        """Ask for it, or where the kernel cannot be asked (before Linux 6.11), look it up."""
        try:
            maps = os.open(f"/proc/{self._tid}/maps", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return _query_vma(maps, address)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                return None
            return _find_vma(maps, address)
        finally:
            os.close(maps)

    def _allows(self, access: str, start: int, end: int) -> bool:
        """Whether mappings with ``access`` ("r" or "w") cover all from ``start`` to ``end``."""
        while start < end:
            vma = self.find_vma(start)
            if vma is None or vma.start > start:
                return False
            if not (vma.readable if access == "r" else vma.writable):
                return False
            start = vma.end
        return True


def _query_vma(maps: int, address: int) -> CpuVma | None:
    """OSError: ``ENOTTY`` this kernel has no such query."""
    query = bytearray(_QUERY.pack(_QUERY.size, _COVERING_OR_NEXT, address, *[0] * 12))
    try:
        fcntl.ioctl(maps, _PROCMAP_QUERY, query)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    start, end, flags, _, _, inode = _QUERY.unpack(query)[3:9]
    return CpuVma(start, end, bool(flags & _VMA_READ), bool(flags & _VMA_WRITE), inode)


def _find_vma(maps: int, address: int) -> CpuVma | None:
    with open(maps, "rb", closefd=False) as lines:
        for line in lines:
            span, protection, _, _, inode = line.split(maxsplit=5)[:5]
            start, end = (int(bound, 16) for bound in span.split(b"-"))
            if end > address:
                return CpuVma(start, end, b"r" in protection, b"w" in protection, int(inode))
    return None


class LastingMemory(UserMemory):
    """The memory of a process for after a request of it (kernel: ``mmgrab(current->mm)``).

    Everything is ``EFAULT`` once the process has ended or runs another program, though that, or
    yet another process, has its number by then.  Make one with `lasting_memory`.
    """

    __slots__ = ("_mem", "_memory")

    def __init__(self, pid: int) -> None:
        self._memory = ProcessMemory(pid)
        try:
            # The file stands for the memory, not for the process.
            self._mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._mem = -1

    @property
    def is_alive(self) -> bool:
        """Whether it is still some process's memory, within our reach."""
        if self._mem < 0:
            return False
        try:
            return bool(os.pread(self._mem, 1, 0))
        except OSError:
            return True  # nobody maps page 0; of memory that is gone, nothing is read

    @property
    def pid(self) -> int:
        """The process, while it has this memory."""
        return self._memory.pid if self.is_alive else 0

    def read(self, address: int, length: int) -> bytes:
        """Copy from the process; ``EFAULT``."""
        self._check_alive()
        return self._memory.read(address, length)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy to the process; ``EFAULT``."""
        self._check_alive()
        self._memory.write(address, data)

    def probe(self, address: int, length: int, *, write: bool) -> None:
        """As `ProcessMemory.probe`."""
        self._check_alive()
        self._memory.probe(address, length, write=write)

    def find_vma(self, address: int) -> CpuVma | None:
        """As `ProcessMemory.find_vma`; None once the process has ended."""
        return self._memory.find_vma(address) if self.is_alive else None

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise KernelError(errno.EFAULT, f"the process has ended, or {_HOW_TO_ALLOW}")

    def __del__(self) -> None:
        if self._mem >= 0:
            os.close(self._mem)


_lasting: WeakValueDictionary[int, LastingMemory] = WeakValueDictionary()
_lasting_lock = threading.Lock()


def lasting_memory(pid: int) -> LastingMemory:
    """The lasting memory of a process that runs; one for all who ask, as it takes a descriptor."""
    with _lasting_lock:
        memory = _lasting.get(pid)
        if memory is None or not memory.is_alive:
            memory = _lasting[pid] = LastingMemory(pid)
        return memory


def _was_forbidden(moved: int) -> bool:
    """Whether a system call failed for want of rights.

    A short count is no failure to it, but a part of the range that is not mapped: ``EFAULT``.
    """
    return moved < 0 and ctypes.get_errno() in _FORBIDDEN


def _fault(verb: str, address: int, length: int) -> KernelError:
    return KernelError(errno.EFAULT, f"cannot {verb} {length} bytes at {address:#x} of the client")
