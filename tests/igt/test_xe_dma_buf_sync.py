"""Subtests of IGT's xe_dma_buf_sync, as far as the mock goes: one buffer in two files' VMs.

IGT takes the fences of a dma-buf out of it and puts them in, which the mock has no ioctls for: here
a sync_file goes from one file to the other instead, and orders what they do with the buffer.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import pytest

from tests.igt.exec_data import (
    DATA_MAGIC,
    Slots,
    bo_slots,
    signalled,
    slots_size,
    wait_syncobjs,
)
from uapi import dma_buf
from xedev.client import BatchBuilder, Device, Mapping, sync_signal, sync_wait
from xedev.client.spinner import Cork
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bo_create,
    xe_exec_queue_create,
    xe_exec_sync,
    xe_vm_bind_sync,
    xe_vm_create,
)
from xedev.client.xe_query import system_memory, xe_engine

pytestmark = pytest.mark.fuse

ADDR = 0x1A0000
BATCH = 0x8000000
COUNT = 4


class Side:
    """A file with a VM that the shared buffer is bound in, and a batch of its own."""

    def __init__(self, fd: Device, bo: int) -> None:
        self.fd = fd
        self.vm = xe_vm_create(fd)
        xe_vm_bind_sync(fd, self.vm, bo, 0, ADDR, slots_size(fd, COUNT))
        batch_bo, self.batch = bo_slots(fd, self.vm, COUNT, BATCH)
        xe_vm_bind_sync(fd, self.vm, batch_bo, 0, BATCH, slots_size(fd, COUNT))
        self.exec_queue = xe_exec_queue_create(fd, self.vm, xe_engine(fd, 0).instance)
        self.done = fd.syncobj_create()

    def exec(self, index: int, batch: BatchBuilder, wait: int = 0) -> None:
        self.batch.write_batch(index, batch.end())
        syncs = [sync_signal(self.done)]
        if wait:
            syncs.insert(0, sync_wait(wait))
        xe_exec_sync(self.fd, self.exec_queue, self.batch.batch_addr(index), syncs)


@pytest.fixture
def other_fd(node: str) -> Iterator[Device]:
    with Device.open(node, "ioctl") as device:
        yield device


@pytest.fixture
def sides(fd: Device, other_fd: Device) -> tuple[Side, Side]:
    """The exporter, and the importer."""
    bo = xe_bo_create(fd, 0, slots_size(fd, COUNT), system_memory(fd))
    shared = fd.prime_handle_to_fd(bo)
    imported = other_fd.prime_fd_to_handle(shared)
    fd.close_fd(shared)
    both = Side(fd, bo), Side(other_fd, imported)
    gem_close(other_fd, imported)
    return both


def shared_slots(side: Side) -> Slots:
    """The places in the shared buffer, without the CPU's mapping of it."""
    return Slots(side.batch.memory, ADDR)


@pytest.mark.parametrize("count", [1, COUNT], ids=["once", "many"])
def test_export_dma_buf_write_sync(sides: tuple[Side, Side], count: int) -> None:
    """The exporter writes behind a spinner; the importer, who waits for it, reads that."""
    writer, reader = sides
    places = shared_slots(writer)
    with Cork(writer.fd, [xe_engine(writer.fd, 0).instance]) as cork:
        for index in range(count):
            store = BatchBuilder().store_dword(places.data_addr(index), DATA_MAGIC + index)
            writer.exec(index, store, cork.syncobj)
        sync_file = writer.fd.syncobj_export_sync_file(writer.done)
        written = reader.fd.syncobj_create()
        reader.fd.syncobj_import_sync_file(written, sync_file)
        writer.fd.close_fd(sync_file)
        for index in range(count):
            target = reader.batch.data_addr(index)
            copy = BatchBuilder().copy_dword(target, places.data_addr(index))
            reader.exec(index, copy, written)
        assert not signalled(reader.fd, reader.done)
        assert reader.batch.all_data(count) == [0] * count
    wait_syncobjs(reader.fd, reader.done)
    assert reader.batch.all_data(count) == [DATA_MAGIC + index for index in range(count)]


def test_both_files_see_one_memory(sides: tuple[Side, Side]) -> None:
    """The exporter's handle can go: the importer's VM keeps the buffer."""
    first, second = sides
    place = shared_slots(first).data_addr(0)
    first.exec(0, BatchBuilder().store_dword(place, 1))
    wait_syncobjs(first.fd, first.done)
    first.fd.vm_destroy(first.vm)
    second.exec(0, BatchBuilder().atomic_inc(place).copy_dword(second.batch.data_addr(0), place))
    wait_syncobjs(second.fd, second.done)
    assert second.batch.data(0) == 2


@pytest.fixture
def mapped(fd: Device) -> Iterator[tuple[int, int, Mapping]]:
    """A BO, a descriptor of it, and the descriptor's mapping."""
    size = slots_size(fd, COUNT)
    bo = xe_bo_create(fd, 0, size, system_memory(fd))
    shared = fd.prime_handle_to_fd(bo)
    with fd.map_dma_buf(shared, size, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        yield bo, shared, mapping
    fd.close_fd(shared)


def test_the_cpu_reads_what_was_stored(fd: Device, mapped: tuple[int, int, Mapping]) -> None:
    """Between DMA_BUF_IOCTL_SYNC's begin and end."""
    bo, shared, mapping = mapped
    side = Side(fd, bo)
    side.exec(0, BatchBuilder().store_dword(ADDR + 64, DATA_MAGIC))
    wait_syncobjs(fd, side.done)

    def sync(flags: int) -> None:
        arg = dma_buf.dma_buf_sync(flags=flags)
        fd.transport.fd_ioctl(shared, dma_buf.DMA_BUF_IOCTL_SYNC, arg)

    sync(dma_buf.DMA_BUF_SYNC_START | dma_buf.DMA_BUF_SYNC_READ)
    found = mapping.read(64, 4)
    sync(dma_buf.DMA_BUF_SYNC_END | dma_buf.DMA_BUF_SYNC_READ)
    assert int.from_bytes(found, "little") == DATA_MAGIC


def test_the_device_reads_what_the_cpu_stored(
    other_fd: Device, mapped: tuple[int, int, Mapping]
) -> None:
    """Through the importer's VM."""
    _, shared, mapping = mapped
    mapping.write(64, DATA_MAGIC.to_bytes(4, "little"))
    side = Side(other_fd, other_fd.prime_fd_to_handle(shared))
    side.exec(0, BatchBuilder().copy_dword(side.batch.data_addr(0), ADDR + 64))
    wait_syncobjs(other_fd, side.done)
    assert side.batch.data(0) == DATA_MAGIC
