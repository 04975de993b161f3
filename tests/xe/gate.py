"""Fences that a test opens by hand, and what binds wait for and signal."""

from __future__ import annotations

import errno
from collections.abc import Callable

from uapi import xe_drm
from xedev.client import Device
from xedev.client.igt_syncobj import (
    sw_sync_timeline_create,
    sw_sync_timeline_create_fence,
    sw_sync_timeline_inc,
)

__all__ = ("Gate", "error_of", "is_signalled", "signals", "waits_for")


class Gate:
    """A timeline of sw_sync whose fences arrive in syncobjs of ``device``."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._fd = sw_sync_timeline_create(device)
        self.kept: list[object] = []
        """What must not go before the timeline does: it is still written to then."""

    def sync_file(self, value: int = 1) -> int:
        """A sync_file of the fence that is signalled when the timeline is at ``value``."""
        return sw_sync_timeline_create_fence(self._device, self._fd, value)

    def syncobj(self, value: int = 1, point: int = 0) -> int:
        """A syncobj with that fence, as a point of a timeline if one is given."""
        fd = self.sync_file(value)
        handle = self._device.syncobj_create()
        self._device.syncobj_import_sync_file(handle, fd, point)
        self._device.transport.close_fd(fd)
        return handle

    def open(self, steps: int = 1) -> None:
        """Move on: the fences up to there are signalled."""
        sw_sync_timeline_inc(self._device, self._fd, steps)

    def close(self) -> None:
        """Let go of the timeline: what was not signalled fails.  A second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._device.transport.close_fd(fd)


def waits_for(handle: int, point: int = 0) -> xe_drm.drm_xe_sync:
    """A sync to wait for, binary without a point."""
    return _sync(handle, point, 0)


def signals(handle: int, point: int = 0) -> xe_drm.drm_xe_sync:
    """A sync to be signalled, binary without a point."""
    return _sync(handle, point, xe_drm.DRM_XE_SYNC_FLAG_SIGNAL)


def _sync(handle: int, point: int, flags: int) -> xe_drm.drm_xe_sync:
    binary, timeline = (
        xe_drm.DRM_XE_SYNC_TYPE_SYNCOBJ,
        xe_drm.DRM_XE_SYNC_TYPE_TIMELINE_SYNCOBJ,
    )
    return xe_drm.drm_xe_sync(
        type=timeline if point else binary, flags=flags, handle=handle, timeline_value=point
    )


def is_signalled(device: Device, handle: int) -> bool:
    """Whether all that the object stands for is done; EINVAL when it has no fence."""
    try:
        device.syncobj_wait([handle])
    except OSError as error:
        if error.errno == errno.ETIME:
            return False
        raise
    return True


def error_of(action: Callable[[], object]) -> str:
    """Name of the errno that an action fails with; "" when it does not."""
    try:
        action()
    except OSError as error:
        number = error.errno or 0
        # Its other name comes first in Python's table.
        return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]
    return ""
