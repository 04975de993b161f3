"""What can be chosen when a mount is made."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from xedev.node.fuse_binding import BackendName

__all__ = "MountOptions"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of a mount; the first five are those of the device (`XeConfig`)."""

    profile: str = "bmg"
    """Which GPU."""
    vram: int | None = None
    """Bytes of video memory; None for what the profile says."""
    system: int | None = None
    """Bytes of system memory that buffers may take; None for what the profile says."""
    purgeability: str = "counters"
    """Policy: ``counters``, ``seed`` or ``walk``."""
    debug_kernel: bool = False
    """Behave as a kernel built with the driver's debugging options."""

    log: str | None = None
    """File for the daemon's log, appended to; None for none, or stderr in the foreground."""
    backend: BackendName | None = None
    """FUSE binding; None for what is there."""
    allow_other: bool | None = None
    """Let other users in; None: when root mounts."""
    die_with: int | None = None
    """End when the process of this id does."""

    @property
    def is_shared(self) -> bool:
        """`allow_other` with its default put in."""
        return os.geteuid() == 0 if self.allow_other is None else self.allow_other

    def asdict(self) -> dict[str, object]:
        """All options by name, ready for JSON."""
        return dataclasses.asdict(self)
