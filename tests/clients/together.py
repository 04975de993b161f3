"""IGT's programs beside each other, as many clients of the same devices."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.clients.igt import DIRECTORY, Igt, IgtOutput
from tests.clients.on_mock import Ended, run_on_mock
from tests.clients.outcome import Outcome, Result, Verdict

__all__ = ("Together",)

_ONE = "IGT_DEVICE=drm:/dev/dri/card$1 {directory}$2 --run-subtest $3 >$0 2>&1; echo $? >$0.code"


@dataclass(frozen=True, slots=True)
class Together:
    """Programs of IGT's, several at a time; each test is called ``PROGRAM SUBTEST``."""

    name: str
    programs: tuple[Igt, ...]
    at_a_time: int = 8
    devices: int = 1
    options: tuple[str, ...] = ()
    """Of ``xe-mock run``."""
    seconds: float = 600.0
    """What all of it may take."""

    def run(self, chroot: Path) -> Result:
        """Run all of them to their ends."""
        directory = Path(tempfile.mkdtemp(dir=chroot / "tmp"))
        try:
            return self._run(chroot, directory)
        finally:
            shutil.rmtree(directory)

    def _run(self, chroot: Path, directory: Path) -> Result:
        inside = f"/{directory.relative_to(chroot)}"
        lines = [
            f"{inside}/{number} {number % self.devices} {program.binary} {','.join(names)}\n"
            for number, (program, names) in enumerate(self._work(chroot))
        ]
        (directory / "list").write_text("".join(lines))
        words = ("xargs", "-a", f"{inside}/list", "-L", "1", "-P", str(self.at_a_time))
        one = _ONE.format(directory=DIRECTORY)
        options = ("--no-master", "--devices", str(self.devices), *self.options)
        ended = run_on_mock(
            *(chroot, options, (*words, "sh", "-c", one), lambda _: False, self.seconds),
        )
        return self._read(chroot, directory, ended)

    def _work(self, chroot: Path) -> Iterator[tuple[Igt, list[str]]]:
        for program in self.programs:
            yield program, program.subtests(chroot)

    def _read(self, chroot: Path, directory: Path, ended: Ended) -> Result:
        result: Result = {}
        for number, (program, names) in enumerate(self._work(chroot)):
            found = _result(directory / str(number), ended.late)
            for name in names:
                missed = Verdict(Outcome.TIMEOUT if ended.late else Outcome.CRASH, "never ended")
                result[f"{program.binary} {name}"] = found.get(name, missed)
        if ended.trouble:
            result["the mock"] = Verdict(Outcome.FAIL, ended.trouble)
        return result


def _result(log: Path, late: bool) -> Result:
    """What a program wrote to ``log``."""
    output = IgtOutput()
    for line in log.read_bytes().split(b"\n") if log.exists() else ():
        output.see(line)
    code = Path(f"{os.fspath(log)}.code")
    output.close(Ended(int(code.read_text()) if code.exists() else 1, late, ""))
    return output.result
