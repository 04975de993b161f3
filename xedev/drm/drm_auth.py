"""Masters and authentication of primary nodes (kernel: drivers/gpu/drm/drm_auth.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi.drm import drm_auth
from xedev.kernel.caller import CAP_SYS_ADMIN, Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.idr import Idr

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile

__all__ = ("DrmMaster",)


class DrmMaster:
    """What the files opened under one master share: magic numbers and the bus id string."""

    __slots__ = ("magic_map", "unique")

    def __init__(self) -> None:
        self.magic_map: Idr[DrmFile] = Idr()
        self.unique = b""


def drm_is_current_master(file: DrmFile) -> bool:
    """True when ``file`` is the master that the device obeys."""
    return file.is_master and file.device.master is file.master


def drm_master_open(file: DrmFile) -> None:
    """A primary node was opened: become the master if there is none, else join it."""
    device = file.device
    with device.master_mutex:
        if device.master is None:
            _drm_new_set_master(device, file)
        else:
            file.master = device.master


def drm_master_release(file: DrmFile) -> None:
    """A primary file ends; the device is left without a master if it was this file."""
    device = file.device
    with device.master_mutex:
        if file.magic_master is not None:
            file.magic_master.magic_map.remove(file.magic)
            file.magic_master = None
        if drm_is_current_master(file):
            device.master = None
        file.master = None


def drm_getmagic(device: DrmDevice, auth: drm_auth, file: DrmFile, caller: Caller) -> None:
    """``GET_MAGIC``: the file's number in its master's table, made at the first call."""
    with device.master_mutex:
        if not file.magic and file.master is not None:
            file.magic = file.master.magic_map.alloc(file)
            file.magic_master = file.master
        auth.magic = file.magic


def drm_authmagic(device: DrmDevice, auth: drm_auth, file: DrmFile, caller: Caller) -> None:
    """``AUTH_MAGIC``: let another file in.  ``EINVAL`` unknown or used number."""
    with device.master_mutex:
        other = file.master.magic_map.find(auth.magic) if file.master else None
        if other is None or file.master is None:
            raise KernelError(errno.EINVAL, f"no file waits under magic {auth.magic}")
        other.authenticated = True
        # The number stays taken, so that it names no second file, but it works only once.
        file.master.magic_map.hold(auth.magic)


def drm_setmaster_ioctl(device: DrmDevice, arg: object, file: DrmFile, caller: Caller) -> None:
    """``SET_MASTER``: ``EACCES`` not allowed, ``EBUSY`` another master, ``EINVAL`` no master."""
    with device.master_mutex:
        _check_master_permission(file, caller)
        if drm_is_current_master(file):
            return
        if device.master is not None:
            raise KernelError(errno.EBUSY, "another file is master")
        if file.master is None:
            raise KernelError(errno.EINVAL, "this file has no master object")
        if not file.is_master:
            _drm_new_set_master(device, file)
        else:
            device.master = file.master


def drm_dropmaster_ioctl(device: DrmDevice, arg: object, file: DrmFile, caller: Caller) -> None:
    """``DROP_MASTER``: ``EACCES`` not allowed, ``EINVAL`` not the current master."""
    with device.master_mutex:
        _check_master_permission(file, caller)
        if not drm_is_current_master(file):
            raise KernelError(errno.EINVAL, "this file is not the current master")
        device.master = None


def _check_master_permission(file: DrmFile, caller: Caller) -> None:
    if file.was_master and file.pid == caller.tgid:
        return
    if not caller.capable(CAP_SYS_ADMIN):
        raise KernelError(errno.EACCES, "never master in this process, and no CAP_SYS_ADMIN")


def _drm_new_set_master(device: DrmDevice, file: DrmFile) -> None:
    file.master = device.master = DrmMaster()
    file.is_master = file.was_master = file.authenticated = True
