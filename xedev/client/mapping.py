"""CPU mappings of BOs and dma-bufs, on a mock as on a real device.

A server of files cannot answer mmap(2) of a device node with the BO's memory.  The mock answers
the question of ``XE_MOCK_IOCTL_MMAP`` instead, with the file to map and a lease: the BO lives as
long as the mapping because a page of the lease is mapped, too (`uapi.xe_mock.xe_mock_mmap`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from mmap import MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE
from types import TracebackType
from typing import Any, overload

from uapi.xe_mock import XE_MOCK_IOCTL_MMAP, xe_mock_mmap
from xedev.client import libc
from xedev.client.memory import MemoryIoctls

__all__ = ("Mapping", "MappingIoctls")

PROT_RW = PROT_READ | PROT_WRITE

# What the ioctl says where no mock is: ECANCELED comes from a real device that is wedged.
_NO_MOCK = (errno.ENOTTY, errno.ECANCELED)
# The memory may have changed its file between the answer and our open(2).
_OUTDATED = (errno.ENXIO, errno.ENOENT)
_OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.ENOENT)
# Flags of the caller that a mapping is made with, beside its type.
_KEPT_FLAGS = MAP_POPULATE


_Ask = Callable[[int, xe_mock_mmap], None]


class Mapping:
    """Memory of a BO that this process has mapped; it takes no descriptor.

    Indices and slices give and take bytes, as with `mmap.mmap`.  It ends with `close`, at the end
    of a ``with`` or with the object, and independently of the device that it came from.  ValueError
    after the end; TypeError for a store to a read-only one.

    Where the kernel would raise SIGBUS, because the BO was purged, so does a touch of it here.
    """

    def __init__(
        self, address: int, length: int, prot: int, end_lease: Callable[[], None] | None
    ) -> None:
        #: Where it begins.
        self.address = address
        #: Whether stores are refused.
        self.readonly = not prot & PROT_WRITE
        self._length = length
        self._exported: Callable[[], Any] = _nothing
        self._end = weakref.finalize(self, _unmap, address, length, end_lease)
        # With the process it ends anyway, and views of it may be in use until then.
        self._end.atexit = False

    def __len__(self) -> int:
        """Bytes, as asked for."""
        return self._length

    def __repr__(self) -> str:
        if self.closed:
            return "<Mapping, closed>"
        return f"<Mapping of {self._length:#x} bytes at {self.address:#x}>"

    # ---- contents ----

    @property
    def view(self) -> memoryview:
        """The memory itself.  While this or a slice of it is in use, `close` is refused."""
        if self.closed:
            raise ValueError("the mapping is closed")
        memory = self._exported()
        if memory is None:
            memory_type: Any = ctypes.c_ubyte * self._length
            memory = memory_type.from_address(self.address)
            # Whoever has a view keeps its memory, and so the mapping.
            memory.mapping = self
            self._exported = weakref.ref(memory)
        view = memoryview(memory).cast("B")
        return view.toreadonly() if self.readonly else view

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> bytes: ...

    def __getitem__(self, index: int | slice) -> int | bytes:
        with self.view as view:
            found = view[index]
            return found if isinstance(found, int) else bytes(found)

    @overload
    def __setitem__(self, index: int, data: int) -> None: ...

    @overload
    def __setitem__(self, index: slice, data: bytes | bytearray | memoryview) -> None: ...

    def __setitem__(self, index: Any, data: Any) -> None:
        with self.view as view:
            view[index] = data

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; ValueError when they leave the mapping."""
        self._check_range(offset, size)
        return self[offset : offset + size]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``offset``; ValueError when it leaves the mapping."""
        self._check_range(offset, len(data))
        self[offset : offset + len(data)] = data

    def _check_range(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self._length:
            raise ValueError(f"{size} bytes at {offset} leave a mapping of {self._length}")

    # ---- the end ----

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return not self._end.alive

    def close(self) -> None:
        """munmap(2); a second time does nothing.  BufferError while a `view` is in use."""
        if self._exported() is not None:
            raise BufferError("a view of the mapping is in use")
        self._end()

    def __enter__(self) -> Mapping:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _nothing() -> None:
    """No memory is in anybody's view."""


def _unmap(address: int, length: int, end_lease: Callable[[], None] | None) -> None:
    libc.munmap(address, length)
    if end_lease is not None:
        end_lease()


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of mmap(2) but for the descriptor."""

    offset: int
    length: int
    prot: int
    flags: int

    def question(self) -> xe_mock_mmap:
        return xe_mock_mmap(
            offset=self.offset, length=self.length, prot=self.prot, flags=self.flags
        )

    def map(self, fd: int) -> int:
        """mmap(2) itself."""
        kind = MAP_SHARED if self.flags & MAP_SHARED else MAP_PRIVATE
        return libc.mmap(self.length, self.prot, kind | self._kept_flags, fd, self.offset)

    def map_memory(self, fd: int, offset: int) -> int:
        """Map what the mock named.  A private mapping is a read-only one, and sees all stores."""
        return libc.mmap(self.length, self.prot, MAP_SHARED | self._kept_flags, fd, offset)

    @property
    def _kept_flags(self) -> int:
        return int(self.flags) & _KEPT_FLAGS

    @property
    def access(self) -> int:
        """How the memory has to be opened."""
        stores = self.prot & PROT_WRITE and self.flags & MAP_SHARED
        return os.O_RDWR if stores else os.O_RDONLY


class MappingIoctls(MemoryIoctls):
    """mmap(2), of a real device or of a mock."""

    def map(
        self, handle: int, size: int, *, prot: int = PROT_RW, flags: int = MAP_SHARED
    ) -> Mapping:
        """Map the first ``size`` bytes of a BO: `gem_mmap_offset`, then `mmap`."""
        return self.mmap(self.gem_mmap_offset(handle), size, prot, flags)

    def mmap(
        self, offset: int, length: int, prot: int = PROT_RW, flags: int = MAP_SHARED
    ) -> Mapping:
        """mmap(2) of the DRM file at a BO's offset (kernel: ``xe_mmap``, ``xe_gem_object_mmap``).

        EBUSY: the BO is DONTNEED. EINVAL: it is PURGED; no BO begins there; length; private and
        writable. EACCES: this file has no handle of it. ENODEV: unplugged. Of the mock also
        EACCES, ENOENT and ENXIO when its memory is out of this process's reach.
        """
        request = _Request(offset, length, prot, flags)
        return self._map(request, self.transport.fileno(), self._ask_node)

    def map_dma_buf(
        self,
        fd: int,
        length: int | None = None,
        prot: int = PROT_RW,
        flags: int = MAP_SHARED,
        *,
        offset: int = 0,
    ) -> Mapping:
        """mmap(2) of a dma-buf, to its end without ``length`` (kernel: ``dma_buf_mmap_internal``,
        ``drm_gem_dmabuf_mmap``).

        EINVAL: it leaves the dma-buf; otherwise as `mmap`.
        """
        if length is None:
            length = max(0, self.transport.fd_size(fd) - offset)
        request = _Request(offset, length, prot, flags)
        return self._map(request, fd, self._ask_dma_buf)

    def _ask_node(self, fd: int, question: xe_mock_mmap) -> None:
        self.ioctl(XE_MOCK_IOCTL_MMAP, question)

    def _ask_dma_buf(self, fd: int, question: xe_mock_mmap) -> None:
        self.transport.fd_ioctl(fd, XE_MOCK_IOCTL_MMAP, question)

    def _map(self, request: _Request, fd: int, ask: _Ask) -> Mapping:
        try:
            return self._map_once(request, fd, ask)
        except OSError as error:
            if error.errno not in _OUTDATED:
                raise
        return self._map_once(request, fd, ask)

    def _map_once(self, request: _Request, fd: int, ask: _Ask) -> Mapping:
        answer = request.question()
        try:
            ask(fd, answer)
        except OSError as error:
            if error.errno not in _NO_MOCK:
                raise
            return Mapping(request.map(fd), request.length, request.prot, None)
        end_lease = self.transport.hold_lease(answer.token, fd)
        try:
            address = _map_memory(request, answer)
        except BaseException:
            end_lease()
            raise
        return Mapping(address, request.length, request.prot, end_lease)


def _map_memory(request: _Request, answer: xe_mock_mmap) -> int:
    path = os.fsdecode(answer.path)
    memory = _open_memory(path, request.access)
    try:
        if os.fstat(memory).st_ino != answer.ino:
            raise OSError(errno.ENXIO, "the mock's memory is not there", path)
        return request.map_memory(memory, answer.file_offset)
    finally:
        os.close(memory)


def _open_memory(path: str, access: int) -> int:
    # Should the path name a stranger's file: do not wait for it, nor take its terminal.
    try:
        return os.open(path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno not in _OUT_OF_REACH:
            raise
        reason = f"{error.strerror}: the mock's memory is out of reach; mount with --memory tmpfs"
        raise OSError(error.errno, reason, path) from None
