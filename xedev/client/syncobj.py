"""The DRM core's sync objects, in libdrm's order of arguments (``drmSyncobj*`` of xf86drm.h).

Timeouts are points in time: nanoseconds of CLOCK_MONOTONIC, and 0 to look only.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

from uapi import drm
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client.ioctls import Ioctls
from xedev.client.transport import IN, OUT, Buffer

__all__ = ("SyncobjIoctls", "deadline_ns")

_SYNC_FILE = drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE
_TIMELINE = drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE
_O_RDWR_CLOEXEC = drm.DRM_RDWR | drm.DRM_CLOEXEC


def deadline_ns(seconds: float) -> int:
    """The timeout that many seconds from now."""
    return time.monotonic_ns() + int(seconds * 1e9)


def _u32s(values: Sequence[int]) -> Any:
    return (ctypes.c_uint32 * len(values))(*values)


def _u64s(values: Sequence[int]) -> Any:
    return (ctypes.c_uint64 * len(values))(*values)


class SyncobjIoctls(Ioctls):
    """Sync objects of this file: handles for fences that come and go.

    With arrays of handles, ENOENT for any unknown one comes before anything is changed.
    """

    # --- handles --------------------------------------------------------------------------

    def syncobj_create(self, flags: int = 0) -> int:
        """Handle of a new object (kernel: ``drm_syncobj_create_ioctl``). EINVAL: flags."""
        arg = drm.drm_syncobj_create(flags=flags)
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_CREATE, arg)
        return arg.handle

    def syncobj_destroy(self, handle: int) -> None:
        """Give a handle back; waits and descriptors keep the object. EINVAL: unknown."""
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_DESTROY, drm.drm_syncobj_destroy(handle=handle))

    # --- descriptors ----------------------------------------------------------------------

    def syncobj_handle_to_fd(self, handle: int, flags: int = 0, point: int = 0) -> int:
        """A descriptor of the object, or by flags of its fence (kernel:
        ``drm_syncobj_handle_to_fd_ioctl``).

        EINVAL: malformed, no fence, unknown handle; ENOENT: unknown handle, for a fence.
        """
        token = self.syncobj_handle_to_token(handle, flags, point)
        if token < XE_MOCK_TOKEN_BASE:
            return token
        return self.transport.open_fd(token, _O_RDWR_CLOEXEC)

    def syncobj_handle_to_token(self, handle: int, flags: int = 0, point: int = 0) -> int:
        """The bare ioctl: a token of the mock, a kernel's descriptor."""
        arg = drm.drm_syncobj_handle(handle=handle, flags=flags, fd=-1, point=point)
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD, arg)
        return arg.fd

    def syncobj_fd_to_handle(self, fd: int) -> int:
        """A new handle of a descriptor's object. EINVAL: it is none."""
        arg = drm.drm_syncobj_handle(fd=fd)
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, arg)
        return arg.handle

    def syncobj_export_sync_file(self, handle: int, point: int = 0) -> int:
        """A sync_file of the fence that a point has now. ENOENT: unknown. EINVAL: none."""
        flags = _SYNC_FILE | (_TIMELINE if point else 0)
        return self.syncobj_handle_to_fd(handle, flags, point)

    def syncobj_import_sync_file(self, handle: int, fd: int, point: int = 0) -> None:
        """Put a sync_file's fence into an object, as a point if one is given.

        EINVAL: not a sync_file. ENOENT: unknown handle.
        """
        flags = _SYNC_FILE | (_TIMELINE if point else 0)
        arg = drm.drm_syncobj_handle(handle=handle, fd=fd, flags=flags, point=point)
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE, arg)

    # --- waiting --------------------------------------------------------------------------

    def syncobj_wait(
        self,
        handles: Sequence[int],
        timeout_nsec: int = 0,
        flags: int = 0,
        *,
        deadline_nsec: int = 0,
    ) -> int:
        """Wait for one of several objects, or for all (kernel: ``drm_syncobj_wait_ioctl``).

        Returns ``first_signaled``, 0xFFFFFFFF when a wait for all found none at its begin.
        EINVAL: flags, or no fence and not FOR_SUBMIT. ENOENT. ETIME. ENOMEM.
        """
        array = _u32s(handles)
        arg = drm.drm_syncobj_wait(
            handles=ctypes.addressof(array),
            timeout_nsec=timeout_nsec,
            count_handles=len(handles),
            flags=flags,
            deadline_nsec=deadline_nsec,
        )
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_WAIT, arg, [Buffer(array, IN)] if handles else [])
        return arg.first_signaled

    def syncobj_timeline_wait(
        self,
        handles: Sequence[int],
        points: Sequence[int],
        timeout_nsec: int = 0,
        flags: int = 0,
        *,
        deadline_nsec: int = 0,
    ) -> int:
        """As `syncobj_wait`, each object with its point; AVAILABLE is content with a fence."""
        array, numbers = _u32s(handles), _u64s(points)
        arg = drm.drm_syncobj_timeline_wait(
            handles=ctypes.addressof(array),
            points=ctypes.addressof(numbers),
            timeout_nsec=timeout_nsec,
            count_handles=len(handles),
            flags=flags,
            deadline_nsec=deadline_nsec,
        )
        buffers = [Buffer(array, IN), Buffer(numbers, IN)] if handles else []
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT, arg, buffers)
        return arg.first_signaled

    # --- changing and asking --------------------------------------------------------------

    def _array(self, cmd: int, handles: Sequence[int]) -> None:
        array = _u32s(handles)
        arg = drm.drm_syncobj_array(handles=ctypes.addressof(array), count_handles=len(handles))
        self.ioctl(cmd, arg, [Buffer(array, IN)] if handles else [])

    def syncobj_reset(self, handles: Sequence[int]) -> None:
        """Take the fences away. EINVAL: no handles. ENOENT."""
        self._array(drm.DRM_IOCTL_SYNCOBJ_RESET, handles)

    def syncobj_signal(self, handles: Sequence[int]) -> None:
        """Give each a signalled fence. EINVAL: no handles. ENOENT."""
        self._array(drm.DRM_IOCTL_SYNCOBJ_SIGNAL, handles)

    def syncobj_timeline_signal(self, handles: Sequence[int], points: Sequence[int]) -> None:
        """Put a signalled point on top of each. EINVAL: no handles. ENOENT."""
        self._timeline_array(drm.DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL, handles, _u64s(points), IN, 0)

    def syncobj_query(self, handles: Sequence[int], flags: int = 0) -> list[int]:
        """How far each timeline is, 0 for one that is none; by LAST_SUBMITTED what was
        submitted. EINVAL: no handles, flags. ENOENT."""
        points = _u64s([0] * len(handles))
        self._timeline_array(drm.DRM_IOCTL_SYNCOBJ_QUERY, handles, points, OUT, flags)
        return list(points)

    def _timeline_array(
        self, cmd: int, handles: Sequence[int], points: Any, direction: int, flags: int
    ) -> None:
        array = _u32s(handles)
        arg = drm.drm_syncobj_timeline_array(
            handles=ctypes.addressof(array),
            points=ctypes.addressof(points),
            count_handles=len(handles),
            flags=flags,
        )
        buffers = [Buffer(array, IN), Buffer(points, direction)] if handles else []
        self.ioctl(cmd, arg, buffers)

    def syncobj_transfer(
        self, dst_handle: int, dst_point: int, src_handle: int, src_point: int, flags: int = 0
    ) -> None:
        """Give one point's fence to another (kernel: ``drm_syncobj_transfer_ioctl``).

        ENOENT. EINVAL: flags, or no fence. ETIME: with FOR_SUBMIT, none for five seconds.
        """
        arg = drm.drm_syncobj_transfer(
            src_handle=src_handle,
            dst_handle=dst_handle,
            src_point=src_point,
            dst_point=dst_point,
            flags=flags,
        )
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_TRANSFER, arg)

    def syncobj_eventfd(self, handle: int, point: int, ev_fd: int, flags: int = 0) -> None:
        """Have an eventfd counted up once a point is signalled, with AVAILABLE once it is there.

        ENOENT. EINVAL: flags, or no eventfd. EBADF. ENOMEM.
        """
        arg = drm.drm_syncobj_eventfd(handle=handle, point=point, fd=ev_fd, flags=flags)
        self.ioctl(drm.DRM_IOCTL_SYNCOBJ_EVENTFD, arg)
