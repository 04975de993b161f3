"""Alchemist, DG2-G10: Arc A770, discrete.

From the kernel: engine classes, one GT that has the media engines too, the 64 KiB rule, page
tables of four levels, no page faults, no HuC, no sampling of EU stalls (xe_pci.c, xe_uc_fw.c,
xe_eu_stall.h), the four PAT entries (xe_pat.c), workaround 22014953428 of G10 and G12
(xe_wa_oob.rules), an IP version that the GT cannot tell (xe_gt.c, ``gmdid``), one compute engine
out of four as long as nobody changes ``ccs_mode``.

From public logs of i915: usable VRAM.  Examples, since no dump of a card was at hand: revision,
subsystem, frequencies, which media engines and fuses there are, clock, firmware, the table of the
GuC.
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
from xedev.xe.xe_pat import XELP_PAT_TABLE

__all__ = ("DG2",)

_RCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_RENDER, 0)
_BCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COPY, 0)
_VCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 0)
_VCS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, 1)
_VECS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 0)
_VECS1 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE, 1)
_CCS0 = Engine(xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE, 0)

DG2 = Platform(
    key="dg2",
    name="Intel Arc A770 Graphics (Alchemist, DG2-G10)",
    codename="DG2",
    pci_slot="0000:03:00.0",
    pci=Pci(
        bridges=("0000:00:01.0", "0000:01:00.0", "0000:02:01.0"),
        subsystem=(0x8086, 0x1020),
        class_code=0x030000,
        link=("16.0 GT/s PCIe", 16),
    ),
    device_id=0x56A0,
    revision=8,
    is_dgfx=True,
    graphics_ver=12,
    graphics_verx100=1255,
    media_verx100=1255,
    va_bits=48,
    vm_max_level=3,
    gts=(
        Gt(
            gt_id=0,
            type=xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN,
            tile_id=0,
            ip_version=(0, 0, 0),
            engines=(_RCS0, _BCS0, _VCS0, _VCS1, _VECS0, _VECS1, _CCS0),
            dss_geometry=0xFFFF_FFFF,
            dss_compute=0xFFFF_FFFF,
            l3_bank=0xFFFF_FFFF,
            eu_per_dss=0xFFFF,
            frequencies=Frequencies(300, 1000, 2400),
        ),
    ),
    reference_clock=19_200_000,
    vram_size=0x3_FA00_0000,
    pat=XELP_PAT_TABLE,
    cache_levels=CacheLevels(none=3, wt=2, wb=0, none_compression=None),
    has_flat_ccs=True,
    has_usm=False,
    needs_scratch=False,
    has_device_atomics_on_smem=True,
    has_pxp=False,
    l2_flush_optimised=False,
    needs_64k_vram=True,
    guc_submission=UcFirmware(1, 15, 4),
    huc=None,
    oa_units=(OaUnit(0, xe_drm.DRM_XE_OA_UNIT_TYPE_OAG, 0, (_RCS0, _CCS0)),),
    eu_stall=False,
    workarounds=frozenset({22014953428}),
    hwconfig=(
        (1, 8),
        (2, 32),
        (3, 16),
        (10, 8),
        (11, 4),
        (15, 8),
        (23, 1),
        (24, 4),
        (25, 2),
        (26, 2),
        (27, 1),
        (64, 512),
        (65, 128),
        (70, 32),
        (71, 16),
    ),
)
