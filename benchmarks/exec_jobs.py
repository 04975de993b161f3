"""What it costs to submit work, and how fast the engines take it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns
from typing import ClassVar

from benchmarks import servers
from benchmarks.exec_client import ExecClient, Job
from benchmarks.pairs import Round, compared, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, combine, summarize, time_calls
from uapi.ioctl import IOC, IOC_READ, IOC_WRITE
from xedev.client import BatchBuilder, IoctlTransport
from xedev.client.xe_query import xe_for_each_engine

__all__ = ("WHATS", "measure")

WHATS = {
    "exec/submit": "EXEC of one store",
    "exec/fence": "EXEC of one store until its fence is seen",
    "exec/depth": "a job, 1,024 on each engine",
    "exec/commands": "a command of a straight batch",
}
_FLOOR = "C daemon: no-op ioctl"
_DEPTH_GOAL = 1.3
_JOBS = 1024
_NODE = "renderD128"


class _Block(ctypes.Structure):
    """The 64 bytes that the floor's ioctl carries."""

    _fields_: ClassVar = [("data", ctypes.c_uint8 * 64)]


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``, and the floor; `servers.Unavailable`.

    Nothing is pinned: the daemon, the GPU's process and the client are meant to run side by side.
    """
    lines: list[Line] = []
    with (
        servers.tools("floor") as programs,
        servers.floor(programs, None) as floor_node,
        servers.mock(None) as nodes,
    ):
        node = os.path.join(nodes, _NODE)
        calls = {name: _CALLS[name] for name in _CALLS if name in names}
        if calls:
            lines += _calls(calls, floor_node, node, scale)
        if "exec/depth" in names:
            lines += _depth(node, scale)
        if "exec/commands" in names:
            lines.append(_commands(node, scale))
    return lines


# ---- one call --------------------------------------------------------------------------------

_CALLS: dict[str, Callable[[Job, int], Summary]] = {
    "exec/submit": lambda job, count: time_calls(job.submit, count, after=job.wait),
    "exec/fence": lambda job, count: time_calls(job.run, count),
}


def _calls(
    calls: dict[str, Callable[[Job, int], Summary]], floor_node: str, node: str, scale: Scale
) -> list[Line]:
    rounds: dict[str, list[Round]] = {name: [] for name in calls}
    floor = IoctlTransport(floor_node)
    with ExecClient(node) as client:
        job = client.job(BatchBuilder().store_dword(client.data, 1))
        for number in range(scale.rounds):
            for name, call in calls.items():
                say(f"{name}: round {number + 1} of {scale.rounds}")
                under = _floor(floor, scale.exec_calls)
                rounds[name].append((under, call(job, scale.exec_calls)))
    floor.close()
    iterations = f"{scale.rounds} x {scale.exec_calls}"
    cost = combine([under for pairs in rounds.values() for under, _ in pairs])
    base = Line(
        "exec/floor",
        _FLOOR,
        median=cost.median,
        p99=cost.p99,
        worst=cost.worst,
        iterations=iterations,
        note="client in Python, as of the other lines of exec/; nothing pinned",
    )
    return [
        base,
        *(compared(name, WHATS[name], rounds[name], _FLOOR, None, iterations) for name in calls),
    ]


def _floor(floor: IoctlTransport, count: int) -> Summary:
    block = _Block()
    number = IOC(IOC_READ | IOC_WRITE, ord("x"), 0x7F, ctypes.sizeof(block))
    return time_calls(lambda: floor.ioctl(number, block), count)


# ---- many jobs -------------------------------------------------------------------------------


def _depth(node: str, scale: Scale) -> list[Line]:
    shallow, deep = scale.exec_depths
    rounds: list[Round] = []
    with ExecClient(node) as client:
        engines = list(xe_for_each_engine(client.device))
        batch = client.batch(BatchBuilder().store_dword(client.data, 1).end())
        jobs = [Job(client.device, client.queue(engine), batch) for engine in engines]
        for number in range(scale.rounds):
            say(f"exec/depth: round {number + 1} of {scale.rounds}")
            rounds.append((_run_all(jobs, shallow, scale), _run_all(jobs, deep, scale)))
    base, line = two_lines(
        "exec/depth",
        (f"a job, {shallow} in each of {len(jobs)} queues", f"a job, {deep} in each queue"),
        rounds,
        to=f"{shallow} in each queue",
        goal=_DEPTH_GOAL,
        iterations=f"{scale.rounds} x {len(jobs) * scale.exec_jobs}",
    )
    return [base, line]


def _run_all(jobs: list[Job], depth: int, scale: Scale) -> Summary:
    """Time of a job when ``depth`` of them are submitted to each queue at once."""
    samples = []
    for _ in range(max(1, scale.exec_jobs // depth)):
        start = perf_counter_ns()
        for _ in range(depth):
            for job in jobs:
                job.submit()
        for job in jobs:
            job.wait()
        samples.append((perf_counter_ns() - start) // (depth * len(jobs)))
    return summarize(samples)


# ---- many commands ---------------------------------------------------------------------------


def _commands(node: str, scale: Scale) -> Line:
    count = scale.exec_commands
    with ExecClient(node) as client:
        batch = BatchBuilder()
        for index in range(count):
            batch.store_dword(client.data + index % 1024 * 4, index)
        job = client.job(batch)
        empty = client.job(BatchBuilder())
        say(f"exec/commands: {count} commands")
        times = []
        for _ in range(scale.rounds * 3):
            idle = time_calls(empty.run, 3).median
            # A small batch may be lost in the noise.
            times.append(max(0.001, (time_calls(job.run, 1).median - idle) / count))
    each = median(times)
    return Line(
        "exec/commands",
        WHATS["exec/commands"],
        median=each,
        worst=max(times),
        iterations=f"{len(times)} x {count}",
        note=f"MI_STORE_DATA_IMM, less an empty batch: {1e3 / each:.0f} thousand a second",
    )
