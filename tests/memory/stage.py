"""A mount with its clients that one random program after the other plays on, and what its daemon
holds meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.children import eventually
from tests.memory.actor import PAGE, Actor
from xedev.client.control import ControlFiles
from xedev.node.server import DAEMON_FILE
from xedev.node.tree import DEBUG_DIR
from xedev.testing.mounts import MountedNodes, MountFailure, wait_until_empty

__all__ = ("ACTORS", "PATIENCE", "Stage")

ACTORS = 3
PATIENCE = 5.0  # seconds until what a process let go of is gone
HEAP_GROWTH = 16 << 20
"""Bytes that the daemon's heap may grow by: it is an interpreter, and never quite the same."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a daemon has: where its descriptors lead to, and the files of its memory directory."""

    descriptors: tuple[str, ...]
    files: tuple[str, ...]

    @classmethod
    def of(cls, pid: int) -> Holdings:
        """Of a running daemon."""
        links = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that was open for a moment
                links.append(os.readlink(entry))
        directories = [link for link in links if "/xe-mock-memory-" in link]
        files = [name for directory in directories for name in os.listdir(directory)]
        return cls(tuple(sorted(links)), tuple(files))


def heap_of(pid: int) -> int:
    """Bytes of anonymous memory that a process has in use."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


class Stage:
    """A mount and its clients, for one program after the other.

    After a failure that left traces there is a new mount, so that the next program meets no ruins.
    """

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options
        self._nodes = MountedNodes()
        self._start()

    def _start(self) -> None:
        self.directory = self._nodes.get(self._options, fresh=True)
        self.controls = ControlFiles(Path(self.directory, DEBUG_DIR))
        self.actors = [Actor(self.directory) for _ in range(ACTORS)]
        self._daemon: int = json.loads(self.controls.read(DAEMON_FILE))["pid"]
        self._warm_up()
        self._holdings = Holdings.of(self._daemon)
        self._heap = heap_of(self._daemon)

    def _warm_up(self) -> None:
        """Let the daemon make what it makes once, such as the directory of its files."""
        for actor in self.actors:
            actor.map(actor.create(PAGE), PAGE)
        self.reset([[] for _ in self.actors])

    def replace(self, which: int) -> Actor:
        """A new client in the place of one that was killed."""
        self.actors[which] = Actor(self.directory)
        return self.actors[which]

    def state(self) -> Any:
        """The control file."""
        return json.loads(self.controls.read("state"))

    def reset(self, fds: Sequence[Sequence[int]]) -> None:
        """All clients let go of everything: nothing may be left of it but open files."""
        for actor, mine in zip(self.actors, fds, strict=True):
            actor.reset(mine)
        assert eventually(self._is_idle, PATIENCE), self._left()

    def _is_idle(self) -> bool:
        left = self._left()
        return not any(left.values())

    def _left(self) -> dict[str, Any]:
        state = self.state()
        (device,) = state["devices"]
        return {
            "files": state["files"][ACTORS:],
            "vms": state["vms"],
            "bos": state["bos"],
            "used": [region for region in device["regions"] if region["used"]],
            "pending_fds": device["pending_fds"],
            "page_files": device["page_files"],
        }

    def check_holdings(self) -> None:
        """The daemon has what it had at the start."""
        same = eventually(lambda: Holdings.of(self._daemon) == self._holdings, PATIENCE)
        assert same, f"{Holdings.of(self._daemon)} after {self._holdings}"

    def check_heap(self) -> None:
        """Nor did its heap grow for ever."""
        heap = heap_of(self._daemon)
        assert heap < self._heap + HEAP_GROWTH, f"{heap} bytes after {self._heap}"

    def clear(self, fds: Sequence[Sequence[int]]) -> None:
        """After a failure: as `reset`, at whatever price."""
        try:
            self.reset(fds)
            self.check_holdings()
        except (AssertionError, OSError):
            self._kill_all()
            with contextlib.suppress(MountFailure):
                self._nodes.check()
            self._start()

    def _kill_all(self) -> None:
        for actor in self.actors:
            if actor.is_alive:
                actor.kill()

    def end(self) -> None:
        """Nothing is left of any client, and the daemon logged no error; MountFailure."""
        self._kill_all()
        try:
            wait_until_empty(self.directory, PATIENCE)
        finally:
            self._nodes.end()
