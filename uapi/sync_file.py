"""Mirrors of ``linux/sync_file.h``, and of the kernel's test interface ``sw_sync``.

``sw_sync`` is in no header: its structs stand in drivers/dma-buf/sw_sync.c, and in IGT's
lib/sw_sync.c.
"""

from __future__ import annotations

from ctypes import c_char
from typing import Annotated

from uapi.base import Struct, layout, s32, u32, u64, x32, x64
from uapi.ioctl import IOW, IOWR

__all__ = (
    "SW_SYNC_IOC_CREATE_FENCE",
    "SW_SYNC_IOC_INC",
    "SW_SYNC_IOC_MAGIC",
    "SYNC_IOC_FILE_INFO",
    "SYNC_IOC_MAGIC",
    "SYNC_IOC_MERGE",
    "SYNC_IOC_SET_DEADLINE",
    "sw_sync_create_fence_data",
    "sw_sync_inc",
    "sync_fence_info",
    "sync_file_info",
    "sync_merge_data",
    "sync_set_deadline",
)

SYNC_IOC_MAGIC = ord(">")
SW_SYNC_IOC_MAGIC = ord("W")


@layout
class sync_merge_data(Struct):
    """MERGE: a new file that is signalled when this one and another are."""

    name: Annotated[bytes, c_char * 32]  # in
    fd2: s32  # in: the other one
    fence: s32  # out: the new one
    flags: x32  # in: 0
    pad: u32


@layout
class sync_fence_info(Struct):
    """One fence of a file."""

    obj_name: Annotated[bytes, c_char * 32]  # out: of its timeline
    driver_name: Annotated[bytes, c_char * 32]  # out
    status: s32  # out: 0 active, 1 signalled, -errno failed
    flags: x32  # out: 0
    timestamp_ns: u64  # out: when it was signalled


@layout
class sync_file_info(Struct):
    """FILE_INFO: what a file consists of."""

    name: Annotated[bytes, c_char * 32]  # out
    status: s32  # out: of all its fences together
    flags: x32  # in: 0
    num_fences: u32  # in: room in the array; out: how many there are
    pad: u32
    sync_fence_info: x64  # in: address of sync_fence_info[num_fences]


@layout
class sync_set_deadline(Struct):
    """SET_DEADLINE: when somebody would like it to be done; a hint."""

    deadline_ns: u64  # CLOCK_MONOTONIC
    pad: u64


@layout
class sw_sync_create_fence_data(Struct):
    """CREATE_FENCE of ``sw_sync``: a file that is signalled when the timeline reaches a value."""

    value: u32  # in
    name: Annotated[bytes, c_char * 32]  # in
    fence: s32  # out: the file


@layout
class sw_sync_inc(Struct):
    """INC of ``sw_sync``: moves the timeline on."""

    value: u32  # in: by how much


SYNC_IOC_MERGE = IOWR(SYNC_IOC_MAGIC, 3, sync_merge_data)
SYNC_IOC_FILE_INFO = IOWR(SYNC_IOC_MAGIC, 4, sync_file_info)
SYNC_IOC_SET_DEADLINE = IOW(SYNC_IOC_MAGIC, 5, sync_set_deadline)
SW_SYNC_IOC_CREATE_FENCE = IOWR(SW_SYNC_IOC_MAGIC, 0, sw_sync_create_fence_data)
SW_SYNC_IOC_INC = IOW(SW_SYNC_IOC_MAGIC, 1, sw_sync_inc)
