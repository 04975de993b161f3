"""Finds the preload library, or builds it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

__all__ = ("LibraryError", "library")

_PACKAGE = Path(__file__).parent
_OLDEST_GLIBC = "2.17"
"""What a compiler that may choose builds for; as old as any that runs on x86_64 and aarch64."""
_FLAGS = ("-O2", "-g", "-fPIC", "-shared")
_TIMEOUT = 600  # seconds: zig first builds what it needs of a C library


class LibraryError(Exception):
    """There is no preload library, and it cannot be built; the text says what to do."""


def library() -> Path:
    """Path of the preload library for this machine; `LibraryError` without one.

    The one that came with the installation, unless its sources are newer; else one in the user's
    cache directory, built now if need be.
    """
    return _installed() or _cached()


# ---- sources ----


def _sources() -> list[Path]:
    return sorted(_PACKAGE.glob("*.c"))


def _include() -> Path:
    """Directory of ``xe_mock.h``."""
    return Path(str(resources.files("uapi")))


def _inputs() -> list[Path]:
    """Everything that the library is made of."""
    return [*_sources(), *sorted(_PACKAGE.glob("*.h")), _include() / "xe_mock.h"]


def _key() -> str:
    """A name for what would be built: other sources or another machine have another one."""
    digest = hashlib.sha256(platform.machine().encode())
    for path in _inputs():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


# ---- places ----


def _installed() -> Path | None:
    """The one that setup.py built, if the sources were not changed since."""
    newest = max(path.stat().st_mtime for path in _inputs())
    built = sorted(_PACKAGE.glob("preload*.so"))
    return next((path for path in built if path.stat().st_mtime >= newest), None)


def _cached() -> Path:
    directory = _cache_directory()
    path = directory / f"preload-{_key()}.so"
    if path.exists():
        return path
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix="build-") as scratch:
            built = Path(scratch, path.name)
            _build(built)
            # At once, since other processes may be looking for it.
            built.replace(path)
    except OSError as error:
        raise LibraryError(
            f"the preload library cannot be put into {directory} ({error.strerror}); "
            "set XDG_CACHE_HOME to a directory that can be written"
        ) from error
    return path


def _cache_directory() -> Path:
    """XDG base directory specification: a relative path is not to be looked at."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "xe-mock")


# ---- compilers ----


def _build(output: Path) -> None:
    """Build with the first compiler that can; `LibraryError` if none can."""
    complaints = []
    for compiler in _compilers():
        complaint = _compile(compiler, output)
        if complaint is None:
            return
        complaints.append(f"{shlex.join(compiler)}: {complaint}")
    raise LibraryError(
        "no C compiler can build the preload library; install one, such as Debian's gcc with "
        "libc6-dev, or the Python package ziglang" + "".join(f"\n{text}" for text in complaints)
    )


def _compilers() -> Iterator[Sequence[str]]:
    if os.environ.get("CC"):
        yield shlex.split(os.environ["CC"])
    yield from ([name] for name in ("cc", "gcc", "clang") if shutil.which(name))
    target = ("cc", "-target", f"{platform.machine()}-linux-gnu.{_OLDEST_GLIBC}")
    if importlib.util.find_spec("ziglang"):
        yield (sys.executable, "-m", "ziglang", *target)
    if shutil.which("zig"):
        yield ("zig", *target)


def _compile(compiler: Sequence[str], output: Path) -> str | None:
    """None, or what the compiler says against it."""
    command = [*compiler, *_FLAGS, "-I", str(_include()), "-o", str(output)]
    command += [*(str(path) for path in _sources()), "-ldl"]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if ran.returncode == 0:
        return None
    return ran.stderr.strip() or f"status {ran.returncode}"
