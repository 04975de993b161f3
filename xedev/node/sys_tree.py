"""The sys/ directory of the mount: what /sys would say of its devices.

::

    devices/pci0000:00/…/0000:03:00.0/**   a device, with all its attributes
    bus/pci/devices/*, bus/pci/drivers/xe/*, class/drm/*, dev/char/226:*   links to it
    bus/pci/drivers/xe/bind, unbind     make the driver take a device, and let go of it
    module/xe/drivers/pci:xe            a link to that directory

Links are relative, so that the tree is good wherever it is mounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, TypeAlias

from xedev.drm.drm_device import DrmMinor
from xedev.drm.drm_sysfs import DRM_CLASS, DRM_MAJOR, DRM_VERSION
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import POLLIN, POLLOUT, POLLRDNORM, File
from xedev.kernel.pci_sysfs import PciDevice
from xedev.kernel.sysfs import Attribute, BinAttribute, Link

__all__ = (
    "SYS_DIR",
    "AttributeFile",
    "BinAttributeFile",
    "SysDevice",
    "SysEntry",
    "driver_entries",
    "link_text",
    "names_of_driver",
    "sys_entries",
)

SYS_DIR = "sys"
"""Below the mount point."""

SysEntry: TypeAlias = Attribute | BinAttribute | Link

_PCI_BUS = "bus/pci"
_CHAR_DEVICES = "dev/char"
_DRIVER_UEVENT = "uevent"
_WRITE_ONLY = 0o200


class SysDevice(Protocol):
    """What is needed of a device."""

    minors: tuple[DrmMinor, ...]
    pci: PciDevice

    def sysfs(self) -> list[SysEntry]:
        """What its own directory holds."""


def sys_entries(device: SysDevice) -> Iterator[SysEntry]:
    """All files and links that tell of a device, by their path below `SYS_DIR`; a link's target
    is one too."""
    directory = device.pci.directory
    for entry in device.sysfs():
        yield _below(directory, entry)
    yield Link(f"{_PCI_BUS}/devices/{device.pci.slot}", directory)
    yield from _links_of_driver(device)


def names_of_driver(device: SysDevice) -> Iterator[str]:
    """What is there only while the driver has the device: links and whole directories, by their
    path below `SYS_DIR`."""
    yield from (f"{device.pci.directory}/{name}" for name in ("driver", "drm", "tile0"))
    yield from (link.name for link in _links_of_driver(device))


def _links_of_driver(device: SysDevice) -> Iterator[Link]:
    directory = device.pci.directory
    yield Link(f"{_driver_directory(device.pci)}/{device.pci.slot}", directory)
    for minor in device.minors:
        if not minor.frames:
            node = f"{directory}/drm/{minor.name}"
            yield Link(f"{DRM_CLASS}/{minor.name}", node)
            yield Link(f"{_CHAR_DEVICES}/{DRM_MAJOR}:{minor.index}", node)


def driver_entries(
    pci: PciDevice, bind: Callable[[str], None], unbind: Callable[[str], None]
) -> Iterator[SysEntry]:
    """Those of the driver of a device, and of the class of its nodes; ``bind`` and ``unbind`` get
    the slot of one."""
    directory = _driver_directory(pci)
    stores = {"bind": bind, "unbind": unbind, _DRIVER_UEVENT: lambda text: None}
    for name, store in stores.items():
        yield Attribute(f"{directory}/{name}", None, store, _WRITE_ONLY)
    yield Link(f"module/{pci.driver}/drivers/pci:{pci.driver}", directory)
    yield Attribute(f"{DRM_CLASS}/{DRM_VERSION.name}", DRM_VERSION.show)


def _driver_directory(pci: PciDevice) -> str:
    return f"{_PCI_BUS}/drivers/{pci.driver}"


def _below(directory: str, entry: SysEntry) -> SysEntry:
    name = f"{directory}/{entry.name}"
    return replace(entry, name=name)


def link_text(link: Link) -> str:
    """The target as it is seen from the link; it ends with its own name even where the link is
    below it (kernel: ``sysfs_get_target_path``)."""
    parent, name = os.path.split(link.target)
    return os.path.join(os.path.relpath(parent, os.path.dirname(link.name)), name)


class _SysFile(File):
    """What the files of sysfs have in common."""

    seekable = True

    def __init__(self, size: int) -> None:
        self._size = size

    @property
    def size(self) -> int:
        """As stat(2) says."""
        return self._size

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """There are none."""
        return -errno.ENOTTY

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Always ready."""
        return POLLIN | POLLRDNORM | POLLOUT

    def release(self) -> None:
        """Nothing is held."""


class AttributeFile(_SysFile):
    """One open of an attribute (kernel: ``kernfs_ops`` of sysfs).

    It is made up anew whenever somebody reads from its beginning.
    """

    def __init__(self, attribute: Attribute) -> None:
        super().__init__(attribute.size)
        self._attribute = attribute
        self._data = b""

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """The text; ``EIO`` where there is none."""
        if offset == 0:
            self._data = _shown(self._attribute.show)
        return self._data[offset : offset + size]

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """Set it: ``EIO`` where that is not possible, and what the attribute says."""
        if self._attribute.store is None:
            raise KernelError(errno.EIO, "this attribute cannot be set")
        # To the driver a text is a string of C.
        text = bytes(data).partition(b"\0")[0].decode("latin-1")
        self._attribute.store(text.removesuffix("\n"))
        return len(data)


class BinAttributeFile(_SysFile):
    """One open of an attribute of bytes (kernel: ``sysfs_bin_kfops_rw``)."""

    def __init__(self, attribute: BinAttribute) -> None:
        super().__init__(attribute.size)
        self._attribute = attribute
        self.is_mappable = attribute.is_mappable

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """What is there."""
        return self._attribute.read(offset, size)

    def write(self, data: bytes, offset: int, nonblock: bool, caller: Caller) -> int:
        """``EIO`` where that is not possible."""
        if self._attribute.write is None:
            raise KernelError(errno.EIO, "this attribute cannot be set")
        self._attribute.write(data)
        return len(data)


def _shown(show: Callable[[], str | bytes] | None) -> bytes:
    if show is None:
        raise KernelError(errno.EIO, "this attribute cannot be read")
    data = show()
    return data if isinstance(data, bytes) else data.encode()
