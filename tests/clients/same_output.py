"""Programs that touch no device: under the mock they say what they say without it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.clients.outcome import Outcome, Result, Verdict
from tests.clients.programs import Program, bad_end

__all__ = ("SameOutput",)

SCRIPT = Path(__file__).parent / "sources/coreutils.sh"

_IN_CHROOT = """
for name in dev proc sys; do mount --rbind "/$name" "$0/$name" || exit; done
exec chroot "$0" sh -c "$1"
"""


@dataclass(frozen=True, slots=True)
class SameOutput(Program):
    """A shell script that is run without the mock too; its command is not looked at."""

    def run(self, chroot: Path) -> Result:
        """Run it both ways."""
        script = SCRIPT.read_text()
        ended, lines = self.output(chroot, ("sh", "-c", script))
        if bad := bad_end(ended):
            return {self.name: bad}
        without = _plainly(chroot, script, self.seconds)
        told = [*lines, b"= %d" % ended.code]
        for one, other in zip(told, without, strict=False):
            if one != other:
                said = f"{one.decode()!r} instead of {other.decode()!r}"
                return {self.name: Verdict(Outcome.FAIL, said)}
        if len(told) != len(without):
            return {self.name: Verdict(Outcome.FAIL, f"{len(told)} lines, not {len(without)}")}
        return {self.name: Verdict(Outcome.PASS)}


def _plainly(chroot: Path, script: str, seconds: float) -> list[bytes]:
    """What it says in the chroot with the machine's own directories, and its exit code."""
    command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _IN_CHROOT)
    ran = subprocess.run(
        [*command, os.fspath(chroot), script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
    )
    return [*ran.stdout.splitlines(), b"= %d" % ran.returncode]
