"""The Debian chroot that the programs live in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

__all__ = ("default_directory", "make_chroot", "versions")

SUITE = "sid"
"""The first with IGT's Xe tests and a Mesa for Battlemage."""
PACKAGES = (
    *("igt-gpu-tools", "igt-gpu-tools-tests", "kmod", "libdrm-tests", "libvulkan1"),
    *("mesa-utils", "mesa-vulkan-drivers", "vulkan-tools"),
)
_DONE = "made-for-xe-mock"


def default_directory() -> Path:
    """Below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "xe-mock", f"clients-{SUITE}")


def make_chroot(directory: Path) -> None:
    """Make it, unless one with these packages is there.  CalledProcessError."""
    key = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()
    mark = directory / _DONE
    if mark.exists() and mark.read_text() == key:
        return
    print(f"making a chroot in {directory}: about two minutes", flush=True)
    if directory.exists():
        shutil.rmtree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            *("mmdebstrap", "--mode=root", "--variant=apt", "--quiet"),
            # The lists of a suite that is always in the making may be a little old.
            '--aptopt=Acquire::Check-Valid-Until "false"',
            '--aptopt=APT::Install-Recommends "false"',
            f"--include={','.join(PACKAGES)}",
            *(SUITE, os.fspath(directory)),
        ],
        check=True,
    )
    mark.write_text(key)


def versions(directory: Path) -> dict[str, str]:
    """Of the packages that matter: a result belongs to them."""
    query = subprocess.run(
        ["dpkg-query", f"--admindir={directory}/var/lib/dpkg", "-W", *PACKAGES],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split("\t", 1) for line in query.stdout.splitlines())
