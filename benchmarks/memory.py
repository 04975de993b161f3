"""What VMAs weigh, and whether reference counts alone free everything."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from benchmarks.device import PAGE, Client, make_device
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from uapi import drm, xe_drm
from xedev.xe.xe_device import XeDevice

__all__ = ("WHATS", "measure_bytes", "measure_garbage")

WHATS = {
    "memory/vma": "memory of a VMA",
    "memory/garbage": "left to the garbage collector",
}
_BYTES_GOAL = 1024
_GARBAGE_GOAL = 0
_WARM_UP = 1000


def measure_bytes(scale: Scale) -> list[Line]:
    """Growth of this process while VMAs are made, which must be a fresh process."""
    client = Client(make_device())
    count = scale.memory_vmas
    vm, bo = client.create_vm(), client.create_bo((_WARM_UP + count) * PAGE)
    client.bind_pages(vm, bo, 0, _WARM_UP)
    say(f"memory/vma: making {count} VMAs")
    gc.disable()
    before = _resident_bytes()
    client.bind_pages(vm, bo, _WARM_UP, count)
    each = (_resident_bytes() - before) / count
    return [
        Line(
            "memory/vma",
            WHATS["memory/vma"],
            unit="bytes",
            median=each,
            goal=_BYTES_GOAL,
            iterations=f"1 x {count}",
            note="growth of the resident set of a process that binds pages of one BO one by one",
        )
    ]


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_garbage(scale: Scale) -> list[Line]:
    """What a collection finds after some work with the collector off."""
    device = make_device()
    _work(device, 1)  # what is made once: caches, imports
    gc.collect()
    gc.disable()
    _work(device, scale.calls)
    left = gc.collect()
    gc.enable()
    return [
        Line(
            "memory/garbage",
            WHATS["memory/garbage"],
            unit="objects",
            median=left,
            goal=_GARBAGE_GOAL,
            iterations=f"1 x {scale.calls}",
            note="objects in reference cycles after a file's life: binds, splits, advice, exports, "
            "refusals, and an end with everything still there",
        )
    ]


def _work(device: XeDevice, times: int) -> None:
    client = Client(device)
    for index in range(times):
        vm = _life_of_a_bo(client)
        if index % 2:
            client.call(xe_drm.DRM_IOCTL_XE_VM_DESTROY, xe_drm.drm_xe_vm_destroy(vm_id=vm))
    client.close()


def _life_of_a_bo(client: Client) -> int:
    """All that makes, splits or ends objects, refusals included; returns the VM with the rest."""
    vm, bo = client.create_vm(), client.create_bo(8 * PAGE)
    for step in (
        client.binding(vm, bo, 0, 8 * PAGE),
        client.unbinding(vm, 2 * PAGE, PAGE),
        client.binding(vm, bo, PAGE, 4 * PAGE),
        client.advising(vm, 0, 8 * PAGE, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED),
        client.binding(vm, bo, 0, PAGE),  # refused: DONTNEED
        client.binding(vm, bo + 1000, 0, PAGE),  # refused: no such handle
        client.advising(vm, 0, 8 * PAGE, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED),
        client.prepare(
            drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, drm.drm_prime_handle(handle=bo, flags=drm.DRM_CLOEXEC)
        ),
        client.prepare(drm.DRM_IOCTL_GEM_CLOSE, drm.drm_gem_close(handle=bo)),
        client.prepare(drm.DRM_IOCTL_GEM_CLOSE, drm.drm_gem_close(handle=bo)),  # refused
    ):
        step()
    return vm
