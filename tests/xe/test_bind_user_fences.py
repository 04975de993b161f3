"""User fences of binds: what they keep from being unmapped, and whose memory they reach."""

from __future__ import annotations

import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.errno.user_pages import UserPages
from tests.hostile.children import Child, eventually
from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from uapi import xe_drm
from xedev.client import Device, UserFence
from xedev.client.memory import (
    Sync,
    op_map,
    op_map_null,
    op_prefetch,
    op_unmap,
    op_unmap_all,
)
from xedev.client.transport import IN, OUT, Buffer
from xedev.node.server import DAEMON_FILE
from xedev.node.tree import DEBUG_DIR
from xedev.testing.mounts import wait_until_empty
from xedev.testing.target import Target

PAGE = 4096
ADDR = 0x1A0000
PATIENCE = 10 * 10**9  # nanoseconds
FAULT = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
MIRROR = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR


def fenced_bind(device: Device, gate: Gate, vm: int, op: xe_drm.drm_xe_vm_bind_op) -> UserFence:
    """A bind whose user fence is pending until the gate is opened."""
    fence = UserFence()
    gate.kept.append(fence)
    device.vm_bind(vm, [op], [waits_for(gate.syncobj()), fence])
    assert not fence.signaled
    return fence


def start_of(device: Device, vm: int) -> list[tuple[int, int]]:
    return [(vma.start, vma.end) for vma in device.vm_query_mem_range_attrs(vm, 0, 1 << 40)]


# ---- busy ----


@pytest.mark.parametrize("kind", ["unmap", "unmap a part", "map over", "map over a part", "all"])
def test_a_mapping_is_busy_until_its_user_fence_is_written(
    device: Device, gate: Gate, kind: str
) -> None:
    vm, bo, out = device.vm_create(), device.gem_create(4 * PAGE, 1), device.syncobj_create()
    op = {
        "unmap": op_unmap(ADDR, 4 * PAGE),
        "unmap a part": op_unmap(ADDR + PAGE, PAGE),
        "map over": op_map_null(ADDR, 4 * PAGE),
        "map over a part": op_map(bo, 0, ADDR + PAGE, PAGE),
        "all": op_unmap_all(bo),
    }[kind]
    fence = fenced_bind(device, gate, vm, op_map(bo, 0, ADDR, 4 * PAGE))
    before = start_of(device, vm)
    assert error_of(lambda: device.vm_bind(vm, [op], [signals(out)])) == "EBUSY"
    assert start_of(device, vm) == before
    assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
    gate.open()
    fence.wait()
    device.vm_bind(vm, [op], [signals(out)])
    assert start_of(device, vm) != before or kind == "map over"
    assert is_signalled(device, out)


def test_an_array_is_all_or_nothing_when_one_mapping_is_busy(device: Device, gate: Gate) -> None:
    vm = device.vm_create()
    device.vm_bind(vm, [op_map_null(2 * ADDR, PAGE)])
    fenced_bind(device, gate, vm, op_map_null(ADDR, PAGE))
    before = start_of(device, vm)
    ops = [op_unmap(2 * ADDR, PAGE), op_map_null(3 * ADDR, PAGE), op_unmap(ADDR, PAGE)]
    assert error_of(lambda: device.vm_bind(vm, ops)) == "EBUSY"
    assert start_of(device, vm) == before
    device.vm_bind(vm, ops[:2])


def test_what_a_fenced_bind_leaves_of_others_is_busy_too(device: Device, gate: Gate) -> None:
    vm = device.vm_create()
    device.vm_bind(vm, [op_map_null(ADDR, 3 * PAGE)])
    fence = fenced_bind(device, gate, vm, op_unmap(ADDR + PAGE, PAGE))
    for remnant in (ADDR, ADDR + 2 * PAGE):
        assert error_of(lambda: device.vm_bind(vm, [op_unmap(remnant, PAGE)])) == "EBUSY"  # noqa: B023
    gate.open()
    fence.wait()
    device.vm_bind(vm, [op_unmap(ADDR, 3 * PAGE)])


def test_a_prefetched_mapping_is_busy_too(device: Device, gate: Gate) -> None:
    vm = device.vm_create()
    device.vm_bind(vm, [op_map_null(ADDR, PAGE)])
    fenced_bind(device, gate, vm, op_prefetch(ADDR, PAGE))
    assert error_of(lambda: device.vm_bind(vm, [op_unmap(ADDR, PAGE)])) == "EBUSY"
    device.vm_bind(vm, [op_prefetch(ADDR, PAGE)])


def test_mirrors_are_never_busy(device: Device, gate: Gate) -> None:
    vm = device.vm_create(FAULT)
    fenced_bind(device, gate, vm, op_map(0, 0, ADDR, PAGE, flags=MIRROR))
    device.vm_bind(vm, [op_unmap(ADDR, PAGE)])


def test_without_a_user_fence_nothing_is_busy(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    device.vm_bind(vm, [op_map_null(ADDR, PAGE)], [waits_for(gate.syncobj()), signals(out)])
    device.vm_bind(vm, [op_unmap(ADDR, PAGE)], [signals(out)])
    assert start_of(device, vm) == []
    assert not is_signalled(device, out)
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0


def test_a_written_fence_means_that_all_else_is_done(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    for _ in range(20):
        waited, fence = gate.syncobj(1), UserFence()
        device.vm_bind(vm, [op_map_null(ADDR, PAGE)], [waits_for(waited), signals(out), fence])
        gate.open()
        fence.wait(device=device)
        assert is_signalled(device, out)
        device.vm_bind(vm, [op_unmap(ADDR, PAGE)])
        gate.close()
        gate = Gate(device)
    gate.close()


# ---- ends ----


def test_memory_that_was_unmapped_meanwhile_is_no_error(device: Device, gate: Gate) -> None:
    vm, out, pages = device.vm_create(), device.syncobj_create(), UserPages(PAGE)
    sync = UserFence().sync()
    sync.addr = pages.address
    cell = (ctypes.c_uint64 * 1).from_address(pages.address)
    syncs: list[Sync] = [waits_for(gate.syncobj()), sync, signals(out)]
    device.vm_bind(vm, [op_map_null(ADDR, PAGE)], syncs, buffers=[Buffer(cell, IN | OUT)])
    pages.free()
    gate.open()
    assert device.syncobj_wait([out], PATIENCE) == 0
    # The try to write comes after the other signals; until then the mapping is held.
    while error_of(lambda: device.vm_bind(vm, [op_unmap(ADDR, PAGE)])) == "EBUSY":
        time.sleep(0.001)


def test_a_destroyed_vm_still_tells_of_its_binds(device: Device, gate: Gate) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    fence = UserFence()
    syncs: list[Sync] = [waits_for(gate.syncobj()), signals(out), fence]
    device.vm_bind(vm, [op_map_null(ADDR, PAGE)], syncs)
    device.vm_destroy(vm)
    assert not is_signalled(device, out)
    gate.open()
    fence.wait()
    assert is_signalled(device, out)


@pytest.mark.parametrize("way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)])
def test_a_closed_file_still_tells_of_its_binds(
    way: str, xe_target: Callable[..., Target[Any]]
) -> None:
    target = xe_target(way)
    device, watcher = target.device(), target.device()
    gate, out, fence = Gate(watcher), device.syncobj_create(), UserFence()
    shared = device.syncobj_handle_to_fd(out)
    seen = watcher.syncobj_fd_to_handle(shared)
    device.transport.close_fd(shared)
    waited = device.syncobj_create()
    sync_file = gate.sync_file()
    device.syncobj_import_sync_file(waited, sync_file)
    watcher.transport.close_fd(sync_file)
    syncs: list[Sync] = [waits_for(waited), signals(out), fence]
    device.vm_bind(device.vm_create(), [op_map_null(ADDR, PAGE)], syncs)
    device.close()
    assert not is_signalled(watcher, seen)
    gate.open()
    assert watcher.syncobj_wait([seen], PATIENCE) == 0
    fence.wait()
    gate.close()


def descriptors(daemon: int) -> int:
    return len(os.listdir(f"/proc/{daemon}/fd"))


@pytest.mark.fuse
@pytest.mark.parametrize("opened", ["before the clients die", "after they died"])
def test_clients_that_die_leave_nothing(mounted_node: Callable[..., str], opened: str) -> None:
    directory = mounted_node()
    node = os.path.join(directory, "dev/dri/renderD128")
    daemon = json.loads(Path(directory, DEBUG_DIR, DAEMON_FILE).read_text())["pid"]
    with Device.open(node) as device:
        start = descriptors(daemon)
        gate = Gate(device)
        sync_file = gate.sync_file()
        ready, told = os.pipe()

        def bind_and_hang() -> None:
            with Device.open(node) as mine:
                waited, vm = mine.syncobj_create(), mine.vm_create()
                mine.syncobj_import_sync_file(waited, sync_file)
                fences = [UserFence() for _ in range(50)]
                for number, fence in enumerate(fences):
                    op = op_map_null((number + 1) * ADDR, PAGE)
                    mine.vm_bind(vm, [op], [waits_for(waited), fence])
                os.write(told, b".")
                fences[-1].wait(3600)

        children = [Child(bind_and_hang) for _ in range(4)]
        for _ in children:
            os.read(ready, 1)
        # However many fences: one descriptor for each process's memory.
        assert descriptors(daemon) <= start + 2 + 2 * len(children)
        if opened == "before the clients die":
            gate.open()
        for child in children:
            child.kill()
            child.wait()
        os.close(sync_file)
        if opened == "after they died":
            gate.open()
        gate.close()
        assert eventually(lambda: descriptors(daemon) <= start)
        for fd in (ready, told):
            os.close(fd)
    wait_until_empty(directory)
