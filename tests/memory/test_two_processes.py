"""One BO in two processes: what each stores the other sees, and who keeps it alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.children import eventually
from tests.memory.actor import Actor
from uapi.dma_buf import DMA_BUF_SYNC_END, DMA_BUF_SYNC_READ, DMA_BUF_SYNC_WRITE
from uapi.xe_mock import XE_MOCK_BO_DONTNEED, XE_MOCK_BO_WILLNEED

pytestmark = pytest.mark.fuse

SIZE = 1 << 16
ADDRESS = 0x1A0000
Actors = Callable[[str], Actor]


def bos(directory: str) -> list[Any]:
    found: list[Any] = json.loads(Path(directory, "debug/dri/0/state").read_text())["bos"]
    return found


def the_bo(directory: str) -> tuple[str, int, int]:
    (bo,) = bos(directory)
    return bo["state"], bo["vma_count"], bo["willneed_count"]


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> str:
    return mounted_node()


def shared_bo(directory: str, actors: Actors) -> tuple[Actor, Actor, int, int, int]:
    """A's BO, bound, exported, advised DONTNEED; imported and mapped by B: both, A's handle,
    A's descriptor, B's handle."""
    a, b = actors(directory), actors(directory)
    handle = a.create(SIZE)
    vm = a.vm()
    a.bind(vm, handle, ADDRESS, SIZE)
    a.map(handle, SIZE)
    fd = a.export(handle)
    in_b = a.send_fd(fd, b)
    imported = b.import_fd(in_b)
    b.close_fd(in_b)
    b.map(imported, SIZE)
    assert a.dontneed(vm, ADDRESS, SIZE) == 1
    return a, b, handle, fd, imported


def test_stores_of_both_are_seen_by_both(directory: str, actors: Actors) -> None:
    a, b, handle, _, imported = shared_bo(directory, actors)
    a.store(handle, 4095, b"of A")
    b.store(imported, SIZE - 4, b"of B")
    assert b.load(imported, 4095, 4) == b"of A"
    assert a.load(handle, SIZE - 4, 4) == b"of B"
    assert a.checksum(handle) == b.checksum(imported)


def test_it_stays_willneed_until_the_importer_is_killed(directory: str, actors: Actors) -> None:
    a, b, handle, fd, imported = shared_bo(directory, actors)
    assert the_bo(directory) == ("WILLNEED", 1, 1)
    a.close_fd(fd)
    a.unmap(handle)
    a.close(handle)
    b.store(imported, 0, b"still here")
    assert the_bo(directory) == ("WILLNEED", 1, 1)
    b.kill()
    assert eventually(lambda: the_bo(directory) == ("DONTNEED", 1, 0))


def test_the_exporters_handle_keeps_it_willneed(directory: str, actors: Actors) -> None:
    a, b, handle, fd, _ = shared_bo(directory, actors)
    a.close_fd(fd)
    b.kill()
    assert eventually(lambda: len(_files(directory)) == 1)
    assert a.state(handle) == (XE_MOCK_BO_WILLNEED, 1, 1)
    a.unmap(handle)
    a.close(handle)
    assert eventually(lambda: the_bo(directory) == ("DONTNEED", 1, 0))


def _files(directory: str) -> list[Any]:
    found: list[Any] = json.loads(Path(directory, "debug/dri/0/state").read_text())["files"]
    return found


def test_a_mapped_dma_buf_keeps_it_willneed_without_any_descriptor(
    directory: str, actors: Actors
) -> None:
    a, b = actors(directory), actors(directory)
    handle = a.create(SIZE)
    vm = a.vm()
    a.bind(vm, handle, ADDRESS, SIZE)
    fd = a.send_fd(a.export(handle), b)
    b.map_fd(fd, -1)
    b.close_fd(fd)
    b.store(-1, 100, b"by dma-buf")
    a.map(handle, SIZE)
    assert a.load(handle, 100, 10) == b"by dma-buf"
    a.dontneed(vm, ADDRESS, SIZE)
    a.close_device()
    # The mapping of the BO keeps A's file, with its handle and its VM.
    assert the_bo(directory) == ("WILLNEED", 1, 1)
    a.kill()
    # Its VM is gone; the dma-buf is still mapped.
    assert eventually(lambda: the_bo(directory) == ("WILLNEED", 0, 1))
    assert b.load(-1, 100, 10) == b"by dma-buf"
    b.unmap(-1)
    assert eventually(lambda: bos(directory) == [])


def test_a_mapping_keeps_the_file_and_all_that_it_has(directory: str, actors: Actors) -> None:
    a = actors(directory)
    mapped, other = a.create(SIZE), a.create(SIZE)
    vm = a.vm()
    a.bind(vm, other, ADDRESS, SIZE)
    a.map(mapped, SIZE)
    a.close_device()
    assert len(bos(directory)) == 2
    a.store(mapped, 0, b"after close(2)")
    a.unmap(mapped)
    assert eventually(lambda: bos(directory) == [])
    assert not _files(directory)


def test_advice_of_the_last_holder_counts(directory: str, actors: Actors) -> None:
    a, b = actors(directory), actors(directory)
    handle = a.create(SIZE)
    fd = a.send_fd(a.export(handle), b)
    imported = b.import_fd(fd)
    b.close_fd(fd)
    vms = a.vm(), b.vm()
    a.bind(vms[0], handle, ADDRESS, SIZE)
    b.bind(vms[1], imported, ADDRESS, SIZE)
    a.dontneed(vms[0], ADDRESS, SIZE)
    b.dontneed(vms[1], ADDRESS, SIZE)
    assert a.state(handle) == (XE_MOCK_BO_WILLNEED, 2, 1), "the dma-buf lives"
    a.kill()
    assert eventually(lambda: the_bo(directory) == ("WILLNEED", 1, 1))
    b.close(imported)
    assert eventually(lambda: the_bo(directory) == ("DONTNEED", 1, 0))
    assert XE_MOCK_BO_DONTNEED == 1


def test_reading_by_dma_buf_brings_the_pages_to_system_memory(
    directory: str, actors: Actors
) -> None:
    """Only a READ does, and only pages that may be there."""
    a = actors(directory)
    either, vram_only = a.create(SIZE, 3), a.create(SIZE, 2)
    fds = [a.export(either), a.export(vram_only)]
    for flags in (DMA_BUF_SYNC_WRITE, DMA_BUF_SYNC_READ | DMA_BUF_SYNC_END):
        a.sync(fds[0], flags)
    assert [bo["placement"] for bo in bos(directory)] == ["vram0", "vram0"]
    for fd in fds:
        a.sync(fd, DMA_BUF_SYNC_READ)
    assert [bo["placement"] for bo in bos(directory)] == ["gtt", "vram0"]
