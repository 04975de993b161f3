#!/usr/bin/env python3
"""Every engine of the device stores a number; the CPU reads it through its own mapping.

    python examples/store.py DIR/dev/dri/renderD128     a mounted node
    python examples/store.py in-process                 no mount: the device in this process

A batch is a row of commands in memory that the GPU sees. It is bound into an address space,
submitted to a queue, and a fence tells when it is done. Exit status 1 when a number does not
arrive.
"""

from __future__ import annotations

import argparse
import sys

from uapi import xe_drm
from xedev.client import BatchBuilder, Device, IoctlError, sync_signal
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
    xe_vm_unbind_sync,
)
from xedev.client.xe_query import (
    vram_if_possible,
    xe_engine_class_short_string,
    xe_for_each_engine,
)

ADDRESS = 0x1A0000
#: In the same buffer: the batch at its begin, the number behind it.
DATA = 0x800

Engine = xe_drm.drm_xe_engine_class_instance


def name_of(engine: Engine) -> str:
    """As ``rcs0 on gt0``."""
    name = xe_engine_class_short_string(engine.engine_class)
    return f"{name}{engine.engine_instance} on gt{engine.gt_id}"


def store(device: Device, vm: int, engine: Engine, number: int) -> int:
    """Let an engine store a number; what the CPU finds then."""
    size = xe_bb_size(device, DATA + 4)
    visible = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM
    bo = xe_bo_create(device, vm, size, vram_if_possible(device, engine.gt_id), visible)
    xe_vm_bind_sync(device, vm, bo, 0, ADDRESS, size)
    queue = xe_exec_queue_create(device, vm, engine)
    done = device.syncobj_create()
    with xe_bo_map(device, bo, size) as memory:
        memory.write(0, bytes(BatchBuilder().store_dword(ADDRESS + DATA, number).end()))
        xe_exec_sync(device, queue, ADDRESS, [sync_signal(done)])
        device.syncobj_wait([done], deadline_ns(10))
        found = int.from_bytes(memory.read(DATA, 4), "little")
    device.syncobj_destroy(done)
    xe_exec_queue_destroy(device, queue)
    xe_vm_unbind_sync(device, vm, 0, ADDRESS, size)
    gem_close(device, bo)
    return found


def run(device: Device) -> bool:
    """Let all engines store; False when one of them did not."""
    vm = xe_vm_create(device)
    for index, engine in enumerate(xe_for_each_engine(device)):
        number = 0xC0FFEE00 + index
        found = store(device, vm, engine, number)
        print(f"{name_of(engine):12} stored {found:#x}")
        if found != number:
            print(f"surprise: expected {number:#x}", file=sys.stderr)
            return False
    xe_vm_destroy(device, vm)
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
    """Run the batches; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="Every engine of the device stores a number.")
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
