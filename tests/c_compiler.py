"""A C compiler with Linux 7.2's headers.

The headers come with the package ziglang, and so does a compiler.  That one first builds a C
library for itself, which takes a minute or two; where the machine has a compiler, this is used
instead, with the same headers before its own.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

__all__ = ("compile_c", "kernel_headers")

_ARCHITECTURES = {"x86_64": "x86", "aarch64": "aarch64"}
_TRIAL = "#include <stdio.h>\n#include <drm/xe_drm.h>\nint main(void) { return 0; }\n"
_TIMEOUT = 600  # seconds, for a C library built on a slow machine


def kernel_headers() -> Path:
    """Directory of the kernel's headers in the ziglang package; ImportError without it."""
    import ziglang  # type: ignore[import-untyped]

    return Path(ziglang.__file__).parent / "lib/libc/include/any-linux-any"


def compile_c(source: Path, binary: Path, *flags: str) -> None:
    """Build a program; CalledProcessError when the compiler refuses it."""
    command = [*_compiler(), "-std=gnu11", *flags, "-o", str(binary), str(source)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT)


@cache
def _compiler() -> tuple[str, ...]:
    return _own_compiler() or _zig()


def _own_compiler() -> tuple[str, ...] | None:
    """The machine's compiler with the kernel's headers, if it can build a program."""
    path = shutil.which("cc")
    architecture = _ARCHITECTURES.get(platform.machine())
    if path is None or architecture is None:
        return None
    headers = kernel_headers()
    special = headers.with_name(f"{architecture}-linux-any")
    command = (path, "-isystem", str(headers), "-isystem", str(special))
    return command if _works(command) else None


def _works(command: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="xe-mock-cc-") as scratch:
        source = Path(scratch, "trial.c")
        source.write_text(_TRIAL)
        trial = [*command, "-o", str(source.with_suffix("")), str(source)]
        return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def _zig() -> tuple[str, ...]:
    return (sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu")
