"""Submitting work (kernel: drivers/gpu/drm/xe/xe_exec.c)."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.ttm import retry_on_contention
from xedev.kernel.caller import Caller
from xedev.kernel.dma_fence import signalled_fence
from xedev.kernel.errors import KernelError
from xedev.xe.xe_bo import xe_bo_resvs, xe_bo_validate
from xedev.xe.xe_exec_queue import XeExecQueue, xe_exec_queue_lookup
from xedev.xe.xe_sched_job import XeSchedJob
from xedev.xe.xe_sync import XeSyncs, xe_sync_entries_parse

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.xe_bo import XeBo
    from xedev.xe.xe_device import XeDevice
    from xedev.xe.xe_vm import XeVm

__all__ = ("xe_exec_ioctl",)

MAX_JOBS = 1000
"""Jobs of one queue that are not done (kernel: ``XE_MAX_JOB_COUNT_PER_EXEC_QUEUE``)."""


def xe_exec_ioctl(xe: XeDevice, args: xe_drm.drm_xe_exec, file: DrmFile, caller: Caller) -> None:
    """``EXEC``: run the batch at ``address``; for a queue of several engines that is an array of
    ``u64``, one batch for each.

    ``EINVAL`` malformed, or a queue for binds, ``ENOENT`` unknown queue, ``ECANCELED`` the queue
    was reset or its VM is closed, ``EAGAIN`` too many jobs, ``EFAULT``, ``ENOMEM`` BOs do not fit,
    ``ENOEXEC`` stale protected content, ``EOPNOTSUPP`` an in-fence without a batch; syncs: see
    `xe_sync_entries_parse`.
    """
    if args.extensions or any(args.pad) or any(args.reserved):
        raise KernelError(errno.EINVAL, "extensions, pad and reserved must be zero")
    if args.num_syncs > xe_drm.DRM_XE_MAX_SYNCS:
        raise KernelError(errno.EINVAL, f"{args.num_syncs} syncs are too many")
    queue = xe_exec_queue_lookup(file, args.exec_queue_id)
    if queue is None:
        raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
    try:
        _check_queue(queue, args)
        syncs = xe_sync_entries_parse(
            file, caller, args.syncs, args.num_syncs, lr_mode=queue.vm.is_lr, of_exec=True
        )
        try:
            _exec(queue, args, syncs, caller)
        finally:
            syncs.put()
    finally:
        queue.put()


def _check_queue(queue: XeExecQueue, args: xe_drm.drm_xe_exec) -> None:
    if queue.binds is not None:
        raise KernelError(errno.EINVAL, "the queue is for binds")
    if args.num_batch_buffer and args.num_batch_buffer != queue.width:
        count = args.num_batch_buffer
        raise KernelError(errno.EINVAL, f"{count} batches for a queue of width {queue.width}")
    if queue.is_reset:
        raise KernelError(errno.ECANCELED, "the queue was reset")
    if len(queue.jobs) >= MAX_JOBS:
        raise KernelError(errno.EAGAIN, f"the queue has {MAX_JOBS} jobs that are not done")


def _exec(queue: XeExecQueue, args: xe_drm.drm_xe_exec, syncs: XeSyncs, caller: Caller) -> None:
    batches = _batches(queue, args, caller)
    vm = queue.vm
    _lock_settled(vm, caller)
    try:
        if not batches:
            _signal_last_fence(queue, syncs)
            return
        if not vm.is_lr:
            retry_on_contention(lambda: xe_vm_validate_rebind(vm))
        if not vm.size or vm.banned:
            raise KernelError(errno.ECANCELED, "the VM is closed or banned")
        if queue.is_protected:
            _check_protected_content(vm)
        vm.pt.attach(vm)
        _submit(queue, batches, syncs)
        vm.preempt.reactivate()
    finally:
        vm.lock.up_write()


def _lock_settled(vm: XeVm, caller: Caller) -> None:
    """Lock ``vm->lock`` for writing when no user memory in the VM changes just now; ``EINTR``."""
    while True:
        vm.userptr.wait_settled(caller)
        vm.lock.down_write()
        if not vm.userptr.is_changing():
            return
        vm.lock.up_write()


def _batches(queue: XeExecQueue, args: xe_drm.drm_xe_exec, caller: Caller) -> tuple[int, ...]:
    """The GPU addresses; none for a job of nothing."""
    if not args.num_batch_buffer:
        return ()
    if queue.width == 1:
        return (args.address,)
    layout = struct.Struct(f"<{queue.width}Q")
    return layout.unpack(caller.memory.read(args.address, layout.size))


def _signal_last_fence(queue: XeExecQueue, syncs: XeSyncs) -> None:
    """Without a batch the syncs hear of what was there before; those of a long-running VM hear
    of nothing (kernel: ``xe_exec_queue_last_fence_get``)."""
    if queue.vm.is_lr:
        return
    if syncs.waits:
        raise KernelError(errno.EOPNOTSUPP, "nothing to do, and so nothing that could wait")
    last = queue.last_fence
    syncs.signal(signalled_fence() if last is None or last.is_signaled() else last)


def _submit(queue: XeExecQueue, batches: tuple[int, ...], syncs: XeSyncs) -> None:
    vm = queue.vm
    fence = queue.next_fence()
    user_fence = None
    if syncs.user_fence is not None:
        user_fence = (syncs.user_fence.addr, syncs.user_fence.value)
    queue.get()
    job = XeSchedJob(queue, fence, batches, user_fence)
    waits = [*syncs.waits, *vm.kernel_fences.pending()]
    with queue.jobs_lock:
        if queue.is_reset:
            queue.put()
            raise KernelError(errno.ECANCELED, "the queue was reset")
        queue.jobs.append(job)
    queue.last_fence = fence
    if not vm.is_lr:
        vm.gpuvm.job_fences.add(fence)
    trace = vm.xe.trace
    if trace.enabled:
        trace.emit(
            "job_submit",
            queue=queue.number,
            vm=vm.serial,
            engine_class=queue.engine_class,
            seqno=fence.seqno,
            context=fence.context,
            batches=[f"{batch:#x}" for batch in batches],
            waits=[f"{wait.context}:{wait.seqno}" for wait in waits if not wait.is_signaled()],
        )
    syncs.signal(fence)
    queue.entity.push_job(job, waits)


def xe_vm_validate_rebind(vm: XeVm) -> None:
    """Bring back the BOs that were evicted since (kernel: ``xe_vm_validate_rebind``).

    ``ENOMEM`` no room.  Needs ``vm->lock`` for writing.
    """
    evicted = vm.gpuvm.evicted
    if not evicted:
        return
    bos: list[XeBo] = [bo for bo in list(evicted) if bo in vm.gpuvm.vm_bos]  # type: ignore[misc]
    resvs = [vm.resv, *xe_bo_resvs([bo for bo in bos if bo.vm is None])]
    for resv in resvs:
        resv.lock()
    try:
        for bo in bos:
            evicted.pop(bo, None)
            try:
                xe_bo_validate(bo, vm, allow_res_evict=False)
            except KernelError:
                evicted[bo] = None
                raise
    finally:
        for resv in resvs:
            resv.unlock()


def _check_protected_content(vm: XeVm) -> None:
    current = vm.xe.pxp_key_instance
    for obj in vm.gpuvm.vm_bos:
        key = obj.pxp_key_instance  # type: ignore[attr-defined]
        if key and key != current:
            raise KernelError(errno.ENOEXEC, f"the protected content of bo {obj.id} is stale")  # type: ignore[attr-defined]
