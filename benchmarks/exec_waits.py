"""Clients that wait: how soon they hear, how soon they are gone, and what they leave."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import servers
from benchmarks.exec_client import RCS, engine_of
from benchmarks.pairs import two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, summarize
from uapi import drm
from xedev.client import Device
from xedev.client.spinner import Cork
from xedev.node.tree import DEBUG_DIR

__all__ = ("WHATS", "measure")

WHATS = {
    "wait/wake": "SYNCOBJ_SIGNAL until the sleeper runs",
    "wait/spin-end": "store of the CPU until the end of a spinner is seen",
    "wait/beside-spinner": "VERSION beside another process's spinner",
    "wait/killed": "SIGKILL until a waiting client is gone",
    "wait/interrupted": "SIGINT until a waiting client has ended",
    "wait/lost": "clients that were not woken",
    "wait/memory": "growth of the daemon by a wait",
}
_NODE = "renderD128"
_FOR_SUBMIT = drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT
_FOREVER = (1 << 63) - 1
_NAP = 0.003  # seconds until a sleeper surely sleeps
_SPIN = 0.03  # seconds that a spinner spins, so that nobody expects its end
_SPIN_GOAL = 1000.0  # microseconds
_BESIDE_GOAL = 2.0
_GONE_GOAL = 50_000.0  # microseconds
_WOKEN_TIME = 60.0  # seconds until a client counts as lost
_MEMORY_GOAL = 10.0  # bytes: of all waits together less than a mebibyte
_SHORT_WAIT = 20_000  # nanoseconds
_TIME = struct.Struct("q")

_Measure = Callable[[str, Scale], list[Line]]


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """The lines called ``names``; `servers.Unavailable`.  Nothing is pinned."""
    lines: list[Line] = []
    with servers.tools("client") as programs, servers.mock(None) as nodes:
        node = os.path.join(nodes, _NODE)
        for name, measure_one in _MEASURES.items():
            if name in names:
                say(name)
                lines += measure_one(node, scale)
        if "wait/beside-spinner" in names:
            lines += _beside_spinner(programs, node, scale)
    return lines


# ---- waking ----------------------------------------------------------------------------------


@contextmanager
def _child(work: Callable[[], object]) -> Iterator[int]:
    """A process that does some work and ends; its id."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _wake(node: str, scale: Scale) -> list[Line]:
    rounds = [
        (_latency(*_pipe_sleeper(scale.wakes)), _syncobj_latency(node, scale.wakes))
        for _ in range(scale.rounds)
    ]
    return two_lines(
        "wait/wake",
        ("write to a pipe until its reader runs", WHATS["wait/wake"]),
        rounds,
        to="a pipe",
        goal=None,
        iterations=f"{scale.rounds} x {scale.wakes}",
    )


def _pipe_sleeper(count: int) -> tuple[int, Callable[[], object], Callable[[], object]]:
    reader, writer = os.pipe()
    return count, lambda: os.read(reader, 1), lambda: os.write(writer, b"x")


def _syncobj_latency(node: str, count: int) -> Summary:
    with Device.open(node, "ioctl") as device:
        handle = device.syncobj_create()

        def sleep() -> None:
            device.syncobj_wait([handle], _FOREVER, _FOR_SUBMIT)

        def wake() -> None:
            device.syncobj_signal([handle])

        return _latency(count, sleep, wake, lambda: device.syncobj_reset([handle]))


def _latency(
    count: int,
    sleep: Callable[[], object],
    wake: Callable[[], object],
    reset: Callable[[], object] = lambda: None,
) -> Summary:
    """From before ``wake`` here to after ``sleep`` in another process."""
    times, tell = os.pipe()
    go, let_go = os.pipe()

    def sleeper() -> None:
        for _ in range(count):
            os.read(go, 1)
            sleep()
            os.write(tell, _TIME.pack(time.monotonic_ns()))

    samples = []
    with _child(sleeper):
        for _ in range(count):
            os.write(let_go, b"x")
            time.sleep(_NAP)
            start = time.monotonic_ns()
            wake()
            samples.append(_TIME.unpack(os.read(times, _TIME.size))[0] - start)
            reset()
    for fd in (times, tell, go, let_go):
        os.close(fd)
    return summarize(samples)


# ---- spinners --------------------------------------------------------------------------------


def _spin_end(node: str, scale: Scale) -> list[Line]:
    samples = []
    with Device.open(node, "ioctl") as device:
        engine = engine_of(device, RCS)
        for _ in range(scale.wakes):
            cork = Cork(device, [engine])
            cork.sync_start()
            time.sleep(_SPIN)
            start = time.monotonic_ns()
            cork.spin.end()
            cork.wait()
            samples.append(time.monotonic_ns() - start)
            cork.destroy()
    cost = summarize(samples)
    return [
        Line(
            "wait/spin-end",
            WHATS["wait/spin-end"],
            median=cost.median,
            p99=cost.p99,
            worst=cost.worst,
            goal=_SPIN_GOAL,
            iterations=f"1 x {scale.wakes}",
        )
    ]


def _beside_spinner(programs: Path, node: str, scale: Scale) -> list[Line]:
    def run() -> Summary:
        client = servers.start_client(programs, node, "version_null", scale.client_calls, None)
        return servers.summary_of(client)

    rounds = []
    with Device.open(node, "ioctl") as device:
        engine = engine_of(device, RCS)
        for number in range(scale.rounds):
            say(f"wait/beside-spinner: round {number + 1} of {scale.rounds}")
            idle = run()
            with Cork(device, [engine]):
                rounds.append((idle, run()))
    return two_lines(
        "wait/beside-spinner",
        ("VERSION, no work on the engines", WHATS["wait/beside-spinner"]),
        rounds,
        to="no work",
        goal=_BESIDE_GOAL,
        iterations=f"{scale.rounds} x {scale.client_calls}",
    )


# ---- many clients ----------------------------------------------------------------------------


def _wait_for_ever(node: str, kind: int) -> None:
    """In a process of its own: open the node, and wait for what never comes."""
    with Device.open(node, "ioctl") as device:
        if kind % 2:
            device.syncobj_wait([device.syncobj_create()], _FOREVER, _FOR_SUBMIT)
        value = ctypes.c_uint64()
        device.wait_user_fence(ctypes.addressof(value), 1, timeout=-1)


def _waiting_clients(node: str, count: int, ready: int) -> list[int]:
    """Processes that wait; each writes a byte to ``ready`` just before."""
    pids = []
    for number in range(count):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.write(ready, b"x")
                _wait_for_ever(node, number)
            except KeyboardInterrupt:
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    return pids


def _end_by(number: signal.Signals, name: str, node: str, scale: Scale) -> list[Line]:
    """One after the other, so that the end of one process is not in the way of the next one's."""
    ready, tell = os.pipe()
    pids = _waiting_clients(node, scale.waiters, tell)
    told = 0
    while told < len(pids):
        told += len(os.read(ready, 4096))
    _wait_until_open(node, len(pids))
    samples = []
    for pid in pids:
        start = time.monotonic_ns()
        os.kill(pid, number)
        os.waitpid(pid, 0)
        samples.append(time.monotonic_ns() - start)
    for fd in (ready, tell):
        os.close(fd)
    _wait_until_open(node, 0)
    cost = summarize(samples)
    return [
        Line(
            name,
            WHATS[name],
            median=cost.median,
            p99=cost.p99,
            worst=cost.worst,
            goal=_GONE_GOAL,
            iterations=f"1 x {len(pids)}",
            note=f"{len(pids)} clients in Python wait, half of them for a user fence, half for a "
            "syncobj; one after the other",
        )
    ]


def _killed(node: str, scale: Scale) -> list[Line]:
    return _end_by(signal.SIGKILL, "wait/killed", node, scale)


def _interrupted(node: str, scale: Scale) -> list[Line]:
    return _end_by(signal.SIGINT, "wait/interrupted", node, scale)


def _debug(node: str, name: str) -> Path:
    return Path(node).parents[2] / DEBUG_DIR / name


def _wait_until_open(node: str, files: int) -> None:
    """Until so many clients have the device open, and sleep."""
    deadline = time.monotonic() + _WOKEN_TIME
    while len(json.loads(_debug(node, "state").read_text())["files"]) != files:
        if time.monotonic() > deadline:
            raise AssertionError(f"there never were {files} open files")
        time.sleep(0.05)
    time.sleep(0.2)


def _lost(node: str, scale: Scale) -> list[Line]:
    """All wait for syncobjs of one file, each for its own; one ioctl signals all of them."""
    count = scale.waiters_woken
    done, tell = os.pipe()
    with Device.open(node, "ioctl") as device:
        handles = [device.syncobj_create() for _ in range(count)]
        pids = [_waiter(device, handle, tell) for handle in handles]
        time.sleep(1 + count / 500)
        start = time.monotonic()
        device.syncobj_signal(handles)
        woken = _count_bytes(done, count, start + _WOKEN_TIME)
        took = time.monotonic() - start
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    os.close(done)
    os.close(tell)
    return [
        Line(
            "wait/lost",
            WHATS["wait/lost"],
            unit="clients",
            median=count - woken,
            goal=0,
            iterations=f"1 x {count}",
            note=f"of {count}, woken by one ioctl; the last one ran after {took * 1e3:.0f} ms",
        )
    ]


def _waiter(device: Device, handle: int, tell: int) -> int:
    pid = os.fork()
    if not pid:
        try:
            device.syncobj_wait([handle], _FOREVER, _FOR_SUBMIT)
            os.write(tell, b"x")
        finally:
            os._exit(0)
    return pid


def _count_bytes(fd: int, count: int, deadline: float) -> int:
    found = 0
    while found < count:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        found += len(os.read(fd, count))
    return found


def _memory(node: str, scale: Scale) -> list[Line]:
    daemon = json.loads(_debug(node, "daemon").read_text())["pid"]
    with Device.open(node, "ioctl") as device:
        handle = device.syncobj_create()

        def wait(times: int) -> None:
            for _ in range(times):
                with suppress(OSError):  # ETIME, as it should be
                    device.syncobj_wait([handle], time.monotonic_ns() + _SHORT_WAIT, _FOR_SUBMIT)

        wait(scale.waits // 10)
        before = _resident_bytes(daemon)
        wait(scale.waits)
        growth = _resident_bytes(daemon) - before
    return [
        Line(
            "wait/memory",
            WHATS["wait/memory"],
            unit="bytes",
            median=max(0.0, growth / scale.waits),
            goal=_MEMORY_GOAL,
            iterations=f"1 x {scale.waits}",
            note="resident set of the daemon, by waits that slept and timed out",
        )
    ]


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


_MEASURES: dict[str, _Measure] = {
    "wait/wake": _wake,
    "wait/spin-end": _spin_end,
    "wait/killed": _killed,
    "wait/interrupted": _interrupted,
    "wait/lost": _lost,
    "wait/memory": _memory,
}
