"""A mocked device and one way to reach it, so that a test can be run over all ways."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

from xedev.client import Device, FrameTransport, IoctlTransport
from xedev.node.debug_files import ControlFile
from xedev.node.local import LocalTransport
from xedev.node.tree import DEBUG_DIR, NODE_DIR
from xedev.testing.mounts import wait_until_empty
from xedev.xe.xe_device import XeDevice

__all__ = ("LocalTarget", "MountTarget", "Target")

_FRAMES_NODE = "xe-mock"
_DEFAULT_NODE = "renderD128"

AnyTransport = IoctlTransport | FrameTransport | LocalTransport
T = TypeVar("T", bound=AnyTransport)


class Target(ABC, Generic[T]):
    """A device under test."""

    name: str
    """``in-process``, ``ioctl`` or ``frames``."""

    def __init__(self) -> None:
        self._opened: list[T] = []

    @abstractmethod
    def _open(self, node: str) -> T: ...

    def open(self, node: str = _DEFAULT_NODE) -> T:
        """Open a node; frames always use their own."""
        transport = self._open(node)
        self._opened.append(transport)
        return transport

    def device(self, node: str = _DEFAULT_NODE) -> Device:
        """Open a node, with all ioctls as methods."""
        return Device(self.open(node))

    @abstractmethod
    def debug(self, name: str) -> str:
        """The text of a debug file."""

    @abstractmethod
    def control(self, name: str, command: str) -> str:
        """Write a command to a control file; its answer.  OSError when it is refused."""

    def state(self) -> dict[str, Any]:
        """What ``xe-mock show --json`` tells."""
        state: dict[str, Any] = json.loads(self.debug("state"))
        return state

    def close_all(self) -> None:
        """Close what was opened here."""
        for transport in self._opened:
            transport.close()
        self._opened.clear()


class LocalTarget(Target[LocalTransport]):
    """A device in this process."""

    name = "in-process"

    def __init__(self, xe: XeDevice) -> None:
        super().__init__()
        self.xe = xe

    def _open(self, node: str) -> LocalTransport:
        return LocalTransport(self.xe, node)

    def debug(self, name: str) -> str:
        """The text of a debug file."""
        return self._file(name, os.O_RDONLY).read(1 << 30, 0, True, self._caller()).decode()

    def control(self, name: str, command: str) -> str:
        """Write a command to a control file; its answer."""
        file = self._file(name, os.O_RDWR)
        written = file.write(command.encode(), 0, True, self._caller())
        return file.read(1 << 30, written, True, self._caller()).decode()

    def _file(self, name: str, flags: int) -> ControlFile:
        return ControlFile(self.xe.debugfs[name], flags)

    def _caller(self) -> Any:
        # Control files do not ask who writes them; the kernel has.
        return None

    def close_all(self) -> None:
        """Close what was opened here; nothing may be left then."""
        super().close_all()
        state = self.xe.show()
        left = {kind: state[kind] for kind in ("files", "vms", "bos") if state[kind]}
        assert not left, f"left behind: {left}"


class MountTarget(Target[IoctlTransport | FrameTransport]):
    """A device behind a mount, reached by ``ioctl`` or ``frames``."""

    def __init__(self, directory: str, name: str) -> None:
        super().__init__()
        self.directory = directory
        self.name = name

    def _open(self, node: str) -> IoctlTransport | FrameTransport:
        if self.name == "frames":
            return FrameTransport(self.node(_FRAMES_NODE))
        return IoctlTransport(self.node(node))

    def node(self, name: str = _DEFAULT_NODE) -> str:
        """Path of a node."""
        return os.path.join(self.directory, NODE_DIR, name)

    def debug(self, name: str) -> str:
        """The text of a debug file."""
        return self._path(name).read_text()

    def control(self, name: str, command: str) -> str:
        """Write a command to a control file; its answer."""
        with open(self._path(name), "r+b", buffering=0) as file:
            file.write(command.encode())
            return file.read().decode()

    def _path(self, name: str) -> Path:
        return Path(self.directory, DEBUG_DIR, name)

    def close_all(self) -> None:
        """Close what was opened here; nothing may be left soon after."""
        super().close_all()
        wait_until_empty(self.directory)
