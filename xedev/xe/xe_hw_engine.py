"""Engines as data (kernel: drivers/gpu/drm/xe/xe_hw_engine.c)."""

from __future__ import annotations

from uapi import xe_drm
from xedev.gpu.abi import EngineInfo
from xedev.xe.platforms import Platform

__all__ = ("ENGINE_CLASSES", "MULTI_LRC_CLASSES", "hw_engines")

ENGINE_CLASSES = {
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: "rcs",
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: "vcs",
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: "vecs",
    xe_drm.DRM_XE_ENGINE_CLASS_COPY: "bcs",
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: "ccs",
}
"""Names of the classes in the driver's order, which is not that of the uAPI's numbers
(kernel: ``enum xe_engine_class``)."""

MULTI_LRC_CLASSES = frozenset(
    {xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE}
)
"""Classes that can run one queue on several engines at once (kernel: ``multi_lrc_mask``)."""

_MMIO_BASES = {
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: (0x2000,),
    xe_drm.DRM_XE_ENGINE_CLASS_COPY: (0x22000, *(0x3E0000 + 0x2000 * n for n in range(8))),
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: (
        *(0x1C0000, 0x1C4000, 0x1D0000, 0x1D4000, 0x1E0000, 0x1E4000, 0x1F0000, 0x1F4000),
    ),
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: (0x1C8000, 0x1D8000, 0x1E8000, 0x1F8000),
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: (0x1A000, 0x1C000, 0x1E000, 0x26000),
}
"""Where each engine's registers begin (kernel: regs/xe_engine_regs.h, ``engine_infos``)."""


def hw_engines(platform: Platform) -> tuple[EngineInfo, ...]:
    """All engines that clients can use.  Logical instances are taken for physical ones."""
    return tuple(
        EngineInfo(
            gt.gt_id,
            engine.engine_class,
            engine.instance,
            _MMIO_BASES[engine.engine_class][engine.instance],
        )
        for gt in platform.gts
        for engine in gt.engines
    )
