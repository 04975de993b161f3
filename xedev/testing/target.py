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
from xedev.node.tree import NODE_DIR, debug_dir
from xedev.testing.mounts import wait_until_empty
from xedev.xe.xe_device import XeDevice

__all__ = ("LocalTarget", "MountTarget", "Target")

AnyTransport = IoctlTransport | FrameTransport | LocalTransport
T = TypeVar("T", bound=AnyTransport)


class Target(ABC, Generic[T]):
    """A device under test: card ``index`` of its machine."""

    name: str
    """``in-process``, ``ioctl`` or ``frames``."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self._opened: list[T] = []

    @property
    def render_node(self) -> str:
        """Name of the device's render node."""
        return f"renderD{128 + self.index}"

    @abstractmethod
    def _open(self, node: str) -> T: ...

    def open(self, node: str | None = None) -> T:
        """Open a node, by default the render node; frames always use their own."""
        transport = self._open(node or self.render_node)
        self._opened.append(transport)
        return transport

    def device(self, node: str | None = None) -> Device:
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

    def close(self) -> None:
        """Close what was opened here."""
        for transport in self._opened:
            transport.close()
        self._opened.clear()

    @abstractmethod
    def check_empty(self) -> None:
        """Nothing is left of any client, or soon will be; AssertionError otherwise."""

    def close_all(self) -> None:
        """Close what was opened here; nothing may be left then."""
        self.close()
        self.check_empty()


class LocalTarget(Target[LocalTransport]):
    """A device in this process."""

    name = "in-process"

    def __init__(self, xe: XeDevice) -> None:
        super().__init__(xe.index)
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
        """Close what was opened here; nothing may be left then.  The device ends."""
        super().close_all()
        self.xe.guc.shutdown()

    def check_empty(self) -> None:
        """Nothing is left of any client of this device."""
        state = self.xe.show()
        left = {kind: state[kind] for kind in ("files", "vms", "bos") if state[kind]}
        assert not left, f"left behind: {left}"
        assert not self.xe.shmem.files, f"left behind: {self.xe.shmem.files} files of pages"


class MountTarget(Target[IoctlTransport | FrameTransport]):
    """A device behind a mount, reached by ``ioctl`` or ``frames``."""

    def __init__(self, directory: str, name: str, index: int = 0) -> None:
        super().__init__(index)
        self.directory = directory
        self.name = name

    def _open(self, node: str) -> IoctlTransport | FrameTransport:
        if self.name == "frames":
            return FrameTransport(self.node(f"xe-mock{self.index or ''}"))
        return IoctlTransport(self.node(node))

    def node(self, name: str | None = None) -> str:
        """Path of a node, by default the render node."""
        return os.path.join(self.directory, NODE_DIR, name or self.render_node)

    def debug(self, name: str) -> str:
        """The text of a debug file."""
        return self._path(name).read_text()

    def control(self, name: str, command: str) -> str:
        """Write a command to a control file; its answer."""
        with open(self._path(name), "r+b", buffering=0) as file:
            file.write(command.encode())
            return file.read().decode()

    def _path(self, name: str) -> Path:
        return Path(self.directory, debug_dir(self.index), name)

    def check_empty(self) -> None:
        """Nothing is left on any device of the mount, or soon will be."""
        wait_until_empty(self.directory)
