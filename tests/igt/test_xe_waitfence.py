"""Subtests of IGT's xe_waitfence: WAIT_USER_FENCE with all that it takes."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

import pytest

from tests.igt.exec_data import ONE_SEC, banned, bo_slots, offset_of, slots_size
from uapi import xe_drm
from xedev.client import Device, UserFence
from xedev.client.xe_ioctl import (
    xe_bo_create,
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_async,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_wait_ufence,
    xe_wait_ufence_abstime,
)
from xedev.client.xe_query import system_memory, xe_engine, xe_get_default_alignment

pytestmark = pytest.mark.fuse

VALUE = 7
BINDS = 8


def refused(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as error:
        call()
    return error.value.errno


def waitfence(fd: Device, wait: Callable[[int, int], int]) -> int:
    """Some binds, of which the last one has the fence; what the wait says."""
    vm = xe_vm_create(fd)
    size = xe_get_default_alignment(fd)
    fence = UserFence(VALUE)
    for index in range(BINDS):
        bo = xe_bo_create(fd, vm, size, system_memory(fd))
        syncs = [fence] if index == BINDS - 1 else []
        xe_vm_bind_async(fd, vm, 0, bo, 0, 0x200000 + index * size, size, syncs)
    return wait(fence.sync().addr, vm)


def test_reltime(fd: Device) -> None:
    left = waitfence(fd, lambda addr, _: xe_wait_ufence(fd, addr, VALUE, 0, 10 * ONE_SEC))
    assert 0 < left <= 10 * ONE_SEC


def test_abstime(fd: Device) -> None:
    moment = time.monotonic_ns() + 10 * ONE_SEC
    left = waitfence(fd, lambda addr, _: xe_wait_ufence_abstime(fd, addr, VALUE, 0, moment))
    assert left == moment


def test_engine(fd: Device) -> None:
    """With a queue, which nothing happens to."""

    def wait(addr: int, vm: int) -> int:
        exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
        return xe_wait_ufence(fd, addr, VALUE, exec_queue, 10 * ONE_SEC)

    assert waitfence(fd, wait) > 0


def test_it_is_not_written(fd: Device) -> None:
    fence = UserFence(VALUE)
    addr = fence.sync().addr
    assert refused(lambda: xe_wait_ufence(fd, addr, VALUE, 0, 1_000_000)) == errno.ETIME
    moment = time.monotonic_ns() + 1_000_000
    assert refused(lambda: xe_wait_ufence_abstime(fd, addr, VALUE, 0, moment)) == errno.ETIME


@pytest.mark.parametrize(
    "arg",
    [{"flags": 0xFFFF}, {"flags": 2}, {"op": 0xFFFF}, {"op": 6}, {"addr_offset": 4}],
    ids=["invalid-flags", "invalid-flag", "invalid-ops", "invalid-op", "unaligned"],
)
def test_invalid(fd: Device, arg: dict[str, int]) -> None:
    fence = UserFence(VALUE)
    offset = arg.pop("addr_offset", 0)
    addr = fence.sync().addr + offset
    assert refused(lambda: fd.wait_user_fence(addr, VALUE, timeout=0, **arg)) == errno.EINVAL


@pytest.mark.parametrize(
    ("op", "holds", "fails"),
    [
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_EQ, 7, 8),
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_NEQ, 8, 7),
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_GT, 6, 7),
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_GTE, 7, 8),
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_LT, 8, 7),
        (xe_drm.DRM_XE_UFENCE_WAIT_OP_LTE, 7, 6),
    ],
)
def test_ops(fd: Device, op: int, holds: int, fails: int) -> None:
    """An engine stores 7, which relates to one value as it should and not to another."""
    vm = xe_vm_create(fd)
    bo, data = bo_slots(fd, vm, 1, 0x1A0000)
    xe_vm_bind_sync(fd, vm, bo, 0, data.addr, slots_size(fd, 1))
    data.write_store(0, VALUE)
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    xe_exec_sync(fd, exec_queue, data.addr, [data.fence(0)])
    data.wait_exec(fd, 0, exec_queue)
    addr = data.cpu_address + offset_of("data")

    fd.wait_user_fence(addr, holds, op=op, timeout=0)

    assert refused(lambda: fd.wait_user_fence(addr, fails, op=op, timeout=0)) == errno.ETIME


def test_exec_queue_reset_wait(fd: Device) -> None:
    """The queue of a batch that nobody bound is reset: who waits for its fence hears of it."""
    vm = xe_vm_create(fd)
    _, data = bo_slots(fd, vm, 1, 0x1A0000)
    exec_queue = xe_exec_queue_create(fd, vm, xe_engine(fd, 0).instance)
    xe_exec_sync(fd, exec_queue, data.addr, [data.fence(0)])

    assert refused(lambda: data.wait_exec(fd, 0, exec_queue, -1)) == errno.EIO
    assert banned(fd, exec_queue)
