"""Observation streams, on a device that has none (kernel: drivers/gpu/drm/xe/xe_observation.c).

The GT's observation units cannot be used without the GuC's help, which is not mocked: they answer
as where they were not initialised.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.kernel.caller import CAP_PERFMON, CAP_SYS_ADMIN, Caller
from xedev.kernel.errors import KernelError

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_device import XeDevice

__all__ = ("xe_observation_ioctl",)

_OPS = {
    xe_drm.DRM_XE_OBSERVATION_TYPE_OA: range(3),
    xe_drm.DRM_XE_OBSERVATION_TYPE_EU_STALL: range(1),
}


def xe_observation_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_observation_param, file: DrmFile, caller: Caller
) -> None:
    """``OBSERVATION``: ``EINVAL`` malformed, ``EACCES`` not for this user, else ``ENODEV``."""
    if args.extensions:
        raise KernelError(errno.EINVAL, "extensions must be zero")
    ops = _OPS.get(args.observation_type)
    if ops is None:
        raise KernelError(errno.EINVAL, f"no observation of type {args.observation_type}")
    if args.observation_op not in ops:
        raise KernelError(errno.EINVAL, f"no op {args.observation_op}")
    stalls = args.observation_type == xe_drm.DRM_XE_OBSERVATION_TYPE_EU_STALL
    if stalls and xe.platform.eu_stall and not _may_observe(caller):
        raise KernelError(errno.EACCES, "needs CAP_PERFMON")
    raise KernelError(errno.ENODEV, "the units are not initialised")


def _may_observe(caller: Caller) -> bool:
    """Kernel: ``perfmon_capable``, as ``dev.xe.observation_paranoid`` is 1."""
    return caller.capable(CAP_PERFMON) or caller.capable(CAP_SYS_ADMIN)
