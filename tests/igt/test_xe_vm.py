"""Subtests of IGT's xe_vm: what binds do, as the engines see it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    SCRATCH_PAGE,
    Engine,
    Slots,
    anonymous,
    banned,
    bo_slots,
    signalled,
    slots_size,
    visible_bo,
    wait_syncobjs,
)
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, Mapping, UserFence, sync_signal, sync_wait
from xedev.client.memory import op_map, op_map_userptr, op_unmap
from xedev.client.spinner import Cork
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bb_size,
    xe_bind_exec_queue_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_sync,
    xe_exec_wait,
    xe_vm_bind_array,
    xe_vm_bind_async,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_unbind_all_async,
    xe_vm_unbind_async,
    xe_vm_unbind_sync,
)
from xedev.client.xe_query import xe_engine, xe_for_each_engine, xe_get_default_alignment

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
PAGE = 4096


def first_engine(fd: Device) -> Engine:
    return xe_engine(fd, 0).instance


class Stores:
    """A VM with a queue, and a batch that stores wherever it is told."""

    def __init__(self, fd: Device, flags: int = 0, addr: int = 0x100000) -> None:
        self.fd = fd
        self.vm = xe_vm_create(fd, flags)
        self.addr = addr
        size = xe_bb_size(fd, PAGE)
        self.bo = visible_bo(fd, self.vm, size)
        xe_vm_bind_sync(fd, self.vm, self.bo, 0, addr, size)
        self.batch = xe_bo_map(fd, self.bo, size)
        self.exec_queue = self.new_queue()
        self.done = fd.syncobj_create()

    def new_queue(self) -> int:
        return xe_exec_queue_create(self.fd, self.vm, first_engine(self.fd))

    def run(self, batch: BatchBuilder) -> None:
        self.batch.write(0, bytes(batch.end()))
        xe_exec_sync(self.fd, self.exec_queue, self.addr, [sync_signal(self.done)])
        wait_syncobjs(self.fd, self.done)

    def store(self, addr: int, value: int = DATA_MAGIC) -> None:
        self.run(BatchBuilder().store_dword(addr, value))
        assert not banned(self.fd, self.exec_queue)

    def store_faults(self, addr: int) -> None:
        """There is nothing to store to; with a new queue it goes on."""
        self.run(BatchBuilder().store_dword(addr, DATA_MAGIC))
        assert banned(self.fd, self.exec_queue)
        self.exec_queue = self.new_queue()


def dword(memory: Mapping, offset: int) -> int:
    return int.from_bytes(memory.read(offset, 4), "little")


# --- reads and writes to where nothing is --------------------------------------------------


def test_scratch(fd: Device) -> None:
    """A store to where nothing is bound vanishes, and a read finds zeros."""
    stores = Stores(fd, SCRATCH_PAGE)
    stores.store(0x7_0000_0000)
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, stores.vm, size)
    xe_vm_bind_sync(fd, stores.vm, bo, 0, ADDR, size)
    with xe_bo_map(fd, bo, size) as memory:
        memory.write(0, b"\xff" * 4)
        stores.run(BatchBuilder().copy_dword(ADDR, 0x7_0000_0000))
        assert dword(memory, 0) == 0


# --- one BO, several places ----------------------------------------------------------------


def test_unbind_all(fd: Device) -> None:
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, stores.vm, size)
    places = [ADDR + index * size for index in range(4)]
    for index, addr in enumerate(places):
        xe_vm_bind_sync(fd, stores.vm, bo, 0, addr, size)
        stores.store(addr + 4 * index, index + 1)
    with xe_bo_map(fd, bo, size) as memory:
        assert [dword(memory, 4 * index) for index in range(4)] == [1, 2, 3, 4]
    fence = UserFence()
    xe_vm_unbind_all_async(fd, stores.vm, 0, bo, [fence])
    fence.wait(device=fd)
    for addr in places[::3]:
        stores.store_faults(addr)


def test_shared_pte_page(fd: Device) -> None:
    """Neighbours that share a page table: one goes, the others stay."""
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    bos = [visible_bo(fd, stores.vm, size) for _ in range(4)]
    for index, bo in enumerate(bos):
        xe_vm_bind_sync(fd, stores.vm, bo, 0, ADDR + index * size, size)
    xe_vm_unbind_sync(fd, stores.vm, 0, ADDR + size, size)
    for index in (0, 2, 3):
        stores.store(ADDR + index * size, index + 1)
        with xe_bo_map(fd, bos[index], size) as memory:
            assert dword(memory, 0) == index + 1
    stores.store_faults(ADDR + size)


def test_a_bind_replaces_what_was_there(fd: Device) -> None:
    """A bind over another: stores go to the new BO, and leave the old one alone."""
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    old, new = visible_bo(fd, stores.vm, size), visible_bo(fd, stores.vm, size)
    xe_vm_bind_sync(fd, stores.vm, old, 0, ADDR, size)
    stores.store(ADDR, 1)
    xe_vm_bind_sync(fd, stores.vm, new, 0, ADDR, size)
    stores.store(ADDR, 2)
    with xe_bo_map(fd, old, size) as before, xe_bo_map(fd, new, size) as after:
        assert (dword(before, 0), dword(after, 0)) == (1, 2)


# --- order ---------------------------------------------------------------------------------


def bound_behind_a_spinner(fd: Device, cork: Cork, exec_queue: int, addr: int) -> int:
    """A bind that waits for the spinner; the syncobj that tells its end."""
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, cork.vm, size)
    bound = fd.syncobj_create()
    syncs = [sync_wait(cork.syncobj), sync_signal(bound)]
    xe_vm_bind_async(fd, cork.vm, exec_queue, bo, 0, addr, size, syncs)
    return bound


def test_bind_waits_for_its_fences(fd: Device) -> None:
    """An unbind behind a spinner: until that ends, stores still land."""
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, stores.vm, size)
    target = 0x4000000
    xe_vm_bind_sync(fd, stores.vm, bo, 0, target, size)
    memory = xe_bo_map(fd, bo, size)
    unbound = fd.syncobj_create()
    with Cork(fd, [first_engine(fd)], stores.vm, addr=0x8000000) as cork:
        syncs = [sync_wait(cork.syncobj), sync_signal(unbound)]
        queue = xe_bind_exec_queue_create(fd, stores.vm)
        xe_vm_unbind_async(fd, stores.vm, queue, 0, target, size, syncs)
        assert not signalled(fd, unbound)
        stores.store(target)
        assert dword(memory, 0) == DATA_MAGIC
    wait_syncobjs(fd, unbound)
    stores.store_faults(target)


def test_bind_execqueues_independent(fd: Device) -> None:
    """A bind that waits holds back its own queue, and no other."""
    cork = Cork(fd, [first_engine(fd)])
    cork.sync_start()
    slow, fast = (xe_bind_exec_queue_create(fd, cork.vm) for _ in range(2))
    first = bound_behind_a_spinner(fd, cork, slow, ADDR)
    size = slots_size(fd, 1)
    bo, data = bo_slots(fd, cork.vm, 1, 0x10000000)
    bound, done = fd.syncobj_create(), fd.syncobj_create()
    xe_vm_bind_async(fd, cork.vm, fast, bo, 0, data.addr, size, [sync_signal(bound)])
    wait_syncobjs(fd, bound)

    data.write_store(0)
    exec_queue = xe_exec_queue_create(fd, cork.vm, first_engine(fd))
    xe_exec_sync(fd, exec_queue, data.addr, [sync_signal(done)])
    wait_syncobjs(fd, done)

    assert data.data(0) == DATA_MAGIC
    assert not signalled(fd, first)
    assert not signalled(fd, cork.syncobj)
    cork.sync_end()
    wait_syncobjs(fd, first)


def test_bind_execqueues_conflict(fd: Device) -> None:
    """On one queue a bind waits for those before it."""
    cork = Cork(fd, [first_engine(fd)])
    cork.sync_start()
    queue = xe_bind_exec_queue_create(fd, cork.vm)
    first = bound_behind_a_spinner(fd, cork, queue, ADDR)
    size = xe_get_default_alignment(fd)
    second = fd.syncobj_create()
    bo = visible_bo(fd, cork.vm, size)
    xe_vm_bind_async(fd, cork.vm, queue, bo, 0, 0x10000000, size, [sync_signal(second)])
    assert not signalled(fd, second)
    cork.spin.end()
    wait_syncobjs(fd, first, second)


def test_no_fence_comes_before_its_bind(fd: Device) -> None:
    """Many binds and stores through them, each of which waits for its own bind."""
    stores = Stores(fd)
    size = slots_size(fd, 1)
    for eci in xe_for_each_engine(fd):
        bo, data = bo_slots(fd, stores.vm, 1, 0x8000000)
        bound, done = fd.syncobj_create(), fd.syncobj_create()
        data.write_store(0)
        exec_queue = xe_exec_queue_create(fd, stores.vm, eci)
        xe_vm_bind_async(fd, stores.vm, 0, bo, 0, data.addr, size, [sync_signal(bound)])
        xe_exec_sync(fd, exec_queue, data.addr, [sync_wait(bound), sync_signal(done)])
        xe_vm_unbind_async(fd, stores.vm, 0, 0, data.addr, size, [sync_wait(done)])
        wait_syncobjs(fd, done)
        assert data.data(0) == DATA_MAGIC


# --- arrays --------------------------------------------------------------------------------


@pytest.mark.parametrize("with_queue", [False, True], ids=["twice", "exec-queue"])
def test_bind_array(fd: Device, with_queue: bool) -> None:
    """Sixteen places of one BO in one ioctl; a store through each; all unbound in one."""
    count = 16
    vm = xe_vm_create(fd)
    queue = xe_bind_exec_queue_create(fd, vm) if with_queue else 0
    size = slots_size(fd, count)
    bo, data = bo_slots(fd, vm, count, ADDR)
    bound = fd.syncobj_create()
    ops = [op_map(bo, 0, ADDR + index * size, size) for index in range(count)]
    xe_vm_bind_array(fd, vm, queue, ops, [sync_signal(bound)])
    exec_queue = xe_exec_queue_create(fd, vm, first_engine(fd))
    done = fd.syncobj_create()
    for index in range(count):
        base = ADDR + index * size
        data.write_store(index, index + 1, base=base)
        syncs = [sync_wait(bound), sync_signal(done)]
        xe_exec_sync(fd, exec_queue, base + data.batch_addr(index) - ADDR, syncs)
    unbinds = [op_unmap(ADDR + index * size, size) for index in range(count)]
    gone = fd.syncobj_create()
    xe_vm_bind_array(fd, vm, queue, unbinds, [sync_wait(done), sync_signal(gone)])
    wait_syncobjs(fd, done, gone)
    assert data.all_data(count) == list(range(1, count + 1))
    assert fd.vm_query_mem_range_attrs(vm, ADDR, size) == []


def test_an_array_with_an_error_does_nothing(fd: Device) -> None:
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, stores.vm, size)
    ops = [op_map(bo, 0, ADDR, size), op_map(bo, size, ADDR + size, size)]
    with pytest.raises(OSError) as refused:
        xe_vm_bind_array(fd, stores.vm, 0, ops)
    assert refused.value.errno == errno.EINVAL
    stores.store_faults(ADDR)


# --- large binds ---------------------------------------------------------------------------

LARGE = 4 << 20


@pytest.mark.parametrize("misaligned", [0, PAGE * 16], ids=["large", "large-misaligned"])
@pytest.mark.parametrize("pieces", [1, 2, 4], ids=["binds", "split-binds", "split-4-binds"])
@pytest.mark.parametrize("userptr", [False, True], ids=["bo", "userptr"])
def test_large_binds(fd: Device, misaligned: int, pieces: int, userptr: bool) -> None:
    """Memory of several page-table entries, in one or more binds; stores all over it."""
    base = 0x1_0000_0000 + misaligned
    stores = Stores(fd)
    piece = LARGE // pieces
    if userptr:
        memory = anonymous(LARGE)
        ops = [
            op_map_userptr(memory.address + at, base + at, piece) for at in range(0, LARGE, piece)
        ]
    else:
        bo = visible_bo(fd, stores.vm, LARGE)
        memory = xe_bo_map(fd, bo, LARGE)
        ops = [op_map(bo, at, base + at, piece) for at in range(0, LARGE, piece)]
    bound = fd.syncobj_create()
    xe_vm_bind_array(fd, stores.vm, 0, ops, [sync_signal(bound)])
    wait_syncobjs(fd, bound)
    offsets = [*range(0, LARGE, LARGE // 8), LARGE - 4]
    batch = BatchBuilder()
    for offset in offsets:
        batch.store_dword(base + offset, offset + 1)
    stores.run(batch)
    assert [dword(memory, offset) for offset in offsets] == [offset + 1 for offset in offsets]


# --- parts of mappings that go, as with munmap(2) ------------------------------------------

PAGES = 8
PART_OF_8 = {
    # name: what is unbound, in pages
    "all": (0, 8),
    "one-partial": (0, 1),
    "either-side-partial": (1, 6),
    "front": (0, 4),
    "end": (4, 4),
    "middle": (3, 2),
}


@pytest.mark.parametrize("part", PART_OF_8.values(), ids=PART_OF_8.keys())
@pytest.mark.parametrize("userptr", [False, True], ids=["bo", "userptr"])
def test_munmap_style_unbind(fd: Device, part: tuple[int, int], userptr: bool) -> None:
    """A piece of a mapping goes: stores to what is left land, stores to what went fault."""
    page = xe_get_default_alignment(fd)
    stores = Stores(fd)
    base = 0x1_0000_0000
    size = PAGES * page
    if userptr:
        memory = anonymous(size)
        op = op_map_userptr(memory.address, base, size)
    else:
        bo = visible_bo(fd, stores.vm, size)
        memory = xe_bo_map(fd, bo, size)
        op = op_map(bo, 0, base, size)
    fence = UserFence()
    xe_vm_bind_array(fd, stores.vm, 0, [op], [fence])
    fence.wait(device=fd)
    stores.run(store_to_pages(base, page, range(PAGES), 1))
    first, count = part
    xe_vm_unbind_sync(fd, stores.vm, 0, base + first * page, count * page)

    left = [number for number in range(PAGES) if not first <= number < first + count]
    stores.run(store_to_pages(base, page, left, 100))
    for number in {first, first + count - 1}:
        stores.store_faults(base + number * page)

    expected = [number + (100 if number in left else 1) for number in range(PAGES)]
    assert [dword(memory, number * page) for number in range(PAGES)] == expected


def store_to_pages(base: int, page: int, numbers: list[int] | range, value: int) -> BatchBuilder:
    batch = BatchBuilder()
    for number in numbers:
        batch.store_dword(base + number * page, number + value)
    return batch


@pytest.mark.parametrize("part", PART_OF_8.values(), ids=PART_OF_8.keys())
def test_mmap_style_bind(fd: Device, part: tuple[int, int]) -> None:
    """Another BO over a piece of a mapping: each store arrives in the one that is on top."""
    page = xe_get_default_alignment(fd)
    stores = Stores(fd)
    base = 0x1_0000_0000
    size = PAGES * page
    below, above = visible_bo(fd, stores.vm, size), visible_bo(fd, stores.vm, size)
    first, count = part
    xe_vm_bind_sync(fd, stores.vm, below, 0, base, size)
    xe_vm_bind_sync(fd, stores.vm, above, 0, base + first * page, count * page)

    stores.run(store_to_pages(base, page, range(PAGES), 1))

    with xe_bo_map(fd, below, size) as lower, xe_bo_map(fd, above, size) as upper:
        covered = range(first, first + count)
        expected = [0 if number in covered else number + 1 for number in range(PAGES)]
        assert [dword(lower, number * page) for number in range(PAGES)] == expected
        stored = [dword(upper, number * page) for number in range(count)]
        assert stored == [number + 1 for number in covered]


# --- more than there is --------------------------------------------------------------------


def test_overcommit_vram_no_lr(mounted_node: Callable[..., str]) -> None:
    """A VM that binds more than all VRAM: EXEC, which has to bring all of it, is refused; the queue
    goes on once enough is unbound."""
    vram, bo_size = 32 << 20, 8 << 20
    directory = Path(mounted_node(profile="bmg", vram=vram))
    with Device.open(directory / "dev/dri/renderD128", "ioctl") as fd:
        stores = Stores(fd)
        defer = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
        bos = [visible_bo(fd, stores.vm, bo_size, defer) for _ in range(2 * vram // bo_size)]
        base = 0x1_0000_0000
        for index, bo in enumerate(bos):
            xe_vm_bind_sync(fd, stores.vm, bo, 0, base + index * bo_size, bo_size)

        with pytest.raises(OSError) as refused:
            stores.store(base)
        assert refused.value.errno in (errno.ENOMEM, errno.ENOSPC)

        for index, bo in enumerate(bos[2:], 2):
            xe_vm_unbind_sync(fd, stores.vm, 0, base + index * bo_size, bo_size)
            gem_close(fd, bo)
        stores.store(base)


# --- a VM that goes ------------------------------------------------------------------------


def test_vm_destroy_ends_its_queues(fd: Device) -> None:
    stores = Stores(fd)
    fd.vm_destroy(stores.vm)
    with pytest.raises(OSError) as refused:
        xe_exec_wait(fd, stores.exec_queue, stores.addr)
    assert refused.value.errno == errno.ECANCELED


def test_mixed_userptr_and_bo_in_one_batch(fd: Device) -> None:
    """A batch in a BO copies from one piece of our memory to another."""
    stores = Stores(fd)
    data = Slots(anonymous(PAGE), ADDR)
    ops = [op_map_userptr(data.cpu_address, ADDR, PAGE)]
    fence = UserFence()
    xe_vm_bind_array(fd, stores.vm, 0, ops, [fence])
    fence.wait(device=fd)
    data.set_data(0, 42)
    stores.run(BatchBuilder().copy_dword(data.data_addr(1), data.data_addr(0)))
    assert data.data(1) == 42


def test_readonly_bind_takes_no_store(fd: Device) -> None:
    stores = Stores(fd)
    size = xe_get_default_alignment(fd)
    bo = visible_bo(fd, stores.vm, size)
    readonly = xe_drm.DRM_XE_VM_BIND_FLAG_READONLY
    fence = UserFence()
    ops = [op_map(bo, 0, ADDR, size, flags=readonly)]
    xe_vm_bind_array(fd, stores.vm, 0, ops, [fence])
    fence.wait(device=fd)
    stores.store_faults(ADDR)
