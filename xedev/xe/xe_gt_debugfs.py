"""What debugfs tells of a GT, and what it resets (kernel: xe_gt_debugfs.c, xe_pat.c,
xe_gt_topology.c)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from uapi import xe_drm
from xedev.drm.drm_device import DebugfsFile
from xedev.kernel.caller import Caller
from xedev.kernel.sysfs import kstrtobool
from xedev.xe.platforms.description import Engine, Gt, Platform
from xedev.xe.xe_hw_engine import ENGINE_CLASSES
from xedev.xe.xe_mocs import mocs_lines
from xedev.xe.xe_pat import CohMode, PatEntry, pat_ats, pat_pta

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_gt import XeGt

__all__ = ("gt_debugfs_files",)

READ_ONLY = 0o400
CONTROL = 0o600
GPU_PATIENCE = 1.0
"""Seconds to wait for the GPU's answer."""

_XE2 = 20

_XE2_FIELDS = ((10, 1), (9, 1), (6, 3), (4, 3), (2, 3), (0, 3))
"""Shift and mask: no promotion, compression, L3 class, L3 policy, L4 policy, coherency."""
_XE3P_XPC_FIELDS = tuple(field for field in _XE2_FIELDS if field[0] != 9)
"""Nothing compresses."""
_XE3P_XPC_VERX100 = 3511
_NO_INDEX = 0xFFFF
"""Nothing here both compresses and is coherent."""
_XELP_TYPES = ("UC", "WC", "WT", "WB")
_DSS_MASK_BITS = 128
_NO_REGISTERS = "\nEngine\n\nLRC\n\nWhitelist\n"
"""Nothing is written to registers for a workaround."""
_NO_WORKAROUNDS = "\n".join(("GT Workarounds", "", "Engine Workarounds", "", "LRC Workarounds", ""))
_NO_TUNINGS = "\n".join(("GT Tunings", "", "Engine Tunings", "", "LRC Tunings", ""))
_OF_A_MEDIA_SLICE = {
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE: 2,
    xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_ENHANCE: 1,
}
"""How many engines of a class each slice has."""


class _Special(NamedTuple):
    """An entry beside the table."""

    title: str
    label: str
    entry: Callable[[int], PatEntry | None]


_PTA = _Special("Page Table Access:", "PTA_MODE", pat_pta)
_ATS = _Special("PCIe ATS/PASID:", "PAT_ATS ", pat_ats)


def gt_debugfs_files(xe: XeDevice) -> Iterator[DebugfsFile]:
    """Those of all GTs, by their paths in the device's directory.  The PAT's registers hold what
    was written to them.  Kernel: ``xe_gt_debugfs_register``."""
    for gt in xe.gts:
        directory = f"gt{gt.info.gt_id}"
        for name, text in _texts(xe.platform, gt.info).items():
            yield _file(f"{directory}/{name}", text)
        yield DebugfsFile(f"{directory}/powergate_info", READ_ONLY, partial(_powergate_info, gt))
        yield DebugfsFile(
            f"{directory}/stats", CONTROL, gt.stats.print_info, _on_yes(gt.stats.clear)
        )
        for name, reset in (
            ("force_reset", xe.guc.reset),
            ("force_reset_sync", partial(_reset_sync, xe)),
        ):
            yield DebugfsFile(f"{directory}/{name}", CONTROL, partial(_read, reset), _on_yes(reset))


def _read(act: Callable[[], None]) -> str:
    """Kernel: "to be deprecated": it is done when somebody reads."""
    act()
    return ""


def _on_yes(act: Callable[[], None]) -> Callable[[str, Caller], str]:
    """Kernel: ``write_to_gt_call``: a no is taken too, and does nothing."""

    def write(text: str, caller: Caller) -> str:
        if kstrtobool(text):
            act()
        return ""

    return write


def _reset_sync(xe: XeDevice) -> None:
    """Reset all engines, and wait until that is known of their queues."""
    xe.guc.reset()
    xe.guc.ct.query_ticks(GPU_PATIENCE)  # answered behind all that the reset has to tell


def _texts(platform: Platform, gt: Gt) -> dict[str, str]:
    specials = (line for special in (_PTA, _ATS) for line in _special_lines(platform, special))
    table = [*_pat_lines(platform), *specials]
    return {
        "pat": _joined(table),
        "pat_sw_config": _joined([*table, *_cache_level_lines(platform)]),
        "mocs": _joined(mocs_lines(platform)),
        "topology": _topology(gt),
        "workarounds": _NO_WORKAROUNDS,
        "tunings": _NO_TUNINGS,
        "register-save-restore": _NO_REGISTERS,
        "register-save-restore-check": "",
        "hw_engines": "".join(
            f"{ENGINE_CLASSES[engine.engine_class]}{engine.instance}\n" for engine in gt.engines
        ),
    }


def _file(name: str, text: str) -> DebugfsFile:
    return DebugfsFile(name, READ_ONLY, lambda: text)


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _powergate_info(gt: XeGt) -> str:
    """Kernel: ``xe_gt_idle_pg_print``.  All that can sleep does when the GT does."""
    state = "up" if gt.is_awake() else "down"
    lines = []
    if xe_drm.DRM_XE_ENGINE_CLASS_RENDER in gt.eclass:
        lines += ["Render Power Gating Enabled: yes", f"Render Power Gate Status: {state}"]
    slices = sorted({number for engine in gt.info.engines for number in _media_slices(engine)})
    if slices:
        lines.append("Media Power Gating Enabled: yes")
    lines += [f"Media Slice{number} Power Gate Status: {state}" for number in slices]
    return _joined(lines)


def _media_slices(engine: Engine) -> Iterator[int]:
    """Which one an engine is of, if it is one for video."""
    share = _OF_A_MEDIA_SLICE.get(engine.engine_class)
    if share:
        yield engine.instance // share


# ---- the page attribute table ----


def _pat_lines(platform: Platform) -> Iterator[str]:
    """Kernel: ``xe_pat_dump_sw_config``, ``xe2_dump``."""
    if platform.graphics_ver < _XE2:
        yield "PAT table:"
        for index, entry in enumerate(platform.pat):
            yield f"PAT[{index:2d}] = {_XELP_TYPES[entry.value & 3]} ({_hex(entry.value)})"
        return
    yield "PAT table: (* = reserved entry)"
    for index, entry in enumerate(platform.pat):
        reserved = " *" if entry.coh_mode is CohMode.RESERVED else ""
        yield f"{_entry_line(platform, f'PAT[{index:2d}] ', entry)}{reserved}"


def _special_lines(platform: Platform, special: _Special) -> Iterator[str]:
    entry = special.entry(platform.graphics_verx100)
    if entry is not None:
        yield special.title
        yield _entry_line(platform, special.label, entry)


def _cache_level_lines(platform: Platform) -> Iterator[str]:
    levels = platform.cache_levels
    yield "Cache Level:"
    yield f"IDX[XE_CACHE_NONE] = {levels.none}"
    yield f"IDX[XE_CACHE_WT] = {levels.wt}"
    yield f"IDX[XE_CACHE_WB] = {levels.wb}"
    if levels.none_compression is not None:
        yield f"IDX[XE_CACHE_NONE_COMPRESSION] = {levels.none_compression}"
        yield f"IDX[XE_CACHE_WB_COMPRESSION] = {_NO_INDEX}"


def _entry_line(platform: Platform, label: str, entry: PatEntry) -> str:
    """Kernel: ``xe2_pat_entry_dump``, ``xe3p_xpc_pat_entry_dump``."""
    is_xpc = platform.graphics_verx100 == _XE3P_XPC_VERX100
    shown = _XE3P_XPC_FIELDS if is_xpc else _XE2_FIELDS
    fields = ", ".join(str(entry.value >> shift & mask) for shift, mask in shown)
    return f"{label}= [ {fields} ]  ({_hex(entry.value)})"


def _hex(value: int) -> str:
    """C's ``%#8x``, which puts no prefix before a zero."""
    return f"{value:#8x}" if value else f"{0:8d}"


# ---- fuses ----


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
