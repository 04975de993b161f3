"""Sharing objects through descriptors (kernel: drivers/gpu/drm/drm_prime.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from uapi.drm import DRM_CLOEXEC, DRM_RDWR, drm_prime_handle
from xedev.drm.dma_buf import DmaBuf, DmaBufFile
from xedev.drm.drm_gem import drm_gem_handle_create_tail, drm_gem_object_lookup
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError, warn_on
from xedev.kernel.locking import LockLevel, Mutex

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile
    from xedev.drm.drm_gem import DrmGemObject

__all__ = (
    "DrmPrimeFile",
    "drm_prime_fd_to_handle_ioctl",
    "drm_prime_handle_to_fd_ioctl",
)


class DrmPrimeFile:
    """Which dma-buf belongs to which handle of one file; each entry holds a reference.

    A file may have exported several handles of one object (``GEM_OPEN``): the first of them that
    is still open is the dma-buf's.
    """

    __slots__ = ("_handles", "by_handle", "lock")

    def __init__(self) -> None:
        self.lock = Mutex("prime->lock", LockLevel.FILE)
        self.by_handle: dict[int, DmaBuf] = {}
        self._handles: dict[DmaBuf, list[int]] = {}

    def add(self, dma_buf: DmaBuf, handle: int) -> None:
        """Remember a pair (kernel: ``drm_prime_add_buf_handle``)."""
        dma_buf.get()
        self.by_handle[handle] = dma_buf
        self._handles.setdefault(dma_buf, []).append(handle)

    def handle_of(self, dma_buf: DmaBuf) -> int | None:
        """The handle of a dma-buf, if there is one (kernel: ``drm_prime_lookup_buf_handle``)."""
        handles = self._handles.get(dma_buf)
        return handles[0] if handles else None

    def remove_handle(self, handle: int) -> DmaBuf | None:
        """Forget a handle; the caller drops the reference of the dma-buf that it gets."""
        with self.lock:
            dma_buf = self.by_handle.pop(handle, None)
            if dma_buf is not None:
                handles = self._handles[dma_buf]
                handles.remove(handle)
                if not handles:
                    del self._handles[dma_buf]
        return dma_buf

    def check_empty(self) -> None:
        """All handles are gone, so nothing may be left."""
        warn_on(bool(self.by_handle), "a PRIME table outlives its handles")


def drm_prime_handle_to_fd_ioctl(
    device: DrmDevice, args: drm_prime_handle, file: DrmFile, caller: Caller
) -> None:
    """``PRIME_HANDLE_TO_FD``: a token for a descriptor of the object's dma-buf.

    ``EINVAL`` unknown flags, ``ENOENT`` unknown handle, else the errno of the driver's export.
    """
    if args.flags & ~(DRM_CLOEXEC | DRM_RDWR):
        raise KernelError(errno.EINVAL, f"unknown flags {args.flags:#x}")
    dma_buf = _handle_to_dma_buf(device, file, args.handle, args.flags)
    args.fd = device.tokens.install(DmaBufFile(dma_buf), file, caller.tgid)


def _handle_to_dma_buf(device: DrmDevice, file: DrmFile, handle: int, flags: int) -> DmaBuf:
    """The dma-buf of a handle with one more reference."""
    with file.prime.lock:
        obj = drm_gem_object_lookup(file, handle)
        try:
            known = file.prime.by_handle.get(handle)
            if known is not None:
                known.get()
                return known
            with device.object_name_lock:
                dma_buf = _export(obj, file, flags)
                file.prime.add(dma_buf, handle)
            return dma_buf
        finally:
            obj.put()


def _export(obj: DrmGemObject, file: DrmFile, flags: int) -> DmaBuf:
    existing = obj.import_attach or obj.dma_buf
    if existing is not None:
        existing.get()
        return existing
    if obj.handle_count == 0:
        raise KernelError(errno.ENOENT, "the last handle has just been closed")
    dma_buf = obj.gem_export(file, flags)
    obj.dma_buf = dma_buf
    dma_buf.get()
    return dma_buf


def drm_prime_fd_to_handle_ioctl(
    device: DrmDevice, args: drm_prime_handle, file: DrmFile, caller: Caller
) -> None:
    """``PRIME_FD_TO_HANDLE``: the handle of a dma-buf; ``flags`` is not looked at.

    ``EBADF`` nothing open under the number, ``EINVAL`` not a dma-buf, else the errno of the
    driver's import.
    """
    found = caller.fget(args.fd)
    if not isinstance(found, DmaBufFile):
        raise KernelError(errno.EINVAL, f"descriptor {args.fd} is not a dma-buf of this mock")
    # Another thread may close the descriptor meanwhile, so the import has a reference of its own.
    if not found.dma_buf.get_unless_zero():
        raise KernelError(errno.EBADF, f"descriptor {args.fd} is being closed")
    try:
        args.handle = drm_gem_prime_import_dma_buf(device, file, found.dma_buf)
    finally:
        found.dma_buf.fput()


def drm_gem_prime_import_dma_buf(device: DrmDevice, file: DrmFile, dma_buf: DmaBuf) -> int:
    """The handle of ``file`` for ``dma_buf``: the known one, or a new one."""
    prime = file.prime
    with prime.lock:
        known = prime.handle_of(dma_buf)
        if known is not None:
            return known
        with device.object_name_lock:
            obj = device.gem_prime_import(dma_buf, file)
            try:
                if obj.dma_buf is None:
                    dma_buf.get()
                    obj.dma_buf = dma_buf
                warn_on(obj.dma_buf is not dma_buf, "an object has two dma-bufs")
                handle = drm_gem_handle_create_tail(file, obj)
            except KernelError:
                _unlink_failed_import(obj)
                raise
            finally:
                obj.put()
        prime.add(dma_buf, handle)
    return handle


def _unlink_failed_import(obj: DrmGemObject) -> None:
    if obj.handle_count == 0 and obj.dma_buf is not None:
        link, obj.dma_buf = obj.dma_buf, None
        link.fput()
