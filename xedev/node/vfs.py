"""What the node floor presents: a tree of files.  Nothing here knows how it gets to a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from xedev.kernel.caller import Caller
from xedev.kernel.files import File

__all__ = ("Attr", "Filesystem")


@dataclass(frozen=True, slots=True)
class Attr:
    """What stat(2) shows of one path.

    ``ino`` names one path and is not given to another one while the mount lives: a client's
    descriptor is found again by it.  ``mode`` holds the file type too, ``size`` is in bytes,
    ``mtime_ns`` in nanoseconds since 1970.
    """

    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    nlink: int = 1
    mtime_ns: int = 0


class Filesystem(Protocol):
    """The tree.  Paths are absolute within the mount (``/dev/dri/card0``).

    Every method raises `KernelError` for what a client may get wrong (``ENOENT``, ``EPERM``, …)
    and may run in several threads at once.
    """

    def getattr(self, path: str) -> Attr:
        """stat(2); ``ENOENT`` when there is no such path."""
        ...

    def readdir(self, path: str) -> list[str]:
        """The names in a directory, without ``.`` and ``..``."""
        ...

    def readlink(self, path: str) -> str:
        """Where a symbolic link points."""
        ...

    def chmod(self, path: str, mode: int) -> None:
        """Change the permission bits."""
        ...

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change the owner; -1 leaves an id as it is."""
        ...

    def truncate(self, path: str, length: int) -> None:
        """truncate(2), also as part of an open with ``O_TRUNC``."""
        ...

    def utimens(self, path: str) -> None:
        """Times were set; there is nothing to keep."""
        ...

    def open(self, path: str, flags: int, caller: Caller) -> File:
        """open(2) with the ``O_*`` ``flags``.  The kernel has checked the permission bits."""
        ...
