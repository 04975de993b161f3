"""Calls through the kernel, as ratios to a C daemon that does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.pairs import Round, compared
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, combine, last_cpu

__all__ = ("WHATS", "measure")


@dataclass(frozen=True, slots=True)
class _Pair:
    """What is measured of the mock, and what it is compared to."""

    what: str
    kind: str
    node: str
    floor_kind: str
    goal: float


_RENDER, _FRAMES = "renderD128", "xe-mock"
_FLOORS = {"ioctl64": "C daemon: no-op ioctl", "write_read64": "C daemon: write and read"}

_PAIRS = {
    "mounted/version-null": _Pair("VERSION, NULL strings", "version_null", _RENDER, "ioctl64", 2.5),
    "mounted/version-strings": _Pair(
        "VERSION, strings", "version_strings", _RENDER, "ioctl64", 3.5
    ),
    "mounted/madvise": _Pair("MADVISE, retained_ptr", "madvise", _RENDER, "ioctl64", 4),
    "mounted/bind-pair": _Pair("VM_BIND map and unmap", "bind_pair", _RENDER, "ioctl64", 10),
    "mounted/frame-pair": _Pair(
        "write and read: VERSION in a frame", "version_frame", _FRAMES, "write_read64", 3
    ),
}

WHATS = {name: pair.what for name, pair in _PAIRS.items()}


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The pairs called ``names``, and the floors under them; `servers.Unavailable`."""
    pairs = {name: pair for name, pair in _PAIRS.items() if name in names}
    cpu = last_cpu()
    with (
        servers.tools("client", "floor") as programs,
        servers.floor(programs, cpu) as floor_node,
        servers.mock(cpu) as nodes,
    ):
        rounds = _rounds(programs, floor_node, nodes, pairs, scale, cpu)
    return list(_lines(pairs, rounds, f"{scale.rounds} x {scale.client_calls}"))


def _rounds(
    programs: Path,
    floor_node: str,
    nodes: str,
    pairs: dict[str, _Pair],
    scale: Scale,
    cpu: int,
) -> dict[str, list[Round]]:
    def run(node: str, kind: str) -> Summary:
        client = servers.start_client(programs, node, kind, scale.client_calls, cpu)
        return servers.summary_of(client)

    rounds: dict[str, list[Round]] = {name: [] for name in pairs}
    for number in range(scale.rounds):
        say(f"mounted: round {number + 1} of {scale.rounds}")
        for name, pair in pairs.items():
            under = run(floor_node, pair.floor_kind)
            rounds[name].append((under, run(os.path.join(nodes, pair.node), pair.kind)))
    return rounds


def _lines(
    pairs: dict[str, _Pair], rounds: dict[str, list[Round]], iterations: str
) -> Iterator[Line]:
    for kind, what in _FLOORS.items():
        floors = [
            under for name in pairs if pairs[name].floor_kind == kind for under, _ in rounds[name]
        ]
        if floors:
            cost = combine(floors)
            yield Line(
                f"mounted/floor-{kind}",
                what,
                median=cost.median,
                p99=cost.p99,
                worst=cost.worst,
                iterations=iterations,
            )
    for name, pair in pairs.items():
        to = _FLOORS[pair.floor_kind]
        yield compared(name, pair.what, rounds[name], to, pair.goal, iterations)
