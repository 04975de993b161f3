"""Subtests of IGT's xe_exec_basic: some execs on some queues of some VMs, with each kind of bind.

A subtest's name says how many, and what is special: ``many-execqueues-rebind`` submits many execs
to several queues, and binds the memory somewhere else between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Flag, auto

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    Engine,
    Slots,
    anonymous,
    renew,
    slots_size,
    visible_bo,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import Device, Mapping, sync_signal, sync_wait
from xedev.client.memory import op_map_null
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bind_exec_queue_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_vm_bind_array,
    xe_vm_bind_async,
    xe_vm_bind_userptr_async,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_unbind_async,
)
from xedev.client.xe_query import xe_for_each_engine

pytestmark = pytest.mark.fuse

DEFER_BACKING = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
BASE_ADDR = 0x1A0000
SPARSE_ADDR = 0x301A0000


class How(Flag):
    """What is special about a subtest."""

    BASIC = 0
    USERPTR = auto()  # memory of this process in place of a BO
    REBIND = auto()  # the memory moves to another address after each exec
    INVALIDATE = auto()  # and the process gets new pages at its own address
    BIND_EXEC_QUEUE = auto()  # binds have a queue of their own
    DEFER_ALLOC = auto()  # pages are made at the bind
    DEFER_BIND = auto()  # the bind comes after the BO's mapping was used
    SPARSE = auto()  # stores go where reads give zeros


SECTIONS = {
    "basic": How.BASIC,
    "basic-defer-mmap": How.DEFER_ALLOC,
    "basic-defer-bind": How.DEFER_ALLOC | How.DEFER_BIND,
    "userptr": How.USERPTR,
    "rebind": How.REBIND,
    "null": How.SPARSE,
    "null-rebind": How.SPARSE | How.REBIND,
    "userptr-rebind": How.USERPTR | How.REBIND,
    "userptr-invalidate": How.USERPTR | How.INVALIDATE,
    "bindexecqueue": How.BIND_EXEC_QUEUE,
    "bindexecqueue-userptr": How.BIND_EXEC_QUEUE | How.USERPTR,
    "bindexecqueue-rebind": How.BIND_EXEC_QUEUE | How.REBIND,
}


@dataclass(frozen=True)
class Count:
    queues: int
    execs: int
    vms: int


COUNTS = {
    "once": Count(1, 1, 1),
    "many-execqueues": Count(4, 16, 1),
    "many-execqueues-many-vm": Count(4, 16, 2),
    "no-exec": Count(1, 0, 1),
}


@dataclass
class Run:
    """The VMs of a subtest, which all map the same memory at the same address."""

    fd: Device
    eci: Engine
    how: How
    count: Count
    bo: int = 0
    size: int = 0
    data: Slots = field(init=False)

    def __post_init__(self) -> None:
        fd, count = self.fd, self.count
        self.size = slots_size(fd, max(1, count.execs))
        self.vms = [xe_vm_create(fd) for _ in range(count.vms)]
        self.data = Slots(self.memory(), BASE_ADDR)
        queue_vms = [self.vms[index % count.vms] for index in range(count.queues)]
        self.exec_queues = [xe_exec_queue_create(fd, vm, self.eci) for vm in queue_vms]
        self.bind_queues = [0] * count.vms
        if How.BIND_EXEC_QUEUE in self.how:
            self.bind_queues = [xe_bind_exec_queue_create(fd, vm) for vm in self.vms]
        self.bound = [fd.syncobj_create() for _ in self.vms]
        self.done = [fd.syncobj_create() for _ in self.exec_queues]
        self.used: set[int] = set()

    def memory(self) -> Mapping:
        if How.USERPTR in self.how:
            return anonymous(self.size)
        # Only a BO of no VM can be bound in several.
        vm = self.vms[0] if self.count.vms == 1 else 0
        flags = DEFER_BACKING if How.DEFER_ALLOC in self.how else 0
        self.bo = visible_bo(self.fd, vm, self.size, flags)
        return xe_bo_map(self.fd, self.bo, self.size)

    # --- binds ---

    def bind(self) -> None:
        for vm, queue, bound in zip(self.vms, self.bind_queues, self.bound, strict=True):
            syncs = [sync_signal(bound)]
            if self.bo:
                xe_vm_bind_async(self.fd, vm, queue, self.bo, 0, self.data.addr, self.size, syncs)
            else:
                address = self.data.memory.address
                xe_vm_bind_userptr_async(
                    self.fd, vm, queue, address, self.data.addr, self.size, syncs
                )
            if How.SPARSE in self.how:
                null = op_map_null(SPARSE_ADDR, self.size)
                xe_vm_bind_array(self.fd, vm, queue, [null], [sync_wait(bound), *syncs])

    def unbind(self) -> None:
        """Once all queues have done what they were given."""
        waits = [sync_wait(self.done[queue]) for queue in self.used]
        for vm, queue, bound in zip(self.vms, self.bind_queues, self.bound, strict=True):
            syncs = [*waits, sync_signal(bound)]
            xe_vm_unbind_async(self.fd, vm, queue, 0, self.data.addr, self.size, syncs)

    def rebind(self) -> None:
        self.unbind()
        self.data.addr += self.size
        self.bind()

    # --- execs ---

    def exec(self, index: int) -> None:
        queue = index % self.count.queues
        self.data.write_store(index, base=SPARSE_ADDR if How.SPARSE in self.how else None)
        syncs = [sync_wait(self.bound[queue % self.count.vms]), sync_signal(self.done[queue])]
        address = self.data.batch_addr(index)
        xe_exec_sync(self.fd, self.exec_queues[queue], address, syncs)
        self.used.add(queue)

    def invalidate(self, index: int) -> None:
        """Other memory at the same place of this process: the next exec finds it."""
        wait_syncobjs(self.fd, self.done[index % self.count.queues])
        assert self.data.data(index) == DATA_MAGIC
        renew(self.data.memory)

    def finish(self) -> None:
        wait_syncobjs(self.fd, *(self.done[queue] for queue in self.used), *self.bound)
        self.unbind()
        wait_syncobjs(self.fd, *self.bound)

    def close(self) -> None:
        for exec_queue in [*self.exec_queues, *filter(None, self.bind_queues)]:
            xe_exec_queue_destroy(self.fd, exec_queue)
        self.data.memory.close()
        if self.bo:
            gem_close(self.fd, self.bo)
        for vm in self.vms:
            xe_vm_destroy(self.fd, vm)


def run_execs(fd: Device, eci: Engine, count: Count, how: How) -> None:
    run = Run(fd, eci, how, count)
    if How.DEFER_BIND in how:
        run.data.set_data(0, 0)
    run.bind()
    for index in range(count.execs):
        run.exec(index)
        if index + 1 == count.execs:
            break
        if How.REBIND in how:
            run.rebind()
        if How.INVALIDATE in how:
            run.invalidate(index)
    run.finish()
    first = max(0, count.execs - 1) if How.INVALIDATE in how else 0
    expected = 0 if How.SPARSE in how else DATA_MAGIC
    assert all(run.data.data(index) == expected for index in range(first, count.execs))
    run.close()


@pytest.mark.parametrize("count", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("how", SECTIONS.values(), ids=SECTIONS.keys())
def test_exec(fd: Device, count: Count, how: How) -> None:
    for eci in xe_for_each_engine(fd):
        run_execs(fd, eci, count, how)
