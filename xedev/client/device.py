"""An open Xe device with one method per ioctl."""

from __future__ import annotations

import ctypes
import errno
import os
from types import TracebackType
from typing import Literal

from uapi import drm
from xedev.client.control import card_index
from xedev.client.core import CoreIoctls
from xedev.client.exec_queue import ExecQueueIoctls
from xedev.client.mapping import MappingIoctls
from xedev.client.mock import MockIoctls
from xedev.client.query import QueryIoctls
from xedev.client.syncobj import SyncobjIoctls
from xedev.client.transport import (
    OUT,
    Buffer,
    FrameTransport,
    IoctlError,
    IoctlTransport,
    Transport,
)

__all__ = ("Device", "allow_memory_access")

#: The node of a card that takes frames beside ioctls; of a further card with its index behind.
_FRAMES_NODE = "xe-mock"

_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = -1


class Device(CoreIoctls, SyncobjIoctls, QueryIoctls, MappingIoctls, ExecQueueIoctls, MockIoctls):
    """An open DRM file of an Xe device, real or mock.

    >>> with Device.open("/dev/dri/renderD128") as device:  # doctest: +SKIP
    ...     handle = device.gem_create(4096, placement=1)

    Errors are `IoctlError`, an OSError. `ioctl` takes any other request.
    """

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        transport: Literal["auto", "ioctl", "frames"] = "auto",
    ) -> Device:
        """Open a node.

        ``ioctl`` uses ioctl(2); ``frames`` the ``xe-mock`` node beside ``path``. ``auto`` prefers
        ioctl(2) and changes to frames where the mock is not allowed to read our memory, which
        most ioctls need: the mock is another process, and follows the argument's pointers with
        the rights that the kernel gives a debugger.

        Errors of open(2); EFAULT: our memory is out of reach, and there is no other way.
        """
        if transport == "frames":
            return cls(FrameTransport(_frames_node(path)))
        direct = IoctlTransport(path)
        try:
            reachable = _memory_is_reachable(direct) or _allow_and_retry(direct)
        except BaseException:
            direct.close()
            raise
        if reachable:
            return cls(direct)
        direct.close()
        if transport == "auto" and os.path.exists(_frames_node(path)):
            return cls(FrameTransport(_frames_node(path)))
        raise IoctlError(
            errno.EFAULT,
            drm.DRM_IOCTL_VERSION,
            "the mock may not read the memory of this process: another user's, or protected",
        )

    def close(self) -> None:
        """Close the DRM file. Its handles and VMs end unless a dup or fork shares it."""
        self.transport.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _frames_node(path: str | os.PathLike[str]) -> str:
    directory, name = os.path.split(os.fspath(path))
    return os.path.join(directory, f"{_FRAMES_NODE}{card_index(name) or ''}")


def _memory_is_reachable(transport: Transport) -> bool:
    """Whether the driver can write to a pointer that is surely good: the name of VERSION."""
    name = ctypes.create_string_buffer(16)
    arg = drm.drm_version(name_len=len(name), name=ctypes.addressof(name))
    try:
        transport.ioctl(drm.DRM_IOCTL_VERSION, arg, [Buffer(name, OUT)])
    except OSError as error:
        # A wedged or unplugged device says no to everything: that tells nothing about memory.
        return error.errno != errno.EFAULT
    return True


def allow_memory_access() -> None:
    """Let the mock read this process's memory although it is not our ancestor.

    Yama (ptrace_scope 1, the default of Ubuntu) lets only ancestors trace a process unless it
    names its tracer. Nothing tells the mock's pid, so whoever could trace us without Yama may
    from here on: processes of the same user, and root. Another user's mock stays shut out. The
    permission is not inherited by forked children, which have to give it themselves.

    `Device.open` calls this when it has to. Kernels without Yama refuse it, which does no harm.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY, 0, 0, 0)


def _allow_and_retry(transport: Transport) -> bool:
    allow_memory_access()
    return _memory_is_reachable(transport)
