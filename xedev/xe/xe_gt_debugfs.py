"""What debugfs tells of a GT's tables (kernel: xe_gt_debugfs.c, xe_pat.c, xe_gt_topology.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xedev.drm.drm_device import DebugfsFile
from xedev.xe.platforms.description import Gt, Platform
from xedev.xe.xe_hw_engine import ENGINE_CLASSES
from xedev.xe.xe_pat import CohMode, PatEntry

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("gt_table_files",)

READ_ONLY = 0o400

_XE2_FIELDS = ((10, 1), (9, 1), (6, 3), (4, 3), (2, 3), (0, 3))
"""Shift and mask: no promotion, compression, L3 class, L3 policy, L4 policy, coherency."""
_XELP_TYPES = ("UC", "WC", "WT", "WB")
_DSS_MASK_BITS = 128
_NO_REGISTERS = "\nEngine\n\nLRC\n\nWhitelist\n"
"""Nothing is written to registers for a workaround."""


def gt_table_files(xe: XeDevice) -> Iterator[DebugfsFile]:
    """Those of all GTs, by their paths in the device's directory."""
    for gt in xe.platform.gts:
        for name, text in _texts(xe.platform, gt).items():
            yield _file(f"gt{gt.gt_id}/{name}", text)


def _texts(platform: Platform, gt: Gt) -> dict[str, str]:
    pat = "".join(f"{line}\n" for line in _pat_lines(platform))
    return {
        "pat_sw_config": pat,
        "topology": _topology(gt),
        "register-save-restore": _NO_REGISTERS,
        "register-save-restore-check": "",
        "hw_engines": "".join(
            f"{ENGINE_CLASSES[engine.engine_class]}{engine.instance}\n" for engine in gt.engines
        ),
    }


def _file(name: str, text: str) -> DebugfsFile:
    return DebugfsFile(name, READ_ONLY, lambda: text)


def _pat_lines(platform: Platform) -> Iterator[str]:
    """Kernel: ``xe_pat_dump_sw_config``."""
    yield "PAT table: (* = reserved entry)"
    for index, entry in enumerate(platform.pat):
        reserved = " *" if entry.coh_mode is CohMode.RESERVED else ""
        yield f"PAT[{index:2d}] = {_pat_fields(platform, entry)}  ({entry.value:#8x}){reserved}"
    yield "Cache Level:"
    levels = platform.cache_levels
    yield f"IDX[XE_CACHE_NONE] = {levels.none}"
    yield f"IDX[XE_CACHE_WT] = {levels.wt}"
    yield f"IDX[XE_CACHE_WB] = {levels.wb}"
    if levels.none_compression is not None:
        yield f"IDX[XE_CACHE_NONE_COMPRESSION] = {levels.none_compression}"


def _pat_fields(platform: Platform, entry: PatEntry) -> str:
    if platform.graphics_ver < 20:
        return _XELP_TYPES[entry.value & 3]
    fields = ", ".join(str(entry.value >> shift & mask) for shift, mask in _XE2_FIELDS)
    return f"[ {fields} ]"


def _topology(gt: Gt) -> str:
    """Kernel: ``xe_gt_topology_dump``, with words of 32 bits, the highest first."""
    lines = {
        "dss mask (geometry)": _words(gt.dss_geometry, _DSS_MASK_BITS),
        "dss mask (compute)": _words(gt.dss_compute, _DSS_MASK_BITS),
        "EU mask per DSS": _words(gt.eu_per_dss, 64),
        "L3 bank mask": _words(gt.l3_bank, 64),
    }
    return "".join(f"{name + ':':<22}{words}\n" for name, words in lines.items())


def _words(mask: int, bits: int) -> str:
    return ",".join(f"{mask >> shift & 0xFFFFFFFF:08x}" for shift in range(bits - 32, -1, -32))
