"""IGT's helpers for sync objects and fences, by its names (lib/igt_syncobj.c, lib/sw_sync.c).

As in `xedev.client.xe_ioctl`: the first argument is the `Device`, lists stand for pointer and
count, and an `OSError` is raised where IGT asserts or returns a negative number. IGT's sw_sync and
sync_fence functions find their files by themselves; here the device says in which mount they are.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
from collections.abc import Callable, Sequence

from uapi import drm, sync_file
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client.device import Device

__all__ = (
    "sw_sync_timeline_create",
    "sw_sync_timeline_create_fence",
    "sw_sync_timeline_inc",
    "sync_fence_count",
    "sync_fence_count_status",
    "sync_fence_merge",
    "sync_fence_status",
    "sync_fence_wait",
    "syncobj_binary_to_timeline",
    "syncobj_create",
    "syncobj_destroy",
    "syncobj_eventfd",
    "syncobj_export_sync_file",
    "syncobj_fd_to_handle",
    "syncobj_handle_to_fd",
    "syncobj_import_sync_file",
    "syncobj_reset",
    "syncobj_signal",
    "syncobj_timeline_query",
    "syncobj_timeline_signal",
    "syncobj_timeline_to_binary",
    "syncobj_timeline_to_timeline",
    "syncobj_timeline_wait",
    "syncobj_wait",
)

_RDWR_CLOEXEC = drm.DRM_RDWR | drm.DRM_CLOEXEC


# --- sync objects --------------------------------------------------------------------------


def syncobj_create(device: Device, flags: int = 0) -> int:
    """Handle of a new object."""
    return device.syncobj_create(flags)


def syncobj_destroy(device: Device, handle: int) -> None:
    """Give a handle back."""
    device.syncobj_destroy(handle)


def syncobj_handle_to_fd(device: Device, handle: int, flags: int = 0) -> int:
    """A descriptor of an object, or with the flag of its fence."""
    return device.syncobj_handle_to_fd(handle, flags)


def syncobj_fd_to_handle(device: Device, fd: int, flags: int = 0) -> int:
    """A new handle of a descriptor's object."""
    arg = drm.drm_syncobj_handle(fd=fd, flags=flags)
    device.ioctl(drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, arg)
    return arg.handle


def syncobj_import_sync_file(device: Device, handle: int, sync_file: int) -> None:
    """Put a sync_file's fence into an object."""
    device.syncobj_import_sync_file(handle, sync_file)


def syncobj_export_sync_file(device: Device, handle: int) -> int:
    """A sync_file of an object's fence."""
    return device.syncobj_export_sync_file(handle)


def syncobj_wait(
    device: Device, handles: Sequence[int], abs_timeout_nsec: int, flags: int = 0
) -> bool:
    """Wait; False when the time is up."""
    return _in_time(lambda: device.syncobj_wait(handles, abs_timeout_nsec, flags))


def syncobj_timeline_wait(
    device: Device,
    handles: Sequence[int],
    points: Sequence[int],
    abs_timeout_nsec: int,
    flags: int = 0,
) -> bool:
    """Wait for points; False when the time is up."""
    return _in_time(lambda: device.syncobj_timeline_wait(handles, points, abs_timeout_nsec, flags))


def _in_time(wait: Callable[[], int]) -> bool:
    try:
        wait()
    except OSError as error:
        if error.errno != errno.ETIME:
            raise
        return False
    return True


def syncobj_reset(device: Device, handles: Sequence[int]) -> None:
    """Take the fences away."""
    device.syncobj_reset(handles)


def syncobj_signal(device: Device, handles: Sequence[int]) -> None:
    """Give each a signalled fence."""
    device.syncobj_signal(handles)


def syncobj_timeline_query(device: Device, handles: Sequence[int], flags: int = 0) -> list[int]:
    """How far the timelines are."""
    return device.syncobj_query(handles, flags)


def syncobj_timeline_signal(device: Device, handles: Sequence[int], points: Sequence[int]) -> None:
    """Put a signalled point on top of each."""
    device.syncobj_timeline_signal(handles, points)


def syncobj_binary_to_timeline(
    device: Device, timeline_handle: int, point: int, binary_handle: int
) -> None:
    """The fence of a binary object becomes a point."""
    device.syncobj_transfer(timeline_handle, point, binary_handle, 0)


def syncobj_timeline_to_binary(
    device: Device, binary_handle: int, timeline_handle: int, point: int, flags: int = 0
) -> None:
    """The fence of a point becomes that of a binary object."""
    device.syncobj_transfer(binary_handle, 0, timeline_handle, point, flags)


def syncobj_timeline_to_timeline(
    device: Device,
    timeline_dst: int,
    dst_point: int,
    timeline_src: int,
    src_point: int,
) -> None:
    """The fence of a point becomes another point."""
    device.syncobj_transfer(timeline_dst, dst_point, timeline_src, src_point)


def syncobj_eventfd(device: Device, handle: int, point: int, flags: int, ev_fd: int) -> None:
    """Have an eventfd counted up."""
    device.syncobj_eventfd(handle, point, ev_fd, flags)


# --- timelines moved by hand ---------------------------------------------------------------


def sw_sync_timeline_create(device: Device) -> int:
    """A descriptor of a new timeline, at 0; closing it fails what is still pending."""
    return device.transport.open_sw_sync()


def sw_sync_timeline_create_fence(device: Device, timeline: int, seqno: int) -> int:
    """A sync_file that is signalled when the timeline is at ``seqno``."""
    arg = sync_file.sw_sync_create_fence_data(value=seqno, fence=-1)
    device.transport.fd_ioctl(timeline, sync_file.SW_SYNC_IOC_CREATE_FENCE, arg)
    return _open_fd(device, arg.fence)


def sw_sync_timeline_inc(device: Device, timeline: int, count: int) -> None:
    """Move a timeline on."""
    arg = sync_file.sw_sync_inc(value=count)
    device.transport.fd_ioctl(timeline, sync_file.SW_SYNC_IOC_INC, arg)


# --- sync_files ----------------------------------------------------------------------------


def sync_fence_merge(device: Device, fd1: int, fd2: int, name: str = "") -> int:
    """A sync_file that is signalled when two are. ENOENT: ``fd2`` is none."""
    arg = sync_file.sync_merge_data(name=name.encode(), fd2=fd2, fence=-1)
    device.transport.fd_ioctl(fd1, sync_file.SYNC_IOC_MERGE, arg)
    return _open_fd(device, arg.fence)


def _open_fd(device: Device, fd: int) -> int:
    """The descriptor that a kernel installed, or that a token of the mock stands for."""
    return fd if fd < XE_MOCK_TOKEN_BASE else device.transport.open_fd(fd, _RDWR_CLOEXEC)


def sync_fence_wait(device: Device, fd: int, timeout: int) -> None:
    """Sleep in poll(2), at most ``timeout`` milliseconds, -1 for ever: ETIME."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    if not poller.poll(timeout):
        raise OSError(errno.ETIME, os.strerror(errno.ETIME))


def sync_fence_status(device: Device, fence: int) -> int:
    """1 signalled, 0 pending, ``-errno`` failed."""
    return _file_info(device, fence).status


def sync_fence_count(device: Device, fd: int) -> int:
    """How many fences a sync_file consists of."""
    return _file_info(device, fd).num_fences


def sync_fence_count_status(device: Device, fd: int, status: int) -> int:
    """How many of them have a status."""
    infos = (sync_file.sync_fence_info * sync_fence_count(device, fd))()
    arg = sync_file.sync_file_info(num_fences=len(infos), sync_fence_info=ctypes.addressof(infos))
    device.transport.fd_ioctl(fd, sync_file.SYNC_IOC_FILE_INFO, arg)
    return sum(info.status == status for info in infos[: arg.num_fences])


def _file_info(device: Device, fd: int) -> sync_file.sync_file_info:
    arg = sync_file.sync_file_info()
    device.transport.fd_ioctl(fd, sync_file.SYNC_IOC_FILE_INFO, arg)
    return arg
