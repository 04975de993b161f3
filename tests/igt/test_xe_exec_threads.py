"""Subtests of IGT's xe_exec_threads: threads that submit at the same time, each with queues of its
own, in VMs of different modes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.igt import long_running
from tests.igt.exec_data import (
    DATA_MAGIC,
    FAULT_MODE,
    LR_MODE,
    Engine,
    bo_slots,
    engines_of_class,
    slots_size,
    wait_syncobjs,
)
from tests.igt.long_running import run_long_running
from uapi import xe_drm
from xedev.client import Device, sync_signal, sync_wait
from xedev.client.xe_ioctl import (
    gem_close,
    xe_exec_queue_destroy,
    xe_vm_bind_async,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_unbind_async,
)
from xedev.client.xe_query import xe_for_each_engine

pytestmark = pytest.mark.fuse

EXECS = 16
QUEUES = 4

Work = Callable[[], None]


def run_in_threads(work: list[Work]) -> None:
    """All at the same time; the first error fails the test."""
    with ThreadPoolExecutor(len(work)) as pool:
        for result in [pool.submit(one) for one in work]:
            result.result()


def legacy(
    fd: Device, instances: list[Engine], addr: int, *, width: int = 1, rebind: bool = False
) -> None:
    """Execs with syncobjs, in a VM of this thread's own."""
    vm = xe_vm_create(fd)
    legacy_in(fd, vm, instances, addr, width=width, rebind=rebind)
    xe_vm_destroy(fd, vm)


def legacy_in(
    fd: Device, vm: int, instances: list[Engine], addr: int, *, width: int = 1, rebind: bool = False
) -> None:
    size = slots_size(fd, EXECS)
    bo, data = bo_slots(fd, vm, EXECS, addr)
    bound = fd.syncobj_create()
    xe_vm_bind_async(fd, vm, 0, bo, 0, data.addr, size, [sync_signal(bound)])
    placements = len(instances) // width
    queues = [fd.exec_queue_create(vm, instances, width, placements) for _ in range(QUEUES)]
    done = [fd.syncobj_create() for _ in queues]
    for index in range(EXECS):
        queue = index % QUEUES
        data.write_store(index)
        syncs = [sync_wait(bound), sync_signal(done[queue])]
        fd.exec(queues[queue], [data.batch_addr(index)] * width, syncs)
        if rebind and index % QUEUES == QUEUES - 1:
            waits = [sync_wait(syncobj) for syncobj in done]
            unbound = [*waits, sync_signal(bound)]
            xe_vm_unbind_async(fd, vm, 0, 0, data.addr, size, unbound)
            data.addr += size
            xe_vm_bind_async(fd, vm, 0, bo, 0, data.addr, size, [sync_signal(bound)])
    wait_syncobjs(fd, *done, bound)
    assert data.all_data(EXECS) == [DATA_MAGIC] * EXECS
    for exec_queue in queues:
        xe_exec_queue_destroy(fd, exec_queue)
    data.memory.close()
    gem_close(fd, bo)


def addr_of(thread: int) -> int:
    """Threads that share a VM do not get into each other's way."""
    return (1 + thread) << 32


def legacy_work(fd: Device, rebind: bool = False) -> list[Work]:
    return [
        lambda eci=eci, index=index: legacy(fd, [eci], addr_of(index), rebind=rebind)  # type: ignore[misc]
        for index, eci in enumerate(xe_for_each_engine(fd))
    ]


def long_running_work(fd: Device, vm_flags: int) -> list[Work]:
    how, count = long_running.How.REBIND, long_running.COUNTS["many-execqueues"]
    return [
        lambda eci=eci: run_long_running(fd, eci, vm_flags, how, count)  # type: ignore[misc]
        for eci in xe_for_each_engine(fd)
    ]


def balancer_work(fd: Device) -> list[Work]:
    vcs = list(engines_of_class(fd, xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE))
    return [
        lambda: legacy(fd, vcs, addr_of(0)),
        lambda: legacy(fd, vcs, addr_of(1), width=len(vcs)),
    ]


# --- subtests ------------------------------------------------------------------------------


def test_threads_basic(fd: Device) -> None:
    run_in_threads(legacy_work(fd))


def test_threads_rebind(fd: Device) -> None:
    run_in_threads(legacy_work(fd, rebind=True))


def test_threads_shared_vm(fd: Device) -> None:
    vm = xe_vm_create(fd)
    run_in_threads(
        [
            lambda eci=eci, index=index: legacy_in(fd, vm, [eci], addr_of(index))  # type: ignore[misc]
            for index, eci in enumerate(xe_for_each_engine(fd))
        ]
    )


def test_threads_fd_each(node: str, fd: Device) -> None:
    """Each thread is a client of its own."""

    def client(eci: Engine) -> None:
        with Device.open(node, "ioctl") as device:
            legacy(device, [eci], addr_of(0))

    run_in_threads([lambda eci=eci: client(eci) for eci in xe_for_each_engine(fd)])  # type: ignore[misc]


def test_threads_balancer(fd: Device) -> None:
    run_in_threads(balancer_work(fd))


def test_threads_cm(fd: Device) -> None:
    run_in_threads(long_running_work(fd, LR_MODE))


def test_threads_mixed(fd: Device) -> None:
    """VMs of all modes."""
    run_in_threads(
        [
            *legacy_work(fd, rebind=True),
            *balancer_work(fd),
            *long_running_work(fd, LR_MODE),
            *long_running_work(fd, FAULT_MODE),
        ]
    )
