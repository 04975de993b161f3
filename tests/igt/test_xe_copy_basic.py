"""Subtests of IGT's xe_copy_basic: MEM_COPY and MEM_SET, as a line and as a matrix of bytes."""

from __future__ import annotations

import random

import pytest

from tests.igt.exec_data import engines_of_class
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, Mapping
from xedev.client.xe_ioctl import (
    xe_bb_size,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_wait,
    xe_vm_bind_sync,
    xe_vm_create,
)
from xedev.client.xe_query import all_memory_regions, system_memory, vram_memory

pytestmark = pytest.mark.fuse

BATCH, SOURCE, TARGET = 0x100000, 0x1_0000_0000, 0x2_0000_0000
FILL = 0x5A
VISIBLE = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM

# Dwords that `BatchBuilder` does not make: it copies lines only.
MEM_COPY = 0x5680_0008
MEM_SET = 0x56C0_0005
PAGES_OF_256 = 1 << 19
COPY_MATRIX = 1 << 17
SET_MATRIX = 1 << 17


class Copier:
    """A copy engine, and two BOs of so many bytes in a region each."""

    def __init__(self, fd: Device, size: int, source: int, target: int) -> None:
        self.fd = fd
        self.vm = xe_vm_create(fd)
        copy = engines_of_class(fd, xe_drm.DRM_XE_ENGINE_CLASS_COPY)
        self.exec_queue = xe_exec_queue_create(fd, self.vm, copy[0])
        self.batch = self.make(BATCH, 4096, system_memory(fd))
        self.source = self.make(SOURCE, size, source)
        self.target = self.make(TARGET, size, target)
        self.data = random.Random(size).randbytes(size)
        self.source.write(0, self.data)
        self.target.write(0, bytes([FILL]) * size)

    def make(self, addr: int, size: int, region: int) -> Mapping:
        size = xe_bb_size(self.fd, size)
        flags = 0 if region == system_memory(self.fd) else VISIBLE
        bo = xe_bo_create(self.fd, self.vm, size, region, flags)
        xe_vm_bind_sync(self.fd, self.vm, bo, 0, addr, size)
        return xe_bo_map(self.fd, bo, size)

    def run(self, batch: BatchBuilder) -> bytes:
        """What the target holds then."""
        self.batch.write(0, bytes(batch.end()))
        xe_exec_wait(self.fd, self.exec_queue, BATCH)
        return self.target.read(0, len(self.data))


@pytest.fixture(params=["system", "vram", "smem-to-vram", "vram-to-smem", "all"])
def regions(request: pytest.FixtureRequest, fd: Device) -> tuple[int, int]:
    """Where the source is, and where the target."""
    system, vram, every = system_memory(fd), vram_memory(fd, 0), all_memory_regions(fd)
    pairs: dict[str, tuple[int, int]] = {
        "system": (system, system),
        "vram": (vram, vram),
        "smem-to-vram": (system, vram),
        "vram-to-smem": (vram, system),
        "all": (every, every),
    }
    return pairs[request.param]


def halves(address: int) -> tuple[int, int]:
    return address & 0xFFFF_FFFF, address >> 32


# --- lines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0xFD, 0x369, 0x3FFF, 0xFFFE, 0x8FFFE], ids=hex)
def test_mem_copy_linear(fd: Device, regions: tuple[int, int], size: int) -> None:
    copier = Copier(fd, size + 7, *regions)
    expected = copier.data[:size] + bytes([FILL]) * 7
    assert copier.run(BatchBuilder().mem_copy(TARGET, SOURCE, size)) == expected


@pytest.mark.parametrize("size", [0xFD, 0x369, 0x3FFF, 0xFFFE, 0x8FFFE], ids=hex)
def test_mem_set_linear(fd: Device, regions: tuple[int, int], size: int) -> None:
    copier = Copier(fd, size + 7, *regions)
    expected = b"\xa5" * size + bytes([FILL]) * 7
    assert copier.run(BatchBuilder().mem_set(TARGET, 0xA5, size)) == expected


@pytest.mark.parametrize("pages", [1, 17])
def test_mem_page_copy(fd: Device, regions: tuple[int, int], pages: int) -> None:
    copier = Copier(fd, 256 * (pages + 1), *regions)
    batch = BatchBuilder().dword(
        *(MEM_COPY | PAGES_OF_256, pages - 1, 0, 0, 0),
        *(*halves(SOURCE), *halves(TARGET), 0),
    )
    expected = copier.data[: 256 * pages] + bytes([FILL]) * 256
    assert copier.run(batch) == expected


# --- matrices ------------------------------------------------------------------------------

MATRICES = pytest.mark.parametrize(
    ("width", "height"), [(2, 2), (200, 127)], ids=["2x2", "200x127"]
)


def as_matrix(data: bytes, width: int, height: int, pitch: int, around: bytes) -> bytes:
    """``data`` in the lines of a matrix, and ``around`` everywhere else."""
    result = bytearray(around)
    for line in range(height):
        at = line * pitch
        result[at : at + width] = data[at : at + width]
    return bytes(result)


@MATRICES
def test_mem_matrix_copy(fd: Device, regions: tuple[int, int], width: int, height: int) -> None:
    pitch = width + 3
    copier = Copier(fd, pitch * height, *regions)
    batch = BatchBuilder().dword(
        *(MEM_COPY | COPY_MATRIX, width - 1, height - 1, pitch - 1, pitch - 1),
        *(*halves(SOURCE), *halves(TARGET), 0),
    )
    around = bytes([FILL]) * len(copier.data)
    assert copier.run(batch) == as_matrix(copier.data, width, height, pitch, around)


@MATRICES
def test_mem_matrix_set(fd: Device, regions: tuple[int, int], width: int, height: int) -> None:
    pitch = width + 3
    copier = Copier(fd, pitch * height, *regions)
    batch = BatchBuilder().dword(
        *(MEM_SET | SET_MATRIX, width - 1, height - 1, pitch - 1),
        *(*halves(TARGET), 0xA5 << 24),
    )
    size = len(copier.data)
    expected = as_matrix(b"\xa5" * size, width, height, pitch, bytes([FILL]) * size)
    assert copier.run(batch) == expected
