#!/usr/bin/env python3
"""One buffer object in two address spaces: who keeps it alive?

    python examples/two_vms.py DIR/dev/dri/renderD128     a mounted node
    python examples/two_vms.py in-process                 no mount: the device in this process

Advice is given to a mapping, but pages belong to the buffer. So the buffer is DONTNEED only while
every one of its mappings is: the driver counts the mappings (vma_count) and those that still want
the contents (willneed_count). Exit status 1 when something came out differently.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass

from uapi import xe_drm, xe_mock
from xedev.client import Device, IoctlError
from xedev.client.control import ControlFiles, Controls, LocalControls
from xedev.client.xe_ioctl import (
    xe_bo_create,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_madvise_purgeable,
)
from xedev.client.xe_query import vram_if_possible, xe_get_default_alignment, xe_has_vram

ADDRESS = 0x1A0000
WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

STATE_NAMES = {
    xe_mock.XE_MOCK_BO_WILLNEED: "WILLNEED",
    xe_mock.XE_MOCK_BO_DONTNEED: "DONTNEED",
    xe_mock.XE_MOCK_BO_PURGED: "PURGED",
}


@dataclass(frozen=True)
class Step:
    """Something to do, and what it must lead to."""

    text: str
    action: Callable[[], int | None]
    state: str
    vma_count: int
    willneed_count: int
    retained: int | None = None


def look(state: str, vma_count: int, willneed_count: int, retained: int | None) -> str:
    """State and counts as text."""
    return (
        f"retained={'-' if retained is None else retained} state={state}"
        f" vma_count={vma_count} willneed_count={willneed_count}"
    )


class TwoVms:
    """A BO and the two VMs that map it."""

    def __init__(self, device: Device, controls: Controls) -> None:
        self.device = device
        self.controls = controls
        self.size = xe_get_default_alignment(device)
        self.by = "evict" if xe_has_vram(device) else "shrink"
        self.bo = xe_bo_create(device, 0, self.size, vram_if_possible(device, 0))
        self.vm1 = xe_vm_create(device)
        self.vm2 = xe_vm_create(device)

    def bind(self, vm: int) -> None:
        """Map the BO; each VM has its own addresses."""
        xe_vm_bind_sync(self.device, vm, self.bo, 0, ADDRESS, self.size)

    def willneed(self, vm: int) -> int:
        """Advise that the mapping of one VM needs the contents."""
        return xe_vm_madvise_purgeable(self.device, vm, ADDRESS, self.size, WILLNEED)

    def dontneed(self, vm: int) -> int:
        """Advise that it does not."""
        return xe_vm_madvise_purgeable(self.device, vm, ADDRESS, self.size, DONTNEED)

    def destroy(self, vm: int) -> None:
        """Destroy a VM with its mapping."""
        xe_vm_destroy(self.device, vm)

    def pressure(self) -> None:
        """Let the driver want the BO's memory back."""
        self.controls.write("pressure", f"bo {self.device.bo_info(self.bo).id} {self.by}")

    def steps(self) -> list[Step]:
        """The story."""
        vm1, vm2 = self.vm1, self.vm2
        return [
            Step("vm1 binds it", lambda: self.bind(vm1), "WILLNEED", 1, 1),
            Step("vm2 binds it", lambda: self.bind(vm2), "WILLNEED", 2, 2),
            Step("vm1: DONTNEED", lambda: self.dontneed(vm1), "WILLNEED", 2, 1, 1),
            Step("memory is short: vm2 keeps it alive", self.pressure, "WILLNEED", 2, 1),
            Step("vm2: DONTNEED", lambda: self.dontneed(vm2), "DONTNEED", 2, 0, 1),
            Step("vm1: WILLNEED, one is enough", lambda: self.willneed(vm1), "WILLNEED", 2, 1, 1),
            Step("vm1 is destroyed", lambda: self.destroy(vm1), "DONTNEED", 1, 0),
            Step("memory is short: nobody objects", self.pressure, "PURGED", 1, 0),
            Step("vm2: WILLNEED, too late", lambda: self.willneed(vm2), "PURGED", 1, 0, 0),
            Step("vm2 is destroyed", lambda: self.destroy(vm2), "PURGED", 0, 0),
        ]

    def run(self) -> bool:
        """Go through the steps and print what is seen; False after the first surprise."""
        for step in self.steps():
            retained = step.action()
            info = self.device.bo_info(self.bo)
            seen = look(STATE_NAMES[info.state], info.vma_count, info.willneed_count, retained)
            print(f"{step.text:36} {seen}")
            expected = look(step.state, step.vma_count, step.willneed_count, step.retained)
            if seen != expected:
                print(f"surprise: expected {expected}", file=sys.stderr)
                return False
        self.device.gem_close(self.bo)
        return True


def open_node(node: str) -> tuple[Device, Controls]:
    """The device of a node, or one in this process; and the mock's control files."""
    if node != "in-process":
        device = Device.open(node)
        print(f"transport: {device.transport.name} on {device.transport.path}")
        return device, ControlFiles.of_node(node)
    from xedev.node.local import LocalTransport
    from xedev.xe.xe_device import XeConfig, XeDevice

    print("transport: in-process device")
    transport = LocalTransport(XeDevice(XeConfig()))
    return Device(transport), LocalControls(transport.device.debugfs, transport.caller)


def main() -> int:
    """Run the story; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="One buffer object in two address spaces.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    node = parser.parse_args().node
    try:
        device, controls = open_node(node)
        with device:
            return 0 if TwoVms(device, controls).run() else 1
    except IoctlError as refusal:
        print(f"surprise: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        parser.error(f"{node}: {error}")


if __name__ == "__main__":
    sys.exit(main())
