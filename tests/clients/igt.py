"""IGT's test programs: many subtests each, several in one run, whoever failed again alone."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.clients.on_mock import Ended, run_on_mock
from tests.clients.outcome import FINE, Outcome, Result, Verdict

__all__ = ("Igt", "IgtOutput", "Part")

DIRECTORY = "/usr/libexec/igt-gpu-tools/"
SKIPPED, INVALID = 77, 79
"""Exit codes: of a program that skipped all that it had, and of one without subtests to list."""
WHOLE = "(no-subtests)"
"""The one that stands for such a program."""

_WORDS = {
    b"SUCCESS": Outcome.PASS,
    b"FAIL": Outcome.FAIL,
    b"SKIP": Outcome.SKIP,
    b"CRASH": Outcome.CRASH,
    b"TIMEOUT": Outcome.TIMEOUT,
}
# A warning before it may not have ended its line.
_ENDED = re.compile(rb"Subtest ([\w.@-]+): (SUCCESS|FAIL|SKIP|CRASH|TIMEOUT) \(")
_STARTED = re.compile(rb"^Starting subtest: ([\w.@-]+)")
_CAUSE = re.compile(
    rb"(?:Failed assertion|Test requirement|Received signal)(?!.* in function)[: ]+(.*)"
    rb"|(?:error|child \d+ failed with exit status): ?(.*)"
)
_TOLD_OF_A_CAUSE = 200
"""Bytes."""


@dataclass(slots=True)
class IgtOutput:
    """What a program's output says of its subtests, line by line."""

    result: Result = field(default_factory=dict)
    running: str = ""
    """The subtest that has begun and not ended."""
    _cause: str = ""
    _common: str = ""
    """Why none of those that follow can run: it was said outside of any subtest."""

    def see(self, line: bytes) -> bool:
        """Take a line in; whether a subtest began or ended with it."""
        if ended := _ENDED.search(line):
            self._end(ended[1].decode(), _WORDS[ended[2]])
            return True
        if started := _STARTED.search(line):
            self.running, self._cause = started[1].decode(), ""
            return True
        if (cause := _CAUSE.search(line)) and not self._cause:
            text = (cause[1] or cause[2] or b"").strip()[:_TOLD_OF_A_CAUSE]
            self._cause = text.decode("utf-8", "replace")
        return False

    def _end(self, name: str, outcome: Outcome) -> None:
        if not self.running:
            self._common = self._cause or self._common
        reason = self._cause or self._common
        self.result[name] = Verdict(outcome, "" if outcome is Outcome.PASS else reason)
        self.running = self._cause = ""

    def close(self, ended: Ended) -> None:
        """The program has ended: so has the subtest that was running."""
        if not self.running:
            return
        if ended.late:
            self.result[self.running] = Verdict(Outcome.TIMEOUT, self._cause)
        else:
            reason = self._cause or f"exit code {ended.code} in the middle"
            self.result[self.running] = Verdict(Outcome.CRASH, reason)
        self.running = ""


@dataclass(frozen=True, slots=True)
class Igt:
    """One of IGT's programs with the device that it is run on."""

    binary: str
    only: tuple[str, ...] = ("*",)
    """Which of its subtests, as globs."""
    without: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Of ``xe-mock run``."""
    seconds: float = 180.0
    """What one subtest may take."""
    part: int = 40
    """How many share a device."""
    on: str = ""
    """Names the device where it is not the usual one."""

    @property
    def name(self) -> str:
        """As the score calls it."""
        return f"{self.binary} on {self.on}" if self.on else self.binary

    def subtests(self, chroot: Path) -> list[str]:
        """Those of the program that are meant.  CalledProcessError."""
        words = ["chroot", os.fspath(chroot), DIRECTORY + self.binary, "--list-subtests"]
        ended = subprocess.run(words, capture_output=True, text=True)
        if ended.returncode == INVALID:
            return [WHOLE]
        ended.check_returncode()
        listed = ended.stdout.split()
        return [name for name in listed if _any(name, self.only) and not _any(name, self.without)]

    def parts(self, chroot: Path) -> Iterator[Part]:
        """The program in parts of a convenient length."""
        names = self.subtests(chroot)
        for start in range(0, len(names), self.part):
            yield Part(self, tuple(names[start : start + self.part]))


@dataclass(frozen=True, slots=True)
class Part:
    """Some subtests of one program."""

    program: Igt
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the program."""
        return self.program.name

    def run(self, chroot: Path) -> Result:
        """Run them one after the other on one device, and on a new one after a crash."""
        result: Result = {}
        left = list(self.names)
        while left:
            result |= self._some(chroot, left)
            left = [name for name in self.names if name not in result]
        return result

    def alone(self, name: str) -> Part:
        """One subtest for itself."""
        return replace(self, names=(name,))

    def _some(self, chroot: Path, names: Sequence[str]) -> Result:
        """At least one of ``names``."""
        output = IgtOutput()
        chosen = () if names == [WHOLE] else ("--run-subtest", ",".join(names))
        words = (DIRECTORY + self.program.binary, *chosen)
        options, seconds = self.program.options, self.program.seconds
        ended = run_on_mock(chroot, ("--no-master", *options), words, output.see, seconds)
        output.close(ended)
        result = {name: output.result[name] for name in names if name in output.result}
        if not result:
            return dict.fromkeys(names, _without_a_word(ended, names))
        if ended.trouble:
            # Which of them it was is seen when they are run alone.
            trouble = Verdict(Outcome.FAIL, ended.trouble)
            return {n: trouble if v.outcome in FINE else v for n, v in result.items()}
        return result


def _without_a_word(ended: Ended, names: Sequence[str]) -> Verdict:
    if ended.late:
        return Verdict(Outcome.TIMEOUT)
    if ended.code == SKIPPED:
        return Verdict(Outcome.SKIP, "the program skips as a whole")
    if names == [WHOLE] and not (ended.code or ended.trouble):
        return Verdict(Outcome.PASS)
    return Verdict(Outcome.CRASH, f"exit code {ended.code}")


def _any(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)
