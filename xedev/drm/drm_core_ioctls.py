"""The core's own ioctls and their table (kernel: ``drm_ioctls`` in drm_ioctl.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi import drm as uapi_drm
from uapi import registry
from xedev.drm.drm_auth import (
    drm_authmagic,
    drm_dropmaster_ioctl,
    drm_getmagic,
    drm_setmaster_ioctl,
)
from xedev.drm.drm_dumb_buffers import DUMB_IOCTLS
from xedev.drm.drm_gem import drm_gem_close_ioctl, drm_gem_flink_ioctl, drm_gem_open_ioctl
from xedev.drm.drm_headless import HEADLESS_IOCTLS, drm_noop
from xedev.drm.drm_ioctl import (
    DRM_AUTH,
    DRM_MASTER,
    DRM_RENDER_ALLOW,
    DRM_ROOT_ONLY,
    Handler,
    IoctlDesc,
)
from xedev.drm.drm_prime import drm_prime_fd_to_handle_ioctl, drm_prime_handle_to_fd_ioctl
from xedev.drm.drm_syncobj import SYNCOBJ_IOCTLS
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile

__all__ = ("core_ioctl_rows",)

OVERFLOW_UID = 65534
DRM_IF_MAJOR, DRM_IF_MINOR = 1, 4
CLIENT_NAME_BYTES = range(0x21, 0x7F)


def drm_version(
    device: DrmDevice, version: uapi_drm.drm_version, file: DrmFile, caller: Caller
) -> None:
    """``VERSION``: numbers, and up to the given lengths of three strings without terminator.

    Each length is set to the real one.  ``EFAULT`` at the first string that cannot be written.
    """
    (
        version.version_major,
        version.version_minor,
        version.version_patchlevel,
    ) = device.driver_version
    name, date, desc = device.version_strings
    pieces = []
    if version.name_len and version.name:
        pieces.append((version.name, name[: version.name_len]))
    if version.date_len and version.date:
        pieces.append((version.date, date[: version.date_len]))
    if version.desc_len and version.desc:
        pieces.append((version.desc, desc[: version.desc_len]))
    if pieces:
        try:
            caller.memory.write_all(pieces)
        except KernelError:
            _write_until_fault(version, device.version_strings, caller)
    version.name_len, version.date_len, version.desc_len = len(name), len(date), len(desc)


def _write_until_fault(
    version: uapi_drm.drm_version, strings: tuple[bytes, ...], caller: Caller
) -> None:
    """One string after the other: each length is told before its string is written, and nothing
    comes after the one that faults."""
    for field, text in zip(("name", "date", "desc"), strings, strict=True):
        address, room = getattr(version, field), getattr(version, f"{field}_len")
        setattr(version, f"{field}_len", len(text))
        if room and address:
            caller.memory.write(address, text[:room])


def drm_getunique(
    device: DrmDevice, unique: uapi_drm.drm_unique, file: DrmFile, caller: Caller
) -> None:
    """``GET_UNIQUE``: the master's bus id string, empty until ``SET_VERSION`` made it."""
    with device.master_mutex:
        text = file.master.unique if file.master else b""
    if text and unique.unique_len >= len(text):
        caller.memory.write(unique.unique, text)
    unique.unique_len = len(text)


def drm_getclient(
    device: DrmDevice, client: uapi_drm.drm_client, file: DrmFile, caller: Caller
) -> None:
    """``GET_CLIENT``: about this file only; ``EINVAL`` for any other index."""
    if client.idx != 0:
        raise KernelError(errno.EINVAL, "only client 0, the caller itself, is told")
    client.auth = file.authenticated
    client.pid = caller.tid
    client.uid = OVERFLOW_UID
    client.magic = 0
    client.iocs = 0


def drm_getstats(
    device: DrmDevice, stats: uapi_drm.drm_stats, file: DrmFile, caller: Caller
) -> None:
    """``GET_STATS``: all zero for twenty years."""
    for index in range(len(stats.data)):
        stats.data[index].value = 0
        stats.data[index].type = 0
    stats.count = 0


def drm_setversion(
    device: DrmDevice, version: uapi_drm.drm_set_version, file: DrmFile, caller: Caller
) -> None:
    """``SET_VERSION``: ask for interface and driver versions; ``EINVAL`` when not offered.

    Interface 1.1 and later make the bus id string of the master.
    """
    wanted = (version.drm_di_major, version.drm_di_minor)
    driver = (version.drm_dd_major, version.drm_dd_minor)
    major, minor, _ = device.driver_version
    version.drm_di_major, version.drm_di_minor = DRM_IF_MAJOR, DRM_IF_MINOR
    version.drm_dd_major, version.drm_dd_minor = major, minor

    if wanted[0] != -1:
        if wanted[0] != DRM_IF_MAJOR or not 0 <= wanted[1] <= DRM_IF_MINOR:
            raise KernelError(errno.EINVAL, f"no interface version {wanted[0]}.{wanted[1]}")
        with device.master_mutex:
            device.interface_version = max(device.interface_version, wanted[1])
            if wanted[1] >= 1 and file.master is not None:
                file.master.unique = _bus_id(device)
    if driver[0] != -1 and (driver[0] != major or not 0 <= driver[1] <= minor):
        raise KernelError(errno.EINVAL, f"no driver version {driver[0]}.{driver[1]}")


def _bus_id(device: DrmDevice) -> bytes:
    domain, rest = device.unique.split(":", 1)
    if device.interface_version < DRM_IF_MINOR:
        domain = "0000"
    return f"pci:{domain}:{rest}".encode()


def drm_getcap(device: DrmDevice, req: uapi_drm.drm_get_cap, file: DrmFile, caller: Caller) -> None:
    """``GET_CAP`` of a device without displays; ``EOPNOTSUPP`` for all that needs one."""
    req.value = 0
    value = _CAPABILITIES.get(req.capability)
    if value is None:
        raise KernelError(errno.EOPNOTSUPP, f"capability {req.capability:#x} needs a display")
    req.value = value


_CAPABILITIES = {
    uapi_drm.DRM_CAP_PRIME: uapi_drm.DRM_PRIME_CAP_IMPORT | uapi_drm.DRM_PRIME_CAP_EXPORT,
    uapi_drm.DRM_CAP_TIMESTAMP_MONOTONIC: 1,
    uapi_drm.DRM_CAP_SYNCOBJ: 1,
    uapi_drm.DRM_CAP_SYNCOBJ_TIMELINE: 1,
}


def drm_setclientcap(
    device: DrmDevice, req: uapi_drm.drm_set_client_cap, file: DrmFile, caller: Caller
) -> None:
    """``SET_CLIENT_CAP``: ``EOPNOTSUPP``, since all of them are about displays."""
    raise KernelError(errno.EOPNOTSUPP, "the device has no displays")


def drm_set_client_name(
    device: DrmDevice, req: uapi_drm.drm_set_client_name, file: DrmFile, caller: Caller
) -> None:
    """``SET_CLIENT_NAME``: a label for people; length 0 takes it away.

    ``EINVAL`` longer than 64 bytes or a byte that is not a visible ASCII character, ``EFAULT``.
    """
    if req.name_len > uapi_drm.DRM_CLIENT_NAME_MAX_LEN:
        raise KernelError(errno.EINVAL, f"a name of {req.name_len} bytes is too long")
    name = caller.memory.read(req.name, req.name_len) if req.name_len else b""
    if not all(byte in CLIENT_NAME_BYTES for byte in name):
        raise KernelError(errno.EINVAL, "only visible ASCII characters may be in a name")
    file.client_name = name.decode("ascii")


def drm_invalid_op(device: DrmDevice, args: object, file: DrmFile, caller: Caller) -> None:
    """An ioctl that is refused for ever (kernel: ``drm_invalid_op``)."""
    raise KernelError(errno.EINVAL, "this ioctl was withdrawn")


_LEGACY = DRM_AUTH | DRM_MASTER | DRM_ROOT_ONLY

CORE_IOCTLS: dict[str, tuple[int, Handler]] = {
    "DRM_IOCTL_VERSION": (DRM_RENDER_ALLOW, drm_version),
    "DRM_IOCTL_GET_UNIQUE": (0, drm_getunique),
    "DRM_IOCTL_GET_MAGIC": (0, drm_getmagic),
    "DRM_IOCTL_GET_CLIENT": (0, drm_getclient),
    "DRM_IOCTL_GET_STATS": (0, drm_getstats),
    "DRM_IOCTL_SET_VERSION": (DRM_MASTER, drm_setversion),
    "DRM_IOCTL_GEM_CLOSE": (DRM_RENDER_ALLOW, drm_gem_close_ioctl),
    "DRM_IOCTL_GEM_FLINK": (DRM_AUTH, drm_gem_flink_ioctl),
    "DRM_IOCTL_GEM_OPEN": (DRM_AUTH, drm_gem_open_ioctl),
    "DRM_IOCTL_GET_CAP": (DRM_RENDER_ALLOW, drm_getcap),
    "DRM_IOCTL_SET_CLIENT_CAP": (0, drm_setclientcap),
    "DRM_IOCTL_SET_UNIQUE": (_LEGACY, drm_invalid_op),
    "DRM_IOCTL_AUTH_MAGIC": (DRM_MASTER, drm_authmagic),
    "DRM_IOCTL_BLOCK": (_LEGACY, drm_noop),
    "DRM_IOCTL_UNBLOCK": (_LEGACY, drm_noop),
    "DRM_IOCTL_SET_MASTER": (0, drm_setmaster_ioctl),
    "DRM_IOCTL_DROP_MASTER": (0, drm_dropmaster_ioctl),
    "DRM_IOCTL_ADD_DRAW": (_LEGACY, drm_noop),
    "DRM_IOCTL_RM_DRAW": (_LEGACY, drm_noop),
    "DRM_IOCTL_FINISH": (DRM_AUTH, drm_noop),
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": (DRM_RENDER_ALLOW, drm_prime_handle_to_fd_ioctl),
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": (DRM_RENDER_ALLOW, drm_prime_fd_to_handle_ioctl),
    "DRM_IOCTL_UPDATE_DRAW": (_LEGACY, drm_noop),
    "DRM_IOCTL_SET_CLIENT_NAME": (DRM_RENDER_ALLOW, drm_set_client_name),
    "DRM_IOCTL_GEM_CHANGE_HANDLE": (DRM_RENDER_ALLOW, drm_invalid_op),
}
"""Name -> (permission flags, handler)."""


def core_ioctl_rows() -> list[IoctlDesc]:
    """Every core ioctl that a device without displays answers."""
    syncobjs = {name: (DRM_RENDER_ALLOW, func) for name, func in SYNCOBJ_IOCTLS.items()}
    handlers = {**CORE_IOCTLS, **HEADLESS_IOCTLS, **DUMB_IOCTLS, **syncobjs}
    return [
        IoctlDesc.of(registry.BY_NAME[name], flags, func)
        for name, (flags, func) in handlers.items()
    ]
