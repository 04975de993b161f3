"""A selection of IGT's xe_exec_multi_queue: execs on the queues of a group, in VMs of each kind.

A subtest's name says how many, and what is special: ``many-execs-preempt-mode-priority`` submits 64
execs to 16 queues of a long-running VM, whose priorities within the group differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Flag, auto
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    FAULT_MODE,
    LR_MODE,
    Engine,
    Slots,
    anonymous,
    engines_of_class,
    slots_size,
    visible_bo,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import Device, sync_signal
from xedev.client.memory import op_map, op_map_userptr
from xedev.client.xe_ioctl import xe_bo_map

pytestmark = pytest.mark.fuse

COPY, COMPUTE = xe_drm.DRM_XE_ENGINE_CLASS_COPY, xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE
GROUP = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_GROUP
GROUP_PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_QUEUE_PRIORITY
CREATE = xe_drm.DRM_XE_MULTI_GROUP_CREATE
IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
BASE_ADDRESS = 0x1A0000


class How(Flag):
    """What is special about a subtest."""

    BASIC = 0
    USERPTR = auto()
    PRIORITY = auto()  # queues are made with different priorities
    DYN_PRIORITY = auto()  # each exec changes that of its queue
    PREEMPT_MODE = auto()  # a long-running VM
    FAULT_MODE = auto()  # which also takes page faults
    CLOSE_FD = auto()  # nothing is destroyed, the file is closed


SECTIONS = {
    "basic": How.BASIC,
    "userptr": How.USERPTR,
    "priority": How.PRIORITY,
    "dyn-priority": How.DYN_PRIORITY,
    "close-fd": How.CLOSE_FD,
    "preempt-mode-basic": How.PREEMPT_MODE,
    "preempt-mode-priority": How.PREEMPT_MODE | How.PRIORITY,
    "preempt-mode-fault-basic": How.PREEMPT_MODE | How.FAULT_MODE,
    "preempt-mode-fault-userptr": How.PREEMPT_MODE | How.FAULT_MODE | How.USERPTR,
    "preempt-mode-fault-dyn-priority": How.PREEMPT_MODE | How.FAULT_MODE | How.DYN_PRIORITY,
}
COUNTS = {"one-queue": (1, 1), "max-queues": (64, 64), "many-execs": (16, 64), "few-execs": (16, 8)}
"""Queues and execs."""


@pytest.fixture
def node(mounted_node: Callable[..., str]) -> str:
    """A render node of a mounted ``cri``."""
    return str(Path(mounted_node(profile="cri", vram="256M")) / "dev/dri/renderD128")


@pytest.fixture
def fd(node: str) -> Iterator[Device]:
    with Device.open(node, "ioctl") as device:
        yield device


class Run:
    """A group of queues, and memory bound in their VM."""

    def __init__(self, fd: Device, engines: Sequence[Engine], how: How, queues: int, execs: int):
        self.fd, self.how, self.execs = fd, how, execs
        flags = FAULT_MODE if How.FAULT_MODE in how else LR_MODE
        self.vm = fd.vm_create(flags if How.PREEMPT_MODE in how else 0)
        size = slots_size(fd, execs)
        if How.USERPTR in how:
            memory = anonymous(size)
            op = op_map_userptr(memory.address, BASE_ADDRESS, size)
        else:
            bo = visible_bo(fd, self.vm, size)
            memory = xe_bo_map(fd, bo, size)
            op = op_map(bo, 0, BASE_ADDRESS, size, flags=IMMEDIATE)
        self.data = Slots(memory, BASE_ADDRESS)
        self.queues: list[int] = []
        for index in range(queues):
            properties = [(GROUP, self.queues[0] if index else CREATE)]
            if How.PRIORITY in how:
                properties.append((GROUP_PRIORITY, 1 + index % 2))
            queue = fd.exec_queue_create(self.vm, engines, 1, len(engines), properties=properties)
            self.queues.append(queue)
        fd.vm_bind(self.vm, [op])

    def submit_all(self) -> None:
        """Each exec to the next queue, and wait for all."""
        syncobjs = []
        for index in range(self.execs):
            queue = self.queues[index % len(self.queues)]
            self.data.write_store(index)
            if How.DYN_PRIORITY in self.how:
                self.fd.exec_queue_set_property(queue, GROUP_PRIORITY, 1 + index % 2)
            if How.PREEMPT_MODE in self.how:
                self.fd.exec(queue, self.data.batch_addr(index), [self.data.fence(index)])
            else:
                syncobjs.append(self.fd.syncobj_create())
                sync = sync_signal(syncobjs[-1])
                self.fd.exec(queue, self.data.batch_addr(index), [sync])
        for index in range(self.execs if How.PREEMPT_MODE in self.how else 0):
            self.data.wait_exec(self.fd, index, self.queues[index % len(self.queues)])
        if syncobjs:
            wait_syncobjs(self.fd, *syncobjs)
        assert self.data.all_data(self.execs) == [DATA_MAGIC] * self.execs

    def end(self) -> None:
        """The primary queue goes first."""
        for queue in self.queues:
            self.fd.exec_queue_destroy(queue)
        self.fd.vm_destroy(self.vm)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("section", SECTIONS)
def test_exec(fd: Device, node: str, section: str, count: str) -> None:
    """Subtests ``%s-%s``, on an engine of each class."""
    how = SECTIONS[section]
    for engine_class in (COPY, COMPUTE):
        eci = engines_of_class(fd, engine_class)[0]
        if How.CLOSE_FD in how:
            with Device.open(node, "ioctl") as other:
                Run(other, [eci], how, *COUNTS[count]).submit_all()
            continue
        run = Run(fd, [eci], how, *COUNTS[count])
        run.submit_all()
        run.end()


@pytest.mark.parametrize("mode", [How.BASIC, How.PREEMPT_MODE], ids=["", "preempt-mode"])
def test_virtual(fd: Device, mode: How) -> None:
    """Queues that may run on any engine of their class."""
    for engine_class in (COPY, COMPUTE):
        engines = engines_of_class(fd, engine_class)
        run = Run(fd, engines, mode, len(engines), len(engines))
        run.submit_all()
        run.end()
