#!/usr/bin/env python3
"""The purgeable life of a buffer object: WILLNEED, DONTNEED, PURGED.

    python examples/purgeable.py DIR/dev/dri/renderD128     a mounted node
    python examples/purgeable.py in-process                 no mount: the device in this process

A program that caches buffers can tell the driver which of them it could do without. The driver
leaves them alone until memory is short; then it takes their pages, and the program finds out when
it wants a buffer back. Each step prints the ioctl as the driver left it, and what the mock knows
of the buffer. Exit status 1 when something came out differently.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from uapi import xe_drm, xe_mock
from xedev.client import Device, IoctlError
from xedev.client.control import ControlFiles, Controls, LocalControls, TraceReader
from xedev.client.ioctls import Call
from xedev.client.mapping import Mapping
from xedev.client.xe_ioctl import (
    xe_bo_create,
    xe_bo_map,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_madvise_purgeable,
    xe_vm_unbind_sync,
)
from xedev.client.xe_query import vram_if_possible, xe_get_default_alignment, xe_has_vram

ADDRESS = 0x1A0000
OTHER_ADDRESS = 0x2A0000
WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED

CONTENTS = b"something that could be computed again"
READINGS = {0: "the line is there", -signal.SIGBUS: "SIGBUS"}

STATE_NAMES = {
    xe_mock.XE_MOCK_BO_WILLNEED: "WILLNEED",
    xe_mock.XE_MOCK_BO_DONTNEED: "DONTNEED",
    xe_mock.XE_MOCK_BO_PURGED: "PURGED",
}


@dataclass(frozen=True)
class Seen:
    """What a step leaves behind. A dash stands for what does not exist."""

    state: str = "-"
    vma_count: int | str = "-"
    willneed_count: int | str = "-"
    retained: int | str = "-"
    error: int = 0

    def __str__(self) -> str:
        return (
            f"retained={self.retained} state={self.state}"
            f" vma_count={self.vma_count} willneed_count={self.willneed_count}"
        )


class Surprise(Exception):
    """A step came out differently."""


class Story:
    """One BO in one VM, step by step."""

    def __init__(self, device: Device, controls: Controls, trace: TraceReader | None) -> None:
        self.device = device
        self.controls = controls
        self.trace = trace
        self.size = xe_get_default_alignment(device)
        # The policy "walk" has no counters, it looks at all mappings each time.
        self.counts = json.loads(controls.read("state"))["devices"][0]["purgeability"] != "walk"
        self.bo = 0
        self.vm = 0
        self.mapping: Mapping | None = None
        self._calls: list[Call] = []
        self._number = 0

    # --- telling ---------------------------------------------------------------------------

    def step(self, text: str, action: Callable[[], int | None], expected: Seen) -> None:
        """Print the text, act, print ioctls and outcome; Surprise unless it is as expected."""
        self._number += 1
        print(f"\n{self._number}. {text}")
        self._calls.clear()
        self.device.observer = self._calls.append
        retained: int | None = None
        error: IoctlError | None = None
        try:
            retained = action()
        except IoctlError as refusal:
            error = refusal
        finally:
            self.device.observer = None
        for call in self._calls:
            self._print_call(call)
        seen = self._look("-" if retained is None else retained, error)
        print(f"   {seen}")
        if not self.counts:
            expected = replace(
                expected, vma_count=seen.vma_count, willneed_count=seen.willneed_count
            )
        if seen != expected:
            raise Surprise(f"expected {expected} errno={expected.error}, not errno={seen.error}")

    def _print_call(self, call: Call) -> None:
        if call.error is None:
            outcome = str(call.result)
        else:
            name = errno.errorcode[call.error.errno or 0]
            outcome = f"-1 {name}: {self._reason(call.error)}"
        print(f"   {call.name} = {outcome}\n      {call.arg!r}")

    def _reason(self, error: IoctlError) -> str:
        """Why an ioctl was refused. ioctl(2) has no room for that, but the trace tells it."""
        if error.reason or self.trace is None:
            return error.reason or str(error.strerror)
        ours = [event for event in self.trace.events() if event.get("pid") == os.getpid()]
        reasons = [event["reason"] for event in ours if event.get("reason")]
        return str(reasons[-1]) if reasons else str(error.strerror)

    def _look(self, retained: int | str, error: IoctlError | None) -> Seen:
        code = 0 if error is None else error.errno or 0
        if not self.bo:
            return Seen(retained=retained, error=code)
        info = self.device.bo_info(self.bo)
        state = STATE_NAMES[info.state]
        return Seen(state, info.vma_count, info.willneed_count, retained, code)

    # --- acting ----------------------------------------------------------------------------

    def create(self) -> None:
        """Make the BO; in VRAM, if the device has some."""
        placement = vram_if_possible(self.device, 0)
        self._calls.clear()  # the queries that found the place are not part of the story
        self.bo = xe_bo_create(self.device, 0, self.size, placement)

    def vm_create(self) -> None:
        """Make a GPU address space."""
        self.vm = xe_vm_create(self.device)

    def store(self) -> None:
        """Map it for the CPU, and store a line."""
        self.mapping = xe_bo_map(self.device, self.bo, self.size)
        self.mapping.write(0, CONTENTS)

    def read(self) -> int | None:
        """Read the line, in a child: who touches pages that are gone dies of SIGBUS."""
        child = os.fork()
        if not child:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            assert self.mapping is not None
            os._exit(0 if self.mapping.read(0, len(CONTENTS)) == CONTENTS else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(f"   reading the mapping: {READINGS.get(status, status)}")
        if status != (-signal.SIGBUS if self._state() == "PURGED" else 0):
            raise Surprise(f"reading the mapping ended with {status}")
        return None

    def _state(self) -> str:
        state = STATE_NAMES[self.device.bo_info(self.bo).state]
        self._calls.clear()
        return state

    def bind(self, address: int = ADDRESS) -> None:
        """Map the BO."""
        xe_vm_bind_sync(self.device, self.vm, self.bo, 0, address, self.size)

    def unbind(self) -> None:
        """Unmap it."""
        xe_vm_unbind_sync(self.device, self.vm, 0, ADDRESS, self.size)

    def advise(self, state: int) -> int:
        """Say whether its contents are needed."""
        return xe_vm_madvise_purgeable(self.device, self.vm, ADDRESS, self.size, state)

    def pressure(self, by: str) -> None:
        """Let the driver want memory back, from just this BO."""
        command = f"bo {self.device.bo_info(self.bo).id} {by}"
        self._calls.clear()  # neither is the question for the BO's number
        answer = json.loads(self.controls.write("pressure", command))
        print(f"   echo {command} > debug/dri/0/pressure\n      {answer}")

    def close(self) -> None:
        """Give everything back."""
        if self.mapping is not None:
            self.mapping.close()
        self.device.gem_close(self.bo)
        self.bo = 0
        xe_vm_destroy(self.device, self.vm)


def tell(story: Story) -> None:
    """The story itself."""
    by = "evict" if xe_has_vram(story.device) else "shrink"

    story.step(
        "Create a buffer object. Its contents are wanted unless somebody says otherwise.",
        story.create,
        Seen("WILLNEED", 0, 0),
    )
    story.step("Map it for the CPU and store a line.", story.store, Seen("WILLNEED", 0, 0))
    story.step("Create a GPU address space.", story.vm_create, Seen("WILLNEED", 0, 0))
    story.step(
        "Bind: a mapping (VMA) that needs the contents holds the buffer in WILLNEED.",
        story.bind,
        Seen("WILLNEED", 1, 1),
    )
    story.step(
        "Advise DONTNEED: the last holder lets go. The pages are still there (retained=1).",
        lambda: story.advise(DONTNEED),
        Seen("DONTNEED", 1, 0, retained=1),
    )
    story.step("Nothing is lost yet.", story.read, Seen("DONTNEED", 1, 0))
    story.step(
        f"Memory gets short ({by}): the driver takes the pages instead of saving them.",
        lambda: story.pressure(by),
        Seen("PURGED", 1, 0),
    )
    story.step("Now there is nothing to read.", story.read, Seen("PURGED", 1, 0))
    story.step(
        "Advise WILLNEED: too late, the contents are lost (retained=0) and stay so.",
        lambda: story.advise(WILLNEED),
        Seen("PURGED", 1, 0, retained=0),
    )
    story.step(
        "Bind elsewhere: a purged buffer has nothing to map.",
        lambda: story.bind(OTHER_ADDRESS),
        Seen("PURGED", 1, 0, error=errno.EINVAL),
    )
    story.step("Unbind: that always works.", story.unbind, Seen("PURGED", 0, 0))
    story.step("Close it. A program would now create a new one.", story.close, Seen())


def open_node(node: str, why: str) -> tuple[Device, Controls]:
    """The device of a node, or one in this process; and the mock's control files."""
    if node != "in-process":
        device = Device.open(node)
        print(f"transport: {device.transport.name} on {device.transport.path}")
        return device, ControlFiles.of_node(node)
    from xedev.node.local import LocalTransport
    from xedev.xe.xe_device import XeConfig, XeDevice

    print(f"transport: in-process device ({why})")
    transport = LocalTransport(XeDevice(XeConfig()))
    return Device(transport), LocalControls(transport.device.debugfs, transport.caller)


def begin(stack: ExitStack, node: str, why: str) -> Story:
    """Open everything; the stack closes it."""
    device, controls = open_node(node, why)
    stack.callback(device.close)
    trace: TraceReader | None = None
    if isinstance(controls, ControlFiles):
        trace = stack.enter_context(controls.trace())
    return Story(device, controls, trace)


def main() -> int:
    """Run the story; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="The purgeable life of a buffer object.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    parser.add_argument("--why", default="no node was asked for", help="why it is in-process")
    args = parser.parse_args()
    with ExitStack() as stack:
        try:
            story = begin(stack, args.node, args.why)
        except OSError as error:
            parser.error(f"{args.node}: {error}")
        try:
            tell(story)
        except Surprise as surprise:
            print(f"surprise: {surprise}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
