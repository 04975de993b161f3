"""Copies by the copy engine, as ratios to memcpy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from benchmarks import servers
from benchmarks.exec_client import BCS, ExecClient
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import time_calls
from xedev.client import BatchBuilder

__all__ = ("WHATS", "measure")

WHATS = {
    "copy/mem": "MEM_COPY",
    "copy/linear": "XY_FAST_COPY_BLT, linear",
    "copy/tiled": "XY_FAST_COPY_BLT, linear to Tile4",
}
_GOALS = {"copy/mem": 2.0, "copy/linear": 2.0}
_NODE = "renderD128"
_PITCH = 16 << 10  # bytes
_PIXEL = 4  # bytes
_TILE4 = 2 << 13  # of the target, in the first dword
_PITCH_MASK = 0xFFFF


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``, with those that they are compared to; `servers.Unavailable`."""
    rounds: dict[str, list[Round]] = {name: [] for name in WHATS if name in names}
    size = scale.copy_size
    # A compiler is not needed, a mount is.
    with servers.tools(), servers.mock(None) as nodes:
        node = os.path.join(nodes, _NODE)
        with ExecClient(node, 2 * size) as client:
            jobs = {
                name: client.job(_BATCHES[name](client.data + size, client.data, size), BCS)
                for name in rounds
            }
            address = client.memory.address + len(client.memory) - 2 * size
            for number in range(scale.rounds):
                for name, job in jobs.items():
                    say(f"{name}: round {number + 1} of {scale.rounds}")
                    under = time_calls(
                        lambda: ctypes.memmove(address + size, address, size), scale.copies
                    )
                    rounds[name].append((under, time_calls(job.run, scale.copies)))
    return [line for name in rounds for line in _lines(name, rounds[name], scale)]


def _mem(target: int, source: int, size: int) -> BatchBuilder:
    return BatchBuilder().mem_copy(target, source, size)


def _linear(target: int, source: int, size: int) -> BatchBuilder:
    return BatchBuilder().fast_copy(
        target,
        source,
        _PITCH // _PIXEL,
        size // _PITCH,
        target_pitch=_PITCH,
        source_pitch=_PITCH,
    )


def _tiled(target: int, source: int, size: int) -> BatchBuilder:
    first, second, *rest = _linear(target, source, size).dwords
    # The pitch of a tiled surface is in dwords.
    pitch = (second & ~_PITCH_MASK) | _PITCH // _PIXEL
    return BatchBuilder().dword(first | _TILE4, pitch, *rest)


_BATCHES: dict[str, Callable[[int, int, int], BatchBuilder]] = {
    "copy/mem": _mem,
    "copy/linear": _linear,
    "copy/tiled": _tiled,
}


def _lines(name: str, rounds: list[Round], scale: Scale) -> list[Line]:
    mib = scale.copy_size >> 20
    return two_lines(
        name,
        (f"memcpy of {mib} MiB", f"{WHATS[name]}: {mib} MiB"),
        rounds,
        to="memcpy",
        goal=_GOALS.get(name),
        iterations=f"{scale.rounds} x {scale.copies}",
    )
