"""A process that makes a FUSE mount, answers the kernel's greeting and ends: can it be done here?

``python fuse_probe.py DIRECTORY`` exits 0 if the mount was made; else libfuse has said why not.
It uses nothing of xedev, so that a fault there is never taken for a need that is missing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from types import ModuleType


def load_binding() -> ModuleType:
    """fusepy, or where libfuse2 is missing mfusepy."""
    try:
        return importlib.import_module("fuse")
    except OSError:
        return importlib.import_module("mfusepy")


def mount_once(binding: ModuleType, directory: str) -> bool:
    """Mount on ``directory`` and unmount again; has the kernel greeted us between the two?"""
    greeted = False

    def greet(_path: str) -> None:
        nonlocal greeted
        greeted = True
        os.kill(os.getpid(), signal.SIGTERM)  # libfuse's own way to end its loop

    operations = binding.Operations()
    operations.init = greet
    operations.use_ns = True  # or mfusepy warns
    # Failures are told on stderr by libfuse itself; a loop that a signal ended may count as one.
    with contextlib.suppress(RuntimeError):
        binding.FUSE(operations, directory, foreground=True, nothreads=True, fsname="xe-mock-probe")
    return greeted


if __name__ == "__main__":
    sys.exit(0 if mount_once(load_binding(), sys.argv[1]) else 1)
