"""A client of a mount that submits batches, with everything around them made beforehand."""

from __future__ import annotations

import ctypes
from types import TracebackType

from uapi import drm, xe_drm
from xedev.client import BatchBuilder, Device, sync_signal
from xedev.client.memory import op_map
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_query import xe_for_each_engine

__all__ = ("ADDRESS", "BCS", "RCS", "Eci", "ExecClient", "Job", "engine_of")

Eci = xe_drm.drm_xe_engine_class_instance
RCS = xe_drm.DRM_XE_ENGINE_CLASS_RENDER
BCS = xe_drm.DRM_XE_ENGINE_CLASS_COPY
ADDRESS = 0x100000
"""Of the client's BO in its VM: batches first, data behind them."""
_ROOM = 1 << 20  # bytes for batches
_SYSTEM = 1
_PATIENCE = 60.0  # seconds
_FOREVER = (1 << 63) - 1


class Job:
    """One EXEC that can be made again and again, and the wait for it."""

    def __init__(self, device: Device, queue: int, batch: int) -> None:
        self._device = device
        self._syncobj = device.syncobj_create()
        self._sync = sync_signal(self._syncobj)
        self._handle = ctypes.c_uint32(self._syncobj)
        self._array = drm.drm_syncobj_array(handles=ctypes.addressof(self._handle), count_handles=1)
        self._exec = xe_drm.drm_xe_exec(
            exec_queue_id=queue,
            num_syncs=1,
            syncs=ctypes.addressof(self._sync),
            address=batch,
            num_batch_buffer=1,
        )
        self._wait = drm.drm_syncobj_wait(
            handles=ctypes.addressof(self._handle), count_handles=1, timeout_nsec=_FOREVER
        )

    def submit(self) -> None:
        """EXEC."""
        self._device.transport.ioctl(xe_drm.DRM_IOCTL_XE_EXEC, self._exec)

    def reset(self) -> None:
        """SYNCOBJ_RESET."""
        self._device.transport.ioctl(drm.DRM_IOCTL_SYNCOBJ_RESET, self._array)

    def wait(self) -> None:
        """SYNCOBJ_WAIT for the latest."""
        self._device.transport.ioctl(drm.DRM_IOCTL_SYNCOBJ_WAIT, self._wait)

    def run(self) -> None:
        """Both."""
        self.submit()
        self.wait()


class ExecClient:
    """An open node with a VM and one BO in it, mapped here."""

    def __init__(self, node: str, data_size: int = 4096) -> None:
        self.device = Device.open(node, "ioctl")
        self.vm = self.device.vm_create()
        self.data = ADDRESS + _ROOM
        """The GPU's address of ``data_size`` bytes."""
        size = _ROOM + data_size
        self._bo = self.device.gem_create(size, _SYSTEM)
        self.memory = self.device.map(self._bo, size)
        done = self.device.syncobj_create()
        self.device.vm_bind(self.vm, [op_map(self._bo, 0, ADDRESS, size)], [sync_signal(done)])
        self.device.syncobj_wait([done], deadline_ns(_PATIENCE))
        self._end = 0

    def batch(self, batch: BatchBuilder) -> int:
        """Lay out a batch behind the others; its address."""
        data, start = bytes(batch), self._end
        self._end += -(-len(data) // 64) * 64
        assert self._end <= _ROOM
        self.memory.write(start, data)
        return ADDRESS + start

    def queue(self, engine: Eci) -> int:
        """A new queue of one engine."""
        return self.device.exec_queue_create(self.vm, [engine])

    def job(self, batch: BatchBuilder, engine_class: int = RCS) -> Job:
        """A job for the first engine of a class, on a queue of its own."""
        queue = self.queue(engine_of(self.device, engine_class))
        return Job(self.device, queue, self.batch(batch.end()))

    def close(self) -> None:
        """Close the node with all that was made."""
        self.memory.close()
        self.device.close()

    def __enter__(self) -> ExecClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def engine_of(device: Device, engine_class: int) -> Eci:
    """The first one of a class."""
    return next(e for e in xe_for_each_engine(device) if e.engine_class == engine_class)
