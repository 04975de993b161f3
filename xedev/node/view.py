"""The machine as a program under ``xe-mock run`` sees it: /dev, /sys and /proc with the mock in.

Where something is added, the directory is made anew in memory, and what the machine has there is
shown in it; of /sys that is read-only.  So nothing is ever made or changed in the machine's own
directories.  It needs a mount namespace, and nothing else that the machine would have to offer.

::

    /dev/xe-mock              the whole mount
    /dev/dri                  its device nodes, and no others
    /dev/kmsg                 /dev/null
    /sys/…                    its devices beside the machine's; of class drm they are the only ones
    /sys/class/vtconsole      nothing
    /sys/kernel/debug         its debugfs, instead of the machine's
    /sys/devices/virtual/workqueue/cpumask  a copy
    /proc/sys/vm/drop_caches  its
    /proc/sys/vm/compact_memory  /dev/null
    /proc/sys/kernel/ftrace_dump_on_oops  a copy
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from xedev.node.namespace import NamespaceError, bind, mount_tmpfs
from xedev.node.sysctl import DROP_CACHES
from xedev.node.tree import NODE_DIR

__all__ = ("MOUNT_DIR", "OWN_DIR", "prepare_dev", "show_machine")

MOUNT_DIR = "dev/xe-mock"
"""Where the mount is, below the root of the view."""

_Place: TypeAlias = Callable[[str], None]
_Grafts: TypeAlias = "Mapping[str, _Place | _Grafts]"
"""What is to be in a directory besides what the machine has, or in its stead, by name."""

_HIDDEN = ("/sys/class/vtconsole", "/sys/dev/char/226:*")
"""Not shown of the machine: consoles that could be unbound, and the nodes of its own GPUs."""
_TAKEN_OVER = (
    "proc/sys/kernel/ftrace_dump_on_oops",
    "sys/devices/virtual/workqueue/cpumask",
)
"""Files of the machine that get a copy, for a program to write to."""
_SWALLOWED = ("proc/sys/vm/compact_memory",)
"""Files of the machine to which nothing is written: that would slow it down as a whole."""
OWN_DIR = "dev/.xe-mock"
"""What else the view needs, below its root."""


def prepare_dev(root: str) -> str:
    """Make /dev below ``root`` with an empty directory for the mount, and return that."""
    _need_directories(root)
    point = os.path.join(root, MOUNT_DIR)
    _remake(
        "/dev",
        os.path.join(root, "dev"),
        {
            "xe-mock": os.mkdir,
            ".xe-mock": os.mkdir,
            "dri": os.mkdir,
            "kmsg": lambda path: _bind_file("/dev/null", path),
        },
    )
    return point


def _need_directories(root: str) -> None:
    for name in ("dev", "proc", "sys"):
        if not os.path.isdir(os.path.join(root, name)):
            raise NamespaceError(f"{root}: there is no directory {name} in it")


def show_machine(root: str) -> None:
    """Put the mount, which is there now, where programs look for it."""
    mount = os.path.join(root, MOUNT_DIR)
    bind(os.path.join(mount, NODE_DIR), os.path.join(root, NODE_DIR))
    debug: _Grafts = {"debug": _binder(os.path.join(mount, "debug"))}
    sys = _grafts(os.path.join(mount, "sys"))
    _remake("/sys", os.path.join(root, "sys"), {**sys, "kernel": debug}, read_only=True)
    if root != "/":
        bind("/proc", os.path.join(root, "proc"))
    bind(os.path.join(mount, DROP_CACHES), os.path.join(root, DROP_CACHES))
    for path in _TAKEN_OVER:
        _take_over(root, path)
    for path in _SWALLOWED:
        if os.path.exists(os.path.join(root, path)):
            bind("/dev/null", os.path.join(root, path))


def _take_over(root: str, path: str) -> None:
    original = os.path.join(root, path)
    if not os.path.exists(original):
        return
    copy = os.path.join(root, OWN_DIR, os.path.basename(path))
    Path(copy).write_bytes(Path(original).read_bytes())
    bind(copy, original)


# ---- what is added ---------------------------------------------------------------------------


def _grafts(directory: str) -> _Grafts:
    """The tree of a directory of the mount.

    One that holds files is shown as a whole; one that only leads to others, or holds links, is
    merged with the machine's.
    """
    return {entry.name: _graft(entry) for entry in _entries(directory)}


def _graft(entry: os.DirEntry[str]) -> _Place | _Grafts:
    if entry.is_symlink():
        target = os.readlink(entry.path)
        return lambda path: os.symlink(target, path)
    if any(inner.is_file(follow_symlinks=False) for inner in os.scandir(entry.path)):
        return _binder(entry.path)
    return _grafts(entry.path)


def _binder(source: str) -> _Place:
    def place(path: str) -> None:
        os.mkdir(path)
        bind(source, path)

    return place


# ---- making a directory anew -----------------------------------------------------------------


def _remake(machine: str, target: str, grafts: _Grafts, *, read_only: bool = False) -> None:
    """Cover the directory ``target`` with one that has all of ``machine``'s, which may be the same,
    and the ``grafts``."""
    # By this descriptor the directory is reached after it is covered.
    source = os.open(machine, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount_tmpfs(target)
        _fill(f"/proc/self/fd/{source}", machine, target, grafts, read_only)
    finally:
        os.close(source)


def _fill(source: str, name: str, target: str, grafts: _Grafts, read_only: bool) -> None:
    for entry in _entries(source):
        path = f"{name}/{entry.name}"
        if entry.name not in grafts and not any(fnmatch.fnmatch(path, hide) for hide in _HIDDEN):
            _copy(entry, os.path.join(target, entry.name), read_only)
    for child, graft in grafts.items():
        place = os.path.join(target, child)
        if callable(graft):
            graft(place)
            continue
        os.mkdir(place)
        _fill(f"{source}/{child}", f"{name}/{child}", place, graft, read_only)


def _entries(directory: str) -> list[os.DirEntry[str]]:
    """Those of a directory that may not exist."""
    try:
        return list(os.scandir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _copy(entry: os.DirEntry[str], target: str, read_only: bool) -> None:
    """Show one entry of the machine's."""
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
        os.mkdir(target)
        bind(entry.path, target, read_only=read_only)
        return
    _bind_file(entry.path, target, read_only=read_only)


def _bind_file(source: str, target: str, *, read_only: bool = False) -> None:
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    bind(source, target, read_only=read_only)
