"""Page attribute tables (kernel: drivers/gpu/drm/xe/xe_pat.c)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = (
    "XE2_PAT_TABLE",
    "XE3P_XPC_PAT_TABLE",
    "XELP_PAT_TABLE",
    "CohMode",
    "PatEntry",
    "pat_ats",
    "pat_pta",
)


class CohMode(IntEnum):
    """How the GPU's accesses see the CPU's caches; 0 marks an entry that clients may not use."""

    RESERVED = 0
    NONE = 1
    ONE_WAY = 2
    TWO_WAY = 3


@dataclass(frozen=True, slots=True)
class PatEntry:
    """One entry: coherency, whether it compresses, and its raw register value."""

    coh_mode: CohMode
    comp_en: bool
    value: int


XELP_PAT_TABLE: tuple[PatEntry, ...] = (
    PatEntry(CohMode.ONE_WAY, False, 3),
    PatEntry(CohMode.NONE, False, 1),
    PatEntry(CohMode.NONE, False, 2),
    PatEntry(CohMode.NONE, False, 0),
)
"""Alchemist: write-back, write-combined, write-through, uncached."""

_RESERVED = PatEntry(CohMode.RESERVED, False, 0)


def _xe2(no_promote: int, comp_en: int, l3clos: int, l3: int, l4: int, coh: int) -> PatEntry:
    value = no_promote << 10 | comp_en << 9 | l3clos << 6 | l3 << 4 | l4 << 2 | coh
    return PatEntry(CohMode(coh or CohMode.NONE), bool(comp_en), value)


XE2_PAT_TABLE: tuple[PatEntry, ...] = (
    _xe2(0, 0, 0, 0, 3, 0),
    _xe2(0, 0, 0, 0, 3, 2),
    _xe2(0, 0, 0, 0, 3, 3),
    _xe2(0, 0, 0, 3, 3, 0),
    _xe2(0, 0, 0, 3, 0, 2),
    _xe2(0, 0, 0, 3, 3, 2),
    _xe2(1, 0, 0, 1, 3, 0),
    _xe2(0, 0, 0, 3, 0, 3),
    _xe2(0, 0, 0, 3, 0, 0),
    _xe2(0, 1, 0, 0, 3, 0),
    _xe2(0, 1, 0, 3, 0, 0),
    _xe2(1, 1, 0, 1, 3, 0),
    _xe2(0, 1, 0, 3, 3, 0),
    _xe2(0, 0, 0, 0, 0, 0),
    _xe2(0, 1, 0, 0, 0, 0),
    _xe2(1, 1, 0, 1, 1, 0),
    _RESERVED,
    _RESERVED,
    _RESERVED,
    _RESERVED,
    _xe2(0, 0, 1, 0, 3, 0),
    _xe2(0, 1, 1, 0, 3, 0),
    _xe2(0, 0, 1, 0, 3, 2),
    _xe2(0, 0, 1, 0, 3, 3),
    _xe2(0, 0, 2, 0, 3, 0),
    _xe2(0, 1, 2, 0, 3, 0),
    _xe2(0, 0, 2, 0, 3, 2),
    _xe2(0, 0, 2, 0, 3, 3),
    _xe2(0, 0, 3, 0, 3, 0),
    _xe2(0, 1, 3, 0, 3, 0),
    _xe2(0, 0, 3, 0, 3, 2),
    _xe2(0, 0, 3, 0, 3, 3),
)
"""Lunar Lake, and Battlemage without the last class of service: index -> entry."""


def _xe3p_xpc(l3clos: int, l3: int, l4: int, coh: int) -> PatEntry:
    return _xe2(0, 0, l3clos, l3, l4, coh)


XE3P_XPC_PAT_TABLE: tuple[PatEntry, ...] = (
    _xe3p_xpc(0, 0, 0, 0),
    _xe3p_xpc(0, 0, 0, 2),
    _xe3p_xpc(0, 0, 0, 3),
    _xe3p_xpc(0, 3, 3, 0),
    _xe3p_xpc(0, 3, 3, 2),
    _xe3p_xpc(0, 3, 0, 0),
    _xe3p_xpc(0, 3, 0, 2),
    _xe3p_xpc(0, 3, 0, 3),
    _xe3p_xpc(0, 0, 3, 0),
    _xe3p_xpc(0, 0, 3, 2),
    _xe3p_xpc(0, 0, 3, 3),
    *(_RESERVED,) * 12,
    _xe3p_xpc(1, 0, 0, 0),
    _xe3p_xpc(1, 0, 0, 2),
    _xe3p_xpc(1, 0, 0, 3),
    _xe3p_xpc(2, 0, 0, 0),
    _xe3p_xpc(2, 0, 0, 2),
    _xe3p_xpc(2, 0, 0, 3),
    _xe3p_xpc(3, 0, 0, 0),
    _xe3p_xpc(3, 0, 0, 2),
    _xe3p_xpc(3, 0, 0, 3),
)
"""Crescent Island: nothing compresses."""

_XE3P_XPC_VERX100 = 3511
_XE2_VERX100 = 2000


def pat_pta(graphics_verx100: int) -> PatEntry | None:
    """How the hardware reads page tables; None where there is no register for that."""
    if graphics_verx100 == _XE3P_XPC_VERX100:
        return _xe3p_xpc(0, 0, 0, 0)
    return _xe2(0, 0, 0, 0, 3, 0) if graphics_verx100 >= _XE2_VERX100 else None


def pat_ats(graphics_verx100: int) -> PatEntry | None:
    """The same of addresses that the PCI bus translates."""
    if graphics_verx100 == _XE3P_XPC_VERX100:
        return _xe3p_xpc(0, 0, 0, 3)
    return _xe2(0, 0, 0, 0, 3, 3) if graphics_verx100 >= _XE2_VERX100 else None
