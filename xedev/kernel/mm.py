"""Mappings of files into a process (kernel: mm/mmap.c), as far as a driver sees them."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from uapi.xe_mock import xe_mock_mmap
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import FdTokens, File
from xedev.kernel.refcount import Refcounted
from xedev.kernel.shmem import ShmemFile

__all__ = (
    "PAGE_SIZE",
    "CpuMapping",
    "Mappable",
    "VmArea",
    "do_mmap",
    "mmap_by_ioctl",
    "page_align",
)

PAGE_SIZE = 4096
_MAP_TYPE = 0x0F
_MAP_SHARED, _MAP_PRIVATE, _MAP_SHARED_VALIDATE = 1, 2, 3
_TASK_SIZE = 1 << 47
_U64 = 1 << 64


def page_align(length: int) -> int:
    """``length`` in bytes, rounded up to whole pages."""
    return -(-length // PAGE_SIZE) * PAGE_SIZE


@dataclass(frozen=True, slots=True)
class VmArea:
    """What mmap(2) was asked for (kernel: ``struct vm_area_struct``).

    ``offset`` and ``length`` are bytes, whole pages; ``prot`` and ``flags`` as in mmap(2).
    """

    offset: int
    length: int
    prot: int
    flags: int
    by_name: bool
    """Whether the process can open pages by name only (`ShmemFile.is_named`)."""

    @property
    def is_shared(self) -> bool:
        """Stores go to the object."""
        return self.flags & _MAP_TYPE != _MAP_PRIVATE

    @property
    def is_cow(self) -> bool:
        """Stores would go to a copy of one's own (kernel: ``is_cow_mapping``)."""
        return not self.is_shared and bool(self.prot & mmap.PROT_WRITE)


class CpuMapping(File):
    """One mapping, from mmap(2) to munmap(2): it keeps its object and the file that it was made
    of (kernel: ``struct vm_area_struct``).

    It is a file of the mock, because the last close or unmap of a file is what the kernel tells
    a server of, also after fork(2) and when the process is killed.
    """

    def __init__(
        self,
        pages: ShmemFile,
        offset: int,
        close: Callable[[], None],
        file: Refcounted,
    ) -> None:
        self.pages = pages
        """What the client maps, from byte `offset` on."""
        self.offset = offset
        self._close = close
        self._file = file
        file.get()

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """Nothing can be asked of a mapping: ``ENOTTY``."""
        caller.reason = "a mapping has no ioctls"
        return -errno.ENOTTY

    def release(self) -> None:
        """The mapping ended: first for the object (``vm_ops->close``), then for the file."""
        self._close()
        self._file.put()


class Mappable(Protocol):
    """A file that can be mapped."""

    @property
    def access(self) -> int:
        """``O_RDONLY``, ``O_WRONLY`` or ``O_RDWR``."""

    def mmap(self, area: VmArea) -> CpuMapping:
        """The driver's own checks, in its order, and the mapping (kernel: ``f_op->mmap``)."""


def do_mmap(
    file: Mappable, offset: int, length: int, prot: int, flags: int, caller: Caller
) -> CpuMapping:
    """mmap(2): first what holds for every file, then what the driver says.

    ``EINVAL`` an offset within a page, no length, no type; ``ENOMEM`` too long; ``EOVERFLOW``
    beyond the end of offsets; ``EACCES`` the file was not opened for that.  Kernel: ``do_mmap``.
    """
    if offset % PAGE_SIZE:
        raise KernelError(errno.EINVAL, f"offset {offset:#x} is not a multiple of a page")
    if not length:
        raise KernelError(errno.EINVAL, "length is zero")
    aligned = page_align(length)
    if aligned > _TASK_SIZE:
        raise KernelError(errno.ENOMEM, f"length {length:#x} is too long")
    if offset + aligned > _U64:
        raise KernelError(errno.EOVERFLOW, "the mapping ends beyond the last offset")
    area = VmArea(offset, aligned, prot, flags, not caller.sees_our_proc())
    _check_access(file.access, area)
    return file.mmap(area)


def _check_access(access: int, area: VmArea) -> None:
    kind = area.flags & _MAP_TYPE
    if kind not in (_MAP_SHARED, _MAP_PRIVATE, _MAP_SHARED_VALIDATE):
        raise KernelError(errno.EINVAL, f"no mapping of type {kind}")
    if kind != _MAP_PRIVATE and area.prot & mmap.PROT_WRITE and access == os.O_RDONLY:
        raise KernelError(errno.EACCES, "the file was opened for reading only")
    if access == os.O_WRONLY:
        raise KernelError(errno.EACCES, "the file was opened for writing only")


def mmap_by_ioctl(
    file: Mappable, args: xe_mock_mmap, tokens: FdTokens, owner: File, caller: Caller
) -> None:
    """`do_mmap` for a client that cannot call mmap(2): it gets what to map instead, and a token
    for the mapping's lease, which ends with ``owner`` unless it is opened before."""
    mapping = do_mmap(file, args.offset, args.length, args.prot, args.flags, caller)
    pages = mapping.pages
    args.path = pages.path.encode()
    args.ino = pages.ino
    args.file_offset = mapping.offset
    args.token = tokens.install(mapping, owner, caller.tgid)
