"""The command: what to measure, and what becomes of the report."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import (
    exec_copies,
    exec_jobs,
    exec_waits,
    growth,
    handlers,
    igt_load,
    live,
    mapping,
    memory,
    mounted,
    preload,
    reclaim,
    stall,
)
from benchmarks.progress import say
from benchmarks.report import Line, Report, machine, skipped
from benchmarks.scale import SCALES, Scale
from benchmarks.servers import Unavailable

__all__ = ("run",)


_Measure = Callable[[frozenset[str], Scale], list[Line]]


@dataclass(frozen=True, slots=True)
class _Group:
    """Lines that are measured together."""

    whats: dict[str, str]
    """Name -> what is measured."""
    measure: _Measure
    fresh_process: bool = False
    """Whether it takes a Python of its own: memory and times there are nobody else's."""


def _groups() -> list[_Group]:
    alone = [
        _Group(_only(whats, name), partial(measure, name), fresh_process=True)
        for whats, measure in ((growth.WHATS, _grow), (reclaim.WHATS, _reclaim))
        for name in whats
    ]
    return [
        _Group(mounted.WHATS, mounted.measure),
        _Group(mapping.WHATS, mapping.measure),
        _Group(live.WHATS, live.measure),
        _Group(handlers.WHATS, handlers.measure, fresh_process=True),
        *alone,
        _Group(_only(memory.WHATS, "memory/vma"), _weigh, fresh_process=True),
        _Group(_only(memory.WHATS, "memory/garbage"), _look_for_garbage, fresh_process=True),
        _Group(stall.WHATS, stall.measure),
        _Group(preload.WHATS, preload.measure),
        _Group(igt_load.WHATS, igt_load.measure),
        _Group(exec_jobs.WHATS, exec_jobs.measure),
        _Group(exec_copies.WHATS, exec_copies.measure),
        # Its clients are forks: of a process that has nothing else in it.
        _Group(exec_waits.WHATS, exec_waits.measure, fresh_process=True),
    ]


def _only(whats: dict[str, str], name: str) -> dict[str, str]:
    return {name: whats[name]}


def _grow(name: str, _names: frozenset[str], scale: Scale) -> list[Line]:
    return growth.measure(name, scale)


def _reclaim(name: str, _names: frozenset[str], scale: Scale) -> list[Line]:
    return reclaim.measure(name, scale)


def _weigh(_names: frozenset[str], scale: Scale) -> list[Line]:
    return memory.measure_bytes(scale)


def _look_for_garbage(_names: frozenset[str], scale: Scale) -> list[Line]:
    return memory.measure_garbage(scale)


def _measure(group: _Group, names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines of a group; such as could not be measured say so."""
    try:
        if group.fresh_process:
            return _measure_apart(group, names, scale)
        return group.measure(names, scale)
    except Unavailable as error:
        say(f"skipped: {error}")
        return [skipped(name, group.whats[name], str(error)) for name in sorted(names)]


def _measure_apart(group: _Group, names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines of a group, measured in a new Python."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_lines, args=(theirs, group.measure, names, scale))
    process.start()
    theirs.close()
    try:
        found: list[Line] | Unavailable = ours.recv()
    except EOFError:
        raise RuntimeError(f"{' '.join(sorted(names))}: see above") from None
    finally:
        process.terminate()
        process.join()
    if isinstance(found, Unavailable):
        raise found
    return found


def _send_lines(pipe: Connection, measure: _Measure, names: frozenset[str], scale: Scale) -> None:
    try:
        pipe.send(measure(names, scale))
    except Unavailable as error:
        pipe.send(error)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what xe-mock costs.")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - for stdout")
    parser.add_argument(
        "--quick",
        dest="scale",
        action="store_const",
        const="quick",
        default="full",
        help="fewer calls and smaller sizes: about a minute",
    )
    parser.add_argument("--scale", choices=tuple(SCALES), help=argparse.SUPPRESS)
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        help="only what has NAME in its name (see --list); may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="print the names and end")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 also when a goal is missed, 2 when nothing has such a name."""
    options = _parse(arguments)
    wanted = options.only or [""]
    chosen = [
        (group, frozenset(name for name in group.whats if any(part in name for part in wanted)))
        for group in _groups()
    ]
    if not any(names for _, names in chosen):
        say(f"nothing is called {' or '.join(wanted)}")
        return 2
    if options.list:
        print("\n".join(sorted(name for _, names in chosen for name in names)))
        return 0
    # Ends by an exception, so that daemons and mounts are taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scale = SCALES[options.scale]
    lines = [line for group, names in chosen if names for line in _measure(group, names, scale)]
    _publish(Report(scale.name, machine(), lines), options.json)
    return 0


def _publish(report: Report, json_file: str | None) -> None:
    if json_file == "-":
        sys.stdout.write(report.json())
        return
    sys.stdout.write(report.table())
    if json_file is not None:
        Path(json_file).write_text(report.json(), "utf-8")
