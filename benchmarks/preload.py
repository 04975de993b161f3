"""What the preload library costs programs that have nothing to do with DRM."""

from __future__ import annotations

from pathlib import Path

from benchmarks import servers
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import last_cpu
from xedev import shim

__all__ = ("WHATS", "measure")

_CALLS = {
    "preload/fstat": ("fstat", "100 fstat(2) of a memfd"),
    "preload/mmap": ("mmap", "100 mmap(2) and munmap(2) of a memfd's page"),
    "preload/ioctl": ("ioctl", "100 ioctl(2) FIONREAD of a pipe"),
}
_GOAL = 1.2

WHATS = {name: f"preloaded: {what}" for name, (_, what) in _CALLS.items()}


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``, with those that they are compared to; `servers.Unavailable`."""
    cpu = last_cpu()
    try:
        library = shim.library()
    except shim.LibraryError as error:
        raise servers.Unavailable(str(error)) from error
    rounds: dict[str, list[Round]] = {name: [] for name in _CALLS if name in names}
    with servers.tools("plain") as programs:
        for number in range(scale.plain_rounds):
            for name, found in rounds.items():
                say(f"{name}: round {number + 1} of {scale.plain_rounds}")
                found.append(_round(programs, _CALLS[name][0], library, scale, cpu))
    return [line for name, found in rounds.items() for line in _lines(name, found, scale)]


def _round(programs: Path, kind: str, library: Path, scale: Scale, cpu: int) -> Round:
    blocks = scale.plain_blocks
    without = servers.summary_of(servers.start_plain(programs, kind, blocks, cpu, None))
    return without, servers.summary_of(servers.start_plain(programs, kind, blocks, cpu, library))


def _lines(name: str, rounds: list[Round], scale: Scale) -> list[Line]:
    return two_lines(
        name,
        (_CALLS[name][1], WHATS[name]),
        rounds,
        to="not preloaded",
        goal=_GOAL,
        iterations=f"{scale.plain_rounds} x {scale.plain_blocks}",
    )
