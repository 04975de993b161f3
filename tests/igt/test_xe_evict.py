"""Subtests of IGT's xe_evict: VMs that have together more BOs in VRAM than it has room for.

IGT fills what the card has. Here the card is small, and its lines are the same: each exec brings
back what its own VM needs, and puts out what the others' do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    LR_MODE,
    ONE_SEC,
    SLOT,
    TIMEOUT,
    VISIBLE_VRAM,
    Slots,
    wait_syncobjs,
)
from xedev.client import Device, UserFence, sync_signal
from xedev.client.memory import ExecSync
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bind_exec_queue_create,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_vm_bind_async,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import vram_memory, xe_engine, xe_vram_size

pytestmark = pytest.mark.fuse

VRAM = 32 << 20
BO_SIZE = 4 << 20
#: Of one VM: three quarters of VRAM.
BOS = 6
ADDR = 0x1_0000_0000
ROUNDS = 2
LAST = BO_SIZE // SLOT - 1
SYSTEM = 0  # instance of its region


@pytest.fixture
def fd(mounted_node: Callable[..., str]) -> Iterator[Device]:
    """A card with little memory."""
    directory = Path(mounted_node(profile="bmg", vram=VRAM))
    with Device.open(directory / "dev/dri/renderD128", "ioctl") as device:
        assert xe_vram_size(device, 0) == VRAM
        yield device


class WorkingSet:
    """A VM with BOs in VRAM alone, and queues that store to them."""

    def __init__(
        self,
        fd: Device,
        *,
        flags: int = 0,
        external: bool = False,
        queues: int = 1,
        beng: bool = False,
        large: bool = False,
    ) -> None:
        self.fd = fd
        self.is_lr = bool(flags & LR_MODE)
        self.vm = xe_vm_create(fd, flags)
        eci = xe_engine(fd, 0).instance
        self.exec_queues = [xe_exec_queue_create(fd, self.vm, eci) for _ in range(queues)]
        self.bind_queue = xe_bind_exec_queue_create(fd, self.vm) if beng else 0
        self.done = [fd.syncobj_create() for _ in range(queues)]
        self.bos: list[int] = []
        self.slots: list[Slots] = []
        size, count = (BO_SIZE * BOS // 2, 2) if large else (BO_SIZE, BOS)
        for index in range(count):
            self.add_bo(size, ADDR + index * size, 0 if external else self.vm)

    def add_bo(self, size: int, addr: int, vm: int) -> None:
        bo = xe_bo_create(self.fd, vm, size, vram_memory(self.fd, 0), VISIBLE_VRAM)
        fence = UserFence()
        xe_vm_bind_async(self.fd, self.vm, self.bind_queue, bo, 0, addr, size, [fence])
        fence.wait(TIMEOUT / ONE_SEC, self.fd)
        data = Slots(xe_bo_map(self.fd, bo, size), addr)
        data.set_data(LAST, addr & 0xFFFF_FFFF)
        self.bos.append(bo)
        self.slots.append(data)

    def store(self, value: int) -> None:
        """A store to each BO."""
        for index, data in enumerate(self.slots):
            queue = index % len(self.exec_queues)
            data.clear_exec_sync(0)
            data.write_store(0, value + index)
            end = data.fence(0) if self.is_lr else sync_signal(self.done[queue])
            syncs: list[ExecSync] = [end]
            xe_exec_sync(self.fd, self.exec_queues[queue], data.addr, syncs)

    def check(self, value: int) -> None:
        """Once all is done: the stores are there, and so is what was there before."""
        if self.is_lr:
            for index, data in enumerate(self.slots):
                data.wait_exec(self.fd, 0, self.exec_queues[index % len(self.exec_queues)])
        else:
            wait_syncobjs(self.fd, *self.done)
        self.look(value)

    def look(self, value: int) -> None:
        assert [data.data(0) for data in self.slots] == [
            value + index for index in range(len(self.slots))
        ]
        assert all(data.data(LAST) == data.addr & 0xFFFF_FFFF for data in self.slots)

    @property
    def evicted(self) -> int:
        """How many of the BOs are in system memory now, which only the mock tells."""
        return sum(self.fd.bo_info(bo).placement == SYSTEM for bo in self.bos)

    def close(self) -> None:
        for data in self.slots:
            data.memory.close()
        for bo in self.bos:
            gem_close(self.fd, bo)
        for exec_queue in [*self.exec_queues, *filter(None, [self.bind_queue])]:
            xe_exec_queue_destroy(self.fd, exec_queue)
        xe_vm_destroy(self.fd, self.vm)


def take_turns(first: WorkingSet, second: WorkingSet) -> None:
    for value in range(100, 100 * (ROUNDS + 1), 100):
        for one, other in ((first, second), (second, first)):
            one.store(value)
            one.check(value)
            assert other.evicted
        first.look(value)
    first.close()
    second.close()


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("external", [False, True], ids=["", "external"])
def test_evict_multi_vm(fd: Device, large: bool, external: bool) -> None:
    sets = [WorkingSet(fd, external=external, large=large) for _ in range(2)]
    take_turns(*sets)


@pytest.mark.parametrize("external", [False, True], ids=["", "external"])
def test_evict_small_multi_queue(fd: Device, external: bool) -> None:
    sets = [WorkingSet(fd, external=external, queues=3) for _ in range(2)]
    take_turns(*sets)


def test_evict_beng_small_multi_vm(fd: Device) -> None:
    take_turns(WorkingSet(fd, beng=True), WorkingSet(fd, beng=True))


def test_evict_small_external_shared(fd: Device) -> None:
    """Two VMs with the same BOs, and a third one that puts them out."""
    first, third = WorkingSet(fd, external=True), WorkingSet(fd)
    second = WorkingSet(fd, external=True)
    for value, one in ((100, second), (200, first), (300, third), (400, second), (500, first)):
        one.store(value)
        one.check(value)
    second.look(400)
    third.look(300)


def test_evict_mixed_threads_small_multi_vm(fd: Device) -> None:
    """At the same time: whose turn it is, the driver says."""

    def work(external: bool) -> None:
        one = WorkingSet(fd, external=external)
        for value in (100, 200):
            one.store(value)
            one.check(value)
        one.close()

    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(work, external) for external in (False, True)]:
            result.result()


def test_evict_small_cm(fd: Device) -> None:
    """A VM in long-running mode gets its BOs back without an exec that asks for them."""
    long_running, other = WorkingSet(fd, flags=LR_MODE), WorkingSet(fd)
    for value in (100, 200):
        other.store(value)
        other.check(value)
        long_running.store(value)
        long_running.check(value)
    other.look(200)
