"""What one open file uses, for `fdinfo` (kernel: xe_drm_client.c; drm_file.c, drm_debugfs.c)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xedev.drm.drm_device import DebugfsFile
from xedev.drm.ttm import MemType
from xedev.xe.xe_bo import XeBo, as_xe_bo
from xedev.xe.xe_hw_engine import ENGINE_CLASSES

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice

__all__ = ("client_debugfs_files", "drm_show_fdinfo")

READ_ONLY = 0o400

UNITS = ("", " KiB", " MiB")
SZ_1K = 1024
TICKS_PATIENCE = 1.0
"""Seconds to wait for the GPU to say how long its queues have run."""


def client_debugfs_files(xe: XeDevice, file: DrmFile) -> list[DebugfsFile]:
    """The files of an open file's own debugfs directory, ``client-<id>``.

    ``fdinfo`` is what the kernel has in procfs; the mock cannot have it there.
    """
    return [
        DebugfsFile("proc_info", READ_ONLY, lambda: _proc_info(file)),
        DebugfsFile("fdinfo", READ_ONLY, lambda: drm_show_fdinfo(xe, file)),
    ]


def _proc_info(file: DrmFile) -> str:
    """Kernel: ``drm_debugfs_proc_info_show``."""
    return f"pid: {file.pid}\ncomm: {file.comm}\n"


def drm_show_fdinfo(xe: XeDevice, file: DrmFile) -> str:
    """Kernel: ``drm_show_fdinfo``; an unplugged device tells nothing."""
    if xe.unplugged:
        return ""
    pairs = [*_identity(xe, file), *_meminfo(xe, file), *_run_ticks(xe, file)]
    return "".join(f"{key}:\t{value}\n" for key, value in pairs)


def _identity(xe: XeDevice, file: DrmFile) -> Iterator[tuple[str, object]]:
    yield "drm-driver", xe.driver_name
    yield "drm-client-id", file.client_id
    yield "drm-pdev", xe.unique
    if file.client_name:
        yield "drm-client-name", file.client_name


# ---- memory ----


@dataclass(slots=True)
class MemoryStats:
    """Bytes in one region (kernel: ``struct drm_memory_stats``)."""

    private: int = 0
    shared: int = 0
    resident: int = 0
    active: int = 0
    purgeable: int = 0


def _meminfo(xe: XeDevice, file: DrmFile) -> Iterator[tuple[str, object]]:
    """Kernel: ``show_meminfo``.  Only of ``system`` it tells what is purgeable, which means idle
    there and has nothing to do with the advice DONTNEED."""
    stats = _memory_stats(xe, file)
    for mem_type in sorted(stats):
        region, name = stats[mem_type], xe.region_name(mem_type)
        yield f"drm-total-{name}", _size(region.private + region.shared)
        yield f"drm-shared-{name}", _size(region.shared)
        yield f"drm-active-{name}", _size(region.active)
        yield f"drm-resident-{name}", _size(region.resident)
        if mem_type is MemType.SYSTEM:
            yield f"drm-purgeable-{name}", _size(region.purgeable)


def _memory_stats(xe: XeDevice, file: DrmFile) -> dict[MemType, MemoryStats]:
    stats = {mem_type: MemoryStats() for mem_type in xe.ttm.managers}
    with file.table_lock:
        # One entry for each handle: a BO with two of them counts twice.
        handles = list(file.object_idr.ascending())
    for _, obj in handles:
        bo = as_xe_bo(obj)
        with bo.resv:
            _bo_meminfo(bo, stats)
    return stats


def _bo_meminfo(bo: XeBo, stats: dict[MemType, MemoryStats]) -> None:
    """Kernel: ``bo_meminfo``.  A purged BO is in no region, so it counts nowhere."""
    if bo.mem_type is None:
        return
    region = stats[bo.mem_type]
    if bo.handle_count > 1 or bo.dma_buf is not None:
        region.shared += bo.size
    else:
        region.private += bo.size
    if not bo.populated:
        return
    region.resident += bo.size
    if bo.is_busy():
        region.active += bo.size
    elif bo.mem_type is MemType.SYSTEM:
        region.purgeable += bo.size


def _size(size: int) -> str:
    """In the largest unit up to MiB that leaves it whole (kernel: ``drm_fdinfo_print_size``)."""
    unit = 0
    while size and size % SZ_1K == 0 and unit < len(UNITS) - 1:
        size //= SZ_1K
        unit += 1
    return f"{size}{UNITS[unit]}"


# ---- engines ----


def _run_ticks(xe: XeDevice, file: DrmFile) -> Iterator[tuple[str, object]]:
    """Kernel: ``show_run_ticks``.  Parallel queues count once for each engine."""
    xe.guc.update_ticks(TICKS_PATIENCE)
    spent = file.driver_priv.run_ticks  # type: ignore[attr-defined]
    now = xe.gt_timestamp(time.monotonic_ns())
    capacity = Counter(engine.engine_class for gt in xe.platform.gts for engine in gt.engines)
    for engine_class, name in ENGINE_CLASSES.items():
        if not capacity[engine_class]:
            continue
        yield f"drm-cycles-{name}", spent[engine_class]
        yield f"drm-total-cycles-{name}", now
        if capacity[engine_class] > 1:
            yield f"drm-engine-capacity-{name}", capacity[engine_class]
