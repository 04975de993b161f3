"""Open DRM files (kernel: drivers/gpu/drm/drm_file.c)."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable

from xedev.drm.drm_auth import DrmMaster, drm_master_open, drm_master_release
from xedev.drm.drm_device import DrmDevice, DrmMinor
from xedev.drm.drm_gem import DrmGemObject, drm_gem_release
from xedev.drm.drm_ioctl import drm_ioctl
from xedev.drm.drm_prime import DrmPrimeFile
from xedev.drm.drm_syncobj import DrmSyncobj, drm_syncobj_release
from xedev.kernel.caller import CAP_SYS_ADMIN, Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.kernel.idr import Idr
from xedev.kernel.locking import Mutex
from xedev.kernel.mm import CpuMapping, VmArea
from xedev.kernel.refcount import Refcounted

__all__ = ("DrmFile", "drm_open")

O_EXCL = 0o200


class DrmFile(Refcounted, File):
    """One open of a node: its handles, names, rights (kernel: ``struct drm_file``).

    References: the open file, and each CPU mapping made of it.
    """

    def __init__(self, device: DrmDevice, minor: DrmMinor, flags: int, caller: Caller) -> None:
        super().__init__()
        self.device = device
        self.access = flags & os.O_ACCMODE
        self.minor = minor
        self.is_render = minor.is_render
        self.client_id = next(device.client_ids)
        self.client_name = ""
        self.authenticated = caller.capable(CAP_SYS_ADMIN)
        self.is_master = False
        self.was_master = False
        self.master: DrmMaster | None = None
        self.magic = 0
        self.magic_master: DrmMaster | None = None
        self.pid = caller.tgid
        self.last_tid = caller.tid
        self.uid = caller.uid
        self.comm = caller.comm
        self.ioctl_count = 0
        self.table_lock = Mutex("file->table_lock")
        self.object_idr: Idr[DrmGemObject] = Idr()
        self.may_mmap: dict[DrmGemObject, int] = {}
        """Handles by object: what mmap(2) is allowed (kernel: ``drm_vma_node_allow``)."""
        self.syncobj_lock = threading.Lock()
        self.syncobj_idr: Idr[DrmSyncobj] = Idr()
        self.prime = DrmPrimeFile()
        self.driver_priv: object = None

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """See `xedev.drm.drm_ioctl.drm_ioctl`."""
        return drm_ioctl(self, cmd, data, caller)  # type: ignore[return-value]

    def ioctl_deferred(self, cmd: int, data: int, caller: Caller) -> int | Deferred[int]:
        """The same for a transport that finishes late answers by itself."""
        return drm_ioctl(self, cmd, data, caller)

    def read(self, size: int, offset: int, nonblock: bool, caller: Caller) -> bytes:
        """Wait for an event.  A device without displays never has one, so this ends with
        ``EAGAIN``, ``EINTR``, or at unplug with nothing (kernel: ``drm_read``)."""
        if nonblock:
            raise KernelError(errno.EAGAIN, "no event is queued")
        self.device.event_wait.wait_event(lambda: self.device.unplugged, caller)
        raise KernelError(errno.ENODEV, "the device is unplugged")

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Ready only while events are queued, which is never."""
        return 0

    def update_pid(self, caller: Caller, tid: int) -> None:
        """Follow the descriptor into another process (kernel: ``drm_file_update_pid``)."""
        self.last_tid = tid
        if not self.was_master:
            self.pid = caller.tgid

    def mmap(self, area: VmArea) -> CpuMapping:
        """Map a part of the device (kernel: ``drm_driver.fops->mmap``)."""
        return self.device.mmap(self, area)

    def release(self) -> None:
        """No descriptor is left; mappings may be."""
        self.device.tokens.drop_owner(self)
        self.put()

    def free(self) -> None:
        """The last reference went; parts end in the order of the kernel's ``drm_file_free``."""
        device = self.device
        with device.filelist_lock:
            del device.filelist[self.client_id]
        drm_syncobj_release(self)
        drm_gem_release(self)
        if not self.is_render:
            drm_master_release(self)
        device.postclose(self)
        self.prime.check_empty()
        if device.trace.enabled:
            device.trace.emit("close", client=self.client_id, node=self.minor.name, pid=self.pid)


def drm_open(device: DrmDevice, minor: DrmMinor, flags: int, caller: Caller) -> DrmFile:
    """Open a node: ``ENODEV`` when unplugged, ``EBUSY`` with ``O_EXCL``.

    Kernel: ``drm_open``, ``drm_open_helper``, ``drm_file_alloc``.
    """
    if device.unplugged:
        raise KernelError(errno.ENODEV, "the device is unplugged")
    if flags & O_EXCL:
        raise KernelError(errno.EBUSY, "a DRM node is never opened exclusively")
    file = DrmFile(device, minor, flags, caller)
    device.postopen(file, caller)
    if not minor.is_render:
        drm_master_open(file)
    with device.filelist_lock:
        device.filelist[file.client_id] = file
    if device.trace.enabled:
        device.trace.emit("open", client=file.client_id, node=minor.name, pid=file.pid)
    return file
