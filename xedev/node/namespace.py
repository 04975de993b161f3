"""A mount namespace of one's own: making it, and mounting in it.

What is mounted here is seen by this process and its children only, and gone with the last of them.
Kernel: fs/namespace.c, user_namespaces(7), mount_setattr(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xedev.kernel.caller import CAP_SYS_ADMIN
from xedev.node.caller import read_status

__all__ = ("NamespaceError", "bind", "enter_ipc_namespace", "enter_namespace", "mount_tmpfs")

_CLONE_NEWNS = 0x00020000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWUSER = 0x10000000
_MS_NOSUID = 0x2
_MS_REC = 0x4000
_MS_PRIVATE = 1 << 18

# System calls that libc may not have; their numbers are the same on all machines.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOUNT_ATTR_RDONLY = 0x1

_MSGMNB = Path("/proc/sys/kernel/msgmnb")
_LARGE_QUEUE = 1_000_000
"""Bytes that IGT wants in one message queue, with or without CAP_SYS_RESOURCE."""
_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_DEBIAN = Path("/proc/sys/kernel/unprivileged_userns_clone")
_LIMIT = Path("/proc/sys/user/max_user_namespaces")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.unshare.argtypes = [ctypes.c_int]
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.syscall.restype = ctypes.c_long


class NamespaceError(Exception):
    """There can be no namespace, or something cannot be mounted in it.  The text says why."""


class _MountAttr(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


def enter_namespace() -> None:
    """Move this process, which may have no other threads, to a mount namespace of its own.

    Without the right to do that it makes a user namespace for it, in which its ids stay the same,
    and in which it has every right until it runs another program.  Raises `NamespaceError`.
    """
    if read_status(os.getpid()).effective >> CAP_SYS_ADMIN & 1:
        _check(_libc.unshare(_CLONE_NEWNS), "no mount namespace can be made")
    else:
        _enter_user_namespace()
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def enter_ipc_namespace() -> None:
    """Leave behind the System V IPC of the machine, which does not go through the file system.

    It needs `enter_namespace` before.  Raises `NamespaceError`.
    """
    _check(_libc.unshare(_CLONE_NEWIPC), "no IPC namespace can be made")
    with contextlib.suppress(OSError):  # of a user's own namespace it may not be set
        _MSGMNB.write_text(str(_LARGE_QUEUE))


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        raise NamespaceError(_why_none(os.strerror(ctypes.get_errno())))
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    except (OSError, NamespaceError) as error:
        raise NamespaceError(_why_none(str(error))) from None


def _why_none(said: str) -> str:
    """Why an ordinary user gets no namespace, and what to do about it."""
    cure = next((text for path, value, text in _CURES if _reads(path, value)), "run it as root")
    return f"an ordinary user may make no mount namespace here ({said}): {cure}"


_CURES = (
    (
        _APPARMOR,
        "1",
        "AppArmor forbids it; run it as root, or allow it with "
        "'sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0'",
    ),
    (
        _DEBIAN,
        "0",
        "run it as root, or allow it with 'sudo sysctl kernel.unprivileged_userns_clone=1'",
    ),
    (_LIMIT, "0", "run it as root, or allow it with 'sudo sysctl user.max_user_namespaces=10000'"),
)
"""File, what it says where it is the cause, the advice."""


def _reads(path: Path, value: str) -> bool:
    try:
        return path.read_text().strip() == value
    except OSError:
        return False


# ---- mounting --------------------------------------------------------------------------------


def mount_tmpfs(point: str) -> None:
    """Put an empty directory in memory on the directory ``point``.  Raises `NamespaceError`."""
    _mount("tmpfs", point, "tmpfs", _MS_NOSUID, "mode=755")


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show ``source`` with all that is mounted below it at ``target`` too: directory on
    directory, file on file.  Raises `NamespaceError`."""
    with _clone(source) as tree:
        if read_only:
            attr = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
            flags = _AT_EMPTY_PATH | _AT_RECURSIVE
            size = ctypes.c_size_t(ctypes.sizeof(attr))
            done = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(attr), size)
            _check(done, f"{source} cannot be made read-only")
        done = _libc.syscall(
            *(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target)),
            _MOVE_MOUNT_F_EMPTY_PATH,
        )
        _check(done, f"{source} cannot be mounted on {target}")


@contextmanager
def _clone(source: str) -> Iterator[int]:
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE
    tree = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)
    _check(tree, f"{source} cannot be mounted elsewhere")
    try:
        yield tree
    finally:
        os.close(tree)


def _mount(source: str, point: str, fstype: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(point),
        fstype.encode() if fstype else None,
        flags,
        options.encode() or None,
    )
    _check(done, f"{point}: {fstype or 'a namespace of its own'} is not possible")


def _check(result: int, what: str) -> None:
    if result >= 0:
        return
    error = ctypes.get_errno()
    if error == errno.ENOSYS:
        raise NamespaceError(f"{what}: Linux 5.12 or newer is needed")
    raise NamespaceError(f"{what}: {os.strerror(error)}")
