"""Mapped memory of BOs, as ratios to a memfd of the client's own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import servers
from benchmarks.device import PAGE, VRAM
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, last_cpu, pinned, time_calls
from xedev.client import Device

__all__ = ("WHATS", "measure")

_NODE = "renderD128"
_SMALL, _LARGE, _BULK = 4 << 10, 2 << 20, 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class _Bench:
    """Where everything runs."""

    programs: Path
    node: str
    cpu: int


_Run = Callable[[_Bench, str | None, int, int], Summary]
"""Measures a number of steps with so many bytes: of a BO of a node, or of a memfd."""


# ---- clients in C and in Python --------------------------------------------------------------


def _in_c(kind: str, bench: _Bench, node: str | None, size: int, count: int) -> Summary:
    client = servers.start_memory(bench.programs, node, kind, size, count, bench.cpu)
    return servers.summary_of(client)


def _in_python(bench: _Bench, node: str | None, size: int, count: int) -> Summary:
    made = _memfd_step(size) if node is None else _bo_step(node, size)
    with made as step, pinned(bench.cpu):
        step()  # makes the pages
        return time_calls(step, count)


@contextmanager
def _memfd_step(size: int) -> Iterator[Callable[[], None]]:
    """Map, touch and unmap a memfd by its path."""
    with ExitStack() as stack:
        memfd = os.memfd_create("bench")
        stack.callback(os.close, memfd)
        os.ftruncate(memfd, size)
        path = f"/proc/{os.getpid()}/fd/{memfd}"

        def step() -> None:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            mapping = mmap.mmap(fd, size)
            os.close(fd)
            with memoryview(mapping) as view:
                _touch(view)
            mapping.close()

        yield step


@contextmanager
def _bo_step(node: str, size: int) -> Iterator[Callable[[], None]]:
    """The same with a BO."""
    with Device.open(node, "ioctl") as device:
        offset = device.gem_mmap_offset(device.gem_create(size, VRAM))

        def step() -> None:
            with device.mmap(offset, size) as mapping, mapping.view as view:
                _touch(view)

        yield step


def _touch(view: memoryview) -> None:
    """Store to each page."""
    view[::PAGE] = bytes(len(view) // PAGE)


# ---- what is compared ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Pair:
    """One thing that is done with both kinds of memory."""

    what: str
    run: _Run
    size: int
    count: Callable[[Scale], int]
    goal: float | None = None


def _mappings(scale: Scale) -> int:
    return scale.mappings


def _purges(scale: Scale) -> int:
    return scale.purges


def _copies(scale: Scale) -> int:
    return scale.copies


_PAIRS = {
    "mapping/c-4K": _Pair("map, touch, unmap 4 KiB in C", partial(_in_c, "map"), _SMALL, _mappings),
    "mapping/c-2M": _Pair("map, touch, unmap 2 MiB in C", partial(_in_c, "map"), _LARGE, _mappings),
    "mapping/python-4K": _Pair("map, touch, unmap 4 KiB in Python", _in_python, _SMALL, _mappings),
    "mapping/python-2M": _Pair("map, touch, unmap 2 MiB in Python", _in_python, _LARGE, _mappings),
    "sigbus/4K": _Pair("purge 4 KiB to SIGBUS", partial(_in_c, "sigbus"), _SMALL, _purges),
    "sigbus/2M": _Pair("purge 2 MiB to SIGBUS", partial(_in_c, "sigbus"), _LARGE, _purges),
    "bandwidth/read": _Pair("copy 64 MiB out", partial(_in_c, "read"), _BULK, _copies, 1.1),
    "bandwidth/write": _Pair("copy 64 MiB in", partial(_in_c, "write"), _BULK, _copies, 1.1),
}

WHATS = {name: f"BO: {pair.what}" for name, pair in _PAIRS.items()}


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``, with those that they are compared to; `servers.Unavailable`."""
    pairs = {name: pair for name, pair in _PAIRS.items() if name in names}
    cpu = last_cpu()
    with servers.tools("memory") as programs, servers.mock(cpu) as nodes:
        bench = _Bench(programs, os.path.join(nodes, _NODE), cpu)
        rounds: dict[str, list[Round]] = {name: [] for name in pairs}
        for number in range(scale.rounds):
            for name, pair in pairs.items():
                say(f"{name}: round {number + 1} of {scale.rounds}")
                rounds[name].append(_round(pair, bench, scale))
    return [line for name in pairs for line in _lines(name, rounds[name], scale)]


def _round(pair: _Pair, bench: _Bench, scale: Scale) -> Round:
    count = pair.count(scale)
    under = pair.run(bench, None, pair.size, count)
    return under, pair.run(bench, bench.node, pair.size, count)


def _lines(name: str, rounds: list[Round], scale: Scale) -> list[Line]:
    pair = _PAIRS[name]
    return two_lines(
        name,
        (f"memfd: {pair.what}", WHATS[name]),
        rounds,
        to="memfd",
        goal=pair.goal,
        iterations=f"{scale.rounds} x {pair.count(scale)}",
    )
