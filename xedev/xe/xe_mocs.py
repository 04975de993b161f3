"""Memory object control state: caching by an index in a command (kernel: xe_mocs.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xedev.xe.platforms.description import Platform

__all__ = ("mocs_lines",)

_XE2, _XE3P_XPC = 20, 3511
_XE2_REGS, _XEHP_REGS = 16, 63
"""How many indices are shown; of the older ones the last cannot be written."""
_IG_PAT = 1 << 8
_L3_WB, _L3_UC = 0 << 4, 3 << 4
_L4_WB, _L4_UC = 0 << 2, 3 << 2
_XE2_TABLE = (
    _L3_WB | _L4_UC,
    _IG_PAT | _L3_WB | _L4_UC,
    _IG_PAT | _L3_UC | _L4_WB,
    _IG_PAT | _L3_UC | _L4_UC,
    _IG_PAT | _L3_WB | _L4_WB,
)
_XE3P_XPC_TABLE = (
    _L3_WB | _L4_UC,
    _IG_PAT | _L3_UC | _L4_UC,
    _IG_PAT | _L3_WB | _L4_UC,
    _IG_PAT | _L3_UC | _L4_WB,
    _IG_PAT | _L3_WB | _L4_WB,
)
_XE2_FIELDS = ((8, 1), (6, 3), (2, 3))
"""Shift and mask: ignores the PAT, L3 class, L4 policy."""
_UC, _WB, _GLBGO, _LOOKUP = 1 << 4, 3 << 4, 1 << 6, 1 << 7
_XEHP_TABLE = (_UC | _LOOKUP, _UC | _GLBGO | _LOOKUP, _UC | _GLBGO, _WB | _LOOKUP)
_XEHP_FIELDS = ((7, 1), (6, 1), (4, 3))
"""Shift and mask: looks up though uncached, global observation, cacheability."""


def mocs_lines(platform: Platform) -> Iterator[str]:
    """What the registers hold; the last entry of the table stands for all that are not in it
    (kernel: ``xe_mocs_dump``)."""
    if platform.graphics_ver < _XE2:
        yield from _xehp_lines()
        return
    table = _XE3P_XPC_TABLE if platform.graphics_verx100 == _XE3P_XPC else _XE2_TABLE
    yield "Global mocs table configuration:"
    yield "GLOB_MOCS[idx] = [IG_PAT, L3_CLOS, L3_CACHE_POLICY, L4_CACHE_POLICY] (value)"
    yield ""
    for index in range(_XE2_REGS):
        value = _entry(table, index)
        yield f"GLOB_MOCS[{index:2d}] = [{_fields(value, _XE2_FIELDS)}]  ({value:#8x})"


def _xehp_lines() -> Iterator[str]:
    """Two entries share a register (kernel: ``xehp_lncf_dump``)."""
    yield "LNCFCMOCS[idx] = [UCL3LOOKUP, GLBGO, L3CC] (value)"
    yield ""
    for index in range(_XEHP_REGS + 1):
        pair = index & ~1
        value = _entry(_XEHP_TABLE, pair) | _entry(_XEHP_TABLE, pair + 1) << 16
        fields = _fields(value >> 16 * (index & 1), _XEHP_FIELDS)
        yield f"LNCFCMOCS[{index:2d}] = [{fields}] ({value:#8x})"


def _entry(table: tuple[int, ...], index: int) -> int:
    return table[min(index, len(table) - 1)]


def _fields(value: int, fields: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(str(value >> shift & mask) for shift, mask in fields)
