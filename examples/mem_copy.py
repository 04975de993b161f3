#!/usr/bin/env python3
"""A copy engine copies and fills buffers; the CPU checks every byte.

    python examples/mem_copy.py DIR/dev/dri/renderD128     a mounted node
    python examples/mem_copy.py in-process                 no mount: the device in this process

MEM_COPY and MEM_SET see memory as bytes, XY_FAST_COPY_BLT and XY_FAST_COLOR_BLT as lines of
pixels. Where the device has VRAM, bytes go there and back. Exit status 1 when a byte is wrong.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass

from uapi import xe_drm
from xedev.client import BatchBuilder, Device, IoctlError, Mapping
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bb_size,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create_class,
    xe_exec_queue_destroy,
    xe_exec_wait,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import system_memory, vram_if_possible

BATCH, SOURCE, MIDDLE, TARGET = 0x100000, 0x1000000, 0x2000000, 0x3000000

SIZE = 1 << 20
PITCH = 4096  # bytes from line to line
WIDTH, HEIGHT = PITCH // 4, SIZE // PITCH  # pixels of 32 bits


@dataclass(frozen=True)
class Step:
    """Commands, and what the target buffer holds after them."""

    text: str
    build: Callable[[BatchBuilder], BatchBuilder]
    expected: bytes


class Buffers:
    """A copy engine's queue, and the buffers that it works on."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.vm = xe_vm_create(device)
        self.queue = xe_exec_queue_create_class(device, self.vm, xe_drm.DRM_XE_ENGINE_CLASS_COPY)
        self.bos: list[int] = []
        system = system_memory(device)
        self.batch = self.make(BATCH, xe_bb_size(device, 4096), system)
        self.source = self.make(SOURCE, SIZE, system)
        self.middle = self.make(MIDDLE, SIZE, vram_if_possible(device, 0))
        self.target = self.make(TARGET, SIZE, system)

    def make(self, address: int, size: int, region: int) -> Mapping:
        """A buffer, bound at an address; the CPU's mapping of it."""
        visible = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
        flags = 0 if region == system_memory(self.device) else visible
        bo = xe_bo_create(self.device, self.vm, size, region, flags)
        self.bos.append(bo)
        xe_vm_bind_sync(self.device, self.vm, bo, 0, address, size)
        return xe_bo_map(self.device, bo, size)

    def run(self, batch: BatchBuilder) -> None:
        """Run a batch to its end."""
        self.batch.write(0, bytes(batch.end()))
        xe_exec_wait(self.device, self.queue, BATCH)

    def close(self) -> None:
        """Give everything back."""
        for mapping in (self.batch, self.source, self.middle, self.target):
            mapping.close()
        xe_exec_queue_destroy(self.device, self.queue)
        for bo in self.bos:
            gem_close(self.device, bo)
        xe_vm_destroy(self.device, self.vm)


def blit(batch: BatchBuilder, target: int, source: int) -> BatchBuilder:
    """Copy a whole buffer as one picture."""
    return batch.fast_copy(target, source, WIDTH, HEIGHT, target_pitch=PITCH, source_pitch=PITCH)


def steps(data: bytes) -> list[Step]:
    """The story; each step finds what the one before has left."""
    half = SIZE // 2
    frame = b"\xef\xbe\xad\xde" * (WIDTH // 2) + data[PITCH // 2 : PITCH]
    return [
        Step(
            "MEM_COPY there and back",
            lambda batch: (
                batch.mem_copy(MIDDLE, SOURCE, SIZE).flush_dw().mem_copy(TARGET, MIDDLE, SIZE)
            ),
            data,
        ),
        Step(
            "MEM_SET of the second half",
            lambda batch: batch.mem_set(TARGET + half, 0x5A, half),
            data[:half] + b"\x5a" * half,
        ),
        Step(
            "MEM_COPY of a few odd bytes",
            lambda batch: batch.mem_copy(TARGET + half + 1, SOURCE + 3, 77),
            data[:half] + b"\x5a" + data[3:80] + b"\x5a" * (half - 78),
        ),
        Step(
            "XY_FAST_COPY_BLT there and back",
            lambda batch: blit(blit(batch, MIDDLE, SOURCE).flush_dw(), TARGET, MIDDLE),
            data,
        ),
        Step(
            "XY_FAST_COLOR_BLT of half a line",
            lambda batch: batch.fast_color(
                TARGET, WIDTH // 2, 1, pitch=PITCH, color=0xDEADBEEF, system=True
            ),
            frame + data[PITCH:],
        ),
    ]


def run(device: Device) -> bool:
    """Go through the steps; False after the first surprise."""
    buffers = Buffers(device)
    data = random.Random(1).randbytes(SIZE)
    buffers.source.write(0, data)
    for step in steps(data):
        buffers.run(step.build(BatchBuilder(BATCH)))
        found = buffers.target.read(0, SIZE)
        wrong = sum(a != b for a, b in zip(found, step.expected, strict=True))
        print(f"{step.text:36} {wrong} of {SIZE} bytes wrong")
        if wrong:
            print("surprise: expected none", file=sys.stderr)
            return False
    buffers.close()
    return True


def open_node(node: str) -> Device:
    """The device of a node, or one in this process."""
    if node != "in-process":
        device = Device.open(node)
        print(f"transport: {device.transport.name} on {device.transport.path}")
        return device
    from xedev.node.local import LocalTransport
    from xedev.xe.xe_device import XeConfig, XeDevice

    print("transport: in-process device")
    return Device(LocalTransport(XeDevice(XeConfig())))


def main() -> int:
    """Run the copies; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="A copy engine copies and fills buffers.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    node = parser.parse_args().node
    try:
        with open_node(node) as device:
            return 0 if run(device) else 1
    except IoctlError as refusal:
        print(f"surprise: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        parser.error(f"{node}: {error}")


if __name__ == "__main__":
    sys.exit(main())
