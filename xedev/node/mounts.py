"""Mount points as the kernel lists them, and how to get rid of one.

Nothing here asks the mounted file system itself: a daemon that looked at its own mount would wait
for itself, and a command that looked at the mount of a hung daemon would hang too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = (
    "FUSE_TYPE",
    "MNT_DETACH",
    "Mount",
    "abort_connection",
    "canonical",
    "find_mount",
    "fusermount",
    "mount_device",
    "read_mounts",
    "unmount_lazily",
)

FUSE_TYPE = "fuse.xe-mock"
"""File system type that mountinfo shows for our mounts."""

MNT_DETACH = 2
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_MAX_SYMLINKS = 40
_ESCAPE = re.compile(r"\\([0-7]{3})")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_void_p,
]


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of a mountinfo file."""

    id: int
    """Number of the mount, as in ``mnt_id`` of an fdinfo file."""
    device: str
    """``major:minor``, the ``st_dev`` of everything on it."""
    point: str
    """Where it is mounted, as an absolute path."""
    fstype: str

    @property
    def minor(self) -> int:
        """Minor number, which also names the FUSE connection."""
        return int(self.device.partition(":")[2])


def read_mounts(process: int | str = "self") -> list[Mount]:
    """The mounts that ``process`` sees, later ones on top (proc(5): mountinfo)."""
    text = Path(f"/proc/{process}/mountinfo").read_text("utf-8", "surrogateescape")
    return [_parse(line) for line in text.splitlines()]


def mount_device(process: int, number: int) -> str | None:
    """``major:minor`` of the mount of this number, if ``process`` sees it: of many mounts only one
    is looked at, since a descriptor's ioctl waits for it."""
    with open(f"/proc/{process}/mountinfo", "rb") as file:
        lines = b"\n" + file.read()
    at = lines.find(b"\n%d " % number)
    if at < 0:
        return None
    return lines[at + 1 : lines.index(b"\n", at + 1)].split(b" ", 3)[2].decode()


def _parse(line: str) -> Mount:
    fields, _, source = line.partition(" - ")
    number, _, device, _, point, *_ = fields.split(" ")
    return Mount(int(number), device, _unescape(point), source.split(" ")[0])


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def find_mount(point: str) -> Mount | None:
    """The topmost mount exactly at ``point``, a path made by `canonical`."""
    found = [mount for mount in read_mounts() if mount.point == point]
    return found[-1] if found else None


def canonical(path: str | os.PathLike[str]) -> str:
    """The absolute path without symbolic links, as mountinfo has it.

    The last component is never stat()ed, since it may be the mount of a dead or hung daemon;
    readlink(2) does not ask a FUSE daemon about the root of its mount.
    """
    full = os.path.abspath(path)
    for _ in range(_MAX_SYMLINKS):
        parent, name = os.path.split(full)
        full = os.path.join(os.path.realpath(parent), name)
        try:
            target = os.readlink(full)
        except OSError:
            return full
        full = os.path.abspath(os.path.join(os.path.dirname(full), target))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fspath(path))


def fusermount() -> str | None:
    """The helper that mounts and unmounts for ordinary users, if there is one."""
    return shutil.which("fusermount3") or shutil.which("fusermount")


def unmount_lazily(point: str) -> None:
    """Take the mount off the tree, even when files on it are open.  Raises OSError."""
    if _libc.umount2(os.fsencode(point), MNT_DETACH) == 0:
        return
    error = ctypes.get_errno()
    helper = fusermount()
    if error != errno.EPERM or helper is None:
        raise OSError(error, os.strerror(error), point)
    ran = subprocess.run(
        [helper, "-u", "-z", "--", point], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise OSError(error, ran.stderr.strip() or os.strerror(error), point)


def abort_connection(mount: Mount) -> bool:
    """Fail every request that waits for the daemon of ``mount``, present and future.

    False when the kernel offers no way: neither a mounted fusectl nor the right to mount one.
    """
    with _connections() as directory:
        try:
            (directory / str(mount.minor) / "abort").write_text("1")
        except OSError:
            return False
    return True


@contextmanager
def _connections() -> Iterator[Path]:
    """The directory of FUSE connections, for the time being mounted elsewhere if need be."""
    if any(
        mount.fstype == "fusectl" for mount in read_mounts() if mount.point == str(_CONNECTIONS)
    ):
        yield _CONNECTIONS
        return
    with tempfile.TemporaryDirectory(prefix="xe-mock-fusectl-") as directory:
        if _libc.mount(b"fusectl", os.fsencode(directory), b"fusectl", 0, None) != 0:
            yield _CONNECTIONS
            return
        try:
            yield Path(directory)
        finally:
            _libc.umount2(os.fsencode(directory), MNT_DETACH)
