"""The environment of a program that is to use the mock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xedev.node.namespace import bind
from xedev.node.view import MOUNT_DIR, OWN_DIR

__all__ = ("PRELOAD", "STRICT_BARRIER", "VARIABLES", "program_environment", "show_library")

VARIABLES = {
    # libudev looks whether /sys is what it seems to be.
    "SYSTEMD_DEVICE_VERIFY_SYSFS": "0",
    # Those tests of IGT that are for any driver shall not look for another one.
    "IGT_FORCE_DRIVER": "xe",
    # compute-runtime would ring the GPU's doorbells instead of calling the driver.
    "NEOReadDebugKeys": "1",
    "EnableDirectSubmission": "0",
    # And it would have kernels copy buffers, which nothing here executes.
    "EnableBlitterForEnqueueOperations": "1",
    "PreferCopyEngineForCopyBufferToBuffer": "1",
}
"""What programs have to be told."""

PRELOAD = "LD_PRELOAD"
MOUNT = "XE_MOCK_MOUNT"
"""Names the mount, for the program that is the user's own."""
STRICT_BARRIER = "XE_MOCK_STRICT_BARRIER"
"""Tells the preload library that stores into the PCI barrier page are to vanish."""

_LIBRARY = f"{OWN_DIR}/preload.so"


def program_environment(outer: Mapping[str, str], library: str | None) -> dict[str, str]:
    """The user's environment ``outer``, which wins, with what is to be added; ``library`` is the
    preload library's path as the program sees it."""
    environment = {**VARIABLES, **outer, MOUNT: f"/{MOUNT_DIR}"}
    if library is not None:
        others = outer.get(PRELOAD)
        environment[PRELOAD] = f"{library}:{others}" if others else library
    return environment


def show_library(library: Path, root: str) -> str:
    """Show the preload library in the view below ``root``; its path there."""
    place = Path(root, _LIBRARY)
    place.touch()
    bind(str(library), str(place), read_only=True)
    return f"/{_LIBRARY}"
