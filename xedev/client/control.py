"""The mock's control files: what a test does to the device from outside.

A mount has them in ``DIR/debug/dri/0`` (``1`` of its second card), where they belong to the user
who made the mount. A device in our own process has them as objects.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

__all__ = ("ControlFiles", "Controls", "LocalControls", "TraceReader", "card_index")

_BLOCK = 1 << 16
_RENDER_MINORS = 128  # from where on render nodes are numbered


def card_index(node: str) -> int:
    """Which card of its machine a node belongs to, by its name: ``card1``, ``renderD129`` and
    ``xe-mock1`` belong to card 1."""
    number = re.search(r"\d*$", node)
    return int(number[0] or 0) % _RENDER_MINORS if number else 0


class Controls(Protocol):
    """Named files that tell something or run a command."""

    def read(self, name: str) -> str:
        """What a file shows now."""

    def write(self, name: str, command: str) -> str:
        """Run a command and return its answer; EINVAL: the file does not understand it."""


class ControlFiles:
    """The debug directory of a mount."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)

    @classmethod
    def of_node(cls, node: str | os.PathLike[str]) -> ControlFiles:
        """Those of the card that a device node, ``DIR/dev/dri/NAME``, belongs to."""
        path = Path(node).resolve()
        return cls(path.parents[2] / "debug/dri" / str(card_index(path.name)))

    def read(self, name: str) -> str:
        """What a file shows now."""
        return (self.directory / name).read_text()

    def write(self, name: str, command: str) -> str:
        """Run a command and return its answer; EINVAL: the file does not understand it."""
        with self._open(name, os.O_RDWR) as fd:
            os.write(fd, command.encode())
            return b"".join(iter(lambda: os.read(fd, _BLOCK), b"")).decode()

    @contextmanager
    def trace(self) -> Iterator[TraceReader]:
        """Listen to the device's events from here on."""
        with self._open("trace", os.O_RDONLY | os.O_NONBLOCK) as fd:
            yield TraceReader(fd)

    @contextmanager
    def _open(self, name: str, flags: int) -> Iterator[int]:
        fd = os.open(self.directory / name, flags | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


class TraceReader:
    """The ``trace`` file: one JSON object per line."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._rest = b""

    def events(self) -> list[dict[str, Any]]:
        """The events since the last look; does not wait for one."""
        while True:
            try:
                data = os.read(self._fd, _BLOCK)
            except BlockingIOError:
                break
            if not data:
                break
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]


class _DebugfsFile(Protocol):
    """A control file of a device in this process."""

    @property
    def read(self) -> Callable[[], str] | None: ...

    @property
    def write(self) -> Callable[[str, Any], str] | None: ...


class LocalControls:
    """The control files of a device in this process.

    ``files`` is the device's table, ``caller`` makes what a file wants to know of its user.
    """

    def __init__(self, files: Mapping[str, _DebugfsFile], caller: Callable[[], object]) -> None:
        self._files = files
        self._caller = caller

    def read(self, name: str) -> str:
        """What a file shows now; KeyError for an unknown file or one that shows nothing."""
        read = self._files[name].read
        if read is None:
            raise KeyError(name)
        return read()

    def write(self, name: str, command: str) -> str:
        """Run a command and return its answer; KeyError for a file that takes none."""
        write = self._files[name].write
        if write is None:
            raise KeyError(name)
        return write(command, self._caller())
