"""What the modesetting ioctls answer on a device without displays.

Kernel: ``drm_core_check_feature(dev, DRIVER_MODESET)`` in drm_mode_config.c, drm_framebuffer.c,
drm_lease.c, drm_vblank.c and their neighbours; drm_connector.c for the two no-ops.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi import drm as uapi_drm
from xedev.drm.drm_ioctl import DRM_MASTER, Handler
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile

__all__ = ("HEADLESS_IOCTLS",)


def _no_modeset(device: DrmDevice, args: object, file: DrmFile, caller: Caller) -> None:
    raise KernelError(errno.EOPNOTSUPP, "the device has no displays")


def _getfb2(device: DrmDevice, args: object, file: DrmFile, caller: Caller) -> None:
    raise KernelError(errno.EINVAL, "the device has no displays")


def _pad_then_no_modeset(
    device: DrmDevice,
    args: uapi_drm.drm_mode_get_lease | uapi_drm.drm_mode_list_lessees,
    file: DrmFile,
    caller: Caller,
) -> None:
    if args.pad:
        raise KernelError(errno.EINVAL, "pad must be zero")
    raise KernelError(errno.EOPNOTSUPP, "the device has no displays")


def drm_noop(device: DrmDevice, args: object, file: DrmFile, caller: Caller) -> None:
    """An ioctl that was given up and does nothing (kernel: ``drm_noop``)."""


_OPEN = 0

HEADLESS_IOCTLS: dict[str, tuple[int, Handler]] = {
    "DRM_IOCTL_MODE_GETRESOURCES": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_GETCRTC": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_SETCRTC": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_CURSOR": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_GETGAMMA": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_SETGAMMA": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_GETENCODER": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_GETCONNECTOR": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_ATTACHMODE": (DRM_MASTER, drm_noop),
    "DRM_IOCTL_MODE_DETACHMODE": (DRM_MASTER, drm_noop),
    "DRM_IOCTL_MODE_GETPROPERTY": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_SETPROPERTY": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_GETPROPBLOB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_GETFB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_ADDFB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_RMFB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_PAGE_FLIP": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_DIRTYFB": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_GETPLANERESOURCES": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_GETPLANE": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_SETPLANE": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_ADDFB2": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_OBJ_GETPROPERTIES": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_OBJ_SETPROPERTY": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_CURSOR2": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_ATOMIC": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_CREATEPROPBLOB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_DESTROYPROPBLOB": (_OPEN, _no_modeset),
    "DRM_IOCTL_MODE_CREATE_LEASE": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_LIST_LESSEES": (DRM_MASTER, _pad_then_no_modeset),
    "DRM_IOCTL_MODE_GET_LEASE": (DRM_MASTER, _pad_then_no_modeset),
    "DRM_IOCTL_MODE_REVOKE_LEASE": (DRM_MASTER, _no_modeset),
    "DRM_IOCTL_MODE_GETFB2": (_OPEN, _getfb2),
    "DRM_IOCTL_MODE_CLOSEFB": (_OPEN, _no_modeset),
    "DRM_IOCTL_WAIT_VBLANK": (_OPEN, _no_modeset),
    "DRM_IOCTL_CRTC_GET_SEQUENCE": (_OPEN, _no_modeset),
    "DRM_IOCTL_CRTC_QUEUE_SEQUENCE": (_OPEN, _no_modeset),
}
"""Name -> (permission flags, handler)."""
