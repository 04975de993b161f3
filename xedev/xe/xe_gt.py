"""A GT and what can be set about it (kernel: xe_gt.c, xe_gt_sysfs.c)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.kernel.sysfs import Attribute
from xedev.xe.platforms.description import Gt
from xedev.xe.xe_force_wake import XeForceWake
from xedev.xe.xe_gt_freq import XeGucPc, freq_attributes
from xedev.xe.xe_gt_idle import XeGtIdle, gtidle_attributes
from xedev.xe.xe_gt_stats import XeGtStats
from xedev.xe.xe_hw_engine import ENGINE_CLASSES
from xedev.xe.xe_hw_engine_class_sysfs import XeHwEngineClass, eclass_attributes

if TYPE_CHECKING:
    from xedev.xe.xe_device import XeDevice

__all__ = ("XeGt", "gt_attributes")

_IDLE_NAMES = {xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN: "rc", xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA: "mc"}


class XeGt:
    """One GT of a device (kernel: ``struct xe_gt``)."""

    def __init__(self, xe: XeDevice, info: Gt) -> None:
        self._xe = xe
        self.info = info
        classes = {engine.engine_class for engine in info.engines}
        self.eclass = {
            number: XeHwEngineClass(name, xe.config.job_timeout_ms)
            for number, name in ENGINE_CLASSES.items()
            if number in classes
        }
        """By the uAPI's number of the class."""
        self.stats = XeGtStats()
        self.pc = XeGucPc(info.frequencies, self.is_busy, self.is_awake)
        self.idle = XeGtIdle(f"gt{info.gt_id}-{_IDLE_NAMES[info.type]}", self.is_awake)
        self.fw = XeForceWake(before_change=self.idle.residency_ms)

    def is_awake(self) -> bool:
        """Whether it has work, or somebody keeps it from sleeping."""
        return self.fw.ref > 0 or self.is_busy()

    def is_busy(self) -> bool:
        """Whether some queue has work for it."""
        with self._xe.filelist_lock:
            files = list(self._xe.filelist.values())
        for file in files:
            xef = file.driver_priv
            with xef.vm_lock:  # type: ignore[attr-defined]
                queues = list(xef.exec_queues.ascending())  # type: ignore[attr-defined]
            if any(queue.jobs and queue.gt_id == self.info.gt_id for _, queue in queues):
                return True
        return False


def gt_attributes(gt: XeGt) -> Iterator[Attribute]:
    """Everything in the directory of a GT."""
    directory = f"tile{gt.info.tile_id}/gt{gt.info.gt_id}"
    yield from freq_attributes(gt.pc, f"{directory}/freq0")
    yield from gtidle_attributes(gt.idle, f"{directory}/gtidle")
    for eclass in gt.eclass.values():
        yield from eclass_attributes(eclass, f"{directory}/engines/{eclass.name}")
