"""10^5 bad calls from several processes, and one client beside them that must not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile import fuzz_client
from xedev.node.daemon_start import probe
from xedev.node.fuse_adapter import BackendName
from xedev.testing.mounts import wait_until_empty

pytestmark = pytest.mark.fuse

Mount = Callable[..., str]

VRAM, SYSTEM = 64 << 20, 256 << 30
"""So little VRAM that buffers move about, and so much system memory that it never fails."""
SHARES = {"ioctl": (0.22, 0.22), "mixed": (0.18, 0.18), "frames": (0.18,), "control": (0.02,)}
"""What part of all calls each client of a kind makes."""
ROOT = Path(__file__).parents[2]
SLACK_FDS, SLACK_THREADS = 3, 10
"""libfuse keeps up to ten idle threads."""
SETTLE = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon of a mount, seen from outside."""

    directory: str

    def about(self) -> Any:
        """What it tells of itself."""
        return json.loads(Path(self.directory, "debug/dri/0/daemon").read_text())

    def state(self) -> Any:
        """What `xe-mock show --json` prints."""
        return json.loads(Path(self.directory, "debug/dri/0/state").read_text())

    def resources(self) -> tuple[int, int]:
        """How many descriptors and threads it has."""
        process = Path("/proc", str(self.about()["pid"]))
        return len(os.listdir(process / "fd")), len(os.listdir(process / "task"))


def start(module: str, plan: dict[str, object]) -> subprocess.Popen[str]:
    """Start a client of this folder."""
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.hostile.{module}", json.dumps(plan)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def all_ended(processes: list[subprocess.Popen[str]]) -> Iterator[None]:
    """Kill what is left in the end, however it came to that."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def report(process: subprocess.Popen[str], seconds: float) -> list[Any]:
    """What a client has to say when it ends."""
    text, _ = process.communicate(timeout=seconds)
    return [json.loads(line) for line in text.splitlines()]


def besiege(daemon: Daemon, seed: str, calls: int, seconds: float) -> None:
    """Let all clients loose, and judge."""
    with open(os.path.join(daemon.directory, "dev/dri/renderD128")):
        before = daemon.resources()
    good = start("good_client", {"directory": daemon.directory, "vram": VRAM, "system": SYSTEM})
    fuzzers = [
        start(
            "fuzz_client",
            {
                "directory": daemon.directory,
                "seed": f"{seed}/{kind}{number}",
                "kind": kind,
                "calls": int(calls * share),
            },
        )
        for kind in fuzz_client.KINDS
        for number, share in enumerate(SHARES[kind])
    ]
    with all_ended([good, *fuzzers]):
        end = time.monotonic() + seconds
        told = [line for fuzzer in fuzzers for line in report(fuzzer, end - time.monotonic())]
        (answer,) = report(good, 30)
    violations = [line for line in told if "violation" in line]
    assert not violations, "\n".join(f"{v['seed']}: {v['violation']}" for v in violations)
    assert not answer["wrong"], answer["wrong"]
    assert answer["rounds"] > 10, answer
    totals = [line for line in told if "done" in line]
    print(*totals, answer, sep="\n")
    assert len(totals) == len(fuzzers)
    assert sum(line["calls"] for line in totals) >= calls
    assert sum(line["killed"] for line in totals) >= 10
    check_aftermath(daemon, before)


def check_aftermath(daemon: Daemon, before: tuple[int, int]) -> None:
    """All are gone, and so is all that they had."""
    wait_until_empty(daemon.directory, SETTLE)
    (device,) = daemon.state()["devices"]
    assert [region["used"] for region in device["regions"]] == [0] * len(device["regions"])
    about = daemon.about()
    assert about["errors"] == 0, about["messages"]
    end = time.monotonic() + SETTLE
    limits = before[0] + SLACK_FDS, before[1] + SLACK_THREADS
    while any(now > limit for now, limit in zip(daemon.resources(), limits, strict=True)):
        assert time.monotonic() < end, f"{daemon.resources()} descriptors and threads, {before=}"
        time.sleep(0.1)


@contextmanager
def told_on_failure(seed: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"seed {seed!r}; the order of the processes is up to the system")
        raise


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("backend", "calls"), [("fusepy", 100_000), ("mfusepy", 20_000)])
def test_siege(
    mounted_node: Mount, monkeypatch: pytest.MonkeyPatch, backend: BackendName, calls: int
) -> None:
    if backend == "mfusepy":
        monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse3.so.3")
    reason = probe(backend)
    if reason is not None:
        pytest.skip(reason)
    daemon = Daemon(mounted_node(fresh=True, vram=VRAM, system=SYSTEM, backend=backend))
    seed = f"siege of {backend}"
    with told_on_failure(seed):
        besiege(daemon, seed, calls, 200)


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_long_siege(mounted_node: Mount) -> None:
    daemon = Daemon(mounted_node(fresh=True, vram=VRAM, system=SYSTEM))
    seed = f"siege {time.time_ns()}"
    with told_on_failure(seed):
        besiege(daemon, seed, 1_000_000, 2000)
