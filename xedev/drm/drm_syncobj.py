"""Sync objects: handles for fences that come and go (kernel: drivers/gpu/drm/drm_syncobj.c).

"Binary" and "timeline" are no types: the fence of an object is none, a plain one, or the newest
point of a chain (`xedev.kernel.dma_fence.DmaFenceChain`).
"""

from __future__ import annotations

import errno
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from uapi import drm as uapi_drm
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_fence import (
    DmaFence,
    DmaFenceChain,
    dma_fence_chain_collect,
    dma_fence_chain_find_seqno,
    dma_fence_chain_value,
    dma_fence_unwrap_merge,
    signalled_fence,
)
from xedev.kernel.errors import KernelError
from xedev.kernel.eventfd import EventFd
from xedev.kernel.files import POLLIN, POLLOUT, File
from xedev.kernel.refcount import Refcounted
from xedev.kernel.sync_file import SyncFile
from xedev.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from xedev.drm.drm_device import DrmDevice
    from xedev.drm.drm_file import DrmFile

__all__ = (
    "SYNCOBJ_IOCTLS",
    "DrmSyncobj",
    "drm_syncobj_find",
    "drm_syncobj_find_fence",
    "drm_syncobj_release",
)

ARRAY_MAX_BYTES = 4 << 20
"""Largest array that the kernel allocates in one piece."""
WAIT_ENTRY_BYTES = 64
"""Of the kernel's ``struct syncobj_wait_entry``, one for each object of a wait."""
TRANSFER_TIMEOUT = 5.0  # seconds
NS_PER_S = 1_000_000_000
NOBODY = 0xFFFF_FFFF
"""``first_signaled`` of a wait for all, when none was signalled at its begin."""

WAIT_ALL = uapi_drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_ALL
FOR_SUBMIT = uapi_drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_FOR_SUBMIT
AVAILABLE = uapi_drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_AVAILABLE
DEADLINE = uapi_drm.DRM_SYNCOBJ_WAIT_FLAGS_WAIT_DEADLINE
SYNC_FILE = uapi_drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE
TIMELINE = uapi_drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE


class DrmSyncobj(Refcounted):
    """One object (kernel: ``struct drm_syncobj``).

    ``watchers`` are called at every change of the fence, under the object's lock, until they
    return True.
    """

    __slots__ = ("_collect_in", "_lock", "_watchers", "fence")

    def __init__(self, fence: DmaFence | None = None) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._watchers: dict[_Watcher, None] = {}
        self._collect_in = 1
        self.fence = fence

    def search(self, point: int) -> DmaFence | None:
        """The fence to wait for so that ``point`` (0: whatever is there) is done; a signalled
        one if it was long ago, None if it is not there yet."""
        fence = self.fence
        if fence is None:
            return None
        try:
            return dma_fence_chain_find_seqno(fence, point) or signalled_fence()
        except LookupError:
            return None

    def replace_fence(self, fence: DmaFence | None) -> None:
        """Let go of all that was, for ``fence`` (kernel: ``drm_syncobj_replace_fence``)."""
        with self._lock:
            changed = self.fence is not fence
            self.fence = fence
            if changed:
                self._tell_watchers()

    def add_point(self, fence: DmaFence, point: int) -> None:
        """Put a point on top of the chain (kernel: ``drm_syncobj_add_point``)."""
        with self._lock:
            chain = self.fence = DmaFenceChain(self.fence, fence, point)
            self._tell_watchers()
            self._collect_in -= 1
            is_due = self._collect_in <= 0
        if is_due:
            # The kernel walks at each point.  As often as the chain is long is enough, and does
            # not make a long one slower and slower.
            self._collect_in = dma_fence_chain_collect(chain)

    def watch(self, watcher: _Watcher) -> None:
        """Call ``watcher`` now and at every change, until it is content."""
        with self._lock:
            if not watcher.look(self):
                self._watchers[watcher] = None

    def unwatch(self, watcher: _Watcher) -> None:
        """It need not look any more."""
        with self._lock:
            self._watchers.pop(watcher, None)

    def _tell_watchers(self) -> None:
        for watcher in list(self._watchers):
            if watcher.look(self):
                del self._watchers[watcher]

    def free(self) -> None:
        """The last reference went: who still waits for a point waits in vain."""
        with self._lock:
            watchers, self._watchers = self._watchers, {}
        for watcher in watchers:
            watcher.drop()


class _Watcher:
    """Waits for a point to appear."""

    __slots__ = ("fence", "point")

    def __init__(self, point: int) -> None:
        self.point = point
        self.fence: DmaFence | None = None
        """Latched when it is found; later changes of the object do not matter."""

    def look(self, syncobj: DrmSyncobj) -> bool:
        """Whether the point is there now; under the object's lock."""
        self.fence = syncobj.search(self.point)
        if self.fence is not None:
            self.found(self.fence)
        return self.fence is not None

    def found(self, fence: DmaFence) -> None:
        """The point is there."""

    def drop(self) -> None:
        """It will never be."""


# ---- handles ----


def drm_syncobj_find(file: DrmFile, handle: int) -> DrmSyncobj | None:
    """The object of a handle with one more reference, None for no such handle."""
    syncobj = file.syncobj_idr.find(handle)
    if syncobj is None or not syncobj.get_unless_zero():
        return None
    return syncobj


def drm_syncobj_find_fence(file: DrmFile, handle: int, point: int) -> DmaFence:
    """The fence of a point that is there: ``ENOENT`` no such handle, ``EINVAL`` no fence yet."""
    with _found(file, handle, errno.ENOENT) as syncobj:
        fence = syncobj.search(point)
    if fence is None:
        raise KernelError(errno.EINVAL, f"syncobj {handle} has no fence for point {point}")
    return fence


def drm_syncobj_release(file: DrmFile) -> None:
    """Close every handle of a file that ends, in ascending order."""
    for handle, syncobj in file.syncobj_idr.ascending():
        file.syncobj_idr.remove(handle)
        syncobj.put()


@contextmanager
def _found(file: DrmFile, handle: int, error: int) -> Iterator[DrmSyncobj]:
    syncobj = drm_syncobj_find(file, handle)
    if syncobj is None:
        raise KernelError(error, f"no syncobj {handle}")
    try:
        yield syncobj
    finally:
        syncobj.put()


def _install(file: DrmFile, syncobj: DrmSyncobj) -> int:
    """Give an object a handle; takes over the caller's reference."""
    with file.syncobj_lock:
        return file.syncobj_idr.alloc(syncobj)


def _check(holds: bool, reason: str) -> None:
    if not holds:
        raise KernelError(errno.EINVAL, reason)


def drm_syncobj_create_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_create, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_CREATE``: an empty object, or a signalled one; ``EINVAL`` flags."""
    signalled = uapi_drm.DRM_SYNCOBJ_CREATE_SIGNALED
    _check(not args.flags & ~signalled, f"unknown flags {args.flags:#x}")
    args.handle = _install(file, DrmSyncobj(signalled_fence() if args.flags else None))


def drm_syncobj_destroy_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_destroy, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_DESTROY``: ``EINVAL`` pad or unknown handle."""
    _check(not args.pad, "pad must be zero")
    with file.syncobj_lock:
        syncobj = file.syncobj_idr.remove(args.handle)
    if syncobj is None:
        raise KernelError(errno.EINVAL, f"no syncobj {args.handle}")
    syncobj.put()


# ---- descriptors ----


class SyncobjFile(File):
    """One descriptor of an object (kernel: ``drm_syncobj_file_fops``); owns a reference."""

    def __init__(self, syncobj: DrmSyncobj) -> None:
        self.syncobj = syncobj

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        """There are none: ``ENOTTY``."""
        caller.reason = "the descriptor of a syncobj has no ioctls"
        return -errno.ENOTTY

    def poll(self, waiter: Callable[[], None] | None) -> int:
        """Always ready, as what has no poll is."""
        return POLLIN | POLLOUT

    def release(self) -> None:
        """The descriptor was closed."""
        self.syncobj.put()


def drm_syncobj_handle_to_fd_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_handle, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_HANDLE_TO_FD``: a token for a descriptor of the object, or of its fence now.

    ``EINVAL`` malformed, no fence, or (object) unknown handle; ``ENOENT`` (fence) unknown handle.
    """
    _check(not args.pad, "pad must be zero")
    _check(not args.flags & ~(SYNC_FILE | TIMELINE), f"unknown flags {args.flags:#x}")
    made: File
    if args.flags & SYNC_FILE:
        point = args.point if args.flags & TIMELINE else 0
        made = SyncFile(drm_syncobj_find_fence(file, args.handle, point), device.tokens)
    else:
        _check(not args.point, "a point belongs to a sync_file")
        syncobj = drm_syncobj_find(file, args.handle)
        if syncobj is None:
            raise KernelError(errno.EINVAL, f"no syncobj {args.handle}")
        made = SyncobjFile(syncobj)
    args.fd = device.tokens.install(made, file, caller.tgid)


def drm_syncobj_fd_to_handle_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_handle, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_FD_TO_HANDLE``: a new handle of a descriptor's object, or a sync_file's fence
    into the object of a handle.

    ``EINVAL`` malformed or not such a descriptor, ``ENOENT`` unknown handle.
    """
    _check(not args.pad, "pad must be zero")
    _check(not args.flags & ~(SYNC_FILE | TIMELINE), f"unknown flags {args.flags:#x}")
    if args.flags & SYNC_FILE:
        _import_sync_file(args, file, caller)
        return
    _check(not args.point, "a point belongs to a sync_file")
    found = _fget(args.fd, caller)
    if not isinstance(found, SyncobjFile) or not found.syncobj.get_unless_zero():
        raise KernelError(errno.EINVAL, f"descriptor {args.fd} is no syncobj")
    args.handle = _install(file, found.syncobj)


def _import_sync_file(args: uapi_drm.drm_syncobj_handle, file: DrmFile, caller: Caller) -> None:
    found = _fget(args.fd, caller)
    if not isinstance(found, SyncFile):
        raise KernelError(errno.EINVAL, f"descriptor {args.fd} is no sync_file")
    with _found(file, args.handle, errno.ENOENT) as syncobj:
        if args.flags & TIMELINE and args.point:
            syncobj.add_point(found.fence, args.point)
        else:
            syncobj.replace_fence(found.fence)


def _fget(fd: int, caller: Caller) -> File | None:
    try:
        return caller.fget(fd)
    except KernelError:
        return None


# ---- arrays ----


@contextmanager
def _array(file: DrmFile, caller: Caller, address: int, count: int) -> Iterator[list[DrmSyncobj]]:
    """The objects of ``count`` handles at a user address.

    ``ENOMEM`` too many, ``EFAULT``, ``ENOENT`` any of them unknown (kernel:
    ``drm_syncobj_array_find``).
    """
    _check_array(count, 4)
    handles = struct.unpack(f"<{count}I", caller.memory.read(address, 4 * count))
    _check_array(count, 8)
    found: list[DrmSyncobj] = []
    try:
        for handle in handles:
            syncobj = drm_syncobj_find(file, handle)
            if syncobj is None:
                raise KernelError(errno.ENOENT, f"no syncobj {handle}")
            found.append(syncobj)
        yield found
    finally:
        _put_all(found)


def _check_array(count: int, size: int) -> None:
    """``ENOMEM`` for more than the kernel allocates."""
    if count * size > ARRAY_MAX_BYTES:
        raise KernelError(errno.ENOMEM, f"an array of {count} objects is too long")


def _put_all(syncobjs: Iterable[DrmSyncobj]) -> None:
    for syncobj in syncobjs:
        syncobj.put()


def _points(caller: Caller, address: int, count: int) -> tuple[int, ...]:
    """``count`` points at a user address; all 0 without one.  ``EFAULT``."""
    if not address:
        return (0,) * count
    return struct.unpack(f"<{count}Q", caller.memory.read(address, 8 * count))


def drm_syncobj_reset_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_array, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_RESET``: objects without a fence, all or none.  ``EINVAL``, ``ENOENT``,
    ``EFAULT``, ``ENOMEM``."""
    _check(not args.pad, "pad must be zero")
    _check(bool(args.count_handles), "an array of no handles")
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        for syncobj in syncobjs:
            syncobj.replace_fence(None)


def drm_syncobj_signal_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_array, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_SIGNAL``: objects with a signalled fence; as `drm_syncobj_reset_ioctl`."""
    _check(not args.pad, "pad must be zero")
    _check(bool(args.count_handles), "an array of no handles")
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        for syncobj in syncobjs:
            syncobj.replace_fence(signalled_fence())


def drm_syncobj_timeline_signal_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_timeline_array, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_TIMELINE_SIGNAL``: a signalled point on top of each; as the binary one."""
    _check(not args.flags, "flags must be zero")
    _check(bool(args.count_handles), "an array of no handles")
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        points = _points(caller, args.points, args.count_handles)
        for syncobj, point in zip(syncobjs, points, strict=True):
            syncobj.add_point(signalled_fence(), point)


def drm_syncobj_query_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_timeline_array, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_QUERY``: how far each timeline is, or what was submitted last.

    ``EINVAL``, ``ENOENT``, ``EFAULT`` (after earlier values were written), ``ENOMEM``.
    """
    last = uapi_drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED
    _check(not args.flags & ~last, f"unknown flags {args.flags:#x}")
    _check(bool(args.count_handles), "an array of no handles")
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        values = [_query(syncobj.fence, bool(args.flags & last)) for syncobj in syncobjs]
        caller.memory.write(args.points, struct.pack(f"<{len(values)}Q", *values))


def _query(fence: DmaFence | None, last_submitted: bool) -> int:
    if not isinstance(fence, DmaFenceChain):
        return 0
    return fence.seqno if last_submitted else dma_fence_chain_value(fence)


# ---- waiting ----


class _Entry(_Watcher):
    """One object of a wait."""

    __slots__ = ("_is_called", "wake")

    def __init__(self, point: int, wake: Callable[[], None]) -> None:
        super().__init__(point)
        self.wake = wake
        self._is_called = False

    def watch_fence(self) -> None:
        """Be woken by the fence that is there."""
        if self.fence is not None:
            self._is_called = self.fence.add_callback(self.wake)

    def found(self, fence: DmaFence) -> None:
        """The waiting thread has to look at the new fence."""
        self.watch_fence()
        self.wake()

    def end(self) -> None:
        """The fence need not tell any more."""
        if self.fence is not None and self._is_called:
            self.fence.remove_callback(self.wake)


class _Wait:
    """A wait for some or all of several points (kernel: ``drm_syncobj_array_wait_timeout``).

    `is_over` runs under the lock of the queue, and who changes a fence takes that lock to wake us;
    so it only looks, and callbacks are added elsewhere.
    """

    def __init__(self, syncobjs: list[DrmSyncobj], points: tuple[int, ...], flags: int) -> None:
        self.queue = WaitQueue()
        self.first = NOBODY
        self._syncobjs = syncobjs
        self._flags = flags
        self._entries = [_Entry(point, self.queue.wake_up) for point in points]

    def begin(self) -> bool:
        """Whether the wait is over before it began; ``EINVAL`` for a point that is not there
        when nobody wants to wait for it."""
        for entry, syncobj in zip(self._entries, self._syncobjs, strict=True):
            entry.fence = syncobj.search(entry.point)
            if entry.fence is None and not self._flags & (FOR_SUBMIT | AVAILABLE):
                raise KernelError(errno.EINVAL, f"point {entry.point} has no fence")
        satisfied = [index for index, entry in enumerate(self._entries) if self._is_done(entry)]
        self.first = satisfied[0] if satisfied else NOBODY
        if len(satisfied) == len(self._entries):
            return True
        return bool(satisfied) and not self._flags & WAIT_ALL

    def watch(self) -> None:
        """Be woken by what is missing: points that appear, fences that are signalled."""
        for entry, syncobj in zip(self._entries, self._syncobjs, strict=True):
            if entry.fence is None:
                syncobj.watch(entry)
            elif not self._flags & AVAILABLE:
                entry.watch_fence()

    def is_over(self) -> bool:
        """Look at all of them again."""
        if self._flags & WAIT_ALL:
            return all(map(self._is_done, self._entries))
        first = next((i for i, entry in enumerate(self._entries) if self._is_done(entry)), None)
        if first is None:
            return False
        self.first = first
        return True

    def _is_done(self, entry: _Entry) -> bool:
        fence = entry.fence
        return fence is not None and (bool(self._flags & AVAILABLE) or fence.is_signaled())

    def fence(self, index: int) -> DmaFence | None:
        """What was found for a point."""
        return self._entries[index].fence

    def end(self) -> None:
        """Nobody waits any more."""
        for entry, syncobj in zip(self._entries, self._syncobjs, strict=True):
            syncobj.unwatch(entry)
            entry.end()
        _put_all(self._syncobjs)


def _seconds_until(deadline_ns: int) -> float:
    """Time left until a moment of CLOCK_MONOTONIC; none for 0, the past, and negative ones."""
    left = deadline_ns - time.monotonic_ns()
    if deadline_ns <= 0 or left <= 0:
        return 0.0
    return min(left / NS_PER_S, threading.TIMEOUT_MAX)


def _wait(
    args: uapi_drm.drm_syncobj_wait | uapi_drm.drm_syncobj_timeline_wait,
    syncobjs: list[DrmSyncobj],
    points: tuple[int, ...],
) -> int | Deferred[int]:
    """Answer now or later: 0 and ``first_signaled``, ``EINVAL`` no fence, ``ENOMEM``, ``ETIME``."""
    _check_array(len(syncobjs), WAIT_ENTRY_BYTES)
    for syncobj in syncobjs:
        syncobj.get()
    wait = _Wait(syncobjs, points, args.flags)

    def finish() -> int:
        over = wait.is_over()
        wait.end()
        if not over:
            raise KernelError(errno.ETIME, "the time is up")
        args.first_signaled = wait.first
        return 0

    try:
        if wait.begin():
            args.first_signaled = wait.first
            wait.end()
            return 0
        wait.watch()
        left = _seconds_until(args.timeout_nsec)
    except BaseException:
        wait.end()
        raise
    if not left:
        return finish()
    return Deferred(wait.queue, wait.is_over, finish, left, wait.end)


def drm_syncobj_wait_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_wait, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``SYNCOBJ_WAIT``: 0 at once or later.

    ``EINVAL`` flags or no fence, ``ENOENT``, ``EFAULT``, ``ENOMEM``, ``ETIME``, ``EINTR``.
    """
    _check(not args.flags & ~(WAIT_ALL | FOR_SUBMIT | DEADLINE), f"flags {args.flags:#x}")
    if not args.count_handles:
        return 0
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        return _wait(args, list(syncobjs), (0,) * args.count_handles)


def drm_syncobj_timeline_wait_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_timeline_wait, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``SYNCOBJ_TIMELINE_WAIT``: as the binary one, each object with its point."""
    known = WAIT_ALL | FOR_SUBMIT | AVAILABLE | DEADLINE
    _check(not args.flags & ~known, f"flags {args.flags:#x}")
    if not args.count_handles:
        return 0
    with _array(file, caller, args.handles, args.count_handles) as syncobjs:
        points = _points(caller, args.points, args.count_handles)
        return _wait(args, list(syncobjs), points)


# ---- from one to another ----


def drm_syncobj_transfer_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_transfer, file: DrmFile, caller: Caller
) -> int | Deferred[int]:
    """``SYNCOBJ_TRANSFER``: the fence of one point becomes that of another.

    ``EINVAL`` malformed or no fence, ``ENOENT`` unknown handle, ``ETIME`` (``FOR_SUBMIT``) none
    for five seconds, ``EINTR``.
    """
    _check(not args.pad, "pad must be zero")
    with (
        _found(file, args.dst_handle, errno.ENOENT) as dst,
        _found(file, args.src_handle, errno.ENOENT) as src,
    ):
        _check(not args.flags & ~FOR_SUBMIT, f"unknown flags {args.flags:#x}")
        fence = src.search(args.src_point)
        if fence is not None:
            _transfer(dst, fence, args.dst_point)
            return 0
        if not args.flags & FOR_SUBMIT:
            raise KernelError(errno.EINVAL, f"point {args.src_point} has no fence")
        return _transfer_later(src, dst, args)


def _transfer(dst: DrmSyncobj, fence: DmaFence, point: int) -> None:
    if point:
        dst.add_point(dma_fence_unwrap_merge(fence), point)
    else:
        dst.replace_fence(fence)


def _transfer_later(
    src: DrmSyncobj, dst: DrmSyncobj, args: uapi_drm.drm_syncobj_transfer
) -> Deferred[int]:
    wait = _Wait([src], (args.src_point,), FOR_SUBMIT | AVAILABLE)
    point = args.dst_point
    src.get()
    dst.get()
    wait.begin()
    wait.watch()

    def finish() -> int:
        fence = wait.fence(0)
        try:
            if fence is None:
                raise KernelError(errno.ETIME, "nothing was submitted in time")
            _transfer(dst, fence, point)
        finally:
            abandon()
        return 0

    def abandon() -> None:
        wait.end()
        dst.put()

    return Deferred(wait.queue, wait.is_over, finish, TRANSFER_TIMEOUT, abandon)


# ---- eventfds ----


class _EventFdEntry(_Watcher):
    """An eventfd that counts up once (kernel: ``struct syncobj_eventfd_entry``)."""

    __slots__ = ("eventfd", "flags")

    def __init__(self, eventfd: EventFd, point: int, flags: int) -> None:
        super().__init__(point)
        self.eventfd = eventfd
        self.flags = flags

    def found(self, fence: DmaFence) -> None:
        """The point is there: count now, or when it is signalled."""
        signal = self.eventfd.signal_and_close
        if self.flags & AVAILABLE or not fence.add_callback(signal):
            signal()

    def drop(self) -> None:
        """The object is gone."""
        self.eventfd.close()


def drm_syncobj_eventfd_ioctl(
    device: DrmDevice, args: uapi_drm.drm_syncobj_eventfd, file: DrmFile, caller: Caller
) -> None:
    """``SYNCOBJ_EVENTFD``: ``EINVAL`` malformed or not an eventfd, ``ENOENT`` unknown handle,
    ``EBADF`` not open."""
    _check(not args.flags & ~AVAILABLE, f"unknown flags {args.flags:#x}")
    _check(not args.pad, "pad must be zero")
    with _found(file, args.handle, errno.ENOENT) as syncobj:
        eventfd = EventFd(caller.dup_fd(args.fd))
        syncobj.watch(_EventFdEntry(eventfd, args.point, args.flags))


_Handler = Callable[..., int | Deferred[int] | None]

SYNCOBJ_IOCTLS: dict[str, _Handler] = {
    "DRM_IOCTL_SYNCOBJ_CREATE": drm_syncobj_create_ioctl,
    "DRM_IOCTL_SYNCOBJ_DESTROY": drm_syncobj_destroy_ioctl,
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": drm_syncobj_handle_to_fd_ioctl,
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": drm_syncobj_fd_to_handle_ioctl,
    "DRM_IOCTL_SYNCOBJ_WAIT": drm_syncobj_wait_ioctl,
    "DRM_IOCTL_SYNCOBJ_RESET": drm_syncobj_reset_ioctl,
    "DRM_IOCTL_SYNCOBJ_SIGNAL": drm_syncobj_signal_ioctl,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": drm_syncobj_timeline_wait_ioctl,
    "DRM_IOCTL_SYNCOBJ_QUERY": drm_syncobj_query_ioctl,
    "DRM_IOCTL_SYNCOBJ_TRANSFER": drm_syncobj_transfer_ioctl,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": drm_syncobj_timeline_signal_ioctl,
    "DRM_IOCTL_SYNCOBJ_EVENTFD": drm_syncobj_eventfd_ioctl,
}
"""Name -> handler; all of them are DRM_RENDER_ALLOW."""
