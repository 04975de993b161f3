"""Open files of a FUSE mount."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from xedev.kernel.files import File
from xedev.node.vfs import Attr

__all__ = ("OpenFiles", "OpenRecord", "PollHandles")


class PollHandles:
    """Whom to wake when a file's poll mask changes: at most one libfuse poll handle.

    libfuse gives away a handle with each poll request that wants to be woken.  ``notify`` sends
    the wake-up, ``destroy`` frees a handle; both get its address.
    """

    def __init__(self, notify: Callable[[int], object], destroy: Callable[[int], object]) -> None:
        self._notify = notify
        self._destroy = destroy
        self._lock = threading.Lock()
        self._handle = 0

    def replace(self, handle: int) -> None:
        """Keep ``handle`` (0: none), and destroy the one before."""
        with self._lock:
            old, self._handle = self._handle, handle
        if old:
            self._destroy(old)

    def wake(self) -> None:
        """Send the wake-up, once; from any thread."""
        with self._lock:
            handle, self._handle = self._handle, 0
        if handle:
            self._notify(handle)
            self._destroy(handle)


@dataclass(slots=True)
class OpenRecord:
    """One open file description as the mount knows it."""

    file: File
    path: str
    attr: Attr
    """What stat said at open; the path may be gone since."""
    poll: PollHandles


class OpenFiles:
    """The table from the handles (``fh``) that the kernel holds to open files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handles = itertools.count(1)
        self._by_inode: dict[int, dict[int, File]] = {}
        self.records: dict[int, OpenRecord] = {}
        self.files: dict[int, File] = {}
        """The same handles, for the ioctl path, which wants nothing else."""

    def add(self, record: OpenRecord) -> int:
        """Give an open file a handle that is never used again."""
        with self._lock:
            handle = next(self._handles)
            self.records[handle] = record
            self.files[handle] = record.file
            self._by_inode.setdefault(record.attr.ino, {})[handle] = record.file
        return handle

    def remove(self, handle: int) -> OpenRecord:
        """Forget ``handle``; KeyError when it is not in use."""
        with self._lock:
            record = self.records.pop(handle)
            del self.files[handle]
            same_inode = self._by_inode[record.attr.ino]
            del same_inode[handle]
            if not same_inode:
                del self._by_inode[record.attr.ino]
        return record

    def at_path(self, path: str) -> OpenRecord | None:
        """Some open file that was opened as ``path``."""
        with self._lock:
            return next((r for r in self.records.values() if r.path == path), None)

    def by_inode(self, ino: int) -> File | None:
        """An open file of inode ``ino``: *the* open file where an inode is only opened once."""
        with self._lock:
            return next(iter(self._by_inode.get(ino, {}).values()), None)

    def release(self, handle: int) -> None:
        """End the open file of ``handle``."""
        record = self.remove(handle)
        record.poll.replace(0)
        record.file.release()

    def release_all(self) -> int:
        """End what is still open when the mount has gone; returns how many failed to."""
        failed = 0
        for handle in list(self.records):
            try:
                self.release(handle)
            except Exception:
                failed += 1
                logging.getLogger("xedev").exception("bug in release of an open file")
        return failed
