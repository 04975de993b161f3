"""What debugfs tells of a tile and of memory (kernel: xe_tile_debugfs.c, ttm_resource.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xedev.drm.drm_device import DebugfsFile
from xedev.drm.ttm import MemType, TtmManager

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("gt_links", "memory_files")

READ_ONLY = 0o400

_FILES = {MemType.TT: "gtt_mm", MemType.VRAM0: "tile0/vram_mm"}


def memory_files(xe: XeDevice) -> Iterator[DebugfsFile]:
    """One for each manager; empty ones for what there is not: there is no GGTT and nothing
    suballocated."""
    for mem_type, manager in xe.ttm.managers.items():
        if mem_type in _FILES:
            yield _manager_file(_FILES[mem_type], manager)
    for name in ("tile0/ggtt", "tile0/sa_info"):
        yield DebugfsFile(name, READ_ONLY, lambda: "")


def _manager_file(name: str, manager: TtmManager) -> DebugfsFile:
    def read() -> str:
        """Kernel: ``ttm_resource_manager_debug``."""
        use_tt = int(manager.mem_type is MemType.TT)
        return (
            f"  use_type: 1\n  use_tt: {use_tt}\n  size: {manager.size}\n  usage: {manager.used}\n"
        )

    return DebugfsFile(name, READ_ONLY, read)


def gt_links(xe: XeDevice) -> dict[str, str]:
    """A GT's directory is that of its tile, too: links by their names."""
    return {f"tile{gt.tile_id}/gt{gt.gt_id}": f"../gt{gt.gt_id}" for gt in xe.platform.gts}
