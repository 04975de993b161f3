"""Device descriptions as data, by the name given at mount."""

from __future__ import annotations

from xedev.xe.platforms.bmg import BMG
from xedev.xe.platforms.cri import CRI
from xedev.xe.platforms.description import Platform
from xedev.xe.platforms.dg2 import DG2
from xedev.xe.platforms.lnl import LNL

__all__ = ("PLATFORMS", "Platform")

PLATFORMS: dict[str, Platform] = {platform.key: platform for platform in (BMG, LNL, DG2, CRI)}
