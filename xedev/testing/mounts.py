"""Mounts for tests: made when first asked for, shared by those that ask for the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xedev
from xedev.node.server import DAEMON_FILE
from xedev.node.tree import DEBUG_DIR, DRI_DEBUG_DIR

__all__ = ("MountFailure", "MountedNodes", "run_command", "wait_until_empty")

_COMMAND_TIMEOUT = 60.0  # seconds
_EMPTY_TIMEOUT = 5.0
_PACKAGE_PATH = str(Path(xedev.__file__).parents[1])


class MountFailure(AssertionError):
    """A daemon could not be started, has died, or logged an error."""


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``xe-mock`` with the interpreter and the packages of this process."""
    path = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([_PACKAGE_PATH, path] if path else [_PACKAGE_PATH]),
        "XE_MOCK_DEBUG": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "xedev.cli", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
        check=False,
    )


def wait_until_empty(directory: str, timeout: float = _EMPTY_TIMEOUT) -> None:
    """Nothing is left of any client: no open file, no VM, no buffer; AssertionError otherwise.

    It may take a moment: a file is released after the client's close(2) has returned.
    """
    deadline = time.monotonic() + timeout
    while left := _left(directory):
        if time.monotonic() > deadline:
            raise AssertionError(f"left behind in {directory}: {left}")
        time.sleep(0.005)


def _left(directory: str) -> dict[str, Any]:
    paths = Path(directory, DRI_DEBUG_DIR).glob("[0-9]*/state")
    states = [json.loads(path.read_text()) for path in paths]
    assert states, f"{directory} shows no device"
    left: dict[str, list[Any]] = {
        kind: [thing for state in states for thing in state[kind]]
        for kind in ("files", "vms", "bos")
    }
    pending = [device["pending_fds"] for state in states for device in state["devices"]]
    left["pending_fds"] = list(filter(None, pending))
    # The cards of a mount share them.
    left["page_files"] = list(filter(None, [states[0]["devices"][0]["page_files"]]))
    return {kind: things for kind, things in left.items() if things}


class _Mount:
    """One mount, in a temporary directory with its log."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self._root = tempfile.mkdtemp(prefix="xe-mock-test-")
        # Tests change to other users, who must get through.
        os.chmod(self._root, 0o755)
        self.directory = os.path.join(self._root, "mnt")
        self._log = os.path.join(self._root, "log")
        os.mkdir(self.directory)
        self._errors_told = 0
        try:
            self._run("mount", "--die-with", str(os.getpid()), "--log", self._log, *arguments)
        except BaseException:
            shutil.rmtree(self._root, ignore_errors=True)
            raise

    def _run(self, command: str, *arguments: str) -> None:
        ran = run_command(command, self.directory, *arguments)
        if ran.returncode:
            raise MountFailure(f"xe-mock {command} failed: {ran.stderr}\n{self._log_text()}")

    def _log_text(self) -> str:
        try:
            return f"log of the daemon:\n{Path(self._log).read_text()}"
        except OSError:
            return "there is no log"

    def check(self) -> None:
        """`MountFailure` when the daemon is dead, or logged an error since the last check."""
        try:
            about = json.loads(Path(self.directory, DEBUG_DIR, DAEMON_FILE).read_text())
        except OSError as error:
            raise MountFailure(f"the daemon does not answer: {error}\n{self._log_text()}") from None
        new = about["errors"] - self._errors_told
        self._errors_told = about["errors"]
        if new:
            raise MountFailure(f"the daemon logged {new} error(s)\n{self._log_text()}")

    def end(self) -> None:
        """Unmount; `MountFailure` when the daemon logged an error that nobody was told of."""
        try:
            ran = run_command("umount", self.directory)
            text = self._log_text()
        finally:
            shutil.rmtree(self._root, ignore_errors=True)
        if ran.returncode and not self._errors_told:
            raise MountFailure(f"xe-mock umount failed: {ran.stderr}\n{text}")


class MountedNodes:
    """Gives mounts by their options, and answers for their daemons.

    Options are those of ``xe-mock mount``, by their names: ``profile="lnl"``, ``vram="256M"``,
    ``debug_kernel=True``, ``allow_other=False``, ``devices=2``.
    """

    def __init__(self) -> None:
        self._mounts: dict[tuple[str, ...], _Mount] = {}
        self._fresh: list[_Mount] = []

    def get(self, options: Mapping[str, object], *, fresh: bool = False) -> str:
        """The directory of a mount with these options, shared unless it is to be ``fresh``."""
        arguments = tuple(_arguments(options))
        if fresh:
            self._fresh.append(_Mount(arguments))
            return self._fresh[-1].directory
        if arguments not in self._mounts:
            self._mounts[arguments] = _Mount(arguments)
        return self._mounts[arguments].directory

    def check(self) -> None:
        """After a test: end its fresh mounts, and look after the shared ones."""
        fresh, self._fresh = self._fresh, []
        failures = [*_failures(_Mount.end, fresh)]
        for arguments, mount in list(self._mounts.items()):
            found = _failures(_Mount.check, [mount])
            failures += found
            if found:
                # The next test shall not suffer from this one.
                del self._mounts[arguments]
                failures += _failures(_Mount.end, [mount])
        _raise_all(failures)

    def end(self) -> None:
        """End all mounts."""
        mounts = [*self._fresh, *self._mounts.values()]
        self._fresh.clear()
        self._mounts.clear()
        _raise_all(_failures(_Mount.end, mounts))


def _arguments(options: Mapping[str, object]) -> list[str]:
    arguments = []
    for name, value in sorted(options.items()):
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            arguments += [flag, str(value)]
    return arguments


def _failures(step: Any, mounts: list[_Mount]) -> list[MountFailure]:
    failures = []
    for mount in mounts:
        try:
            step(mount)
        except MountFailure as failure:
            failures.append(failure)
    return failures


def _raise_all(failures: list[MountFailure]) -> None:
    if failures:
        raise MountFailure("\n".join(map(str, failures)))
