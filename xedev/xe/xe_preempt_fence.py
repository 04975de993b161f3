"""How a VM of long-running work gets back what was evicted.

Jobs that may run for ever have no fence that an eviction could wait for, and no EXEC after it that
would bring things back.  So the driver preempts them and has a worker bring everything back before
they go on; when it does not fit any more, that is the VM's end.  Here the work goes on meanwhile:
it cannot tell where its memory is.

Kernel: drivers/gpu/drm/xe/xe_preempt_fence.c, ``preempt_rebind_work_func`` in xe_vm.c.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from xedev.drm.ttm import Contention
from xedev.kernel.errors import KernelError
from xedev.xe.xe_exec import xe_vm_validate_rebind

if TYPE_CHECKING:
    from xedev.drm.drm_gpuvm import DrmGpuvmBo
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm

__all__ = ("XePreempt",)

logger = logging.getLogger("xedev")

MIN_RUN_PERIOD = 0.005
"""Seconds that work runs before it is preempted (kernel: ``min_run_period_lr_ms``)."""


class XePreempt:
    """The worker of one VM (kernel: ``vm->preempt``)."""

    __slots__ = ("_is_queued", "_serial", "_xe", "rebind_deactivated")

    def __init__(self, xe: XeDevice, serial: int) -> None:
        self._xe = xe
        self._serial = serial
        """Of the VM, which must not be held from here."""
        self._is_queued = False
        self.rebind_deactivated = False
        """Whether something was evicted while no job was there to miss it."""

    def evicted(self, vm_bo: DrmGpuvmBo) -> None:
        """An object of the VM left its place (kernel: a preempt fence is to be signalled)."""
        self._queue_rebind_worker()

    def reactivate(self) -> None:
        """There is work again (kernel: ``xe_vm_reactivate_rebind``)."""
        if self.rebind_deactivated:
            self.rebind_deactivated = False
            self._queue_rebind_worker()

    def _queue_rebind_worker(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._xe.preempt_wq.queue_work(self._work)

    def _work(self) -> None:
        time.sleep(MIN_RUN_PERIOD)
        self._is_queued = False
        with self._xe.vms_lock:
            vm = self._xe.vms.get(self._serial)
        if vm is None:
            return
        vm.lock.down_write()
        try:
            if vm.size and not vm.banned:
                self._rebind(vm)
        finally:
            vm.lock.up_write()

    def _rebind(self, vm: XeVm) -> None:
        if not any(queue.jobs for queue in self._xe.guc.queues_of(vm)):
            self.rebind_deactivated = True
            return
        try:
            xe_vm_validate_rebind(vm)
        except Contention:
            self._queue_rebind_worker()
        except KernelError as error:
            logger.warning("vm %d: VM worker error: %s", vm.serial, error.reason)
            vm.kill()
