#!/usr/bin/env python3
"""Jobs on two engines, ordered by the points of one timeline.

    python examples/timeline.py DIR/dev/dri/renderD128     a mounted node
    python examples/timeline.py in-process                 no mount: the device in this process

Queues know nothing of each other: their jobs run at the same time. A timeline syncobj puts them
in order: job n waits for point n - 1 and signals point n. The first job waits for the CPU besides,
so that all can be submitted, and looked at, before any has run. Each counts one up, and keeps the
count that it found. Exit status 1 when something came out differently.
"""

from __future__ import annotations

import argparse
import struct
import sys

from uapi import xe_drm
from xedev.client import BatchBuilder, Device, IoctlError, sync_signal, sync_wait
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bb_size,
    xe_bo_create,
    xe_bo_map,
    xe_exec_queue_create,
    xe_exec_queue_destroy,
    xe_exec_sync,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import (
    vram_if_possible,
    xe_engine_class_short_string,
    xe_for_each_engine,
)

ADDRESS = 0x1A0000
JOBS = 6

# What stands where in the buffer.
GATE = 0x000  # opens with a 1
COUNT = 0x004
RANKS = 0x040  # a dword for each job
BATCHES = 0x100
BATCH_SIZE = 0x40


class Surprise(Exception):
    """Something came out differently."""


def expect(text: str, found: object, expected: object) -> None:
    """Print what was found; Surprise when that was not expected."""
    print(f"{text:44} {found}")
    if found != expected:
        raise Surprise(f"expected {expected}")


class TwoQueues:
    """Two engines with a queue each, a buffer with all batches, and a timeline."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.engines = list(xe_for_each_engine(device))[:2]
        self.vm = xe_vm_create(device)
        self.queues = [xe_exec_queue_create(device, self.vm, eci) for eci in self.engines]
        size = xe_bb_size(device, BATCHES + JOBS * BATCH_SIZE)
        visible = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
        self.bo = xe_bo_create(device, self.vm, size, vram_if_possible(device, 0), visible)
        xe_vm_bind_sync(device, self.vm, self.bo, 0, ADDRESS, size)
        self.memory = xe_bo_map(device, self.bo, size)
        self.timeline = device.syncobj_create()

    def write_batches(self) -> None:
        """One for each job: count, and keep the count."""
        for job in range(JOBS):
            batch = BatchBuilder()
            if job == 0:
                batch.semaphore_wait(ADDRESS + GATE, 1)
            batch.atomic_inc(ADDRESS + COUNT)
            batch.copy_dword(ADDRESS + RANKS + 4 * job, ADDRESS + COUNT)
            self.memory.write(BATCHES + job * BATCH_SIZE, bytes(batch.end()))

    def submit(self) -> None:
        """Submit all jobs, to the queues in turn."""
        for job in range(JOBS):
            syncs = [sync_signal(self.timeline, job + 1)]
            if job:
                syncs.insert(0, sync_wait(self.timeline, job))
            queue = self.queues[job % 2]
            xe_exec_sync(self.device, queue, ADDRESS + BATCHES + job * BATCH_SIZE, syncs)

    def open_gate(self) -> None:
        """What the first job waits for."""
        self.memory.write(GATE, struct.pack("<I", 1))

    def ranks(self) -> list[int]:
        """What each job found."""
        return list(struct.unpack(f"<{JOBS}I", self.memory.read(RANKS, 4 * JOBS)))

    def at(self) -> int:
        """How far the timeline is."""
        return self.device.syncobj_query([self.timeline])[0]

    def wait(self, point: int) -> None:
        """Sleep until a point is reached; ETIME after ten seconds."""
        self.device.syncobj_timeline_wait([self.timeline], [point], deadline_ns(10))

    def close(self) -> None:
        """Give everything back."""
        self.device.syncobj_destroy(self.timeline)
        self.memory.close()
        for queue in self.queues:
            xe_exec_queue_destroy(self.device, queue)
        gem_close(self.device, self.bo)
        xe_vm_destroy(self.device, self.vm)


def run(device: Device) -> None:
    """Tell the story; Surprise when it goes otherwise."""
    x = TwoQueues(device)
    names = [xe_engine_class_short_string(eci.engine_class) for eci in x.engines]
    print(f"{JOBS} jobs, in turn for {' and '.join(names)}")
    x.write_batches()
    x.submit()
    expect("all submitted: the timeline is at", x.at(), 0)
    expect("counts that the jobs found", x.ranks(), [0] * JOBS)
    x.open_gate()
    x.wait(JOBS // 2)
    expect(f"point {JOBS // 2} is reached: so many jobs at least", x.at() >= JOBS // 2, True)
    x.wait(JOBS)
    expect("all done: the timeline is at", x.at(), JOBS)
    expect("counts that the jobs found", x.ranks(), list(range(1, JOBS + 1)))
    x.close()


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
    """Run the jobs; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="Jobs ordered by the points of a timeline.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    node = parser.parse_args().node
    try:
        with open_node(node) as device:
            run(device)
    except (IoctlError, Surprise) as surprise:
        print(f"surprise: {surprise}", file=sys.stderr)
        return 1
    except OSError as error:
        parser.error(f"{node}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
