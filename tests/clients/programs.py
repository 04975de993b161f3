"""What is run, and how one tells whether it went well."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

__all__ = ("ALL", "QUICK", "Outcome", "Program", "Result")

IGT = "/usr/libexec/igt-gpu-tools/"
VRAM = "2G"
"""What xe_vm's large binds need; to fill more takes xe_madvise minutes."""
IGT_SKIP = 77


class Outcome(Enum):
    """How one test ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    CRASH = "crash"
    TIMEOUT = "timeout"


_OF_IGT = {
    "SUCCESS": Outcome.PASS,
    "FAIL": Outcome.FAIL,
    "SKIP": Outcome.SKIP,
    "CRASH": Outcome.CRASH,
    "TIMEOUT": Outcome.TIMEOUT,
}
# A warning before it may not have ended its line.
_SUBTEST = re.compile(rb"Subtest ([\w.@-]+): (SUCCESS|FAIL|SKIP|CRASH|TIMEOUT) \(")
_STARTED = re.compile(rb"^Starting subtest: ([\w.@-]+)", re.MULTILINE)
_CAUSE = re.compile(rb"(?:Failed assertion|Test requirement[^:]*): ?(.*)|error: (.*)")


@dataclass(slots=True)
class Result:
    """Of one program: each test's outcome, and the first reason that a failure gave."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    reason: str = ""

    def count(self, outcome: Outcome) -> int:
        """How many ended so."""
        return sum(found is outcome for found in self.outcomes.values())

    @property
    def failed(self) -> list[str]:
        """Those that neither passed nor were skipped."""
        fine = (Outcome.PASS, Outcome.SKIP)
        return [name for name, outcome in self.outcomes.items() if outcome not in fine]


@dataclass(frozen=True, slots=True)
class Program:
    """One program, on a device of its own."""

    name: str
    command: tuple[str, ...]
    expected: str = ""
    """What must stand in its output; of IGT's the subtests tell."""
    options: tuple[str, ...] = ()
    """Of ``xe-mock run``."""
    seconds: float = 300.0

    def run(self, chroot: Path) -> Result:
        """Run it to its end, or until its time is over."""
        command = [
            *(sys.executable, "-m", "xedev.cli", "run", "--root", str(chroot)),
            *(*self.options, "--", *self.command),
        ]
        late = False
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self.seconds,
            )
            output, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            output, code, late = error.stdout or b"", 1, True
        return self._judge(output, code, late)

    def _judge(self, output: bytes, code: int, late: bool) -> Result:
        if self.expected:
            found = code == 0 and self.expected.encode() in output
            outcome = Outcome.TIMEOUT if late else Outcome.PASS if found else Outcome.FAIL
            last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return Result({self.name: outcome}, "" if found else last[:200])
        outcomes = {
            name.decode(): _OF_IGT[word.decode()] for name, word in _SUBTEST.findall(output)
        }
        for name in _STARTED.findall(output):
            outcomes.setdefault(name.decode(), Outcome.TIMEOUT if late else Outcome.CRASH)
        if not outcomes:
            outcomes[self.name] = _without_subtests(code, late)
        return Result(outcomes, _first_cause(output))


def _without_subtests(code: int, late: bool) -> Outcome:
    if late:
        return Outcome.TIMEOUT
    return {0: Outcome.PASS, IGT_SKIP: Outcome.SKIP}.get(code, Outcome.FAIL)


def _first_cause(output: bytes) -> str:
    found = _CAUSE.search(output)
    return (found[1] or found[2] or b"").decode("utf-8", "replace").strip()[:200] if found else ""


def _igt(names: str, seconds: float = 300.0) -> Iterator[Program]:
    for name in names.split():
        yield Program(name, (IGT + name,), options=("--no-master", "--vram", VRAM), seconds=seconds)


_OTHERS = (
    Program("drmdevice", ("drmdevice",), "bustype"),
    Program("vulkaninfo", ("vulkaninfo", "--summary"), "B580"),
    Program("vulkaninfo on lnl", ("vulkaninfo", "--summary"), "LNL", ("--profile", "lnl")),
)
QUICK = (
    *_OTHERS,
    *_igt("core_getversion core_auth xe_madvise xe_create xe_query xe_waitfence xe_exec_store"),
    *_igt("xe_exec_atomic xe_spin_batch xe_copy_basic xe_prime_self_import syncobj_basic"),
    *_igt("xe_exec_queue_property xe_mmap xe_dma_buf_sync xe_exec_mix_modes xe_vm"),
)
ALL = (
    *QUICK,
    *_igt("core_getclient core_getstats core_setmaster core_setmaster_vs_auth dumb_buffer"),
    *_igt("syncobj_eventfd syncobj_timeline syncobj_wait xe_drm_fdinfo xe_noexec_ping_pong"),
    *_igt("xe_exec_balancer xe_exec_compute_mode xe_exec_fault_mode xe_exec_reset xe_evict", 600),
    *_igt("xe_exec_basic xe_exec_threads xe_intel_bb", 900),
    *_igt("xe_exec_system_allocator", 3600),
)
