"""Programs that say by their output and their exit code whether all is well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clients.on_mock import Ended, run_on_mock
from tests.clients.outcome import Outcome, Result, Verdict

__all__ = ("Program", "bad_end")


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
        ended, lines = self.output(chroot, self.command)
        if bad := bad_end(ended):
            return {self.name: bad}
        text = b"\n".join(lines)
        if ended.code == 0 and self.expected.encode() in text:
            return {self.name: Verdict(Outcome.PASS)}
        last = text.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return {self.name: Verdict(Outcome.FAIL, f"exit code {ended.code}: {last[:200]}")}

    def output(self, chroot: Path, command: Sequence[str]) -> tuple[Ended, list[bytes]]:
        """Run ``command``: how it ended, and the lines that it wrote."""
        lines: list[bytes] = []

        def see(line: bytes) -> bool:
            lines.append(line)
            return False

        ended = run_on_mock(chroot, self.options, command, see, self.seconds)
        return ended, b"\n".join(lines).splitlines()


def bad_end(ended: Ended) -> Verdict | None:
    """What is wrong whatever was written."""
    if ended.late:
        return Verdict(Outcome.TIMEOUT)
    return Verdict(Outcome.FAIL, ended.trouble) if ended.trouble else None
