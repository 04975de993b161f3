"""Access to the memory of the process that made a request."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Sequence
from ctypes import sizeof
from typing import NamedTuple, TypeVar

from uapi.base import Struct
from xedev.kernel.errors import KernelError

__all__ = ("TASK_SIZE_MAX", "CpuVma", "UserMemory", "check_range", "copy_struct_from_user")

TASK_SIZE_MAX = 0x7FFF_FFFF_F000
"""First address that a 64-bit user process can never own (x86-64 with four page-table levels)."""

S = TypeVar("S", bound=Struct)
_PAGE_SIZE = 0x1000


class CpuVma(NamedTuple):
    """One mapping of a process (kernel: ``struct vm_area_struct``)."""

    start: int
    end: int
    readable: bool = True
    writable: bool = True
    inode: int = 0
    """Of the file, be it one without a name."""

    @property
    def anonymous(self) -> bool:
        """Private memory without a file (kernel: ``vma_is_anonymous``)."""
        return not self.inode


class UserMemory(ABC):
    """Memory of one client.  Both calls move all bytes or raise ``EFAULT``."""

    @property
    def pid(self) -> int:
        """The process whose memory it is now, if others may be told; else 0."""
        return 0

    @abstractmethod
    def read(self, address: int, length: int) -> bytes:
        """Copy ``length`` bytes from ``address`` (kernel: ``copy_from_user``)."""

    @abstractmethod
    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy ``data`` to ``address`` (kernel: ``copy_to_user``)."""

    def write_all(self, pieces: Sequence[tuple[int, bytes]]) -> None:
        """Copy several pieces, each to its address; after ``EFAULT`` any of them may be there."""
        for address, data in pieces:
            self.write(address, data)

    def probe(self, address: int, length: int, *, write: bool) -> None:
        """``EFAULT`` unless the whole range is mapped, ``EPERM`` when it is to be written and
        may not be (kernel: ``hmm_range_fault``)."""
        page = address & ~0xFFF
        while page < address + length:
            self.read(page, 1)
            page += 0x1000

    def find_vma(self, address: int) -> CpuVma | None:
        """The mapping that ends first after ``address``, whether or not it begins before it; None
        for none (kernel: ``find_vma``).  Who cannot look knows of single pages."""
        page = address & -_PAGE_SIZE
        try:
            self.read(page, 1)
        except KernelError:
            return None
        return CpuVma(page, page + _PAGE_SIZE)

    def read_u32(self, address: int) -> int:
        """Read a ``u32`` (kernel: ``get_user``)."""
        return int.from_bytes(self.read(address, 4), "little")

    def read_u64(self, address: int) -> int:
        """Read a ``u64`` (kernel: ``get_user``)."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_u32(self, address: int, value: int) -> None:
        """Write a ``u32`` (kernel: ``put_user``)."""
        self.write(address, value.to_bytes(4, "little"))

    def write_u64(self, address: int, value: int) -> None:
        """Write a ``u64`` (kernel: ``put_user``)."""
        self.write(address, value.to_bytes(8, "little"))


def check_range(address: int, length: int) -> None:
    """``EFAULT`` for a range that is not wholly in user space (kernel: ``access_ok``)."""
    if address < 0 or address + length > TASK_SIZE_MAX:
        raise KernelError(errno.EFAULT, f"{address:#x}+{length:#x} is not a user address")


def copy_struct_from_user(memory: UserMemory, address: int, cls: type[S]) -> S:
    """Copy one struct of type ``cls`` from ``address``; ``EFAULT`` when it is not readable."""
    return cls.from_buffer_copy(memory.read(address, sizeof(cls)))
