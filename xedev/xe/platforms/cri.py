"""Crescent Island: data center, discrete, groups of queues.

From the kernel's xe_pci.c: platform, IP versions, engine classes, 57 bits of addresses, neither
compression nor scratch pages on a faulting VM; xe_pat.c: the table of Xe3p_XPC.  Of the copy
engines (BCS1 to BCS8) the driver keeps the last one, of the compute engines it offers one as long
as nobody changes ``ccs_mode``.

Examples, since no dump of a card was at hand: memory, bus, revision, subsystem, frequencies, fuses,
media engines, clock, firmware, the table of the GuC.
"""

from __future__ import annotations

from uapi import xe_drm
from xedev.xe.platforms.description import (
    GIB,
    CacheLevels,
    Engine,
    Frequencies,
    Gt,
    OaUnit,
    Pci,
    Platform,
    UcFirmware,
)
from xedev.xe.xe_pat import XE3P_XPC_PAT_TABLE

__all__ = ("CRI",)

_BCS = tuple(Engine(xe_drm.DRM_XE_ENGINE_CLASS_COPY, instance) for instance in range(7))
_CCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE, 0)
_VCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 0)
_VCS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 1)
_VECS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 0)
_VECS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 1)

CRI = Platform(
    key="cri",
    name="Intel Crescent Island",
    codename="CRESCENTISLAND",
    pci_slot="0000:03:00.0",
    pci=Pci(
        bridges=("0000:00:01.0", "0000:01:00.0", "0000:02:01.0"),
        subsystem=(0x8086, 0x0000),
        class_code=0x038000,
        link=("32.0 GT/s PCIe", 16),
    ),
    device_id=0x674C,
    revision=0,
    is_dgfx=True,
    graphics_ver=35,
    graphics_verx100=3511,
    media_verx100=3503,
    va_bits=57,
    vm_max_level=4,
    gts=(
        Gt(
            gt_id=0,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN,
            tile_id=0,
            ip_version=(35, 11, 0),
            engines=(*_BCS, _CCS0),
            dss_geometry=0,
            dss_compute=0xFFFF_FFFF,
            l3_bank=0xFFFF_FFFF,
            eu_per_dss=0xFF,
            frequencies=Frequencies(400, 1200, 2400),
            multi_queue_classes=frozenset(
                {xe_drm.DRM_XE_ENGINE_CLASS_COPY, xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE}
            ),
        ),
        Gt(
            gt_id=1,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA,
            tile_id=0,
            ip_version=(35, 3, 0),
            engines=(_VCS0, _VCS1, _VECS0, _VECS1),
            dss_geometry=0,
            dss_compute=0,
            l3_bank=0,
            eu_per_dss=0,
            frequencies=Frequencies(400, 1200, 2400),
        ),
    ),
    reference_clock=19_200_000,
    vram_size=160 * GIB,
    pat=XE3P_XPC_PAT_TABLE,
    cache_levels=CacheLevels(none=3, wt=3, wb=2, none_compression=0),  # 0: the kernel has none
    has_flat_ccs=False,
    has_usm=True,
    needs_scratch=False,
    has_device_atomics_on_smem=True,
    has_pxp=False,
    l2_flush_optimised=False,
    needs_64k_vram=False,
    guc_submission=UcFirmware(1, 28, 0),
    huc=None,
    oa_units=(
        OaUnit(0, xe_drm.DRM_XE_OA_UNIT_TYPE_OAG, 0, (_CCS0,)),
        OaUnit(1, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM_SAG, 1, ()),
        OaUnit(2, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM, 1, (_VCS0, _VECS0)),
        OaUnit(3, xe_drm.DRM_XE_OA_UNIT_TYPE_OAM, 1, (_VCS1, _VECS1)),
    ),
    eu_stall=True,
    hwconfig=(
        (1, 8),
        (2, 32),
        (3, 8),
        (10, 16),
        (11, 4),
        (15, 8),
        (23, 0),
        (24, 1),
        (25, 2),
        (26, 2),
        (27, 7),
        (62, 1),
        (64, 512),
        (65, 128),
        (70, 32),
        (71, 8),
    ),
)
