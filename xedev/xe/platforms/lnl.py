"""Lunar Lake: Arc 140V, integrated.

Values: kernel xe_pci.c and public logs; firmware, fuse masks, media engines, subsystem
and frequencies are examples.
"""

from __future__ import annotations

from uapi import xe_drm
from xedev.xe.platforms.description import (
    CacheLevels,
    Engine,
    Frequencies,
    Gt,
    OaUnit,
    Pci,
    Platform,
    UcFirmware,
)
from xedev.xe.xe_pat import XE2_PAT_TABLE

__all__ = ("LNL",)

_RCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_RENDER, 0)
_BCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COPY, 0)
_CCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE, 0)
_VCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 0)
_VECS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 0)

LNL = Platform(
    key="lnl",
    name="Intel Arc Graphics 140V (Lunar Lake)",
    codename="LUNARLAKE",
    pci_slot="0000:00:02.0",
    pci=Pci(bridges=(), subsystem=(0x8086, 0x2212), class_code=0x030000, link=None),
    device_id=0x64A0,
    revision=4,
    is_dgfx=False,
    graphics_ver=20,
    graphics_verx100=2004,
    media_verx100=2000,
    va_bits=48,
    vm_max_level=4,
    gts=(
        Gt(
            gt_id=0,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN,
            tile_id=0,
            ip_version=(20, 4, 4),
            engines=(_RCS0, _BCS0, _CCS0),
            dss_geometry=0xFF,
            dss_compute=0xFF,
            l3_bank=0xFF,
            eu_per_dss=0xFF,
            frequencies=Frequencies(100, 800, 2050),
        ),
        Gt(
            gt_id=1,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA,
            tile_id=0,
            ip_version=(20, 0, 4),
            engines=(_VCS0, _VECS0),
            dss_geometry=0,
            dss_compute=0,
            l3_bank=0,
            eu_per_dss=0,
            frequencies=Frequencies(100, 800, 2050),
        ),
    ),
    reference_clock=19_200_000,
    vram_size=0,
    pat=XE2_PAT_TABLE,
    cache_levels=CacheLevels(none=3, wt=15, wb=2, none_compression=12),
    has_flat_ccs=True,
    has_usm=True,
    needs_scratch=True,
    has_device_atomics_on_smem=True,
    has_pxp=True,
    l2_flush_optimised=False,
    needs_64k_vram=False,
    guc_submission=UcFirmware(1, 15, 4),
    huc=UcFirmware(9, 4, 13),
    oa_units=(
        OaUnit(0, xe_drm.DRM_XE_OA_UNIT_TYPE_OAG, 0, (_RCS0, _CCS0)),
        OaUnit(1, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM_SAG, 1, ()),
        OaUnit(2, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM, 1, (_VCS0, _VECS0)),
    ),
    eu_stall=True,
    hwconfig=(
        (1, 2),
        (2, 8),
        (3, 8),
        (10, 8),
        (11, 1),
        (15, 8),
        (23, 1),
        (24, 1),
        (25, 1),
        (26, 1),
        (27, 1),
        (62, 1),
        (64, 1024),
        (65, 128),
        (70, 8),
        (71, 8),
    ),
)
