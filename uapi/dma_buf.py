"""Mirror of ``linux/dma-buf.h``: ioctls on a dma-buf file descriptor (type letter ``b``)."""

# ruff: noqa: RUF012 - the tables of a mirror are class constants by the contract of uapi.base

from ctypes import c_uint32, c_uint64

from uapi.base import Struct, layout, names, s32, u32, u64
from uapi.ioctl import IOW, IOWR

DMA_BUF_BASE = ord("b")

# Access and phase bits of dma_buf_sync; the sync_file ioctls use the two access bits alone.
DMA_BUF_SYNC_READ = 1 << 0
DMA_BUF_SYNC_WRITE = 2 << 0
DMA_BUF_SYNC_RW = DMA_BUF_SYNC_READ | DMA_BUF_SYNC_WRITE
DMA_BUF_SYNC_START = 0 << 2
DMA_BUF_SYNC_END = 1 << 2
DMA_BUF_SYNC_VALID_FLAGS_MASK = DMA_BUF_SYNC_RW | DMA_BUF_SYNC_END

#: Room for a buffer's name, terminating NUL included.
DMA_BUF_NAME_LEN = 32

_SYNC_FLAGS = {
    bit: name
    for bit, name in names(globals(), "DMA_BUF_SYNC_").items()
    if bit in (DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_END)
}


@layout
class dma_buf_sync(Struct):
    """Brackets a CPU access: START before the first touch, END after the last one."""

    flags: u64  # in: access bits, plus END when the access is over

    _flags_ = {"flags": _SYNC_FLAGS}


@layout
class dma_buf_export_sync_file(Struct):
    """Takes the buffer's present fences out as a sync_file."""

    flags: u32  # in: READ = fences a reader waits for, WRITE = those a writer waits for
    fd: s32  # out: new sync_file

    _flags_ = {"flags": _SYNC_FLAGS}


@layout
class dma_buf_import_sync_file(Struct):
    """Puts the fences of a sync_file into the buffer."""

    flags: u32  # in: READ = later writers wait, WRITE = everybody later waits
    fd: s32  # in: sync_file

    _flags_ = {"flags": _SYNC_FLAGS}


DMA_BUF_IOCTL_SYNC = IOW(DMA_BUF_BASE, 0, dma_buf_sync)
# The argument of SET_NAME is the address of a C string itself; 32-bit and 64-bit callers differ
# only in the size field of the number.
DMA_BUF_SET_NAME_A = IOW(DMA_BUF_BASE, 1, c_uint32)
DMA_BUF_SET_NAME_B = IOW(DMA_BUF_BASE, 1, c_uint64)
DMA_BUF_SET_NAME = DMA_BUF_SET_NAME_B
DMA_BUF_IOCTL_EXPORT_SYNC_FILE = IOWR(DMA_BUF_BASE, 2, dma_buf_export_sync_file)
DMA_BUF_IOCTL_IMPORT_SYNC_FILE = IOW(DMA_BUF_BASE, 3, dma_buf_import_sync_file)
