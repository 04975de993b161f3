"""What some tests need of the machine, and whether it is there.

Each probe returns ``""``, or the reason why the need cannot be met.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.clients.chroot import default_directory, why_no_chroot

__all__ = ("NEEDS", "required", "why_missing")

_CAP_SYS_ADMIN = 21
_XE_DRM_H = "lib/libc/include/any-linux-any/drm/xe_drm.h"


def _why_no_fuse() -> str:
    # Everything short of a mount can look right in a container that forbids the mount.
    probe = Path(__file__).with_name("fuse_probe.py")
    with tempfile.TemporaryDirectory() as directory:
        try:
            ran = _run(str(probe), directory)
        except subprocess.TimeoutExpired:
            subprocess.run(["fusermount3", "-uz", directory], check=False)
            return "a trial mount hangs"
    if ran.returncode == 0:
        return ""
    return (ran.stderr.strip().splitlines() or ["a trial mount failed"])[-1]


def _why_no_root() -> str:
    if os.geteuid() != 0:
        return f"the effective uid is {os.geteuid()}, not 0"
    if not _effective_capabilities() >> _CAP_SYS_ADMIN & 1:
        return "root without CAP_SYS_ADMIN"
    return ""


def _effective_capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _why_no_compiler() -> str:
    if importlib.util.find_spec("ziglang") is None:
        return "the package ziglang is not installed"
    if _run("-m", "ziglang", "version").returncode != 0:
        return "the compiler of the package ziglang does not run here"
    return ""


def _why_no_header() -> str:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        return _why_no_compiler()
    if not (Path(spec.origin).parent / _XE_DRM_H).exists():
        return "the package ziglang has no drm/xe_drm.h"
    return _why_no_compiler()


def _why_no_chroot() -> str:
    return why_no_chroot(default_directory())


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


NEEDS: dict[str, Callable[[], str]] = {
    "fuse": _why_no_fuse,
    "root": _why_no_root,
    "header": _why_no_header,
    "clients": _why_no_compiler,
    "chroot": _why_no_chroot,
}
"""Marker -> probe."""


@functools.cache
def why_missing(need: str) -> str:
    """Why ``need`` cannot be met here, or ``""``; probed once in each process."""
    return NEEDS[need]()


def required() -> frozenset[str]:
    """The needs that must be there, from ``XE_MOCK_REQUIRE="fuse root ..."``."""
    names = frozenset(os.environ.get("XE_MOCK_REQUIRE", "").split())
    unknown = names - NEEDS.keys()
    if unknown:
        raise ValueError(f"XE_MOCK_REQUIRE: no such need: {' '.join(sorted(unknown))}")
    return names
