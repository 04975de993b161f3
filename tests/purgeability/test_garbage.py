"""Objects end with their last reference: the garbage collector finds nothing to do.

A collection stops every client, so the mock makes no reference cycles. And what a workload made
is gone when its clients are, failed calls included.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.model.purgeability_ops import POLICIES, Policy
from uapi import xe_drm
from xedev.client import Device, UserFence
from xedev.client.igt_syncobj import (
    sw_sync_timeline_create_fence,
    sw_sync_timeline_inc,
    sync_fence_merge,
)
from xedev.client.memory import op_map, op_map_null, op_prefetch, op_unmap, op_unmap_all
from xedev.node.local import LocalTransport
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import FAULT_POINTS, XeConfig, XeDevice

PAGE = 4096
ROUNDS = 400
_OURS = ("xedev.", "uapi.")

WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED


class Client:
    """A program with one VM and two BOs."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target
        self.device = Device(LocalTransport(target.xe))
        self.vm = self.device.vm_create()
        self.one = self.device.gem_create(8 * PAGE, 2)
        self.two = self.device.gem_create(8 * PAGE, 1)

    def bind(self, *ops: xe_drm.drm_xe_vm_bind_op) -> None:
        self.device.vm_bind(self.vm, ops, [UserFence()])


def _is_ours(thing: object) -> bool:
    """Our objects, and the functions and closures made in our modules.

    Not the types of ctypes arrays: every type is in a cycle with itself, and ctypes keeps one for
    each length until a collection.
    """
    if isinstance(thing, type):
        return False
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return isinstance(module, str) and module.startswith(_OURS)


def _name(thing: object) -> str:
    return getattr(thing, "__qualname__", None) or type(thing).__qualname__


@contextmanager
def _no_garbage() -> Iterator[None]:
    """No cycle of ours may be made within."""
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(_name(thing) for thing in gc.garbage if _is_ours(thing))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found, f"left to the garbage collector: {dict(found)}"


def _population() -> Counter[str]:
    """How many objects of our classes there are."""
    gc.collect()
    return Counter(
        type(thing).__qualname__
        for thing in gc.get_objects()
        if type(thing).__module__.startswith(_OURS)
    )


# --- workloads -----------------------------------------------------------------------------


def _bind_and_unbind(client: Client) -> None:
    client.bind(op_map(client.one, 0, 0, 8 * PAGE))
    client.bind(op_unmap(2 * PAGE, PAGE))
    client.bind(op_map(client.two, 0, 4 * PAGE, 2 * PAGE), op_map_null(20 * PAGE, 8 * PAGE))
    client.bind(op_prefetch(0, 8 * PAGE, 0xFFFF_FFFF))
    client.device.madvise_atomic(client.vm, 22 * PAGE, PAGE, 1)
    client.bind(op_unmap_all(client.one), op_unmap(0, 32 * PAGE))


def _advise(client: Client) -> None:
    client.bind(op_map(client.one, 0, 0, 8 * PAGE))
    for state in (DONTNEED, WILLNEED):
        client.device.madvise_purgeable(client.vm, 0, 8 * PAGE, state)
    client.device.vm_query_mem_range_attrs(client.vm, 0, 8 * PAGE)


def _purge(client: Client) -> None:
    bo = client.device.gem_create(4 * PAGE, 2)
    client.bind(op_map(bo, 0, 64 * PAGE, 4 * PAGE))
    client.device.madvise_purgeable(client.vm, 64 * PAGE, PAGE, DONTNEED)
    number = client.device.bo_info(bo).id
    client.device.gem_close(bo)
    client.target.control("pressure", f"bo {number} evict")
    client.bind(op_unmap(64 * PAGE, 4 * PAGE))


def _share(client: Client) -> None:
    fd = client.device.prime_handle_to_fd(client.one)
    other = Device(LocalTransport(client.target.xe))
    try:
        other.prime_fd_to_handle(fd)
        client.device.close_fd(fd)
        fd = other.prime_handle_to_fd(other.import_foreign(PAGE))
        other.prime_handle_to_token(other.gem_create(PAGE, 1))
    finally:
        client.device.close_fd(fd)
        other.close()


def _create_and_destroy(client: Client) -> None:
    vm = client.device.vm_create()
    bo = client.device.gem_create(4 * PAGE, 1, vm_id=vm)
    client.device.vm_bind(vm, [op_map(bo, 0, 0, 4 * PAGE)])
    client.device.gem_close(bo)
    client.device.vm_destroy(vm)


def _be_refused(client: Client) -> None:
    for call in (
        lambda: client.bind(op_map(client.one, 0, 0, 4 * PAGE), op_map(client.one, 0, 1, 1)),
        lambda: client.device.gem_create(1 << 40, 2),
        lambda: client.device.gem_close(99),
        lambda: client.device.prime_fd_to_handle(0),
        lambda: client.device.vm_destroy(99),
    ):
        with suppress(OSError):
            call()


def _synchronise(client: Client) -> None:
    """Wait, in vain and not, for points, chains, arrays and submissions; leave fences pending."""
    device = Device(LocalTransport(client.target.xe))
    a, b = device.syncobj_create(), device.syncobj_create()
    lines = [device.transport.open_sw_sync() for _ in range(2)]
    fences = [sw_sync_timeline_create_fence(device, line, 1) for line in lines]
    merged = sync_fence_merge(device, fences[0], fences[1])
    event = os.eventfd(0)
    try:
        device.syncobj_eventfd(a, 1, event)
        device.syncobj_eventfd(b, 99, event)
        device.syncobj_import_sync_file(a, merged, 1)
        device.syncobj_import_sync_file(a, fences[0], 5)
        device.syncobj_transfer(b, 3, a, 5)
        for flags in (0, 1, 2, 3):
            for handles in ([a, b], [b, a, device.syncobj_create()]):
                with suppress(OSError):
                    device.syncobj_wait(handles, time.monotonic_ns() + 50_000, flags)
        device.syncobj_reset([a])
        device.syncobj_wait([b, device.syncobj_create(1)])
        device.syncobj_handle_to_token(b, 1)
        sw_sync_timeline_inc(device, lines[0], 1)
    finally:
        os.close(event)
        for fd in (*fences, merged, *lines):
            device.close_fd(fd)
    device.syncobj_destroy(a)
    device.close()


def _fail_inside(client: Client) -> None:
    for point in FAULT_POINTS:
        for work in (_bind_and_unbind, _create_and_destroy, _share):
            other = Client(client.target)
            client.target.control("fail", f"{point} 1 ENOMEM")
            with suppress(OSError):
                work(other)
            client.target.control("fail", "clear")
            other.device.close()


WORKLOADS: tuple[Callable[[Client], None], ...] = (
    _bind_and_unbind,
    _advise,
    _purge,
    _share,
    _create_and_destroy,
    _be_refused,
    _synchronise,
    _fail_inside,
)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__.strip("_"))
def test_nothing_is_left_to_the_collector(
    workload: Callable[[Client], None], policy: Policy
) -> None:
    target = LocalTarget(XeDevice(XeConfig(purgeability=policy)))
    client = Client(target)
    workload(client)  # what is made once and kept
    before = _population()
    rounds = ROUNDS // 8 if workload is _fail_inside else ROUNDS
    with _no_garbage():
        for _ in range(rounds):
            workload(client)
    grown = _population() - before
    assert not grown, dict(grown)
    with _no_garbage():
        client.device.close()
    target.close_all()


def test_a_device_is_as_empty_as_before() -> None:
    """After thousands of binds of a program that ends, all counts are what they were."""
    target = LocalTarget(XeDevice())
    _run(target)
    before = _population()
    with _no_garbage():
        for _ in range(10):
            _run(target)
    after = _population()
    assert after == before, {**(after - before), **(before - after)}


def _run(target: LocalTarget) -> None:
    client = Client(target)
    for page in range(200):
        client.bind(op_map(client.one, 0, page * 8 * PAGE, 8 * PAGE))
    for page in range(200):
        client.bind(op_unmap((page * 8 + 2) * PAGE, 2 * PAGE))
    _advise(client)
    _share(client)
    client.device.close()
    target.close_all()


def test_a_device_goes_with_its_last_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing global keeps what a device has made."""
    before = _population()
    target: Any = LocalTarget(XeDevice())
    _run(target)
    del target
    after = _population()
    left = after - before
    assert not {name for name in left if name in ("XeDevice", "XeBo", "XeVm", "XeVma", "DmaBuf")}
