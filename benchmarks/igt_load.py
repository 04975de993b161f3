"""Unmodified IGT under load, as ratios to the same requests without IGT."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import servers
from benchmarks.exec_client import ExecClient, Job
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary
from tests.clients.chroot import default_directory
from tests.clients.igt import DIRECTORY
from xedev.client import BatchBuilder, Device
from xedev.client.xe_query import xe_for_each_engine

__all__ = ("WHATS", "measure")

_NODE = "renderD128"
_EXECS = 1024
"""Of each engine, by IGT's many-basic."""
_CONTEXTS = 4096
"""VMs with a queue each that live at the same time, of IGT's create-contexts."""
_GOAL = 3.0
_SECONDS = 300.0
_TOOK = re.compile(r"Subtest [\w-]+: SUCCESS \(([\d.]+)s\)")


@dataclass(frozen=True, slots=True)
class _Load:
    """One subtest, and its requests."""

    program: str
    subtest: str
    what: str
    replay: Callable[[str], None]


def _many_basic(node: str) -> None:
    """EXEC and SYNCOBJ_RESET in turns, on each engine."""
    with ExecClient(node) as client:
        batch = client.batch(BatchBuilder().store_dword(client.data, 1).end())
        for engine in xe_for_each_engine(client.device):
            job = Job(client.device, client.queue(engine), batch)
            for _ in range(_EXECS):
                job.reset()
                job.submit()
            job.wait()


def _create_contexts(node: str) -> None:
    """VM_CREATE and EXEC_QUEUE_CREATE many times, and then their ends."""
    with Device.open(node, "ioctl") as device:
        engine = next(iter(xe_for_each_engine(device)))
        vms = [device.vm_create() for _ in range(_CONTEXTS)]
        queues = [device.exec_queue_create(vm, [engine]) for vm in vms]
        for queue in queues:
            device.exec_queue_destroy(queue)
        for vm in vms:
            device.vm_destroy(vm)


_LOADS = {
    "igt/many-basic": _Load(
        "xe_exec_basic", "many-basic", f"{_EXECS} jobs on each engine", _many_basic
    ),
    "igt/create-contexts": _Load(
        "xe_create", "create-contexts", f"{_CONTEXTS} VMs with a queue each", _create_contexts
    ),
}
WHATS = {name: f"IGT's {load.subtest}" for name, load in _LOADS.items()}


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``, with those that they are compared to; `servers.Unavailable`."""
    chroot = default_directory()
    if not (chroot / DIRECTORY.lstrip("/")).exists():
        raise servers.Unavailable("there is no chroot with IGT (scripts/clients makes it)")
    rounds: dict[str, list[Round]] = {name: [] for name in _LOADS if name in names}
    for number in range(scale.igt_rounds):
        for name, found in rounds.items():
            say(f"{name}: round {number + 1} of {scale.igt_rounds}")
            found.append((_replayed(_LOADS[name]), _by_igt(_LOADS[name], chroot)))
    return [line for name, found in rounds.items() for line in _lines(name, found)]


def _replayed(load: _Load) -> Summary:
    with servers.mock(None) as nodes:
        start = time.perf_counter()
        load.replay(os.path.join(nodes, _NODE))
        return _once(time.perf_counter() - start)


def _by_igt(load: _Load, chroot: Path) -> Summary:
    """As IGT tells it: without the start of the program and of the mock."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "xedev.cli", "run", "--no-master", "--root", str(chroot)),
            *("--", DIRECTORY + load.program, "--run-subtest", load.subtest),
        ],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    took = _TOOK.search(ran.stdout)
    if took is None:
        raise servers.Unavailable(f"IGT's {load.subtest} did not pass")
    return _once(float(took[1]))


def _once(seconds: float) -> Summary:
    return Summary(*(3 * (seconds * 1e6,)))


def _lines(name: str, rounds: list[Round]) -> list[Line]:
    load = _LOADS[name]
    return two_lines(
        name,
        (load.what, WHATS[name]),
        rounds,
        to="replayed",
        goal=_GOAL,
        iterations=f"{len(rounds)}",
    )
