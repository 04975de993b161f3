"""Battlemage G21: Arc B580, discrete.

Values: public logs and xpumanager's documentation, kernel xe_pci.c; firmware, fuse masks, subsystem
and the lower frequencies are examples, since no dump of a real card was at hand.
"""

from __future__ import annotations

from uapi import xe_drm
from xedev.xe.platforms.description import (
    MIB,
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

__all__ = ("BMG",)

_RCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_RENDER, 0)
_BCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COPY, 0)
_CCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE, 0)
_VCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 0)
_VCS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 1)
_VECS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 0)
_VECS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 1)

BMG = Platform(
    key="bmg",
    name="Intel Arc B580 Graphics (Battlemage G21)",
    codename="BATTLEMAGE",
    pci_slot="0000:03:00.0",
    pci=Pci(
        bridges=("0000:00:01.0", "0000:01:00.0", "0000:02:01.0"),
        subsystem=(0x8086, 0x1100),
        class_code=0x030000,
        link=("16.0 GT/s PCIe", 8),
    ),
    device_id=0xE20B,
    revision=0,
    is_dgfx=True,
    graphics_ver=20,
    graphics_verx100=2001,
    media_verx100=1301,
    va_bits=48,
    vm_max_level=4,
    gts=(
        Gt(
            gt_id=0,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN,
            tile_id=0,
            ip_version=(20, 1, 0),
            engines=(_RCS0, _BCS0, _CCS0),
            dss_geometry=0xFFFFF,
            dss_compute=0xFFFFF,
            l3_bank=0xF_FFFF_FFFF,
            eu_per_dss=0xFF,
            frequencies=Frequencies(400, 1600, 2850),
        ),
        Gt(
            gt_id=1,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA,
            tile_id=0,
            ip_version=(13, 1, 0),
            engines=(_VCS0, _VCS1, _VECS0, _VECS1),
            dss_geometry=0,
            dss_compute=0,
            l3_bank=0,
            eu_per_dss=0,
            frequencies=Frequencies(400, 1600, 2850),
        ),
    ),
    reference_clock=19_200_000,
    vram_size=12216 * MIB,
    pat=XE2_PAT_TABLE[:28],  # Wa_16023588340: no CLOS3
    cache_levels=CacheLevels(none=3, wt=15, wb=2, none_compression=12),
    has_flat_ccs=True,
    has_usm=True,
    needs_scratch=True,
    has_device_atomics_on_smem=True,
    has_pxp=False,
    l2_flush_optimised=False,
    needs_64k_vram=False,
    guc_submission=UcFirmware(1, 15, 4),
    huc=UcFirmware(8, 2, 10),
    oa_units=(
        OaUnit(0, xe_drm.DRM_XE_OA_UNIT_TYPE_OAG, 0, (_RCS0, _CCS0)),
        OaUnit(1, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM_SAG, 1, ()),
        OaUnit(2, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM, 1, (_VCS0, _VECS0)),
        OaUnit(3, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM, 1, (_VCS1, _VECS1)),
    ),
    eu_stall=True,
    hwconfig=(
        (1, 5),
        (2, 20),
        (3, 8),
        (10, 12),
        (11, 4),
        (15, 8),
        (23, 1),
        (24, 1),
        (25, 2),
        (26, 2),
        (27, 1),
        (62, 1),
        (64, 512),
        (65, 128),
        (70, 20),
        (71, 8),
    ),
)
