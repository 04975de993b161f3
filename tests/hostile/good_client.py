"""A client that does all right, and knows the answers: it must never see a wrong one.

``python -m tests.hostile.good_client PLAN`` with a JSON object (see `Plan`) runs its program over
and over until its stdin ends, and prints one JSON object: how often, how long the longest round
took, and what was wrong, if anything was.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from uapi import drm, xe_drm, xe_mock
from uapi.base import Struct
from uapi.ioctl import IO, IOWR
from xedev.client import Device, FrameTransport, IoctlTransport, UserFence
from xedev.client.memory import op_map, op_map_null, op_unmap, op_unmap_all
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

__all__ = ("Plan", "main", "run_round")

SIZE = 1 << 16
BOTH = 3  # VRAM, or system memory when that is full
WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
IS_WILLNEED, IS_DONTNEED, IS_PURGED = 0, 1, 2
_PR_SET_PDEATHSIG = 1

_LIVE_QUERIES = (
    xe_drm.DRM_XE_DEVICE_QUERY_MEM_REGIONS,  # tells what is in use
    xe_drm.DRM_XE_DEVICE_QUERY_ENGINE_CYCLES,  # tells the time
    xe_drm.DRM_XE_DEVICE_QUERY_UC_FW_VERSION,  # wants to be asked for something
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run against."""

    directory: str
    """Of the mount."""
    vram: int
    """Bytes, as the mount was told."""
    system: int


class WrongAnswer(AssertionError):
    """The mock answered what it must not."""


def expect(actual: object, expected: object, what: str) -> None:
    """`WrongAnswer` unless both are equal."""
    if actual != expected:
        raise WrongAnswer(f"{what}: {actual!r} instead of {expected!r}")


def expect_errno(action: Callable[[], object], what: str, *expected: int) -> None:
    """`WrongAnswer` unless the action fails with one of the errnos."""
    try:
        result = action()
    except OSError as error:
        if error.errno not in expected:
            raise WrongAnswer(f"{what}: {error}") from error
        return
    raise WrongAnswer(f"{what}: {result!r} instead of a failure")


# ---- the program -----------------------------------------------------------------------------


def _info(device: Device, handle: int) -> tuple[int, int, int]:
    info = device.bo_info(handle)
    return info.state, info.vma_count, info.willneed_count


def purgeable_life(device: Device) -> None:
    """One BO from its first mapping to its end.

    Others may take its memory as soon as it is DONTNEED, so from there on two stories are right.
    """
    bo = device.gem_create(SIZE, BOTH)
    vm = device.vm_create()
    expect((bo, vm), (1, 1), "the first handle and the first VM of a file")
    expect(_info(device, bo), (IS_WILLNEED, 0, 0), "a new BO")
    fence = UserFence(0x1234)
    device.vm_bind(vm, [op_map(bo, 0, 0, SIZE)], [fence])
    expect(fence.signaled, True, "the fence of a bind")
    expect(_info(device, bo), (IS_WILLNEED, 1, 1), "a mapped BO")
    expect(device.madvise_purgeable(vm, 0, SIZE, DONTNEED), 1, "retained at DONTNEED")
    state, *counts = _info(device, bo)
    expect(state in (IS_DONTNEED, IS_PURGED), True, f"state {state} after DONTNEED")
    expect(counts, [1, 0], "counts after DONTNEED")
    refused = errno.EBUSY, errno.EINVAL
    expect_errno(lambda: device.vm_bind(vm, [op_map(bo, 0, SIZE, SIZE)]), "bind", *refused)
    expect_errno(lambda: device.prime_handle_to_token(bo), "export", *refused)
    expect(_info(device, bo)[1:], (1, 0), "counts after refusals")
    retained = device.madvise_purgeable(vm, 0, SIZE, WILLNEED)
    if retained:
        expect(_info(device, bo), (IS_WILLNEED, 1, 1), "wanted again")
        second_life(device, vm, bo)
    else:
        expect(_info(device, bo), (IS_PURGED, 1, 0), "wanted too late")
        expect_errno(lambda: device.prime_handle_to_token(bo), "export", errno.EINVAL)
    device.vm_bind(vm, [op_unmap_all(bo)])
    # A BO that was exported stays so as long as it has a handle.
    expect(_info(device, bo)[1:], (0, retained), "counts after UNMAP_ALL")
    device.gem_close(bo)
    device.vm_destroy(vm)
    expect_errno(lambda: device.gem_close(bo), "a second close", errno.EINVAL)
    expect_errno(lambda: device.vm_destroy(vm), "a second destroy", errno.ENOENT)


def second_life(device: Device, vm: int, bo: int) -> None:
    """Two VMs and a dma-buf: whoever wants the contents keeps them."""
    other = device.vm_create()
    device.vm_bind(other, [op_map(bo, 0, 4 * SIZE, SIZE)])
    expect(_info(device, bo), (IS_WILLNEED, 2, 2), "mapped twice")
    expect(device.madvise_purgeable(vm, 0, SIZE, DONTNEED), 1, "retained by the other VM")
    expect(_info(device, bo), (IS_WILLNEED, 2, 1), "wanted by one VM")
    fd = device.prime_handle_to_fd(bo)
    try:
        expect(_info(device, bo), (IS_WILLNEED, 2, 2), "wanted by a dma-buf")
        expect(os.lseek(fd, 0, os.SEEK_END), SIZE, "size of the dma-buf")
        expect(device.prime_fd_to_handle(fd), bo, "import into the same file")
        expect(device.madvise_purgeable(other, 4 * SIZE, SIZE, DONTNEED), 1, "by the dma-buf")
        expect(_info(device, bo), (IS_WILLNEED, 2, 1), "wanted by the dma-buf alone")
        expect(device.madvise_purgeable(vm, 0, SIZE, WILLNEED), 1, "retained by the dma-buf")
        expect(_info(device, bo), (IS_WILLNEED, 2, 2), "wanted by one VM and the dma-buf")
    finally:
        device.close_fd(fd)
    attrs = device.vm_query_mem_range_attrs(other, 0, 1 << 40)
    expect([(attr.start, attr.end) for attr in attrs], [(4 * SIZE, 5 * SIZE)], "mappings")
    device.vm_destroy(other)
    expect(_info(device, bo)[1], 1, "mappings after the other VM's end")


def split_and_merge(device: Device) -> None:
    """Mappings that are cut, and an array of binds that fails as a whole."""
    vm = device.vm_create()
    bo = device.gem_create(8 * SIZE, 1)
    device.vm_bind(vm, [op_map(bo, 0, 0, 8 * SIZE)])
    device.vm_bind(vm, [op_unmap(2 * SIZE, SIZE), op_map_null(5 * SIZE, SIZE)])
    bounds = [(0, 2), (3, 5), (5, 6), (6, 8)]
    _expect_bounds(device, vm, bounds)
    expect(_info(device, bo), (IS_WILLNEED, 3, 3), "three pieces")
    broken = [op_unmap(0, 8 * SIZE), op_map(bo, 0, 0, SIZE), op_map(99, 0, 0, SIZE)]
    expect_errno(lambda: device.vm_bind(vm, broken), "an unknown handle", errno.ENOENT)
    _expect_bounds(device, vm, bounds)
    expect(_info(device, bo), (IS_WILLNEED, 3, 3), "three pieces still")
    device.gem_close(bo)
    device.vm_destroy(vm)


def _expect_bounds(device: Device, vm: int, bounds: list[tuple[int, int]]) -> None:
    attrs = device.vm_query_mem_range_attrs(vm, 0, 1 << 40)
    found = [(attr.start // SIZE, attr.end // SIZE) for attr in attrs]
    expect(found, bounds, "mappings")


_REFUSALS: tuple[tuple[int, Struct | None, int], ...] = (
    (xe_drm.DRM_IOCTL_XE_GEM_CREATE, xe_drm.drm_xe_gem_create(), errno.EINVAL),
    (
        xe_drm.DRM_IOCTL_XE_GEM_CREATE,
        xe_drm.drm_xe_gem_create(size=4096, placement=1, cpu_caching=3),
        errno.EINVAL,
    ),
    (
        xe_drm.DRM_IOCTL_XE_GEM_CREATE,
        xe_drm.drm_xe_gem_create(size=4096, placement=1, cpu_caching=1, vm_id=99),
        errno.ENOENT,
    ),
    (
        xe_drm.DRM_IOCTL_XE_GEM_CREATE,
        xe_drm.drm_xe_gem_create(size=1 << 60, placement=2, cpu_caching=2),
        errno.ENOSPC,  # the space of mmap offsets is asked first
    ),
    (xe_drm.DRM_IOCTL_XE_VM_CREATE, xe_drm.drm_xe_vm_create(flags=1 << 9), errno.EINVAL),
    (xe_drm.DRM_IOCTL_XE_VM_DESTROY, xe_drm.drm_xe_vm_destroy(vm_id=1, pad=1), errno.EINVAL),
    (xe_drm.DRM_IOCTL_XE_VM_BIND, xe_drm.drm_xe_vm_bind(vm_id=99), errno.EINVAL),
    (xe_drm.DRM_IOCTL_XE_MADVISE, xe_drm.drm_xe_madvise(vm_id=99, range=4096), errno.EINVAL),
    (xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, xe_drm.drm_xe_device_query(query=99), errno.EINVAL),
    (xe_drm.DRM_IOCTL_XE_VM_GET_PROPERTY, xe_drm.drm_xe_vm_get_property(vm_id=9), errno.ENOENT),
    (drm.DRM_IOCTL_PRIME_HANDLE_TO_FD, drm.drm_prime_handle(handle=77), errno.ENOENT),
    (drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, drm.drm_prime_handle(fd=-1), errno.EBADF),
    (drm.DRM_IOCTL_PRIME_FD_TO_HANDLE, drm.drm_prime_handle(fd=0), errno.EINVAL),
    (drm.DRM_IOCTL_GEM_FLINK, drm.drm_gem_flink(handle=1), errno.EACCES),
    (drm.DRM_IOCTL_GET_MAGIC, drm.drm_auth(), errno.EACCES),
    (xe_mock.XE_MOCK_IOCTL_BO_INFO, xe_mock.xe_mock_bo_info(handle=5), errno.ENOENT),
    (IO("d", 0xFE), None, errno.EINVAL),
    (IO("z", 0), None, errno.ENOTTY),
    (IOWR("x", 99, 8), drm.drm_gem_close(), errno.ENOTTY),
)
"""On a render node without handles and VMs."""


def refusals(device: Device) -> None:
    """What must be refused, and how."""
    for cmd, template, error in _REFUSALS:
        arg: Any = None if template is None else type(template).from_buffer_copy(template)
        expect_errno(partial(device.ioctl, cmd, arg), f"{cmd:#x} {arg!r}", error)


class Queries:
    """The answers of a device in this process, made as the mounted one was."""

    def __init__(self, vram: int, system: int) -> None:
        xe = XeDevice(XeConfig(vram=vram, system=system))
        self._answers = self._ask(Device(LocalTransport(xe)))

    @staticmethod
    def _ask(device: Device) -> dict[int, bytes | int]:
        answers: dict[int, bytes | int] = {}
        for query in range(11):
            if query in _LIVE_QUERIES:
                continue
            try:
                answers[query] = device.query(query)
            except OSError as error:
                answers[query] = error.errno or 0
        return answers

    def check(self, device: Device) -> None:
        """The mounted device says the same."""
        for query, answer in self._ask(device).items():
            expect(answer, self._answers[query], f"query {query}")
        version = device.version()
        expect((version.name, version.major), ("xe", 1), "VERSION")


def run_round(plan: Plan, queries: Queries, frames: bool) -> None:
    """The whole program once, on a fresh file each for its parts."""
    directory = os.path.join(plan.directory, "dev/dri")
    for part in (purgeable_life, split_and_merge, refusals, queries.check):
        transport: FrameTransport | IoctlTransport
        if frames:
            transport = FrameTransport(os.path.join(directory, "xe-mock"))
        else:
            transport = IoctlTransport(os.path.join(directory, "renderD128"))
        with Device(transport) as device:
            part(device)


# ---- the process -----------------------------------------------------------------------------


def main(text: str) -> None:
    """Until stdin ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    plan = Plan(**json.loads(text))
    queries = Queries(plan.vram, plan.system)
    rounds, longest, wrong = 0, 0.0, ""
    while not select.select([0], [], [], 0)[0]:
        began = time.monotonic()
        try:
            run_round(plan, queries, frames=rounds % 3 == 2)
        except Exception:  # noqa: BLE001 - whatever it was, it must not have happened
            wrong = traceback.format_exc()
            break
        rounds += 1
        longest = max(longest, time.monotonic() - began)
    with suppress(BrokenPipeError):
        print(json.dumps({"rounds": rounds, "longest": longest, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1])
