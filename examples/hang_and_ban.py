#!/usr/bin/env python3
"""A batch that nobody bound: what the driver does to its queue, and what to none other.

    python examples/hang_and_ban.py DIR/dev/dri/renderD128     a mounted node
    python examples/hang_and_ban.py in-process                 no mount: the device in this process

The engine faults at the first command. The driver resets it and bans the queue; the job's fence
is signalled all the same, since others may wait for it, and only who asks learns of the ban. A
user fence is not written: who waits for it has to name the queue to be woken. What the driver logs
of the fault stands in the mount's log, and without a mount among these lines. Exit status 1 when
something came out differently.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable
from dataclasses import dataclass

from uapi import xe_drm
from xedev.client import BatchBuilder, Device, GpuUserFence, IoctlError, sync_signal
from xedev.client.memory import ExecSync
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
    xe_wait_ufence,
)
from xedev.client.xe_query import vram_if_possible, xe_for_each_engine

ADDRESS = 0x1A0000
NOWHERE = 0x7_0000_0000

# What stands where in the buffer: a batch at its begin, and behind it
FENCE = 0x800
DATA = 0x900

DONE = 0xD0E
NUMBER = 42
FOREVER = -1


@dataclass(frozen=True)
class Step:
    """Something to do, and what it must lead to: a number or the name of an errno."""

    text: str
    action: Callable[[], int | None]
    expected: int | str | None = None


class TwoQueues:
    """Two queues of one VM for the same engine, and a buffer that they share."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.vm = xe_vm_create(device)
        engine = next(xe_for_each_engine(device))
        self.bad = xe_exec_queue_create(device, self.vm, engine)
        self.good = xe_exec_queue_create(device, self.vm, engine)
        size = xe_bb_size(device, DATA + 4)
        visible = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
        self.bo = xe_bo_create(device, self.vm, size, vram_if_possible(device, 0), visible)
        xe_vm_bind_sync(device, self.vm, self.bo, 0, ADDRESS, size)
        self.memory = xe_bo_map(device, self.bo, size)
        self.memory.write(0, bytes(BatchBuilder().store_dword(ADDRESS + DATA, NUMBER).end()))
        self.done = device.syncobj_create()

    def exec(self, queue: int, address: int) -> None:
        """Submit a batch with both kinds of fences."""
        fence = GpuUserFence(ADDRESS + FENCE, DONE)
        syncs: list[ExecSync] = [sync_signal(self.done), fence]
        xe_exec_sync(self.device, queue, address, syncs)

    def wait(self) -> None:
        """Wait for the syncobj, ten seconds at most."""
        self.device.syncobj_wait([self.done], deadline_ns(10))

    def wait_fence(self, queue: int) -> None:
        """Wait for the user fence for ever, or until the queue is reset."""
        address = self.memory.address + FENCE
        xe_wait_ufence(self.device, address, DONE, queue, FOREVER)

    def ban(self, queue: int) -> int:
        """Whether a queue is banned."""
        return self.device.exec_queue_get_property(queue)

    def read(self, offset: int) -> int:
        """A number in the buffer."""
        return int.from_bytes(self.memory.read(offset, 4), "little")

    def steps(self) -> list[Step]:
        """The story."""
        bad, good = self.bad, self.good
        return [
            Step("is the first queue banned?", lambda: self.ban(bad), 0),
            Step("EXEC of a batch that is not there", lambda: self.exec(bad, NOWHERE)),
            Step("wait for its syncobj: it is signalled", self.wait),
            Step("wait for its user fence", lambda: self.wait_fence(bad), "EIO"),
            Step("the user fence was not written", lambda: self.read(FENCE), 0),
            Step("is the first queue banned?", lambda: self.ban(bad), 1),
            Step("EXEC of a good batch there", lambda: self.exec(bad, ADDRESS), "ECANCELED"),
            Step("is the second queue banned?", lambda: self.ban(good), 0),
            Step("EXEC of the good batch there", lambda: self.exec(good, ADDRESS)),
            Step("wait for its syncobj", self.wait),
            Step("wait for its user fence", lambda: self.wait_fence(good)),
            Step("what the batch stored", lambda: self.read(DATA), NUMBER),
        ]

    def run(self) -> bool:
        """Go through the steps and print what is seen; False after the first surprise."""
        for step in self.steps():
            seen = outcome(step.action)
            print(f"{step.text:40} {'done' if seen is None else seen}")
            if seen != step.expected:
                print(f"surprise: expected {step.expected or 'done'}", file=sys.stderr)
                return False
        self.close()
        return True

    def close(self) -> None:
        """Give everything back."""
        self.device.syncobj_destroy(self.done)
        self.memory.close()
        for queue in (self.bad, self.good):
            xe_exec_queue_destroy(self.device, queue)
        gem_close(self.device, self.bo)
        xe_vm_destroy(self.device, self.vm)


def outcome(action: Callable[[], int | None]) -> int | str | None:
    """What an action gives, or the name of the errno it fails with."""
    try:
        return action()
    except IoctlError as refusal:
        return errno.errorcode[refusal.errno or 0]


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
    """Run the story; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="A batch that nobody bound, and its queue.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    node = parser.parse_args().node
    try:
        with open_node(node) as device:
            return 0 if TwoQueues(device).run() else 1
    except IoctlError as refusal:
        print(f"surprise: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        parser.error(f"{node}: {error}")


if __name__ == "__main__":
    sys.exit(main())
