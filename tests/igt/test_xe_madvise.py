"""Subtests of IGT's xe_madvise, retold with the client library: a pattern to copy.

IGT asks for a real device and drives it out of memory. Here each test gets a device of its own,
``bmg`` (discrete) or ``lnl`` (integrated), and memory becomes short at the writing of a line to a
control file. What is between reads as in IGT: same helpers, same order of arguments.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    FAULT_MODE,
    SCRATCH_PAGE,
    Slots,
    anonymous,
    banned,
    bo_slots,
    slots_size,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, sync_signal
from xedev.client.control import ControlFiles
from xedev.client.mapping import Mapping
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bo_create,
    xe_bo_map,
    xe_bo_mmap_offset,
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_async,
    xe_vm_bind_lr_sync,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_madvise,
    xe_vm_madvise_purgeable,
    xe_vm_unbind_sync,
)
from xedev.client.xe_query import (
    vram_if_possible,
    xe_config,
    xe_engine,
    xe_for_each_engine,
    xe_has_vram,
    xe_va_bits,
    xe_visible_vram_size,
    xe_vram_size,
)

pytestmark = pytest.mark.fuse

PAGE = 4096
PURGEABLE_ADDR = 0x1A0000
OTHER_ADDR = 0x2A0000

WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
VISIBLE_VRAM = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM

SMALL_VRAM = 256 << 20


# --- what IGT does in its fixture ----------------------------------------------------------


@pytest.fixture(params=["bmg", "lnl"])
def fd(request: pytest.FixtureRequest, mounted_node: Callable[..., str]) -> Iterator[Device]:
    """An open device (IGT: ``drm_open_driver(DRIVER_XE)``)."""
    directory = Path(mounted_node(profile=request.param))
    with Device.open(directory / "dev/dri/card0") as device:
        require_purgeable_support(device)
        yield device


def require_purgeable_support(fd: Device) -> None:
    """Skip on drivers that know no purging."""
    flags = xe_config(fd)[xe_drm.DRM_XE_QUERY_CONFIG_FLAGS]
    if not flags & xe_drm.DRM_XE_QUERY_CONFIG_FLAG_HAS_PURGING_SUPPORT:
        pytest.skip("the driver does not support purgeable buffer objects")


def trigger_memory_pressure(fd: Device) -> None:
    """Make all memory short in which a BO may lie.

    A discrete device evicts all of its VRAM; on an integrated one the shrinker goes over the
    system memory that the driver holds.
    """
    controls = ControlFiles.of_node(fd.transport.path)
    if xe_has_vram(fd):
        controls.write("pressure", f"region vram0 {xe_vram_size(fd, 0)} evict")
    else:
        controls.write("pressure", f"region system {1 << 30} shrink")


# --- subtests ------------------------------------------------------------------------------


def test_dontneed_before_mmap(fd: Device) -> None:
    """A BO that may go at any time has an offset, but cannot be mapped."""
    bo = xe_bo_create(fd, 0, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
    vm = xe_vm_create(fd, 0, 0)
    xe_vm_bind_sync(fd, vm, bo, 0, PURGEABLE_ADDR, PAGE)
    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, DONTNEED) == 1

    assert xe_bo_mmap_offset(fd, bo)
    with pytest.raises(OSError) as refused:
        xe_bo_map(fd, bo, PAGE)
    assert refused.value.errno == errno.EBUSY

    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, WILLNEED) == 1
    with xe_bo_map(fd, bo, PAGE) as ptr:
        ptr[0] = 0xC0

    gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


def test_purged_mmap_blocked(fd: Device) -> None:
    """A purged BO has an offset, but nothing is left to map."""
    bo = xe_bo_create(fd, 0, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
    vm = xe_vm_create(fd, 0, 0)
    xe_vm_bind_sync(fd, vm, bo, 0, PURGEABLE_ADDR, PAGE)
    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, DONTNEED) == 1
    trigger_memory_pressure(fd)
    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, WILLNEED) == 0

    assert xe_bo_mmap_offset(fd, bo)
    with pytest.raises(OSError) as refused:
        xe_bo_map(fd, bo, PAGE)
    assert refused.value.errno == errno.EINVAL

    gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


def test_dontneed_after_mmap(fd: Device) -> None:
    """The purge takes the pages from under a mapping that was there before."""
    bo = xe_bo_create(fd, 0, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
    vm = xe_vm_create(fd, xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE, 0)
    xe_vm_bind_sync(fd, vm, bo, 0, PURGEABLE_ADDR, PAGE)
    ptr = xe_bo_map(fd, bo, PAGE)
    ptr[:8] = b"\xab" * 8
    assert signal_of_store(ptr) == 0

    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, DONTNEED) == 1
    trigger_memory_pressure(fd)
    assert signal_of_store(ptr) in (signal.SIGBUS, signal.SIGSEGV)

    ptr.close()
    gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


def signal_of_store(ptr: Mapping) -> int:
    """The signal that a store raises, 0 for none; in a child, where IGT jumps out of a handler."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        ptr[0] = 0xCD
        os._exit(0)
    return max(0, -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def test_per_vma_tracking(fd: Device) -> None:
    """A BO that two VMs map may be purged only while both of them say DONTNEED."""
    bo = xe_bo_create(fd, 0, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
    vm1 = xe_vm_create(fd, 0, 0)
    vm2 = xe_vm_create(fd, 0, 0)
    xe_vm_bind_sync(fd, vm1, bo, 0, PURGEABLE_ADDR, PAGE)
    xe_vm_bind_sync(fd, vm2, bo, 0, PURGEABLE_ADDR, PAGE)

    # The advice of one VM does not make the BO purgeable, and can be taken back.
    assert xe_vm_madvise_purgeable(fd, vm1, PURGEABLE_ADDR, PAGE, DONTNEED) == 1
    assert xe_vm_madvise_purgeable(fd, vm1, PURGEABLE_ADDR, PAGE, WILLNEED) == 1

    assert xe_vm_madvise_purgeable(fd, vm1, PURGEABLE_ADDR, PAGE, DONTNEED) == 1
    assert xe_vm_madvise_purgeable(fd, vm2, PURGEABLE_ADDR, PAGE, DONTNEED) == 1
    trigger_memory_pressure(fd)
    assert xe_vm_madvise_purgeable(fd, vm1, PURGEABLE_ADDR, PAGE, WILLNEED) == 0

    gem_close(fd, bo)
    xe_vm_destroy(fd, vm1)
    xe_vm_destroy(fd, vm2)


def test_partial_unbind_dontneed(fd: Device) -> None:
    """What is left of a split mapping keeps its advice; a new mapping is refused."""
    bo = xe_bo_create(fd, 0, 2 * PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
    vm = xe_vm_create(fd, 0, 0)
    xe_vm_bind_sync(fd, vm, bo, 0, PURGEABLE_ADDR, 2 * PAGE)
    assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, 2 * PAGE, DONTNEED) == 1

    xe_vm_unbind_sync(fd, vm, 0, PURGEABLE_ADDR, PAGE)
    with pytest.raises(OSError) as refused:
        xe_vm_bind_async(fd, vm, 0, bo, 0, OTHER_ADDR, PAGE)
    assert refused.value.errno == errno.EBUSY

    gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


# --- subtests that submit work -------------------------------------------------------------


class Job:
    """A VM with a batch that stores a number to a BO of a page; only the latter is given advice."""

    def __init__(self, fd: Device, flags: int = SCRATCH_PAGE, bo: int = 0) -> None:
        self.fd = fd
        self.vm = xe_vm_create(fd, flags)
        self.bo = bo or xe_bo_create(fd, 0, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
        xe_vm_bind_sync(fd, self.vm, self.bo, 0, PURGEABLE_ADDR, PAGE)
        self.batch_bo, self.batch = bo_slots(fd, self.vm, 1, OTHER_ADDR)
        xe_vm_bind_sync(fd, self.vm, self.batch_bo, 0, OTHER_ADDR, slots_size(fd, 1))
        self.exec_queue = xe_exec_queue_create(fd, self.vm, xe_engine(fd, 0).instance)

    def exec(self, value: int) -> None:
        """Store, and wait for the syncobj, which is signalled in any case."""
        batch = BatchBuilder().store_dword(PURGEABLE_ADDR, value)
        batch.store_dword(self.batch.data_addr(0), value)
        self.batch.write_batch(0, batch.end())
        done = self.fd.syncobj_create()
        xe_exec_sync(self.fd, self.exec_queue, OTHER_ADDR, [sync_signal(done)])
        wait_syncobjs(self.fd, done)

    def stored(self) -> int:
        """What a new mapping of the BO shows."""
        with xe_bo_map(self.fd, self.bo, PAGE) as ptr:
            return int.from_bytes(ptr.read(0, 4), "little")

    def advise(self, state: int) -> int:
        return xe_vm_madvise_purgeable(self.fd, self.vm, PURGEABLE_ADDR, PAGE, state)


def test_dontneed_before_exec(fd: Device) -> None:
    """A store to what was purged vanishes in a VM with scratch pages, and the batch goes on."""
    job = Job(fd)
    assert job.advise(DONTNEED) == 1
    trigger_memory_pressure(fd)

    job.exec(0xFEED0001)

    assert job.batch.data(0) == 0xFEED0001
    assert not banned(fd, job.exec_queue)
    assert job.advise(WILLNEED) == 0


def test_dontneed_before_exec_without_scratch_pages(fd: Device) -> None:
    """There it faults, and its queue is banned."""
    job = Job(fd, 0)
    assert job.advise(DONTNEED) == 1
    trigger_memory_pressure(fd)

    job.exec(0xFEED0001)

    assert job.batch.data(0) == 0
    assert banned(fd, job.exec_queue)


def test_dontneed_after_exec(fd: Device) -> None:
    job = Job(fd)
    job.exec(0xFEED0001)
    assert job.stored() == 0xFEED0001

    assert job.advise(DONTNEED) == 1
    trigger_memory_pressure(fd)
    assert job.advise(WILLNEED) == 0

    job.exec(0xFEED0002)
    assert job.batch.data(0) == 0xFEED0002


def test_dontneed_is_still_there_without_pressure(fd: Device) -> None:
    """The advice alone takes nothing away: stores land until the purge."""
    job = Job(fd)
    assert job.advise(DONTNEED) == 1
    job.exec(0xFEED0001)
    assert job.advise(WILLNEED) == 1
    assert job.stored() == 0xFEED0001


def test_per_vma_protection(fd: Device) -> None:
    """What one VM still needs stays for both; then neither needs it."""
    first = Job(fd)
    second = Job(fd, bo=first.bo)
    assert first.advise(DONTNEED) == 1
    trigger_memory_pressure(fd)
    second.exec(0xC0FFEE)
    assert second.stored() == 0xC0FFEE

    assert second.advise(DONTNEED) == 1
    trigger_memory_pressure(fd)
    assert first.advise(WILLNEED) == 0
    second.exec(0xC0FFEE)


# --- atomics in mirrored memory ------------------------------------------------------------


@pytest.fixture
def dgfx(mounted_node: Callable[..., str]) -> Iterator[Device]:
    """A discrete device."""
    with Device.open(Path(mounted_node(profile="bmg")) / "dev/dri/card0") as device:
        yield device


def mirrored(fd: Device, access: int) -> tuple[int, Slots]:
    """A VM that mirrors the process, and memory in it with advice for atomics."""
    vm = xe_vm_create(fd, FAULT_MODE)
    mirror = xe_drm.DRM_XE_VM_BIND_FLAG_CPU_ADDR_MIRROR
    xe_vm_bind_lr_sync(fd, vm, 0, 0, 0, 1 << xe_va_bits(fd), mirror)
    memory = anonymous(PAGE)
    data = Slots(memory, memory.address)
    atomic = xe_drm.DRM_XE_MEM_RANGE_ATTR_ATOMIC
    xe_vm_madvise(fd, vm, data.addr, PAGE, 0, atomic, access, 0, 0)
    data.write_batch(0, BatchBuilder().atomic_inc(data.data_addr(0)).end())
    return vm, data


@pytest.mark.parametrize(
    "access",
    [xe_drm.DRM_XE_ATOMIC_DEVICE, xe_drm.DRM_XE_ATOMIC_GLOBAL],
    ids=["atomic-device", "atomic-global"],
)
def test_atomic(dgfx: Device, access: int) -> None:
    """The engine counts up, after the CPU as well."""
    vm, data = mirrored(dgfx, access)
    for eci in xe_for_each_engine(dgfx):
        exec_queue = xe_exec_queue_create(dgfx, vm, eci)
        for before in (0, 100):
            data.set_data(0, before)
            data.clear_exec_sync(0)
            xe_exec_sync(dgfx, exec_queue, data.addr, [data.fence(0)])
            data.wait_exec(dgfx, 0, exec_queue)
            assert data.data(0) == before + 1


def test_atomic_cpu(dgfx: Device) -> None:
    """Where the CPU alone does atomics, those of an engine fault."""
    vm, data = mirrored(dgfx, xe_drm.DRM_XE_ATOMIC_CPU)
    exec_queue = xe_exec_queue_create(dgfx, vm, xe_engine(dgfx, 0).instance)
    xe_exec_sync(dgfx, exec_queue, data.addr, [data.fence(0)])
    with pytest.raises(OSError) as failed:
        data.wait_exec(dgfx, 0, exec_queue)
    assert failed.value.errno == errno.EIO
    assert data.data(0) == 0


# --- IGT's own way to make memory short ----------------------------------------------------


def flood_vram(fd: Device) -> None:
    """Allocate half as much again as there is visible VRAM, or what the driver gives."""
    chunk = 8 << 20
    vm = xe_vm_create(fd, 0, 0)
    bos: list[int] = []
    with suppress(OSError):
        while len(bos) * chunk < xe_visible_vram_size(fd, 0) * 3 // 2:
            bos.append(xe_bo_create(fd, vm, chunk, vram_if_possible(fd, 0), VISIBLE_VRAM))
    for bo in bos:
        gem_close(fd, bo)
    xe_vm_destroy(fd, vm)


def test_flood_purges_dontneed_and_spares_willneed(mounted_node: Callable[..., str]) -> None:
    """Nothing of the mock's own: a small device, and more BOs than it has room for."""
    directory = Path(mounted_node(profile="bmg", vram=SMALL_VRAM))
    with Device.open(directory / "dev/dri/card0") as fd:
        vm = xe_vm_create(fd, 0, 0)
        for addr in (PURGEABLE_ADDR, OTHER_ADDR):
            bo = xe_bo_create(fd, vm, PAGE, vram_if_possible(fd, 0), VISIBLE_VRAM)
            xe_vm_bind_sync(fd, vm, bo, 0, addr, PAGE)
        assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, DONTNEED) == 1

        flood_vram(fd)

        assert xe_vm_madvise_purgeable(fd, vm, PURGEABLE_ADDR, PAGE, WILLNEED) == 0
        assert xe_vm_madvise_purgeable(fd, vm, OTHER_ADDR, PAGE, WILLNEED) == 1
