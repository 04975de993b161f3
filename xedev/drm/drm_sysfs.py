"""Nodes as sysfs shows them (kernel: drivers/gpu/drm/drm_sysfs.c)."""

from __future__ import annotations

from xedev.drm.drm_device import DrmMinor
from xedev.kernel.sysfs import Attribute, Link

__all__ = ("DRM_CLASS", "DRM_MAJOR", "DRM_VERSION", "drm_minor_sysfs")

DRM_MAJOR = 226
DRM_CLASS = "class/drm"
"""Directory of the class, below /sys."""
DRM_VERSION = Attribute("version", lambda: "drm 1.1.0 20060810\n")
"""In the directory of the class."""


def drm_minor_sysfs(minor: DrmMinor, parent: str) -> list[Attribute | Link]:
    """What is in the directory of the device at ``parent`` (a path below /sys) for one node."""
    directory = f"drm/{minor.name}"
    number = f"{DRM_MAJOR}:{minor.index}\n"
    uevent = (
        f"MAJOR={DRM_MAJOR}\nMINOR={minor.index}\nDEVNAME=dri/{minor.name}\nDEVTYPE=drm_minor\n"
    )
    return [
        Attribute(f"{directory}/dev", lambda: number),
        Attribute(f"{directory}/uevent", lambda: uevent),
        Link(f"{directory}/device", parent),
        Link(f"{directory}/subsystem", DRM_CLASS),
    ]
