"""The Debian chroot that the programs live in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ("OWN_PROGRAMS", "default_directory", "make_chroot", "versions", "why_no_chroot")

SUITE = "sid"
"""The first with IGT's Xe tests and a Mesa for Battlemage."""
PROGRAMS = (
    *("clinfo", "igt-gpu-tools", "igt-gpu-tools-tests", "libdrm-tests"),
    *("mesa-utils", "vainfo", "vulkan-tools"),
)
DRIVERS = (
    *("intel-media-va-driver", "intel-opencl-icd", "libdrm2", "libegl-mesa0", "libze-intel-gpu1"),
    "mesa-vulkan-drivers",
)
"""User space's half of the driver: with the programs, what a result belongs to."""
TOOLS = (
    *("coreutils", "kmod", "libc6-dev", "libvulkan1", "libze1", "ocl-icd-libopencl1", "tcc"),
    *("libvulkan-dev", "libze-dev", "ocl-icd-opencl-dev", "opencl-c-headers"),
)
PACKAGES = (*PROGRAMS, *DRIVERS, *TOOLS)
OWN_PROGRAMS = "/opt/xe-mock"
"""Where in the chroot those of `SOURCES` are."""
SOURCES = Path(__file__).parent / "sources"
LIBRARIES = {"level_zero": "ze_loader", "opencl_copy": "OpenCL", "vulkan_transfer": "vulkan"}
"""What each of them is linked with."""
_DONE = "made-for-xe-mock"


def default_directory() -> Path:
    """Below the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "xe-mock", f"clients-{SUITE}")


def why_no_chroot(directory: Path) -> str:
    """Why there is none with these packages and programs, or ""."""
    if _text(directory / _DONE) != _packages_key():
        return f"scripts/clients has not made a chroot in {directory}"
    if _text(_built_mark(directory)) != _sources_key():
        return f"scripts/clients has not built its own programs in {directory}"
    return ""


def make_chroot(directory: Path) -> None:
    """Make it, and what is built in it, unless all is there.  CalledProcessError."""
    if _text(directory / _DONE) != _packages_key():
        _install(directory)
    if _text(_built_mark(directory)) != _sources_key():
        _build(directory)


def _install(directory: Path) -> None:
    print(f"making a chroot in {directory}: about two minutes", file=sys.stderr, flush=True)
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
        stdout=sys.stderr,
    )
    (directory / _DONE).write_text(_packages_key())


def _build(directory: Path) -> None:
    place = directory / OWN_PROGRAMS.lstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    for name, library in LIBRARIES.items():
        shutil.copy(SOURCES / f"{name}.c", place)
        path = f"{OWN_PROGRAMS}/{name}"
        # -w: of the libraries' headers, some warn of any compiler that they do not know.
        command = ("tcc", "-w", "-o", path, f"{path}.c", f"-l{library}")
        subprocess.run(["chroot", os.fspath(directory), *command], check=True, stdout=sys.stderr)
    _built_mark(directory).write_text(_sources_key())


def _built_mark(directory: Path) -> Path:
    return directory / OWN_PROGRAMS.lstrip("/") / _DONE


def _packages_key() -> str:
    return hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()


def _sources_key() -> str:
    texts = [(SOURCES / f"{name}.c").read_bytes() for name in sorted(LIBRARIES)]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _text(mark: Path) -> str:
    return mark.read_text() if mark.exists() else ""


def versions(directory: Path) -> dict[str, str]:
    """Of the packages that matter: a result belongs to them."""
    query = subprocess.run(
        ["dpkg-query", f"--admindir={directory}/var/lib/dpkg", "-W", *PROGRAMS, *DRIVERS],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split("\t", 1) for line in query.stdout.splitlines())
