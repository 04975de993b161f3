"""Registers as the CPU reaches them through the device's first window (kernel: xe_mmio.c).

There are few: the driver here asks the GPU by messages.  What is none reads as zero, and stores go
nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uapi import xe_drm

if TYPE_CHECKING:
    from xedev.xe.platforms.description import Gt, Platform

__all__ = ("XeMmio",)

_GMD_ID = 0xD8C
_MEDIA_GT = 0x380000
"""Where the registers of a media GT begin (kernel: ``MEDIA_GT_GSI_OFFSET``)."""
_SIZE = 4


class XeMmio:
    """The window to the registers (kernel: ``struct xe_mmio``)."""

    def __init__(self, platform: Platform) -> None:
        self._registers = {
            _gmd_id_register(gt): _gmd_id(gt) for gt in platform.gts if any(gt.ip_version)
        }

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` on; registers have four."""
        data = bytearray(size)
        for register, value in self._registers.items():
            at = register - offset
            if 0 <= at <= size - _SIZE:
                data[at : at + _SIZE] = value.to_bytes(_SIZE, "little")
        return bytes(data)


def _gmd_id_register(gt: Gt) -> int:
    return _GMD_ID + (_MEDIA_GT if gt.type == xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA else 0)


def _gmd_id(gt: Gt) -> int:
    """Architecture, release, revision."""
    major, minor, revision = gt.ip_version
    return major << 22 | minor << 14 | revision
