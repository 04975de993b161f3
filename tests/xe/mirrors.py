"""GPU addresses that stand for memory of this process, for tests."""

from __future__ import annotations

import ctypes
import itertools
import mmap

from tests.xe.gate import error_of
from tests.xe.gpu_work import ADDR, FAULT, Board
from uapi import xe_drm
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map, op_unmap

__all__ = (
    *("AUTORESET", "MIRROR", "PROT_NONE", "PROT_READ", "PROT_WRITE", "READ_ONLY", "SIZE_2M"),
    *("Mirror", "Pages"),
)

SIZE_2M = 2 << 20
MIRROR = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
READ_ONLY = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
AUTORESET = xe_drm.DRM_XE_VM_BIND_FLAG_MADVISE_AUTORESET
PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
    *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
MAP_FIXED = 0x10


class Pages:
    """Memory of this process that a test may unmap and protect."""

    # Far from where the kernel puts what others ask for: nobody else takes what is unmapped.
    places = itertools.count(0x6000_0000_0000, 1 << 30)

    def __init__(self, size: int, *, shared: bool = False, address: int = 0) -> None:
        self.address = address or next(self.places)
        self.size = size
        self._sharing = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        self.map_again()

    def map_again(self) -> None:
        """New memory at this place."""
        flags = self._sharing | mmap.MAP_ANONYMOUS | MAP_FIXED
        assert _libc.mmap(self.address, self.size, 3, flags, -1, 0) == self.address

    def unmap(self, offset: int = 0, size: int = 0) -> None:
        """Away with it."""
        assert _libc.munmap(self.address + offset, size or self.size) == 0

    def protect(self, prot: int, offset: int = 0, size: int = 0) -> None:
        """Change what may be done there."""
        assert _libc.mprotect(self.address + offset, size or self.size, prot) == 0

    def read(self, offset: int = 0) -> int:
        return ctypes.c_uint32.from_address(self.address + offset).value

    def write(self, value: int, offset: int = 0) -> None:
        ctypes.c_uint32.from_address(self.address + offset).value = value

    def close(self) -> None:
        self.unmap()


class Mirror:
    """A faulting VM whose addresses are those of this process, but for the board's."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.board = Board(device, FAULT)
        self.count = 0
        self.bind(1 << 32, (1 << 47) - (1 << 32))

    def bind(self, start: int, size: int, flags: int = 0) -> None:
        self.device.vm_bind(self.board.vm, [op_map(0, 0, start, size, flags=MIRROR | flags)])

    def run(self, batch: BatchBuilder) -> bool:
        """On a new queue; whether it was not banned."""
        queue = self.board.queue()
        self.count += 1
        self.board.exec_lr(queue, self.board.batch(batch.end()), self.count)
        address = self.board.fence_address
        try:
            self.device.wait_user_fence(
                address, self.count, exec_queue_id=queue, timeout=20_000_000_000
            )
        except OSError:
            assert self.device.exec_queue_get_property(queue) == 1
            return False
        return True

    def store(self, address: int, value: int) -> bool:
        return self.run(BatchBuilder().store_dword(address, value))

    def load(self, address: int) -> int | None:
        """What the GPU finds there; None for a fault."""
        self.board.write(0xDEAD)
        ok = self.run(BatchBuilder().copy_dword(ADDR, address))
        return self.board.read() if ok else None

    def unbind(self, address: int, size: int) -> str:
        return error_of(lambda: self.device.vm_bind(self.board.vm, [op_unmap(address, size)]))

    def last_fault(self) -> xe_drm.xe_vm_fault:
        return self.device.vm_get_faults(self.board.vm)[-1]
