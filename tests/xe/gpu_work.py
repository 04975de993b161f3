"""Memory that the GPU and the test both see, queues that work on it, and what became of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.xe.gate import signals
from uapi import xe_drm
from xedev.client import BatchBuilder, Device, GpuUserFence
from xedev.client.igt_syncobj import sync_fence_status
from xedev.client.memory import ExecSync, op_map
from xedev.client.spinner import Spinner, SpinOpts, xe_spin_init
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import xe_bo_map

__all__ = (
    "ADDR",
    "BCS",
    "FAULT",
    "FENCE",
    "LR",
    "PAGE",
    "RCS",
    "SCRATCH",
    "VCS",
    "Board",
    "Eci",
    "status_of",
    "wait_for",
)

Eci = xe_drm.drm_xe_engine_class_instance

LR = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT = LR | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
SCRATCH = xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE

PAGE = 4096
ADDR = 0x1A0000
"""Of the board in its VM: a page of data, then batches."""
FENCE = ADDR + 0xF00
"""A cell in the page of data."""
BATCHES = PAGE
BATCH_SIZE = 256
SPIN_SIZE = 1024
IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE
PATIENCE = 20.0
"""Seconds."""

RCS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_RENDER)
BCS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_COPY)
VCS = [
    Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VIDEO_DECODE, engine_instance=index, gt_id=1)
    for index in range(2)
]


def wait_for(device: Device, *handles: int) -> None:
    """Sleep until all syncobjs are signalled; ETIME when that takes too long."""
    device.syncobj_wait(handles, deadline_ns(PATIENCE), flags=1)


def status_of(device: Device, handle: int) -> int:
    """What became of the work of a syncobj: 0 pending, 1 done, or the negative errno."""
    fd = device.syncobj_export_sync_file(handle)
    try:
        return sync_fence_status(device, fd)
    finally:
        device.transport.close_fd(fd)


class Board:
    """A buffer object bound at `ADDR` of a VM and mapped here."""

    def __init__(
        self, device: Device, flags: int = 0, pages: int = 17, vm: int | None = None
    ) -> None:
        self.device = device
        self.size = pages * PAGE
        self.vm = device.vm_create(flags) if vm is None else vm
        self.bo = device.gem_create(self.size, 1)
        self.memory = xe_bo_map(device, self.bo, self.size)
        self._end = BATCHES
        device.vm_bind(self.vm, [op_map(self.bo, 0, ADDR, self.size, flags=IMMEDIATE)])

    def queue(
        self,
        instances: Sequence[Eci] = (RCS,),
        width: int = 1,
        placements: int = 1,
    ) -> int:
        """A new queue for the VM."""
        return self.device.exec_queue_create(self.vm, instances, width, placements)

    def batch(self, batch: BatchBuilder) -> int:
        """Lay a batch out behind the others; its GPU address."""
        data, start = bytes(batch), self._end
        self._end = start + -(-len(data) // BATCH_SIZE) * BATCH_SIZE
        assert self._end <= self.size
        self.memory.write(start, data)
        return ADDR + start

    def storing(self, value: int, address: int = ADDR) -> int:
        """The address of a batch that stores a dword."""
        return self.batch(BatchBuilder().store_dword(address, value).end())

    def spinner(self, **options: Any) -> Spinner:
        """A batch that goes on until it is told to end."""
        start = -(-self._end // SPIN_SIZE) * SPIN_SIZE
        self._end = start + SPIN_SIZE
        assert self._end <= self.size
        return xe_spin_init(self.memory, SpinOpts(ADDR + start, **options), start)

    def exec(self, queue: int, address: int | Sequence[int], *syncs: ExecSync) -> int:
        """Submit; a syncobj that gets the job's fence."""
        out = self.device.syncobj_create()
        self.device.exec(queue, address, [*syncs, signals(out)])
        return out

    def exec_lr(self, queue: int, address: int, value: int = 1, *syncs: ExecSync) -> None:
        """Submit to a long-running VM, with ``value`` to be written to `FENCE`."""
        self.device.exec(queue, address, [*syncs, GpuUserFence(FENCE, value)])

    def run(self, queue: int, address: int | Sequence[int], *syncs: ExecSync) -> int:
        """Submit and wait; what became of it, as `status_of`."""
        out = self.exec(queue, address, *syncs)
        wait_for(self.device, out)
        return status_of(self.device, out)

    def read(self, address: int = ADDR) -> int:
        """A dword, by its GPU address."""
        return int.from_bytes(self.memory.read(address - ADDR, 4), "little")

    def write(self, value: int, address: int = ADDR) -> None:
        """The same by the CPU."""
        self.memory.write(address - ADDR, value.to_bytes(4, "little"))

    @property
    def fence_address(self) -> int:
        """Of `FENCE` in this process."""
        return self.memory.address + FENCE - ADDR
