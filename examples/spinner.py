#!/usr/bin/env python3
"""One process keeps an engine busy without end; another works on undisturbed.

    python examples/spinner.py DIR/dev/dri/renderD128     a mounted node
    python examples/spinner.py in-process                 no mount: the device in this process

A spinner is a batch that jumps in a circle as long as a number in memory is not 0. While it spins,
a second process (without a mount: a second client) makes its ioctls; nothing of that takes longer
for it. The first ends the spinner with a plain store. Times are told, not judged. Exit status 1
when something came out differently.
"""

from __future__ import annotations

import argparse
import errno
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from uapi import xe_drm
from xedev.client import Device, IoctlError
from xedev.client.spinner import Cork
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    gem_close,
    xe_bo_create,
    xe_vm_bind_sync,
    xe_vm_create,
    xe_vm_destroy,
)
from xedev.client.xe_query import (
    system_memory,
    xe_engine_class_short_string,
    xe_for_each_engine,
    xe_get_default_alignment,
)

ROUNDS = 50
#: Runs this program as the second process.
OTHER = "--other"


class Surprise(Exception):
    """Something came out differently."""


# --- the one that works --------------------------------------------------------------------


def work(device: Device) -> None:
    """Make, bind and give back a buffer, and say how long that took."""
    times = []
    size = xe_get_default_alignment(device)
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        vm = xe_vm_create(device)
        bo = xe_bo_create(device, vm, size, system_memory(device))
        xe_vm_bind_sync(device, vm, bo, 0, 0x1A0000, size)
        gem_close(device, bo)
        xe_vm_destroy(device, vm)
        times.append(time.perf_counter() - begin)
    median = statistics.median(times) * 1e3
    print(f"   {ROUNDS} times: make, bind and destroy; median {median:.2f} ms", flush=True)


def work_elsewhere(node: str) -> None:
    """The same in another process."""
    program = [sys.executable, __file__, OTHER, node]
    if subprocess.run(program, check=False).returncode:
        raise Surprise("the other process failed")


# --- the one that spins --------------------------------------------------------------------


def still_runs(cork: Cork) -> bool:
    """Whether the fence of its job has not been signalled."""
    try:
        cork.device.syncobj_wait([cork.syncobj], deadline_ns(0.001))
    except OSError as error:
        if error.errno != errno.ETIME:
            raise
        return True
    return False


def expect_spinning(cork: Cork) -> None:
    """Surprise when it has ended by itself."""
    runs = still_runs(cork)
    print(f"   the spinner {'runs' if runs else 'has ended'}")
    if not runs:
        raise Surprise("nobody ended the spinner")


def run(device: Device, others: Callable[[], None]) -> None:
    """Tell the story; Surprise when it goes otherwise."""
    print("1. The other works, for comparison")
    others()
    engine = next(xe_for_each_engine(device))
    print(f"2. A spinner on {xe_engine_class_short_string(engine.engine_class)}")
    cork = Cork(device, [engine])
    cork.sync_start()
    expect_spinning(cork)
    print("3. The other works again")
    others()
    expect_spinning(cork)
    print("4. The CPU stores a 0")
    begin = time.perf_counter()
    cork.spin.end()
    cork.wait()
    print(f"   the spinner has ended, {(time.perf_counter() - begin) * 1e3:.2f} ms later")
    banned = device.exec_queue_get_property(
        cork.exec_queue, xe_drm.DRM_XE_EXEC_QUEUE_GET_PROPERTY_BAN
    )
    if banned:
        raise Surprise("its queue is banned")
    cork.destroy()


def run_in_process() -> None:
    """Run it on a device of this process, with two clients."""
    from xedev.node.local import LocalTransport
    from xedev.xe.xe_device import XeConfig, XeDevice

    print("transport: in-process device", flush=True)
    xe = XeDevice(XeConfig())
    with Device(LocalTransport(xe)) as device, Device(LocalTransport(xe)) as other:
        run(device, lambda: work(other))


def run_on_node(node: str) -> None:
    """Run it on a mount or a real device, with two processes."""
    with Device.open(node) as device:
        # Before the other process prints anything.
        print(f"transport: {device.transport.name} on {device.transport.path}", flush=True)
        run(device, lambda: work_elsewhere(node))


def run_other(node: str) -> None:
    """Be the second process."""
    with Device.open(node) as device:
        work(device)


def main() -> int:
    """Run the spinner; 1 after a surprise."""
    parser = argparse.ArgumentParser(description="A spinner, and another process beside it.")
    parser.add_argument("node", nargs="?", default="in-process", metavar="NODE")
    parser.add_argument(OTHER, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    # The lines of two processes come in the order in which they are printed.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        if args.other:
            run_other(args.node)
        elif args.node == "in-process":
            run_in_process()
        else:
            run_on_node(args.node)
    except (IoctlError, Surprise) as surprise:
        print(f"surprise: {surprise}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ETIME:
            parser.error(f"{args.node}: {error}")
        print("surprise: the spinner does not begin", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
