"""A mount with its clients that one random program after the other plays on, and what its daemon
holds meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.children import eventually
from tests.memory.actor import PAGE, Actor
from xedev.client.control import ControlFiles
from xedev.testing.mounts import run_command, wait_until_empty

__all__ = ("ACTORS", "PATIENCE", "Stage")

ACTORS = 3
PATIENCE = 5.0  # seconds until what a process let go of is gone
HEAP_GROWTH = 16 << 20
"""Bytes that the daemon's heap may grow by: it is an interpreter, and never quite the same."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a daemon has: where its descriptors lead to, files of its memory directory, bytes of
    its heap."""

    descriptors: tuple[str, ...]
    files: tuple[str, ...]
    heap: int

    @classmethod
    def of(cls, pid: int) -> Holdings:
        """Of a running daemon."""
        links = []
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that was open for a moment
                links.append(os.readlink(entry))
        directories = [link for link in links if "/xe-mock-memory-" in link]
        files = [name for directory in directories for name in os.listdir(directory)]
        status = Path(f"/proc/{pid}/status").read_text()
        (anon,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return cls(tuple(sorted(links)), tuple(files), int(anon.split()[1]) << 10)

    def is_more_than(self, start: Holdings) -> bool:
        """Whether anything was added since the start."""
        same = (self.descriptors, self.files) == (start.descriptors, start.files)
        return not same or self.heap > start.heap + HEAP_GROWTH


class Stage:
    """A mount and its clients, for one program after the other.

    ``mount`` makes one and returns its directory.  After a failure that left traces there is a
    new one, so that the next program meets no ruins.
    """

    def __init__(self, mount: Callable[[], str]) -> None:
        self._mount = mount
        self._start()

    def _start(self) -> None:
        self.directory = self._mount()
        self.controls = ControlFiles(Path(self.directory, "debug/dri/0"))
        self.actors = [Actor(self.directory) for _ in range(ACTORS)]
        self._warm_up()
        self.daemon: int = json.loads(Path(self.directory, "debug/daemon").read_text())["pid"]
        self._at_start = Holdings.of(self.daemon)

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
        same = eventually(lambda: not self._holdings().is_more_than(self._at_start), PATIENCE)
        assert same, f"{self._holdings()} after {self._at_start}"

    def _holdings(self) -> Holdings:
        return Holdings.of(self.daemon)

    def clear(self, fds: Sequence[Sequence[int]]) -> None:
        """After a failure: as `reset`, at whatever price."""
        try:
            self.reset(fds)
            self.check_holdings()
        except (AssertionError, OSError):
            self._kill_all()
            run_command("umount", self.directory)
            self._start()

    def _kill_all(self) -> None:
        for actor in self.actors:
            if actor.is_alive:
                actor.kill()

    def end(self) -> None:
        """No client is left."""
        self._kill_all()
        wait_until_empty(self.directory, PATIENCE)
