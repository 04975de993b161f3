"""Subtests of IGT's xe_spin_batch: spinners on each engine, and what the engine's clock says."""

from __future__ import annotations

import ctypes
import time

import pytest

from tests.igt.exec_data import Engine, signalled, visible_bo
from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import sync_signal
from xedev.client.spinner import (
    Cork,
    SpinCopy,
    Spinner,
    SpinOpts,
    XeSpin,
    xe_spin_init,
    xe_spin_nsec_to_ticks,
)
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bb_size,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_sync,
    xe_exec_wait,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import drm_xe_get_gt, xe_engine, xe_for_each_engine

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
COPY_ADDR = 0x4000000


def first_engine(fd: Device) -> Engine:
    return xe_engine(fd, 0).instance


def new_spinner(fd: Device, vm: int, opts: SpinOpts) -> Spinner:
    size = xe_bb_size(fd, ctypes.sizeof(XeSpin))
    bo = visible_bo(fd, vm, size)
    xe_vm_bind_sync(fd, vm, bo, 0, opts.addr, size)
    memory = xe_bo_map(fd, bo, size)
    gem_close(fd, bo)  # the bind and the mapping keep it
    return xe_spin_init(memory, opts)


def spin_basic(fd: Device, eci: Engine) -> None:
    cork = Cork(fd, [eci])
    cork.sync_start()
    assert not signalled(fd, cork.syncobj)
    cork.sync_end()
    cork.destroy()


def test_spin_basic(fd: Device) -> None:
    spin_basic(fd, first_engine(fd))


def test_spin_batch(fd: Device) -> None:
    """The same in a VM that is there before."""
    vm = xe_vm_create(fd)
    for _ in range(3):
        with Cork(fd, [first_engine(fd)], vm) as cork:
            assert cork.spin.started
    xe_vm_destroy(fd, vm)


def test_spin_basic_all(fd: Device) -> None:
    """One on each engine, all at the same time; the first begun ends first."""
    vm = xe_vm_create(fd)
    corks = [
        Cork(fd, [eci], vm, addr=(index + 1) << 20)
        for index, eci in enumerate(xe_for_each_engine(fd))
    ]
    for cork in corks:
        cork.sync_start()
    for index, cork in enumerate(corks):
        assert not signalled(fd, cork.syncobj)
        cork.sync_end()
        assert all(not signalled(fd, later.syncobj) for later in corks[index + 1 :])
    for cork in corks:
        cork.destroy()


def test_spin_all(fd: Device) -> None:
    """Two for each engine take turns: one that waits begins although nobody has ended."""
    vm = xe_vm_create(fd)
    corks = [
        Cork(fd, [eci], vm, addr=(1 + 2 * index + twin) << 20)
        for index, eci in enumerate(xe_for_each_engine(fd))
        for twin in range(2)
    ]
    for cork in corks:
        cork.submit()
    for cork in corks:
        cork.spin.wait_started()
    for cork in corks:
        cork.sync_end()
        cork.destroy()


# --- time ----------------------------------------------------------------------------------


def fixed_duration(fd: Device, milliseconds: int) -> tuple[float, Spinner, int]:
    """Seconds that it took, and the ticks that were asked for."""
    eci = first_engine(fd)
    vm = xe_vm_create(fd)
    ticks = xe_spin_nsec_to_ticks(fd, eci.gt_id, milliseconds * 1_000_000)
    spin = new_spinner(fd, vm, SpinOpts(ADDR, ctx_ticks=ticks))
    exec_queue = xe_exec_queue_create(fd, vm, eci)
    begin = time.monotonic()
    xe_exec_wait(fd, exec_queue, ADDR)
    return time.monotonic() - begin, spin, ticks


def test_spin_fixed_duration(fd: Device) -> None:
    seconds, spin, ticks = fixed_duration(fd, 50)
    assert seconds >= 0.05
    assert spin.ticks >= ticks


def test_spin_fixed_duration_with_preempter(fd: Device) -> None:
    """What another queue takes of the engine does not count as time of the first."""
    eci = first_engine(fd)
    vm = xe_vm_create(fd)
    ticks = xe_spin_nsec_to_ticks(fd, eci.gt_id, 50_000_000)
    spins = [
        new_spinner(fd, vm, SpinOpts(ADDR << n, preempt=True, ctx_ticks=ticks)) for n in (0, 1)
    ]
    syncobjs = [fd.syncobj_create() for _ in spins]
    begin = time.monotonic()
    for spin, syncobj in zip(spins, syncobjs, strict=True):
        exec_queue = xe_exec_queue_create(fd, vm, eci)
        xe_exec_sync(fd, exec_queue, spin.address, [sync_signal(syncobj)])
    fd.syncobj_wait(syncobjs, deadline_ns(10), 1)
    assert time.monotonic() - begin >= 0.1
    assert all(spin.ticks >= ticks for spin in spins)


def test_spin_timestamp_check(fd: Device) -> None:
    """The time of the context goes on while its batch runs, and not faster than the clock."""
    for eci in xe_for_each_engine(fd):
        clock = drm_xe_get_gt(fd, eci.gt_id).reference_clock
        begin = time.monotonic()
        with Cork(fd, [eci]) as cork:
            first = timestamp_after(cork.spin, 0)
            second = timestamp_after(cork.spin, first)
        assert second <= (time.monotonic() - begin) * clock


def timestamp_after(spin: Spinner, earlier: int) -> int:
    """The next one that the spinner stores; it fails the test to wait for more than ten seconds."""
    end = time.monotonic() + 10
    while spin.timestamp <= earlier:
        assert time.monotonic() < end
        time.sleep(0.0001)
    return spin.timestamp


# --- with a copy in each round -------------------------------------------------------------


def test_spin_mem_copy(fd: Device) -> None:
    eci = next(
        eci for eci in xe_for_each_engine(fd) if eci.engine_class == xe_drm.DRM_XE_ENGINE_CLASS_COPY
    )
    vm = xe_vm_create(fd)
    size = xe_bb_size(fd, 4096)
    bo = visible_bo(fd, vm, size)
    xe_vm_bind_sync(fd, vm, bo, 0, COPY_ADDR, size)
    memory = xe_bo_map(fd, bo, size)
    memory.write(0, b"source")
    copy = SpinCopy(COPY_ADDR + 1024, COPY_ADDR, 6)
    spin = new_spinner(fd, vm, SpinOpts(ADDR, preempt=True, mem_copy=copy))
    done = fd.syncobj_create()
    xe_exec_sync(fd, xe_exec_queue_create(fd, vm, eci), ADDR, [sync_signal(done)])
    spin.wait_started()
    end = time.monotonic() + 10
    while memory.read(1024, 6) != b"source" and time.monotonic() < end:
        time.sleep(0.0005)
    spin.end()
    fd.syncobj_wait([done], deadline_ns(10))
    assert memory.read(1024, 6) == b"source"
