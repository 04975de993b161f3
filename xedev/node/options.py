"""What can be chosen when a mount is made."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from xedev.node.fuse_binding import BackendName

__all__ = ("DEVICES_MAX", "JOB_TIMEOUT_MAX", "MountOptions")

DEVICES_MAX = 16
"""How many cards one mount can have."""
JOB_TIMEOUT_MAX = 10_000
"""Milliseconds (kernel: ``XE_HW_ENGINE_JOB_TIMEOUT_MAX``)."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """Options of a mount; the first eight are those of the device (`XeConfig`)."""

    profile: str = "bmg"
    """Which GPU."""
    vram: int | None = None
    """Bytes of video memory; None for what the profile says."""
    visible_vram: int | None = None
    """Bytes of it that the CPU reaches; None for all."""
    system: int | None = None
    """Bytes of system memory that buffers may take; None for what the profile says."""
    purgeability: str = "counters"
    """Policy: ``counters``, ``seed`` or ``walk``."""
    debug_kernel: bool = False
    """Behave as a kernel built with the driver's debugging options."""
    job_timeout_ms: int = 5000
    """How long a job may be on an engine; 1 to `JOB_TIMEOUT_MAX`."""
    deterministic: int | None = None
    """Seed of the order in which jobs run, one at a time; None to run them side by side."""

    devices: int = 1
    """How many equal cards there are, at most `DEVICES_MAX`."""

    memory: str = "memfd"
    """What holds the contents of a BO where both will do: ``memfd`` or ``tmpfs``."""
    memory_dir: str = "/dev/shm"
    """Where ``tmpfs`` files are made, which serve clients of other users, too."""
    memory_fds: int | None = None
    """How many memfds there may be at once; None for what the process's limit allows."""

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
