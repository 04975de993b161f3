"""User memory that VMs have bound, and its end (kernel: drivers/gpu/drm/xe/xe_userptr.c).

A process that unmaps memory, or maps other memory in its place, waits in the kernel until no job
uses it: an MMU notifier tells the driver.  The mock hears of that from the preload library, before
the change and after it.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakSet

from xedev.kernel.deferred import Deferred
from xedev.kernel.dma_fence import DmaFence, DmaFenceArray
from xedev.kernel.user_memory import UserMemory
from xedev.kernel.wait import WaitQueue

if TYPE_CHECKING:
    from xedev.kernel.caller import Caller
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm

__all__ = ("XeUserptr", "XeUserptrNotifier")

CHANGE_TIME = 1.0
"""Seconds that a process may take for the change itself.  One that dies in it tells of no end."""


class XeUserptr:
    """What one VM knows of the user memory in it (kernel: ``vm->userptr``)."""

    __slots__ = ("_changes", "_lock", "_settled", "mms")

    def __init__(self) -> None:
        self.mms: WeakSet[UserMemory] = WeakSet()
        """Whose memory was ever bound."""
        self._lock = threading.Lock()
        self._changes: dict[int, float | None] = {}
        """Cookies of the changes that go on, and until when they are believed in; None while a
        notifier waits for jobs."""
        self._settled = WaitQueue()

    def begin(self, cookie: int) -> None:
        """Memory is about to change: no job begins from now on."""
        with self._lock:
            self._changes[cookie] = None

    def is_changing(self) -> bool:
        """Whether jobs have to wait (kernel: ``xe_vm_userptr_check_repin``)."""
        if not self._changes:
            return False
        now = time.monotonic()
        with self._lock:
            over = [key for key, end in self._changes.items() if end is not None and end < now]
            for key in over:
                del self._changes[key]
            return bool(self._changes)

    def knows(self, cookie: int) -> bool:
        """Whether this change still goes on."""
        return self.is_changing() and cookie in self._changes

    def expect_end(self, cookie: int) -> None:
        """All jobs are done, so the change is made now."""
        with self._lock:
            if cookie in self._changes:
                self._changes[cookie] = time.monotonic() + CHANGE_TIME

    def end(self, cookie: int) -> None:
        """The change is over, or will not be made."""
        with self._lock:
            self._changes.pop(cookie, None)
        self._settled.wake_up()

    def wait_settled(self, caller: Caller) -> None:
        """Sleep until nothing changes (kernel: ``mmu_interval_read_begin``); ``EINTR``."""
        while self.is_changing():
            self._settled.wait_event(lambda: not self.is_changing(), caller, CHANGE_TIME)


class XeUserptrNotifier:
    """Hears of changes of processes' memory (kernel: ``struct mmu_interval_notifier_ops``)."""

    def __init__(self, xe: XeDevice) -> None:
        self._xe = xe
        self._cookies = itertools.count(1)
        self._changing: dict[int, tuple[UserMemory, list[XeVm]]] = {}

    def invalidate(self, mm: UserMemory, start: int, end: int) -> tuple[int, int | Deferred[int]]:
        """``[start, end)`` of a process is about to change: wait for the work of VMs that have
        bound some of it, but for long-running ones, which find what is there.

        A cookie for `end`, 0 where nobody cares, and the answer.
        Kernel: ``xe_vma_userptr_invalidate_start``, ``_finish``.
        """
        cookie = next(self._cookies)
        vms = [vm for vm in self._vms_of(mm) if _begin(vm, mm, start, end, cookie)]
        if not vms:
            return 0, 0
        self._forget_abandoned()
        self._changing[cookie] = mm, vms
        return cookie, self._wait(cookie, vms)

    def end(self, mm: UserMemory, cookie: int) -> None:
        """The change that `invalidate` gave this cookie for was made."""
        found = self._changing.get(cookie)
        if found is not None and found[0] is mm:
            self._end(cookie)

    def _vms_of(self, mm: UserMemory) -> list[XeVm]:
        with self._xe.vms_lock:
            vms = list(self._xe.vms.values())
        return [vm for vm in vms if not vm.is_lr and mm in vm.userptr.mms]

    def _wait(self, cookie: int, vms: list[XeVm]) -> int | Deferred[int]:
        def finish() -> int:
            work.remove_callback(done.wake_up)
            for vm in vms:
                vm.userptr.expect_end(cookie)
            return 0

        def abandon() -> None:
            work.remove_callback(done.wake_up)
            self._end(cookie)

        done = WaitQueue()
        work = DmaFenceArray(_pending(vms))
        if not work.add_callback(done.wake_up):
            return finish()
        return Deferred(done, work.is_signaled, finish, None, abandon)

    def _forget_abandoned(self) -> None:
        for cookie, (_, vms) in list(self._changing.items()):
            if not any(vm.userptr.knows(cookie) for vm in vms):
                self._changing.pop(cookie, None)

    def _end(self, cookie: int) -> None:
        _, vms = self._changing.pop(cookie, (None, ()))
        for vm in vms:
            vm.userptr.end(cookie)


def _begin(vm: XeVm, mm: UserMemory, start: int, end: int, cookie: int) -> bool:
    """Whether the VM has bound some of the range; then no job begins from now on."""
    vm.lock.down_read()
    try:
        found = any(
            vma.mm is mm and vma.offset < end and start < vma.offset + vma.end - vma.start
            for vma in vm.gpuvm
        )
        if found:
            # Under the lock: an EXEC comes before it, and is waited for, or sees it.
            vm.userptr.begin(cookie)
        return found
    finally:
        vm.lock.up_read()


def _pending(vms: Iterable[XeVm]) -> list[DmaFence]:
    return [fence for vm in vms for usage in vm.bookkeep_fences() for fence in usage.pending()]
