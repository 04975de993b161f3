"""The files of the mount: device nodes, descriptors to be claimed, the debug directory.

::

    dev/dri/card0, renderD128, xe-mock    the minors of device 0
    dev/dri/card1, renderD129, xe-mock1   those of device 1, and so on
    dev/dri/.xe-mock-fd/TOKEN             a descriptor that an ioctl gave out; not listed
    debug/dri/0/*, debug/dri/1/*          what debugfs would hold, and the mock's controls
    debug/dri/128, debug/dri/0000:03:00.0 links to those, not listed
    debug/dri/0/trace                     the events as they happen; not listed, since it never ends
    debug/dri/client-ID/*                 an open DRM file, for as long as it is open
    debug/sync/sw_sync                    each open is a timeline to be moved by hand
    debug/sync/.xe-mock-fd/TOKEN          the same descriptors as in dev/dri
    sys/**                                what /sys would say of the devices
    proc/sys/vm/drop_caches               stands in for the kernel's

The tree is fixed but for tokens and clients.  Permission bits are only kept here; the kernel checks
them.
"""

from __future__ import annotations

import errno
import grp
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from uapi.xe_mock import SW_SYNC_PATH, XE_MOCK_FD_DIR
from xedev.drm.drm_device import DebugfsFile, DrmMinor
from xedev.drm.drm_file import DrmFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import FdTokens, File
from xedev.kernel.pci_sysfs import PciDevice
from xedev.kernel.sw_sync import SwSyncTimeline
from xedev.kernel.sysfs import BinAttribute, Link
from xedev.kernel.trace import Tracepoints
from xedev.node.debug_files import ControlFile, TraceFile
from xedev.node.frames import FrameFile
from xedev.node.sys_tree import (
    SYS_DIR,
    AttributeFile,
    BinAttributeFile,
    SysEntry,
    driver_entries,
    link_text,
    names_of_driver,
    sys_entries,
)
from xedev.node.sysctl import DROP_CACHES, SysctlFile, drop_caches_file
from xedev.node.vfs import Attr

__all__ = ("DEBUG_DIR", "DRI_DEBUG_DIR", "NODE_DIR", "Device", "Tree", "debug_dir")

NODE_DIR = "dev/dri"
"""Directory of the device nodes, below the mount point."""
DRI_DEBUG_DIR = "debug/dri"
"""Directory of the devices' debug directories, below the mount point."""


def debug_dir(index: int) -> str:
    """Directory of one device's debug files, below the mount point."""
    return f"{DRI_DEBUG_DIR}/{index}"


DEBUG_DIR = debug_dir(0)
"""The first device's, which has the mount's own files too."""

_SYNC_DIR = os.path.dirname(SW_SYNC_PATH)
_FD_DIRS = tuple(f"/{place}/{XE_MOCK_FD_DIR}" for place in (NODE_DIR, _SYNC_DIR))
"""Beside what gives tokens out."""
_TOKEN_NAME = re.compile(r"[0-9a-f]{8,15}")
_CLIENT_PATH = re.compile(rf"/{DRI_DEBUG_DIR}/client-([1-9][0-9]{{0,9}})(?:/([^/]+))?")
_NODE_GROUPS = {"primary": "video", "render": "render"}
_DIRECTORY_MODE = 0o755
_LINK_MODE = 0o777
_TRACE_MODE = 0o400
_SW_SYNC_MODE = 0o666  # debugfs has it for root alone, which tests cannot always be
_TOKEN_MODE = 0o666
_PERMISSIONS = 0o7777

_FIRST_INODE = 2
_TOKEN_INODES = 1 << 32
_CLIENT_INODES = 1 << 38
_INODES_OF_CLIENT = 16

_Opener = Callable[[int, Caller], File]


class Device(Protocol):
    """What the tree needs of a device."""

    index: int
    minors: tuple[DrmMinor, ...]
    tokens: FdTokens
    trace: Tracepoints
    pci: PciDevice
    filelist: dict[int, DrmFile]
    """Open files by client id; no two devices of a mount have the same id."""

    @property
    def debugfs_links(self) -> Mapping[str, str]:
        """Links of the debug directory by name."""

    @property
    def debugfs(self) -> Mapping[str, DebugfsFile]:
        """Files of the debug directory by name."""

    def open(self, minor: DrmMinor, flags: int, caller: Caller) -> File:
        """Open a node."""

    def client_files(self, file: DrmFile) -> list[DebugfsFile]:
        """Files of an open file's own debug directory."""

    def sysfs(self) -> list[SysEntry]:
        """What its own directory of /sys holds."""

    def drop_caches(self) -> None:
        """Give back what memory can be had."""

    def remove(self) -> None:
        """The driver lets go of it."""


class _Entry:
    """A path of the tree, with what chmod and chown may change."""

    __slots__ = (
        *("exists", "gid", "ino", "mode", "mtime_ns", "names", "opener", "size", "target", "uid"),
    )

    def __init__(self, ino: int, mode: int, owner: tuple[int, int], mtime_ns: int) -> None:
        self.ino = ino
        self.mode = mode
        self.uid, self.gid = owner
        self.mtime_ns = mtime_ns
        self.names: list[str] | None = None
        self.target: str | None = None
        self.opener: _Opener | None = None
        self.exists: Callable[[], bool] = _always
        """Whether it is there just now."""
        self.size = 0

    def attr(self) -> Attr:
        nlink = 1 if self.names is None else 2
        return Attr(self.ino, self.mode, self.uid, self.gid, self.size, nlink, self.mtime_ns)


def _always() -> bool:
    return True


class Tree:
    """The `xedev.node.vfs.Filesystem` of the devices of a mount, which share their tokens.

    ``debug`` adds files to those of the first device.  ``probe`` makes a device anew that was
    unbound.  Everything belongs to the process that makes the tree; when that is root, nodes get
    the groups that udev would give them.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        debug: Iterable[DebugfsFile] = (),
        probe: Callable[[int], Device] | None = None,
    ) -> None:
        self._devices = list(devices)
        self._probe = probe
        self._unbound: set[int] = set()
        self._bind_lock = threading.Lock()
        self._tokens = devices[0].tokens
        self._now = time.time_ns()
        self._owner = os.geteuid(), os.getegid()
        # Other mounts have inode numbers too.  With a random upper half ours are not mistaken
        # for theirs even where a descriptor's mount cannot be told.
        # Never 0: what looks for the mock's files may leave small inode numbers alone.
        self._inode_base = secrets.randbelow((1 << 20) - 1) + 1 << 40
        self._entries: dict[str, _Entry] = {}
        self._add_directory(f"/{DEBUG_DIR}")
        for directory in _FD_DIRS:
            self._add_directory(directory)
        self._add_drop_caches()
        for device in devices:
            self._add_device(device)
        for file in debug:
            self._add_debug_file(DEBUG_DIR, file)
        self._add_sw_sync()
        for sys_entry in driver_entries(devices[0].pci, self._bind, self._unbind):
            self._add_sys_entry(sys_entry)

    # ---- building ----

    def _add(self, path: str, mode: int, *, listed: bool = True) -> _Entry:
        """A new path, or one that was there before and leads elsewhere now."""
        known = self._entries.get(path)
        if known is not None:
            known.mode = mode
            return known
        ino = self._inode_base + _FIRST_INODE + len(self._entries)
        entry = self._entries[path] = _Entry(ino, mode, self._owner, self._now)
        parent, _, name = path.rpartition("/")
        siblings = self._entries[parent or "/"].names
        if name and listed and siblings is not None and path not in _FD_DIRS:
            siblings.append(name)
        return entry

    def _add_directory(self, path: str) -> None:
        """Add a directory and those above it."""
        if path in self._entries:
            return
        if path != "/":
            self._add_directory(os.path.dirname(path))
        self._add(path, stat.S_IFDIR | _DIRECTORY_MODE).names = []

    def _add_device(self, device: Device) -> None:
        directory = debug_dir(device.index)
        self._add_directory(f"/{directory}")
        for minor in device.minors:
            self._add_node(device, minor)
        for file in device.debugfs.values():
            self._add_debug_file(directory, file)
        for name, target in device.debugfs_links.items():
            self._add_directory(os.path.dirname(f"/{directory}/{name}"))
            self._add_link(f"/{directory}/{name}", target)
        # Whoever reads all files that there are, as IGT does, would wait in this one for ever.
        trace = self._add(f"/{directory}/trace", stat.S_IFREG | _TRACE_MODE, listed=False)
        trace.opener = lambda flags, caller: TraceFile(device.trace)
        others = {f"{minor.index}" for minor in device.minors if minor.is_render}
        for name in sorted({device.pci.slot, *others}):
            # Not listed: each card is told once.
            self._add_link(f"/{DRI_DEBUG_DIR}/{name}", f"{device.index}", listed=False)
        for sys_entry in sys_entries(device):
            self._add_sys_entry(sys_entry)
        for name in names_of_driver(device):
            entry = self._entries[f"/{SYS_DIR}/{name}"]
            entry.exists = lambda: device.index not in self._unbound

    def _add_node(self, device: Device, minor: DrmMinor) -> None:
        entry = self._add(f"/{NODE_DIR}/{minor.name}", stat.S_IFREG | minor.mode)
        entry.opener = lambda flags, caller: _open_node(device, minor, flags, caller)
        entry.gid = self._node_group(minor)
        entry.exists = lambda: device.index not in self._unbound

    def _node_group(self, minor: DrmMinor) -> int:
        if self._owner[0] != 0:
            return self._owner[1]
        try:
            return grp.getgrnam(_NODE_GROUPS[minor.kind]).gr_gid
        except KeyError:
            return self._owner[1]

    def _add_debug_file(self, directory: str, file: DebugfsFile) -> None:
        path = f"/{directory}/{file.name}"
        # Some names begin with a directory: gt0/force_reset.
        self._add_directory(os.path.dirname(path))
        entry = self._add(path, stat.S_IFREG | file.mode)
        entry.opener = lambda flags, caller: ControlFile(file, flags)

    def _add_sys_entry(self, file: SysEntry) -> None:
        path = f"/{SYS_DIR}/{file.name}"
        self._add_directory(os.path.dirname(path))
        if isinstance(file, Link):
            self._add_link(path, link_text(file))
            return
        entry = self._add(path, stat.S_IFREG | file.mode)
        entry.size = file.size
        if not isinstance(file, BinAttribute):
            entry.opener = lambda flags, caller: AttributeFile(file)
            return
        entry.opener = lambda flags, caller: BinAttributeFile(file)
        if file.exists is not None:
            entry.exists = self._entries[os.path.dirname(path)].exists = file.exists

    def _add_link(self, path: str, target: str, *, listed: bool = True) -> None:
        entry = self._add(path, stat.S_IFLNK | _LINK_MODE, listed=listed)
        entry.target = target
        entry.size = len(target)

    def _add_drop_caches(self) -> None:
        file = drop_caches_file(self._drop_caches)
        self._add_directory(f"/{os.path.dirname(DROP_CACHES)}")
        entry = self._add(f"/{DROP_CACHES}", stat.S_IFREG | file.mode)
        entry.opener = lambda flags, caller: SysctlFile(file, flags)

    def _add_sw_sync(self) -> None:
        entry = self._add(f"/{SW_SYNC_PATH}", stat.S_IFREG | _SW_SYNC_MODE)
        entry.opener = lambda flags, caller: SwSyncTimeline(self._tokens, caller.comm)

    # ---- the driver and its devices ----

    def _unbind(self, slot: str) -> None:
        """The driver lets go of a device, whose nodes vanish: ``ENODEV`` it has none there
        (kernel: ``unbind_store``)."""
        with self._bind_lock:
            device = self._device_at(slot)
            if device.index in self._unbound:
                raise KernelError(errno.ENODEV, f"{slot} has no driver")
            self._unbound.add(device.index)
            device.remove()

    def _bind(self, slot: str) -> None:
        """The driver takes a device: ``ENODEV`` none that it could (kernel: ``bind_store``)."""
        with self._bind_lock:
            index = self._device_at(slot).index
            if index not in self._unbound or self._probe is None:
                raise KernelError(errno.ENODEV, f"{slot} needs no driver")
            device = self._devices[index] = self._probe(index)
            self._add_device(device)
            self._unbound.remove(index)

    def _device_at(self, slot: str) -> Device:
        for device in self._devices:
            if device.pci.slot == slot:
                return device
        raise KernelError(errno.ENODEV, f"there is no device {slot[:20]!r}")

    def _drop_caches(self) -> None:
        for device in self._devices:
            device.drop_caches()

    # ---- looking up ----

    def _entry(self, path: str) -> _Entry:
        entry = self._entries.get(path) or self._token_entry(path) or self._client_entry(path)
        if entry is None or not entry.exists():
            raise KernelError(errno.ENOENT, f"there is no {path}")
        return entry

    def _token_entry(self, path: str) -> _Entry | None:
        """A token that waits to be opened.  Once it is, its path is gone."""
        token = _token(path)
        file = self._tokens.find(token) if token is not None else None
        if token is None or file is None:
            return None
        ino = self._inode_base + _TOKEN_INODES + token
        entry = _Entry(ino, stat.S_IFREG | _TOKEN_MODE, self._owner, self._now)
        entry.size = file.size
        entry.opener = lambda flags, caller: self._tokens.claim(token, caller.tgid)
        return entry

    def _client_entry(self, path: str) -> _Entry | None:
        """The directory of a DRM file that is open just now, or a file in it."""
        match = _CLIENT_PATH.fullmatch(path)
        if match is None:
            return None
        client = int(match[1])
        files = self._client_files(client)
        if files is None:
            return None
        ino = self._inode_base + _CLIENT_INODES + client * _INODES_OF_CLIENT
        names = [file.name for file in files]
        if match[2] is None:
            entry = _Entry(ino, stat.S_IFDIR | _DIRECTORY_MODE, self._owner, self._now)
            entry.names = names
            return entry
        if match[2] not in names:
            return None
        number = names.index(match[2])
        file = files[number]
        entry = _Entry(ino + 1 + number, stat.S_IFREG | file.mode, self._owner, self._now)
        entry.opener = lambda flags, caller: ControlFile(file, flags)
        return entry

    def _client_files(self, client: int) -> list[DebugfsFile] | None:
        """What there is to read about a client; None when there is no such client."""
        for device in self._devices:
            file = device.filelist.get(client)
            if file is not None:
                return device.client_files(file)
        return None

    def _client_names(self) -> Iterator[str]:
        for device in self._devices:
            # A copy: other threads open and close files meanwhile.
            yield from (f"client-{client}" for client in list(device.filelist))

    # ---- Filesystem ----

    def getattr(self, path: str) -> Attr:
        """stat(2); ``ENOENT``."""
        return self._entry(path).attr()

    def readdir(self, path: str) -> list[str]:
        """Names of a directory; tokens are not told.  ``ENOENT``, ``ENOTDIR``."""
        names = self._entry(path).names
        if names is None:
            raise KernelError(errno.ENOTDIR, f"{path} is no directory")
        if path == f"/{DRI_DEBUG_DIR}":
            return [*names, *self._client_names()]
        return [name for name in names if self._is_there(f"{path.rstrip('/')}/{name}")]

    def _is_there(self, path: str) -> bool:
        """Whether a name of a directory is to be told; those that are made up always are."""
        entry = self._entries.get(path)
        return entry is None or entry.exists()

    def readlink(self, path: str) -> str:
        """Where a link of the sys directory points: ``ENOENT``, ``EINVAL``."""
        target = self._entry(path).target
        if target is None:
            raise KernelError(errno.EINVAL, f"{path} is no symbolic link")
        return target

    def chmod(self, path: str, mode: int) -> None:
        """Change the permission bits, as an administrator does with a node of /dev."""
        entry = self._entry(path)
        entry.mode = stat.S_IFMT(entry.mode) | mode & _PERMISSIONS

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Change owner or group; -1 (as an unsigned number, too) leaves one as it is."""
        entry = self._entry(path)
        entry.uid = entry.uid if _is_unset(uid) else uid
        entry.gid = entry.gid if _is_unset(gid) else gid

    def truncate(self, path: str, length: int) -> None:
        """Nothing to cut, but opening with ``O_TRUNC`` comes here: ``EINVAL`` unless to 0."""
        if self._entry(path).names is not None:
            raise KernelError(errno.EISDIR, f"{path} is a directory")
        if length:
            raise KernelError(errno.EINVAL, f"{path} has no length")

    def utimens(self, path: str) -> None:
        """The file was touched."""
        self._entry(path).mtime_ns = time.time_ns()

    def open(self, path: str, flags: int, caller: Caller) -> File:
        """Open a file: ``ENOENT``, ``EISDIR``, and what the device says."""
        opener = self._entry(path).opener
        if opener is None:
            raise KernelError(errno.EISDIR, f"{path} is a directory")
        return opener(flags, caller)


def _open_node(device: Device, minor: DrmMinor, flags: int, caller: Caller) -> File:
    file = device.open(minor, flags, caller)
    return FrameFile(file) if minor.frames else file


def _token(path: str) -> int | None:
    """The token that a path names."""
    directory, _, name = path.rpartition("/")
    if directory not in _FD_DIRS or not _TOKEN_NAME.fullmatch(name):
        return None
    return int(name, 16)


def _is_unset(number: int) -> bool:
    return number in (-1, 0xFFFFFFFF)
