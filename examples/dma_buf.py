#!/usr/bin/env python3
"""An exported buffer object: the dma-buf is a holder of its own.

    python examples/dma_buf.py DIR/dev/dri/renderD128     a mounted node
    python examples/dma_buf.py in-process                 no mount: the device in this process

Whoever got the dma-buf may use the pages at any time, and the driver cannot ask. So a living
dma-buf counts like a mapping that wants the contents, whatever the mappings advise. It lives as
long as a descriptor of it is open, but also as long as the exporter has a GEM handle, because the
DRM core keeps it there for the next export. Only when both are gone does the advice take effect:
the two stories differ in which goes first. Exit status 1 when something came out differently.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from uapi import xe_drm
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

#: The kernel tells the mock of a closed descriptor after close(2) has returned.
PATIENCE = 2.0  # seconds

#: State, vma_count, willneed_count; None for a BO that is gone.
Seen = tuple[str, int, int] | None


@dataclass(frozen=True)
class Step:
    """Something to do, and what it must lead to."""

    text: str
    action: Callable[[], int | None]
    expected: Seen
    retained: int | None = None


def text_of(seen: Seen, retained: int | None) -> str:
    """State and counts as text."""
    state, vma_count, willneed_count = seen or ("-", "-", "-")
    return (
        f"retained={'-' if retained is None else retained} state={state}"
        f" vma_count={vma_count} willneed_count={willneed_count}"
    )


class Exported:
    """A BO that is mapped in a VM and exported."""

    def __init__(self, device: Device, controls: Controls) -> None:
        self.device = device
        self.controls = controls
        self.size = xe_get_default_alignment(device)
        self.by = "evict" if xe_has_vram(device) else "shrink"
        self.bo = xe_bo_create(device, 0, self.size, vram_if_possible(device, 0))
        # The handle will go while the BO lives on, so the mock is asked by the BO's own number.
        self.id = device.bo_info(self.bo).id
        self.vm = xe_vm_create(device)
        self.fd = -1

    def bind(self) -> None:
        """Map the BO."""
        xe_vm_bind_sync(self.device, self.vm, self.bo, 0, ADDRESS, self.size)

    def export(self) -> None:
        """Make the dma-buf."""
        self.fd = self.device.prime_handle_to_fd(self.bo)

    def close_fd(self) -> None:
        """Drop the only descriptor of the dma-buf."""
        self.device.close_fd(self.fd)

    def close_handle(self) -> None:
        """Drop the only handle of the BO."""
        self.device.gem_close(self.bo)

    def destroy_vm(self) -> None:
        """Drop the mapping."""
        xe_vm_destroy(self.device, self.vm)

    def willneed(self) -> int:
        """Advise that the mapping needs the contents."""
        return xe_vm_madvise_purgeable(self.device, self.vm, ADDRESS, self.size, WILLNEED)

    def dontneed(self) -> int:
        """Advise that it does not."""
        return xe_vm_madvise_purgeable(self.device, self.vm, ADDRESS, self.size, DONTNEED)

    def pressure(self) -> None:
        """Let the driver want the BO's memory back."""
        self.controls.write("pressure", f"bo {self.id} {self.by}")

    def look(self) -> Seen:
        """What the mock shows of the BO."""
        for bo in json.loads(self.controls.read("state"))["bos"]:
            if bo["id"] == self.id:
                return bo["state"], bo["vma_count"], bo["willneed_count"]
        return None

    def look_for(self, expected: Seen) -> Seen:
        """What the mock shows, with some patience until it is what is expected."""
        end = time.monotonic() + PATIENCE
        while (seen := self.look()) != expected and time.monotonic() < end:
            time.sleep(0.01)
        return seen

    def run(self, steps: list[Step]) -> bool:
        """Go through steps and print what is seen; False after the first surprise."""
        for step in steps:
            retained = step.action()
            seen = text_of(self.look_for(step.expected), retained)
            print(f"{step.text:44} {seen}")
            expected = text_of(step.expected, step.retained)
            if seen != expected:
                print(f"surprise: expected {expected}", file=sys.stderr)
                return False
        return True


def held_by_the_dma_buf(x: Exported) -> list[Step]:
    """How both stories begin."""
    return [
        Step("bind it", x.bind, ("WILLNEED", 1, 1)),
        Step("export it: one more holder", x.export, ("WILLNEED", 1, 2)),
        Step("DONTNEED: the dma-buf still holds it", x.dontneed, ("WILLNEED", 1, 1), 1),
        Step("memory is short: nothing happens", x.pressure, ("WILLNEED", 1, 1)),
        Step("WILLNEED: advice counts all the time", x.willneed, ("WILLNEED", 1, 2), 1),
        Step("DONTNEED again", x.dontneed, ("WILLNEED", 1, 1), 1),
    ]


def released(x: Exported) -> list[Step]:
    """How both stories end."""
    return [
        Step("memory is short: nobody objects", x.pressure, ("PURGED", 1, 0)),
        Step("WILLNEED: too late", x.willneed, ("PURGED", 1, 0), 0),
        Step("destroy the VM: the last reference", x.destroy_vm, None),
    ]


def descriptor_first(x: Exported) -> list[Step]:
    """The descriptor goes, then the handle."""
    return [
        Step("close the descriptor: the handle keeps it", x.close_fd, ("WILLNEED", 1, 1)),
        Step("close the handle: now the advice counts", x.close_handle, ("DONTNEED", 1, 0)),
    ]


def handle_first(x: Exported) -> list[Step]:
    """The handle goes, then the descriptor."""
    return [
        Step("close the handle: the descriptor keeps it", x.close_handle, ("WILLNEED", 1, 1)),
        Step("memory is short: nothing happens", x.pressure, ("WILLNEED", 1, 1)),
        Step("close the descriptor: now the advice counts", x.close_fd, ("DONTNEED", 1, 0)),
    ]


STORIES = {
    "the descriptor goes first": descriptor_first,
    "the handle goes first": handle_first,
}


def tell(device: Device, controls: Controls) -> bool:
    """Run both stories, each with a BO of its own; False after the first surprise."""
    for title, middle in STORIES.items():
        print(f"\n{title}")
        x = Exported(device, controls)
        if not x.run(held_by_the_dma_buf(x) + middle(x) + released(x)):
            return False
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
    """Run the stories; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="An exported buffer object.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    node = parser.parse_args().node
    try:
        device, controls = open_node(node)
        with device:
            return 0 if tell(device, controls) else 1
    except IoctlError as refusal:
        print(f"surprise: {refusal}", file=sys.stderr)
        return 1
    except OSError as error:
        parser.error(f"{node}: {error}")


if __name__ == "__main__":
    sys.exit(main())
