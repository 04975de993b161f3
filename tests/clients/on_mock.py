"""Running one command in the chroot, on a mock of its own, with an eye on it."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ("Ended", "run_on_mock")

_GRACE = 10.0
"""Seconds that a program has to end after it was told to."""
_TROUBLE = b"xe-mock: the mock logged"


@dataclass(frozen=True, slots=True)
class Ended:
    """A command's end."""

    code: int
    """128 + n after signal n."""
    late: bool
    """It was ended because it had been silent for too long."""
    trouble: str
    """What the mock itself logged as an error, or ""."""


def run_on_mock(
    chroot: Path,
    options: Sequence[str],
    command: Sequence[str],
    see: Callable[[bytes], bool],
    seconds: float,
) -> Ended:
    """Run ``command``, and show each line of its output to ``see``; that says whether it is a
    step ahead.  Without one in ``seconds`` the command is ended."""
    words = [sys.executable, "-m", "xedev.cli", "run", "--root", os.fspath(chroot), *options, "--"]
    with subprocess.Popen(
        [*words, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        watch = _Watch(process, see, seconds)
        try:
            watch.until_end()
        finally:
            _kill(process)
        return Ended(process.wait(), watch.late, watch.trouble)


class _Watch:
    """Reads what a process writes."""

    def __init__(
        self, process: subprocess.Popen[bytes], see: Callable[[bytes], bool], seconds: float
    ) -> None:
        assert process.stdout is not None
        self._process = process
        self._pipe = process.stdout
        self._see = see
        self._seconds = seconds
        self._rest = b""
        self.late = False
        self.trouble = ""

    def until_end(self) -> None:
        """Read until nobody writes any more, or the time is over."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            deadline = time.monotonic() + self._seconds
            while True:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    if self.late:
                        return
                    self.late = True
                    self._process.terminate()
                    deadline = time.monotonic() + _GRACE
                    continue
                data = os.read(self._pipe.fileno(), 1 << 16)
                if not data:
                    self._line(self._rest)
                    return
                if self._lines(data) and not self.late:
                    deadline = time.monotonic() + self._seconds

    def _lines(self, data: bytes) -> bool:
        *lines, self._rest = (self._rest + data).split(b"\n")
        steps = [self._line(line) for line in lines]
        return any(steps)

    def _line(self, line: bytes) -> bool:
        if line.startswith(_TROUBLE):
            self.trouble = line.decode("utf-8", "replace")
        return self._see(line)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the command and all that it started, if they have not ended by themselves."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
