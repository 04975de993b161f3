"""What was going on when a job failed, to be read from sysfs (kernel: xe_devcoredump.c).

Only the first failure is kept, until somebody writes to the file.
"""

from __future__ import annotations

import array
import base64
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import BinAttribute
from xedev.xe.xe_hw_engine import ENGINE_CLASSES

if TYPE_CHECKING:
    from xedev.xe.xe_bo import XeBo
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_exec_queue import XeExecQueue
    from xedev.xe.xe_vm import XeVm, XeVma

__all__ = ("XeDevcoredump", "devcoredump_attribute")

DUMPABLE = xe_drm.DRM_XE_VM_BIND_FLAG_DUMPABLE
CONTENTS_MAX = 8 << 20
"""Bytes of memory in one dump.  The kernel takes as much as there is."""
_ENOMEM = -12
_EFAULT = -14
_TYPES = {xe_drm.DRM_XE_QUERY_GT_TYPE_MAIN: "main", xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA: "media"}


class XeDevcoredump:
    """The dump that there is, if there is one (kernel: ``struct xe_devcoredump``)."""

    def __init__(self, xe: XeDevice) -> None:
        self._xe = xe
        self._lock = threading.Lock()
        self._is_captured = False
        self._data: bytes | None = None

    def begin(self) -> bool:
        """Whether a failure that comes now is to be kept; it is then up to the caller to call
        `capture`."""
        with self._lock:
            was, self._is_captured = self._is_captured, True
        return not was

    def capture(self, queue: XeExecQueue, seqno: int, address: int) -> None:
        """Keep what is there now of a queue, which was with job ``seqno`` at ``address``; may sleep
        (kernel: ``devcoredump_snapshot``)."""
        text = "".join(f"{line}\n" for line in _snapshot(self._xe, queue, seqno, address))
        self._data = text.encode()
        self._xe.trace.emit("devcoredump", device=self._xe.unique, queue=queue.number)

    def exists(self) -> bool:
        """Whether there is one."""
        return self._data is not None

    def read(self, offset: int, size: int) -> bytes:
        """A piece of it."""
        return (self._data or b"")[offset : offset + size]

    def free(self, written: bytes) -> None:
        """Whatever is ``written``: drop it, and keep the next failure."""
        with self._lock:
            self._data, self._is_captured = None, False


def devcoredump_attribute(dump: XeDevcoredump) -> BinAttribute:
    """The file in the directory of the device (kernel: drivers/base/devcoredump.c)."""
    return BinAttribute("devcoredump/data", dump.read, dump.free, mode=0o600, exists=dump.exists)


# ---- the text ----


def _snapshot(xe: XeDevice, queue: XeExecQueue, seqno: int, address: int) -> Iterator[str]:
    """Kernel: ``__xe_devcoredump_read``."""
    which = f"seqno={seqno}, lrc_seqno={seqno}, guc_id={queue.number}, flags=0x0"
    yield "**** Xe Device Coredump ****"
    yield f"Reason: Timedout job - {which}"  # whatever it was that failed
    yield f"kernel: {os.uname().release}"
    yield f"module: {xe.driver_name}"
    yield f"Snapshot time: {time.time():.9f}"
    yield f"Uptime: {time.clock_gettime(time.CLOCK_BOOTTIME):.9f}"
    yield f"Process: {_process(xe, queue.vm.client_id)}"
    yield from _device(xe)
    yield from ("", f"**** GT #{queue.gt_id} ****", "\tTile: 0")
    yield from ("", "**** GuC Log ****", "", "**** GuC CT ****")
    yield from ("", "**** Contexts ****", *_context(queue))
    yield from ("", "**** Job ****", *_job(queue))
    yield from ("", "**** HW Engines ****", *_engine(queue, address))
    yield from ("", "**** VM state ****", *_vm(queue.vm))


def _process(xe: XeDevice, client: int) -> str:
    file = xe.filelist.get(client)
    return "no process [0]" if file is None else f"{file.comm} [{file.pid}]"


def _device(xe: XeDevice) -> Iterator[str]:
    """Kernel: ``xe_device_snapshot_print``."""
    platform = xe.platform
    yield f"PCI ID: {platform.device_id:#06x}"
    yield f"PCI revision: {platform.revision:#04x}"
    for gt in platform.gts:
        version = ".".join(map(str, gt.ip_version))
        yield f"GT id: {gt.gt_id}"
        yield f"\tTile: {gt.tile_id}"
        yield f"\tType: {_TYPES[gt.type]}"
        yield f"\tIP ver: {version}"
        yield f"\tCS reference clock: {platform.reference_clock}"


def _context(queue: XeExecQueue) -> Iterator[str]:
    """Kernel: ``xe_guc_exec_queue_snapshot_print``."""
    preempt = queue.vm.xe.eclass(queue.gt_id, queue.engine_class).preempt_timeout.value
    yield f"GuC ID: {queue.number}"
    yield f"\tName: {ENGINE_CLASSES[queue.engine_class]}{queue.number}"
    yield f"\tClass: {list(ENGINE_CLASSES).index(queue.engine_class)}"
    yield f"\tLogical mask: {queue.logical_mask:#x}"
    yield f"\tWidth: {queue.width}"
    yield f"\tRef: {queue.refs}"
    yield f"\tTimeout: {queue.job_timeout_ms} (ms)"
    yield f"\tTimeslice: {queue.timeslice} (us)"
    yield f"\tPreempt timeout: {preempt} (us)"


def _job(queue: XeExecQueue) -> Iterator[str]:
    """Kernel: ``xe_sched_job_snapshot_print``."""
    with queue.jobs_lock:
        batches = queue.jobs[0].batches if queue.jobs else ()
    for number, batch in enumerate(batches):
        yield f"batch_addr[{number}]: {queue.vm.xe.canonical_to_va(batch):#018x}"


def _engine(queue: XeExecQueue, address: int) -> Iterator[str]:
    """The one that it ran on, with the registers that say where
    (kernel: ``xe_engine_snapshot_print``)."""
    with queue.jobs_lock:
        engine = queue.jobs[0].engine if queue.jobs else None
    lowest = (queue.logical_mask & -queue.logical_mask).bit_length() - 1
    instance = lowest if engine is None else engine[1]
    yield f"{ENGINE_CLASSES[queue.engine_class]}{instance} (physical), logical instance={instance}"
    yield "\tCapture_source: GuC"
    yield "\tCoverage: full-capture"
    yield "\tReserved: no"
    yield f"\tACTHD: {address:#018x}"
    yield f"\tRING_BBADDR: {address:#018x}"


# ---- memory ----


def _vm(vm: XeVm) -> Iterator[str]:
    """What the client bound to be dumped (kernel: ``xe_vm_snapshot_capture``,
    ``xe_vm_snapshot_print``)."""
    for start, length, data in _contents(vm):
        yield f"[{start:x}].length: {length:#x}"
        if isinstance(data, int):
            yield f"[{start:x}].error: {data}"
        else:
            yield f"[{start:x}].data: {_ascii85(data)}"


def _contents(vm: XeVm) -> list[tuple[int, int, bytes | int]]:
    """Address, length, and the bytes or an errno; no more bytes than a dump may have."""
    found: list[tuple[int, int, bytes | int]] = []
    left = CONTENTS_MAX
    vm.lock.down_read()
    try:
        for vma in vm.gpuvm:
            if not vma.flags & DUMPABLE:
                continue
            length = vma.end - vma.start
            data = _bytes(vma, length) if length <= left else _ENOMEM
            left -= 0 if isinstance(data, int) else length
            found.append((vma.start, length, data))
    finally:
        vm.lock.up_read()
    return found


def _bytes(vma: XeVma, length: int) -> bytes | int:
    try:
        if vma.bo is not None:
            return _bo_bytes(vma.bo, vma.offset, length)
        return vma.mm.read(vma.offset, length) if vma.mm is not None else bytes(length)
    except KernelError as error:
        return -(error.errno or 0)


def _bo_bytes(bo: XeBo, offset: int, length: int) -> bytes | int:
    owner = bo.exporter or bo
    with owner.resv:
        if owner.imported:
            return _EFAULT
        if not owner.populated:
            return bytes(length)
        return owner.xe.ttm.pages(owner).read(offset, length)


def _ascii85(data: bytes) -> str:
    """Of numbers of 32 bits (kernel: ``ascii85_encode``)."""
    words = array.array("I", data)
    if sys.byteorder == "little":
        words.byteswap()
    return base64.a85encode(words.tobytes()).decode()
