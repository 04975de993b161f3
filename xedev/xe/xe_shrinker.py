"""Memory pressure at will: eviction's and the shrinker's own choice, asked from outside.

Kernel: drivers/gpu/drm/xe/xe_shrinker.c for system memory, ttm_bo_evict_alloc for VRAM.  Nothing
here sets a state; what may not be purged is left alone and said to be.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from xedev.drm.ttm import OperationCtx, ShrinkResult
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_drop_caches", "xe_pressure")

HOWS = ("evict", "shrink")
_EVERYTHING = 1 << 62  # bytes, more than there are


def xe_pressure(xe: XeDevice, command: str) -> ShrinkResult:
    """Run one command: ``bo ID evict|shrink`` or ``region NAME BYTES evict|shrink``.

    ``EINVAL`` not a command, ``ENOENT`` no such BO or region.
    """
    match command.split():
        case ["bo", number, how] if number.isdecimal() and how in HOWS:
            return _one_bo(xe, int(number), how)
        case ["region", name, size, how] if size.isdecimal() and how in HOWS:
            return _region(xe, name, int(size), how)
    raise KernelError(
        errno.EINVAL, "write 'bo ID evict|shrink' or 'region NAME BYTES evict|shrink'"
    )


def xe_drop_caches(xe: XeDevice) -> ShrinkResult:
    """Purge all of system memory that the shrinker may (kernel: ``drop_slab``, which comes to
    ``xe_shrinker_scan``)."""
    return xe.ttm.shrink(_EVERYTHING)


def _one_bo(xe: XeDevice, number: int, how: str) -> ShrinkResult:
    bo = xe.bos.get(number)
    if bo is None:
        raise KernelError(errno.ENOENT, f"no BO {number}")
    result = ShrinkResult()
    if how == "shrink":
        xe.ttm.shrink_one(bo, result)
    else:
        xe.ttm.evict_one(bo, OperationCtx(), result)
    return result


def _region(xe: XeDevice, name: str, need: int, how: str) -> ShrinkResult:
    if how == "shrink":
        if name not in ("system", "gtt"):
            raise KernelError(errno.EINVAL, "the shrinker works on system memory only")
        return xe.ttm.shrink(need)
    for manager in xe.vram_managers:
        if manager.name == name:
            return xe.ttm.evict_bytes(manager.mem_type, need, OperationCtx())
    raise KernelError(errno.ENOENT, f"no VRAM region {name}")
