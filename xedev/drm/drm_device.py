"""A DRM device and its nodes (kernel: drivers/gpu/drm/drm_drv.c)."""

from __future__ import annotations

import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xedev.drm.drm_auth import DrmMaster
from xedev.drm.drm_vma_manager import DrmVmaOffsetManager
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.fault_inject import FaultInjector
from xedev.kernel.files import FdTokens
from xedev.kernel.idr import Idr
from xedev.kernel.locking import LockLevel, Mutex
from xedev.kernel.trace import Tracepoints
from xedev.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from xedev.drm.dma_buf import DmaBuf
    from xedev.drm.drm_file import DrmFile
    from xedev.drm.drm_gem import DrmGemObject
    from xedev.drm.drm_ioctl import IoctlTable
    from xedev.kernel.mm import CpuMapping, VmArea

__all__ = ("DebugfsFile", "DrmDevice", "DrmMinor")


@dataclass(frozen=True, slots=True)
class DrmMinor:
    """One node of a device."""

    name: str
    """Name below ``dev/dri``."""
    kind: str
    """``"primary"`` or ``"render"``."""
    index: int
    """Minor number: 0.. for primary, 128.. for render nodes."""
    mode: int
    """Permission bits of the node."""
    frames: bool = False
    """Whether read(2) and write(2) on it carry the mock's own frames."""

    @property
    def is_render(self) -> bool:
        """True for render nodes (kernel: ``drm_is_render_client``)."""
        return self.kind == "render"


@dataclass(frozen=True, slots=True)
class DebugfsFile:
    """A file of the device's debugfs directory.

    ``write`` runs a command and returns the text that a read of the same open file then gives.
    ``open`` is called with each open, and returns what is to be done when that ends.
    """

    name: str
    mode: int
    read: Callable[[], str] | None = None
    write: Callable[[str, Caller], str] | None = None
    open: Callable[[], Callable[[], None]] | None = None


class DrmDevice(ABC):
    """State that all files of one device share."""

    driver_name: str
    driver_desc: str
    driver_date = "0"
    driver_version: tuple[int, int, int]
    unique: str
    """Bus id without its ``pci:`` prefix, e.g. ``0000:03:00.0``."""
    minors: tuple[DrmMinor, ...]
    vram_region_count = 0
    """How many VRAM regions the device has."""
    dumb_alignment = 4096
    """Size granularity of dumb buffers, bytes."""

    def __init__(self, ioctls: IoctlTable) -> None:
        self.ioctls = ioctls
        self.trace = Tracepoints()
        self.tokens = FdTokens()
        self.faults = FaultInjector()
        self.wedged = False
        self.unplugged = False
        self.master: DrmMaster | None = None
        self.master_mutex = threading.Lock()
        self.interface_version = 0
        self.object_name_lock = Mutex("dev->object_name_lock", LockLevel.OBJECT_NAME)
        self.object_names: Idr[DrmGemObject] = Idr()
        self.vma_offsets: DrmVmaOffsetManager[DrmGemObject] = DrmVmaOffsetManager()
        self.filelist_lock = threading.Lock()
        self.filelist: dict[int, DrmFile] = {}
        self.client_ids = itertools.count(1)
        self.object_ids = itertools.count(1)
        self.event_wait = WaitQueue()
        self.version_strings = tuple(
            text.encode() for text in (self.driver_name, self.driver_date, self.driver_desc)
        )

    @abstractmethod
    def postopen(self, file: DrmFile, caller: Caller) -> None:
        """The driver's part of open (kernel: ``drm_driver.open``)."""

    @abstractmethod
    def postclose(self, file: DrmFile) -> None:
        """The driver's part of close, after the GEM handles went."""

    @abstractmethod
    def gem_prime_import(self, dma_buf: DmaBuf, file: DrmFile) -> DrmGemObject:
        """Make or find the object behind a dma-buf; returns it with one reference."""

    @abstractmethod
    def dumb_create(self, file: DrmFile, size: int) -> int:
        """Make a buffer of ``size`` bytes for software rendering; returns its handle."""

    @abstractmethod
    def mmap(self, file: DrmFile, area: VmArea) -> CpuMapping:
        """mmap(2) of one of the device's files (kernel: ``fops->mmap``)."""

    @abstractmethod
    def mmap_offset(self, obj: DrmGemObject) -> int:
        """The fake mmap offset of an object (kernel: ``drm_vma_node_offset_addr``)."""

    @abstractmethod
    def private_ioctl(
        self, file: DrmFile, cmd: int, data: int, caller: Caller
    ) -> int | Deferred[int] | None:
        """An ioctl that the real driver does not have; None when it is not one of those."""

    def unplug(self) -> None:
        """The device is gone: every call answers ``ENODEV`` (kernel: ``drm_dev_unplug``)."""
        self.unplugged = True
        self.event_wait.wake_up()
        self.trace.emit("unplug", device=self.unique)

    def declare_wedged(self) -> None:
        """The device is stuck: every ioctl answers ``ECANCELED`` until it is made anew."""
        self.wedged = True
        self.trace.emit("wedged", device=self.unique)
