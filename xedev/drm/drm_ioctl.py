"""The way of a request: number -> table row -> checks -> handler -> answer.

Kernel: drivers/gpu/drm/drm_ioctl.c (``drm_ioctl``, ``drm_ioctl_kernel``, ``drm_ioctl_permit``)
and drivers/gpu/drm/xe/xe_device.c (``xe_drm_ioctl``).
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uapi import registry
from uapi.base import Struct
from uapi.drm import DRM_COMMAND_BASE, DRM_COMMAND_END
from uapi.ioctl import IOC_NR, IOC_READ, IOC_SIZE, IOC_TYPE, IOC_WRITE, IoctlDef
from xedev.drm.drm_auth import drm_is_current_master
from xedev.kernel.caller import CAP_SYS_ADMIN, Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError, errno_name, report_bug

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile

__all__ = (
    "DRM_AUTH",
    "DRM_MASTER",
    "DRM_RENDER_ALLOW",
    "DRM_ROOT_ONLY",
    "IoctlDesc",
    "IoctlTable",
    "drm_ioctl",
)

DRM_AUTH = 1 << 0
DRM_MASTER = 1 << 1
DRM_ROOT_ONLY = 1 << 2
DRM_RENDER_ALLOW = 1 << 5

DRM_IOCTL_BASE = ord("d")
PRIVATE_IOCTL_BASE = ord("x")

Handler = Callable[[Any, Any, Any, Caller], int | Deferred[int] | None]
"""``handler(device, args, file, caller)``; returns None (0) or a number >= 0, or raises, or answers
later.  A deferred answer may go on using ``args``: the transport keeps the buffer until then."""


@dataclass(frozen=True, slots=True)
class IoctlDesc:
    """One row of an ioctl table (kernel: ``struct drm_ioctl_desc``)."""

    name: str
    cmd: int
    nr: int
    dir: int
    size: int
    struct: type[Struct] | None
    flags: int
    func: Handler

    @classmethod
    def of(cls, row: IoctlDef, flags: int, func: Handler) -> IoctlDesc:
        """A row from the uAPI's registry, the permission flags and the handler."""
        return cls(row.name, row.cmd, row.nr, row.dir, row.size, row.struct, flags, func)


class IoctlTable:
    """All ioctls of a device, core and driver."""

    def __init__(self, rows: Iterable[IoctlDesc], core_count: int, driver_count: int) -> None:
        self.by_nr = {row.nr: row for row in rows}
        self.core_count = core_count
        self.driver_count = driver_count
        # The short way: the caller's number is the kernel's own, so sizes and directions agree.
        self.by_cmd = {
            row.cmd: (row, row.struct.from_address, row.func)
            for row in self.by_nr.values()
            if row.struct is not None
        }

    def find(self, cmd: int) -> IoctlDesc:
        """The row of ``cmd``: ``ENOTTY`` foreign type, ``EINVAL`` no such number."""
        if IOC_TYPE(cmd) != DRM_IOCTL_BASE:
            raise KernelError(errno.ENOTTY, f"type {IOC_TYPE(cmd):#x} is not a DRM ioctl")
        nr = IOC_NR(cmd)
        if DRM_COMMAND_BASE <= nr < DRM_COMMAND_END:
            if nr - DRM_COMMAND_BASE >= self.driver_count:
                raise KernelError(errno.EINVAL, f"the driver has no ioctl {nr:#x}")
        elif nr >= self.core_count:
            raise KernelError(errno.EINVAL, f"DRM has no ioctl {nr:#x}")
        row = self.by_nr.get(nr)
        if row is None:
            raise KernelError(errno.EINVAL, f"nothing answers ioctl {nr:#x}")
        return row


def drm_ioctl(file: DrmFile, cmd: int, data: int, caller: Caller) -> int | Deferred[int]:
    """Run one ioctl of ``file``.

    ``data`` is the address, in this process, of the caller's argument buffer of ``_IOC_SIZE``
    bytes, 0 when the caller's pointer is bad.  It is both copy-in and copy-out: what a handler
    wrote before it failed is visible, as with the kernel.  Returns >= 0 or ``-errno``; the reason
    of a failure is left in ``caller.reason``.  A handler that has to wait is waited for here,
    unless the caller's transport takes the `Deferred` itself.
    """
    file.ioctl_count += 1
    device = file.device
    if device.trace.enabled:
        return _traced(file, cmd, data, caller)
    try:
        found = device.ioctls.by_cmd.get(cmd)
        if found is None or not data or device.wedged or device.unplugged:
            result = _long_way(file, cmd, data, caller)
        else:
            row, from_address, func = found
            tid = caller.tid
            if tid != file.last_tid:
                file.update_pid(caller, tid)
            if row.flags != DRM_RENDER_ALLOW:
                drm_ioctl_permit(row.flags, file, caller)
            result = func(device, from_address(data), file, caller)
        if result is None or isinstance(result, int):
            return result or 0
        return _later(result, cmd, caller)
    except KernelError as error:
        return _refused(error, caller)
    except Exception:  # noqa: BLE001 - a bug must not look like an answer
        return _bug(cmd, caller)


def _refused(error: KernelError, caller: Caller) -> int:
    caller.reason = error.reason
    return -(error.errno or errno.EIO)


def _bug(cmd: int, caller: Caller) -> int:
    report_bug(f"the handler of ioctl {cmd:#x}")
    caller.reason = "a bug of the mock; its log has the traceback"
    return -errno.EIO


def _later(answer: Deferred[int], cmd: int, caller: Caller) -> int | Deferred[int]:
    """Wait for an answer, or hand it to a transport that does that by itself; it does not raise
    then."""
    if not caller.may_defer:
        return answer.wait(caller)
    return answer.then(lambda finish: _guarded(finish, cmd, caller))


def _guarded(finish: Callable[[], int], cmd: int, caller: Caller) -> int:
    try:
        return finish()
    except KernelError as error:
        return _refused(error, caller)
    except Exception:  # noqa: BLE001 - a bug must not look like an answer
        return _bug(cmd, caller)


def _long_way(file: DrmFile, cmd: int, data: int, caller: Caller) -> int | Deferred[int] | None:
    """Every check in the kernel's order, and its copy rules for sizes that differ."""
    device = file.device
    if IOC_TYPE(cmd) == PRIVATE_IOCTL_BASE:
        answer = device.private_ioctl(file, cmd, data, caller)
        if answer is not None:
            return answer
    if device.wedged:
        raise KernelError(errno.ECANCELED, "the device is wedged")
    if device.unplugged:
        raise KernelError(errno.ENODEV, "the device is unplugged")
    row = device.ioctls.find(cmd)

    size = IOC_SIZE(cmd)
    both = (cmd >> 30) & row.dir
    in_size = size if both & IOC_WRITE else 0
    out_size = size if both & IOC_READ else 0
    buffer = bytearray(max(in_size, out_size, row.size))
    if in_size:
        if not data:
            raise KernelError(errno.EFAULT, "the argument cannot be read")
        buffer[:in_size] = ctypes.string_at(data, in_size)
    return _with_copy_out(lambda: _ioctl_kernel(file, row, buffer, caller), data, buffer, out_size)


def _with_copy_out(
    call: Callable[[], int | Deferred[int] | None], data: int, buffer: bytearray, out_size: int
) -> int | Deferred[int] | None:
    """Run ``call``, and copy the buffer out once it has answered or failed."""
    pending = False
    try:
        result = call()
        if not isinstance(result, Deferred):
            return result
        pending = True
        return result.then(lambda finish: _answered(_with_copy_out(finish, data, buffer, out_size)))
    finally:
        if out_size and not pending:
            _copy_out(data, buffer, out_size)


def _answered(result: int | Deferred[int] | None) -> int:
    assert not isinstance(result, Deferred)
    return result or 0


def _copy_out(data: int, buffer: bytearray, out_size: int) -> None:
    if not data:
        raise KernelError(errno.EFAULT, "the argument cannot be written")
    ctypes.memmove(data, (ctypes.c_char * out_size).from_buffer(buffer), out_size)


def _ioctl_kernel(
    file: DrmFile, row: IoctlDesc, buffer: bytearray, caller: Caller
) -> int | Deferred[int] | None:
    tid = caller.tid
    if tid != file.last_tid:
        file.update_pid(caller, tid)
    drm_ioctl_permit(row.flags, file, caller)
    args = row.struct.from_buffer(buffer) if row.struct is not None else None
    return row.func(file.device, args, file, caller)


def drm_ioctl_permit(flags: int, file: DrmFile, caller: Caller) -> None:
    """``EACCES`` unless the file and its caller may use an ioctl with these flags."""
    if flags & DRM_ROOT_ONLY and not caller.capable(CAP_SYS_ADMIN):
        raise KernelError(errno.EACCES, "needs CAP_SYS_ADMIN")
    if flags & DRM_AUTH and not file.is_render and not file.authenticated:
        raise KernelError(errno.EACCES, "the file is not authenticated")
    if flags & DRM_MASTER and not drm_is_current_master(file):
        raise KernelError(errno.EACCES, "the file is not the current master")
    if not flags & DRM_RENDER_ALLOW and file.is_render:
        raise KernelError(errno.EACCES, "not for render nodes")


def _traced(file: DrmFile, cmd: int, data: int, caller: Caller) -> int | Deferred[int]:
    """As `drm_ioctl`, and tell the listeners; arguments are decoded after the call."""
    try:
        result = _long_way(file, cmd, data, caller)
        if isinstance(result, Deferred):
            result = _later(result, cmd, caller)
    except KernelError as error:
        result = _refused(error, caller)
    except Exception:  # noqa: BLE001 - a bug must not look like an answer
        result = _bug(cmd, caller)
    if isinstance(result, Deferred):
        return result.then(lambda finish: _tell(file, cmd, data, caller, finish()))
    return _tell(file, cmd, data, caller, result or 0)


def _tell(file: DrmFile, cmd: int, data: int, caller: Caller, result: int) -> int:
    """Emit the event of one ioctl; returns its result."""
    name, args, text = _decode(registry.lookup(cmd), cmd, data)
    file.device.trace.emit(
        "ioctl",
        pid=caller.tgid,
        tid=caller.tid,
        comm=caller.comm,
        node=file.minor.name,
        client=file.client_id,
        name=name,
        cmd=cmd,
        args=args,
        args_text=text,
        result=result,
        errno=errno_name(-result) if result < 0 else None,
        reason=caller.reason if result < 0 else "",
    )
    return result


def _decode(row: IoctlDef | None, cmd: int, data: int) -> tuple[str, dict[str, Any], str]:
    if row is None:
        return f"ioctl {cmd:#010x}", {}, ""
    if row.struct is None or not data:
        return row.name, {}, ""
    size = min(IOC_SIZE(cmd), row.size)
    raw = ctypes.string_at(data, size).ljust(row.size, b"\0")
    args = row.struct.from_buffer_copy(raw)
    return row.name, args.asdict(), repr(args)
