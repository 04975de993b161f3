"""The servers that are compared, and the C programs that time what they do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uapi
from benchmarks.timing import Summary, pinned
from xedev.node.daemon import probe
from xedev.node.mounts import canonical, find_mount, unmount_lazily
from xedev.node.tree import NODE_DIR

__all__ = (
    "Unavailable",
    "floor",
    "mock",
    "start_client",
    "start_memory",
    "start_plain",
    "summary_of",
    "tools",
)

_SOURCES = Path(__file__).with_name("floor")
_ROOT = Path(__file__).parent.parent
_TIMEOUT = 60.0  # seconds for a start, an end, a compilation


class Unavailable(Exception):
    """Something that a mount or the C programs need is missing.  The text says what."""


# ---- building --------------------------------------------------------------------------------


@contextmanager
def tools(*names: str) -> Iterator[Path]:
    """A directory with the programs ``names`` of `_PROGRAMS`; `Unavailable`."""
    reason = probe()
    if reason:
        raise Unavailable(reason)
    with tempfile.TemporaryDirectory(prefix="xe-mock-bench-") as name:
        directory = Path(name)
        for program in names:
            _compile(directory / program, _PROGRAMS[program]())
        yield directory


def _no_flags() -> list[str]:
    return []


def _header_flags() -> list[str]:
    """For ``xe_mock.h``."""
    return [flag for directory in uapi.__path__ for flag in ("-I", directory)]


def _libfuse_flags() -> list[str]:
    if shutil.which("pkg-config") is None:
        raise Unavailable("there is no pkg-config (apt install pkg-config)")
    ran = _run("pkg-config", "--cflags", "--libs", "fuse")
    if ran.returncode:
        raise Unavailable("there is no libfuse2 to compile with (apt install libfuse-dev)")
    return ran.stdout.split()


_PROGRAMS = {
    "client": _no_flags,
    "plain": _no_flags,
    "memory": _header_flags,
    "floor": _libfuse_flags,
}


def _compile(program: Path, flags: list[str]) -> None:
    if shutil.which("gcc") is None:
        raise Unavailable("there is no gcc (apt install gcc libc6-dev)")
    source = _SOURCES / f"{program.name}.c"
    ran = _run("gcc", "-O2", "-o", str(program), str(source), *flags)
    if ran.returncode:
        raise Unavailable(f"{source.name} cannot be compiled: {ran.stderr.strip()}")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)


# ---- serving ---------------------------------------------------------------------------------


@contextmanager
def floor(programs: Path, cpu: int | None) -> Iterator[str]:
    """The C daemon; gives the path of its node."""
    with _mountpoint() as point:
        with _on(cpu):
            daemon = subprocess.Popen([programs / "floor", "-f", "-s", point])
        try:
            _wait_for_mount(point, daemon)
            yield os.path.join(point, "node")
        finally:
            daemon.terminate()
            try:
                daemon.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_for_mount(point: str, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while find_mount(point) is None:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise Unavailable("the C daemon cannot mount here")
        time.sleep(0.01)


@contextmanager
def mock(cpu: int | None) -> Iterator[str]:
    """The mock's daemon; gives the directory of its nodes."""
    with _mountpoint() as point:
        with _on(cpu):
            ran = _xe_mock("mount", point, "--die-with", str(os.getpid()))
        if ran.returncode:
            raise Unavailable(ran.stderr.strip())
        yield os.path.join(point, NODE_DIR)
        ended = _xe_mock("umount", point)
        if ended.returncode:
            raise AssertionError(f"the daemon logged an error: {ended.stderr.strip()}")


def _xe_mock(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xedev.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
    )


@contextmanager
def _mountpoint() -> Iterator[str]:
    """A directory to mount on.  What still is mounted there at the end is taken away."""
    point = canonical(tempfile.mkdtemp(prefix="xe-mock-bench-"))
    try:
        yield point
    finally:
        if find_mount(point) is not None:
            unmount_lazily(point)
        os.rmdir(point)


@contextmanager
def _on(cpu: int | None) -> Iterator[None]:
    with ExitStack() as stack:
        if cpu is not None:
            stack.enter_context(pinned(cpu))
        yield


# ---- the clients -----------------------------------------------------------------------------


def start_client(
    programs: Path, node: str, kind: str, calls: int, cpu: int | None, live: int = 0
) -> subprocess.Popen[str]:
    """Let the C client time ``calls`` requests of a kind, while it has ``live`` other BOs."""
    return _start(programs / "client", node, kind, str(calls), _cpu(cpu), str(live))


def start_memory(
    programs: Path, node: str | None, kind: str, size: int, calls: int, cpu: int | None
) -> subprocess.Popen[str]:
    """Let the C program time what is done with ``size`` bytes of a BO, or of a memfd."""
    return _start(programs / "memory", node or "-", kind, str(size), str(calls), _cpu(cpu))


def start_plain(
    programs: Path, kind: str, blocks: int, cpu: int | None, library: Path | None
) -> subprocess.Popen[str]:
    """Let the C program time blocks of calls that no driver sees, with ``library`` preloaded."""
    preload = {} if library is None else {"LD_PRELOAD": os.fspath(library)}
    return _start(programs / "plain", kind, str(blocks), _cpu(cpu), **preload)


def _cpu(cpu: int | None) -> str:
    return "-1" if cpu is None else str(cpu)


def _start(program: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def summary_of(client: subprocess.Popen[str]) -> Summary:
    """What a C program found."""
    output, errors = client.communicate()
    if client.returncode:
        raise AssertionError(errors.strip())
    found = json.loads(output)
    return Summary(found["median"] / 1e3, found["p99"] / 1e3, found["worst"] / 1e3)
