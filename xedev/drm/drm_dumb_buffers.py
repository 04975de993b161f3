"""Buffers for software rendering (kernel: drivers/gpu/drm/drm_dumb_buffers.c).

They work on a primary node even without displays, although ``GET_CAP`` denies it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi.drm import drm_mode_create_dumb, drm_mode_destroy_dumb, drm_mode_map_dumb
from xedev.drm.drm_gem import drm_gem_handle_delete, drm_gem_object_lookup
from xedev.drm.drm_ioctl import Handler
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile

__all__ = ("DUMB_IOCTLS",)

U32_MAX = 0xFFFF_FFFF
PITCH_ALIGN = 64
PAGE_SIZE = 4096


def drm_mode_create_dumb_ioctl(
    device: DrmDevice, args: drm_mode_create_dumb, file: DrmFile, caller: Caller
) -> None:
    """``CREATE_DUMB``: handle, pitch (bytes) and size (bytes) for width x height at bpp.

    ``EINVAL`` a zero or an overflow, else the errno of the BO's creation; the three outputs are
    zero after any error.
    """
    args.handle = args.pitch = args.size = 0
    _check_overflow(args.width, args.height, args.bpp)
    pitch = _align(args.width * _div_round_up(args.bpp, 8), PITCH_ALIGN)
    size = _align(pitch * args.height, device.dumb_alignment)
    if pitch > U32_MAX or size > U32_MAX:
        raise KernelError(errno.EINVAL, "the buffer's size overflows")
    args.handle = device.dumb_create(file, size)
    args.pitch, args.size = pitch, size


def _check_overflow(width: int, height: int, bpp: int) -> None:
    if not (width and height and bpp):
        raise KernelError(errno.EINVAL, "width, height and bpp must not be zero")
    if bpp > U32_MAX - 8:
        raise KernelError(errno.EINVAL, "bpp overflows")
    stride = _div_round_up(bpp, 8) * width
    if stride > U32_MAX or stride * height > U32_MAX:
        raise KernelError(errno.EINVAL, "the buffer's size overflows 32 bits")
    if _align(stride * height, PAGE_SIZE) > U32_MAX:
        raise KernelError(errno.EINVAL, "the page-aligned size overflows 32 bits")


def _div_round_up(value: int, by: int) -> int:
    return -(-value // by)


def _align(value: int, to: int) -> int:
    return _div_round_up(value, to) * to


def drm_mode_mmap_dumb_ioctl(
    device: DrmDevice, args: drm_mode_map_dumb, file: DrmFile, caller: Caller
) -> None:
    """``MAP_DUMB``: the fake mmap offset of any BO of the file; ``ENOENT``."""
    args.offset = 0
    obj = drm_gem_object_lookup(file, args.handle)
    try:
        args.offset = device.mmap_offset(obj)
    finally:
        obj.put()


def drm_mode_destroy_dumb_ioctl(
    device: DrmDevice, args: drm_mode_destroy_dumb, file: DrmFile, caller: Caller
) -> None:
    """``DESTROY_DUMB``: exactly ``GEM_CLOSE``."""
    drm_gem_handle_delete(file, args.handle)


DUMB_IOCTLS: dict[str, tuple[int, Handler]] = {
    "DRM_IOCTL_MODE_CREATE_DUMB": (0, drm_mode_create_dumb_ioctl),
    "DRM_IOCTL_MODE_MAP_DUMB": (0, drm_mode_mmap_dumb_ioctl),
    "DRM_IOCTL_MODE_DESTROY_DUMB": (0, drm_mode_destroy_dumb_ioctl),
}
"""Name -> (permission flags, handler)."""
