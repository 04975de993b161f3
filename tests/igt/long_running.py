"""Execs in VMs for long-running work, which tell their end by user fences alone.

IGT's xe_exec_compute_mode and xe_exec_fault_mode do the same in VMs of different kinds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto

from tests.igt.exec_data import (
    DATA_MAGIC,
    ONE_SEC,
    TIMEOUT,
    VISIBLE_VRAM,
    Engine,
    Slots,
    anonymous,
    renew,
    slots_size,
)
from uapi import xe_drm
from xedev.client import Device, Mapping, UserFence
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bind_exec_queue_create,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_vm_bind_async_flags,
    xe_vm_bind_userptr_async_flags,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_prefetch_async,
    xe_vm_unbind_async,
)
from xedev.client.xe_query import all_memory_regions, vram_if_possible

__all__ = ("COUNTS", "Count", "How", "LongRunning", "run_long_running")

BASE_ADDR = 0x1A0000
SYSTEM_REGION = 0


class How(Flag):
    """What is special about a subtest."""

    BASIC = 0
    USERPTR = auto()
    REBIND = auto()
    INVALIDATE = auto()
    BIND_EXEC_QUEUE = auto()
    PREFETCH = auto()  # bring the memory in before the engine asks
    IMMEDIATE = auto()  # page tables are filled at the bind, not at a fault
    EARLY = auto()  # queues are there before the first bind


@dataclass(frozen=True)
class Count:
    queues: int
    execs: int


COUNTS = {
    "once": Count(1, 1),
    "many-execqueues": Count(4, 12),
}


def _vram(fd: Device) -> int:
    return vram_if_possible(fd, 0)


class LongRunning:
    """A VM of a mode, memory in it, and queues."""

    def __init__(
        self, fd: Device, eci: Engine, vm_flags: int, how: How, count: Count, bind_flags: int = 0
    ) -> None:
        self.fd = fd
        self.how = how
        immediate = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE if How.IMMEDIATE in how else 0
        self.bind_flags = bind_flags | immediate
        self.size = slots_size(fd, count.execs)
        self.vm = xe_vm_create(fd, vm_flags)
        self.bo = 0
        self.data = Slots(self._memory(), BASE_ADDR)
        self.bind_queue = (
            xe_bind_exec_queue_create(fd, self.vm) if How.BIND_EXEC_QUEUE in how else 0
        )
        self.exec_queues: list[int] = []
        if How.EARLY not in how:
            self.bind()
        self.exec_queues = [xe_exec_queue_create(fd, self.vm, eci) for _ in range(count.queues)]
        if How.EARLY in how:
            self.bind()

    def _memory(self) -> Mapping:
        if How.USERPTR in self.how:
            return anonymous(self.size)
        # What is to be moved needs somewhere to go.
        regions = all_memory_regions if How.PREFETCH in self.how else _vram
        self.bo = xe_bo_create(self.fd, self.vm, self.size, regions(self.fd), VISIBLE_VRAM)
        return xe_bo_map(self.fd, self.bo, self.size)

    # --- binds ---

    def bind(self) -> None:
        fence = UserFence()
        place = (self.data.addr, self.size, [fence], self.bind_flags)
        if self.bo:
            xe_vm_bind_async_flags(self.fd, self.vm, self.bind_queue, self.bo, 0, *place)
        else:
            address = self.data.memory.address
            xe_vm_bind_userptr_async_flags(self.fd, self.vm, self.bind_queue, address, *place)
        fence.wait(TIMEOUT / ONE_SEC, self.fd)
        if How.PREFETCH in self.how:
            self.prefetch()

    def prefetch(self) -> None:
        fence = UserFence()
        args = (0, self.data.addr, self.size, [fence], SYSTEM_REGION)
        xe_vm_prefetch_async(self.fd, self.vm, self.bind_queue, *args)
        fence.wait(TIMEOUT / ONE_SEC, self.fd)

    def unbind(self) -> None:
        fence = UserFence()
        args = (0, self.data.addr, self.size, [fence])
        xe_vm_unbind_async(self.fd, self.vm, self.bind_queue, *args)
        fence.wait(TIMEOUT / ONE_SEC, self.fd)

    # --- execs ---

    def submit(self, index: int) -> int:
        """Returns the queue."""
        exec_queue = self.exec_queues[index % len(self.exec_queues)]
        syncs = [self.data.fence(index)]
        xe_exec_sync(self.fd, exec_queue, self.data.batch_addr(index), syncs)
        return exec_queue

    def exec(self, index: int) -> None:
        self.data.write_store(index)
        self.submit(index)

    def wait(self, index: int) -> None:
        exec_queue = self.exec_queues[index % len(self.exec_queues)]
        self.data.wait_exec(self.fd, index, exec_queue)
        assert self.data.data(index) == DATA_MAGIC

    def move(self, index: int) -> None:
        """What is special about it, between one exec and the next."""
        if How.REBIND in self.how:
            self.wait(index)
            self.unbind()
            self.data.addr += self.size
            self.bind()
        if How.INVALIDATE in self.how:
            self.wait(index)
            renew(self.data.memory)

    def close(self) -> None:
        for exec_queue in [*self.exec_queues, *filter(None, [self.bind_queue])]:
            xe_exec_queue_destroy(self.fd, exec_queue)
        self.data.memory.close()
        if self.bo:
            gem_close(self.fd, self.bo)
        xe_vm_destroy(self.fd, self.vm)


def run_long_running(fd: Device, eci: Engine, vm_flags: int, how: How, count: Count) -> None:
    run = LongRunning(fd, eci, vm_flags, how, count)
    for index in range(count.execs):
        run.exec(index)
        if index + 1 < count.execs:
            run.move(index)
    first = count.execs - 1 if How.INVALIDATE in how else 0
    for index in range(first, count.execs):
        run.wait(index)
    run.unbind()
    run.close()
