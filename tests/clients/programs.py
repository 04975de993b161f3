"""Programs that say by their output and their exit code whether all is well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.clients.on_mock import run_on_mock
from tests.clients.outcome import Outcome, Result, Verdict

__all__ = ("Program",)


@dataclass(frozen=True, slots=True)
class Program:
    """One program, on a device of its own: it is one test."""

    name: str
    command: tuple[str, ...]
    expected: str = ""
    """What must stand in its output."""
    options: tuple[str, ...] = ()
    """Of ``xe-mock run``."""
    seconds: float = 300.0

    def run(self, chroot: Path) -> Result:
        """Run it to its end, or until its time is over."""
        lines: list[bytes] = []

        def see(line: bytes) -> bool:
            lines.append(line)
            return False

        ended = run_on_mock(chroot, self.options, self.command, see, self.seconds)
        if ended.late:
            return {self.name: Verdict(Outcome.TIMEOUT)}
        if ended.trouble:
            return {self.name: Verdict(Outcome.FAIL, ended.trouble)}
        output = b"\n".join(lines)
        if ended.code == 0 and self.expected.encode() in output:
            return {self.name: Verdict(Outcome.PASS)}
        last = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {self.name: Verdict(Outcome.FAIL, f"exit code {ended.code}: {last[:200]}")}
