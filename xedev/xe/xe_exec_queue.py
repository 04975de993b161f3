"""Queues of work (kernel: drivers/gpu/drm/xe/xe_exec_queue.c)."""

from __future__ import annotations

import ctypes
import errno
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from uapi import xe_drm
from xedev.drm.drm_sched import DrmSchedEntity
from xedev.gpu.abi import Placement
from xedev.kernel.caller import CAP_SYS_NICE, Caller
from xedev.kernel.dma_fence import DmaFence, dma_fence_context_alloc
from xedev.kernel.errors import KernelError
from xedev.kernel.refcount import Refcounted
from xedev.kernel.user_memory import copy_struct_from_user
from xedev.xe.xe_exec_queue_group import XeExecQueueGroup
from xedev.xe.xe_hw_engine import ENGINE_CLASSES, MULTI_LRC_CLASSES
from xedev.xe.xe_sched_job import XeSchedJob
from xedev.xe.xe_sync import BindQueue

if TYPE_CHECKING:
    from xedev.drm.drm_file import DrmFile
    from xedev.xe.platforms import Platform
    from xedev.xe.xe_device import XeDevice, XeFile
    from xedev.xe.xe_vm import XeVm

__all__ = (
    "XeExecQueue",
    "xe_exec_queue_create_ioctl",
    "xe_exec_queue_destroy_ioctl",
    "xe_exec_queue_get_property_ioctl",
    "xe_exec_queue_kill_and_put",
    "xe_exec_queue_lookup",
    "xe_exec_queue_set_property_ioctl",
)

Eci = xe_drm.drm_xe_engine_class_instance

MAX_INSTANCE = 9
"""Engines of one class on a GT, at most."""
MAX_USER_EXTENSIONS = 16
MAX_PRIORITY = 2
NORMAL_PRIORITY = 1
TIMESLICE_LIMITS = range(1, 10_000_001)
"""Microseconds, for whoever is above the limits of a class."""
CONTEXT_SIZES = {
    xe_drm.DRM_XE_ENGINE_CLASS_RENDER: 12 << 10,
    xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE: 8 << 10,
}
DEFAULT_CONTEXT_SIZE = 4 << 10
"""Bytes of an engine's context (kernel: ``xe_gt_lrc_size``)."""

VM_BIND = xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND
LOW_LATENCY_HINT = xe_drm.DRM_XE_EXEC_QUEUE_LOW_LATENCY_HINT
SET_PROPERTY = xe_drm.DRM_XE_EXEC_QUEUE_EXTENSION_SET_PROPERTY
PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_PRIORITY
TIMESLICE = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_TIMESLICE
PXP_TYPE = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_PXP_TYPE
HANG_REPLAY_STATE = xe_drm.DRM_XE_EXEC_QUEUE_SET_HANG_REPLAY_STATE
MULTI_GROUP = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_GROUP
MULTI_GROUP_CREATE = xe_drm.DRM_XE_MULTI_GROUP_CREATE
MULTI_QUEUE_PRIORITY = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_MULTI_QUEUE_PRIORITY
OF_SECONDARIES = frozenset({MULTI_GROUP, MULTI_QUEUE_PRIORITY})
"""Properties of a queue that has joined a group."""
DISABLE_STATE_CACHE_PERF_FIX = xe_drm.DRM_XE_EXEC_QUEUE_SET_DISABLE_STATE_CACHE_PERF_FIX


class XeExecQueue(Refcounted):
    """One queue (kernel: ``struct xe_exec_queue``).

    References: the id in its file, and each user for the time of an ioctl.
    """

    __slots__ = (
        "_context",
        "_seqno",
        "binds",
        "engine_class",
        "entity",
        "generation",
        "group",
        "gt_id",
        "is_banned",
        "is_killed",
        "is_protected",
        "job_timeout_ms",
        "jobs",
        "jobs_lock",
        "last_fence",
        "logical_mask",
        "multi_queue_priority",
        "number",
        "priority",
        "ticks",
        "timeslice",
        "vm",
        "width",
        "xef",
    )

    def __init__(
        self,
        xef: XeFile,
        vm: XeVm,
        engine_class: int,
        gt_id: int,
        logical_mask: int,
        width: int,
    ) -> None:
        super().__init__()
        self.xef = xef
        """Whose time on engines it counts to."""
        self.vm = vm
        """Whose reference the queue takes over."""
        self.engine_class = engine_class
        self.gt_id = gt_id
        self.logical_mask = logical_mask
        """Logical instances that its work may run on; one bit each."""
        self.width = width
        """Engines that one job runs on at once."""
        self.priority = NORMAL_PRIORITY
        eclass = vm.xe.eclass(gt_id, engine_class)
        self.timeslice = eclass.timeslice.value
        self.job_timeout_ms = eclass.job_timeout.value
        self.binds = BindQueue() if engine_class == VM_BIND else None
        """Of a queue for binds."""
        self.is_killed = False
        """Whether its id is gone."""
        self.is_banned = False
        """Whether its work failed."""
        self.is_protected = False
        """Whether it runs protected content."""
        self.group: XeExecQueueGroup | None = None
        """With which queues it shares a context."""
        self.multi_queue_priority = NORMAL_PRIORITY
        """Among those of its group."""
        self.number = 0
        """Of all queues of the device, by which the GPU knows it; 0 of one for binds."""
        self.generation = 0
        """Of the GPU's process that knows it."""
        self.entity = DrmSchedEntity()
        self.jobs_lock = threading.Lock()
        self.jobs: deque[XeSchedJob] = deque()
        """Those that are not done, guarded by `jobs_lock`."""
        self.last_fence: DmaFence | None = None
        self.ticks = 0
        """Time on engines, as of the last job that was done."""
        self._context = 0
        self._seqno = 0

    @property
    def is_reset(self) -> bool:
        """Whether nothing will run on it any more; nothing does without the group's primary
        (kernel: ``guc_exec_queue_reset_status``)."""
        primary = self.primary
        return self.is_killed or self.is_banned or primary.is_killed or primary.is_banned

    @property
    def primary(self) -> XeExecQueue:
        """The first queue of its group; itself if it is in none
        (kernel: ``xe_exec_queue_multi_queue_primary``)."""
        return self.group.primary if self.group is not None else self

    @property
    def is_secondary(self) -> bool:
        """Whether it has joined the group of another one."""
        return self.primary is not self

    def next_fence(self) -> DmaFence:
        """The fence of its next job; needs ``vm->lock`` for writing."""
        if not self._context:
            self._context = dma_fence_context_alloc()
        self._seqno += 1
        return DmaFence(self._context, self._seqno, "xe", f"{ENGINE_CLASSES[self.engine_class]}")

    def placement(self) -> Placement:
        """What the GPU has to know of it."""
        timeout = 0 if self.vm.is_lr else self.job_timeout_ms
        primary = self.primary
        return Placement(
            gt_id=self.gt_id,
            engine_class=self.engine_class,
            mask=self.logical_mask,
            width=self.width,
            priority=primary.priority,
            timeslice_us=primary.timeslice,
            timeout_ms=timeout,
            group=primary.number if self.group is not None else 0,
            group_priority=self.multi_queue_priority,
        )

    def free(self) -> None:
        """The last reference went."""
        group = self.group
        if group is not None and self.is_secondary:
            group.forget(self)
            group.primary.put()
        elif group is not None:
            self.group = None  # the two would keep each other
        self.vm.put()


def xe_exec_queue_lookup(file: DrmFile, queue_id: int) -> XeExecQueue | None:
    """The queue of an id with one more reference, None for no such queue."""
    return _lookup(file.driver_priv, queue_id)  # type: ignore[arg-type]


def _lookup(xef: XeFile, queue_id: int) -> XeExecQueue | None:
    queue = xef.exec_queues.find(queue_id)
    if queue is None or not queue.get_unless_zero():
        return None
    return queue


def xe_exec_queue_kill_and_put(queue: XeExecQueue) -> None:
    """A queue whose id is gone ends (kernel: ``xe_exec_queue_kill``)."""
    queue.is_killed = True
    if queue.binds is None:
        queue.vm.exec_queues -= 1
        queue.vm.xe.guc.kill(queue)
    queue.vm.xe.ufence_wq.wake_up()
    queue.put()


# ---- create ----


def xe_exec_queue_create_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_exec_queue_create, file: DrmFile, caller: Caller
) -> None:
    """``EXEC_QUEUE_CREATE``: a queue for engines of one class, or for binds.

    ``EINVAL`` malformed or engines that do not go together, ``EFAULT``, ``EOPNOTSUPP`` not that
    many at once, ``ENOENT`` unknown or closed VM, and what the extensions say: ``E2BIG``,
    ``EPERM``, ``ENODEV``.
    """
    if args.flags & ~LOW_LATENCY_HINT or any(args.reserved):
        raise KernelError(errno.EINVAL, "unknown flags, or reserved is not zero")
    count = args.width * args.num_placements
    if not 0 < count <= MAX_INSTANCE:
        raise KernelError(errno.EINVAL, f"{count} engines are none, or too many")
    raw = caller.memory.read(args.instances, count * ctypes.sizeof(Eci))
    instances = list((Eci * count).from_buffer_copy(raw))
    if all(gt.gt_id != instances[0].gt_id & 0xFF for gt in xe.platform.gts):
        raise KernelError(errno.EINVAL, f"no GT {instances[0].gt_id}")
    create = _create_for_binds if instances[0].engine_class == VM_BIND else _create_for_engines
    queue = create(xe, args, instances, file, caller)
    xef = file.driver_priv
    with xef.vm_lock:  # type: ignore[attr-defined]
        if queue.binds is None:
            queue.vm.exec_queues += 1
            xe.guc.add_queue(queue)
        args.exec_queue_id = xef.exec_queues.alloc(queue)  # type: ignore[attr-defined]


def _create_for_binds(
    xe: XeDevice,
    args: xe_drm.drm_xe_exec_queue_create,
    instances: list[Eci],
    file: DrmFile,
    caller: Caller,
) -> XeExecQueue:
    first = instances[0]
    if args.width != 1 or args.num_placements != 1 or first.engine_instance:
        raise KernelError(errno.EINVAL, "binds have one engine, its instance is 0")
    vm = _usable_vm(file, args.vm_id)
    xef: XeFile = file.driver_priv  # type: ignore[assignment]
    return _make(xe, XeExecQueue(xef, vm, VM_BIND, first.gt_id, 1, 1), args, caller)


def _create_for_engines(
    xe: XeDevice,
    args: xe_drm.drm_xe_exec_queue_create,
    instances: list[Eci],
    file: DrmFile,
    caller: Caller,
) -> XeExecQueue:
    mask = calc_validate_logical_mask(xe.platform, instances, args.width, args.num_placements)
    if not mask:
        raise KernelError(errno.EINVAL, "these engines do not exist, or do not go together")
    first = instances[0]
    if args.width > 1 and first.engine_class not in MULTI_LRC_CLASSES:
        raise KernelError(errno.EOPNOTSUPP, "this class runs a job on one engine only")
    vm = _usable_vm(file, args.vm_id)
    queue = XeExecQueue(
        file.driver_priv,  # type: ignore[arg-type]
        vm,
        first.engine_class,
        first.gt_id,
        mask,
        args.width,
    )
    return _make(xe, queue, args, caller)


def _usable_vm(file: DrmFile, vm_id: int) -> XeVm:
    """The VM with one more reference; ``ENOENT`` unknown (0, too), closed or banned."""
    from xedev.xe.xe_vm import xe_vm_lookup

    vm = xe_vm_lookup(file, vm_id, errno.ENOENT)
    vm.lock.down_read()
    try:
        vm.assert_usable()
        # Under the lock: whoever closes the VM meanwhile waits for it before the last put.
        vm.get()
    finally:
        vm.lock.up_read()
    return vm


def _make(
    xe: XeDevice,
    queue: XeExecQueue,
    args: xe_drm.drm_xe_exec_queue_create,
    caller: Caller,
) -> XeExecQueue:
    try:
        if args.extensions:
            exec_queue_user_extensions(xe, queue, args.extensions, caller)
        if queue.group is not None and queue.is_secondary:
            queue.group.add(queue)
    except BaseException:
        queue.put()
        raise
    return queue


def calc_validate_logical_mask(
    platform: Platform, instances: list[Eci], width: int, placements: int
) -> int:
    """The logical instances of a queue, 0 when its engines cannot make one.

    ``instances`` is row-major: ``placements`` rows of ``width`` engines.  All are of one class on
    one GT, and those that run at once follow each other.
    Kernel: ``calc_validate_logical_mask``.
    """
    engines = {
        (gt.gt_id, engine.engine_class, engine.instance)
        for gt in platform.gts
        for engine in gt.engines
    }
    first = instances[0]
    masks = []
    for slot in range(width):
        column = instances[slot::width][:placements]
        for eci in column:
            if (eci.gt_id, eci.engine_class, eci.engine_instance) not in engines:
                return 0
            if (eci.gt_id, eci.engine_class) != (first.gt_id, first.engine_class):
                return 0
        mask = 0
        for eci in column:
            mask |= 1 << eci.engine_instance
        masks.append(mask)
    if any(after != before << 1 for before, after in itertools.pairwise(masks)):
        return 0
    return masks[0]


# ---- extensions ----


def exec_queue_user_extensions(
    xe: XeDevice, queue: XeExecQueue, address: int, caller: Caller
) -> None:
    """Walk the chain of extensions at the user address ``address``.

    ``E2BIG`` at the 17th link, ``EFAULT`` unreadable, ``EINVAL`` unknown or not for one that has
    joined a group, and what the properties say.
    """
    seen: set[int] = set()
    for link in range(MAX_USER_EXTENSIONS + 1):
        if link >= MAX_USER_EXTENSIONS:
            raise KernelError(errno.E2BIG, "the chain of extensions is too long")
        head = copy_struct_from_user(caller.memory, address, xe_drm.drm_xe_user_extension)
        if head.pad or head.name != SET_PROPERTY:
            raise KernelError(errno.EINVAL, f"no extension {head.name}, or pad is not zero")
        _set_property(xe, queue, address, caller, seen)
        address = head.next_extension
        if not address:
            break
    if MULTI_QUEUE_PRIORITY in seen and MULTI_GROUP not in seen:
        raise KernelError(errno.EINVAL, "a priority within a group, without a group")


def _set_property(
    xe: XeDevice, queue: XeExecQueue, address: int, caller: Caller, seen: set[int]
) -> None:
    ext = copy_struct_from_user(caller.memory, address, xe_drm.drm_xe_ext_set_property)
    handler = _PROPERTIES.get(ext.property)
    if handler is None or ext.pad:
        raise KernelError(errno.EINVAL, f"no property {ext.property}, or pad is not zero")
    seen.add(ext.property)
    if queue.is_secondary and not seen <= OF_SECONDARIES:
        raise KernelError(errno.EINVAL, "the primary queue's properties are those of the group")
    handler(xe, queue, ext.value, caller)


def _set_priority(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    if value > MAX_PRIORITY:
        raise KernelError(errno.EINVAL, f"no priority {value}")
    if value > NORMAL_PRIORITY and not caller.capable(CAP_SYS_NICE):
        raise KernelError(errno.EPERM, "a high priority needs CAP_SYS_NICE")
    queue.priority = value


def _set_timeslice(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    limits = TIMESLICE_LIMITS
    if not caller.capable(CAP_SYS_NICE):
        limits = xe.eclass(queue.gt_id, queue.engine_class).timeslice.limits
    if value not in limits:
        raise KernelError(errno.EINVAL, f"a time slice of {value} us is outside of the limits")
    queue.timeslice = value


def _set_pxp_type(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    if value == xe_drm.DRM_XE_PXP_TYPE_NONE:
        return
    if value != xe_drm.DRM_XE_PXP_TYPE_HWDRM:
        raise KernelError(errno.EINVAL, f"no protected content of type {value}")
    if not xe.platform.has_pxp:
        raise KernelError(errno.ENODEV, "the device has no protected content")
    queue.is_protected = True


def _set_hang_replay_state(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    """A context to begin with; nothing here runs from one, so it is read and forgotten."""
    caller.memory.read(value, CONTEXT_SIZES.get(queue.engine_class, DEFAULT_CONTEXT_SIZE))


def _set_multi_group(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    """Begin a group, or join that of the queue whose id is ``value``.  Binds go through the copy
    engines of the first GT (kernel: ``exec_queue_set_multi_group``)."""
    is_for_binds = queue.binds is not None
    engine_class = xe_drm.DRM_XE_ENGINE_CLASS_COPY if is_for_binds else queue.engine_class
    gt_id = 0 if is_for_binds else queue.gt_id
    if engine_class not in xe.gt(gt_id & 0xFF).info.multi_queue_classes:
        raise KernelError(errno.ENODEV, "these engines have no groups of queues")
    if is_for_binds or queue.width > 1 or queue.group is not None:
        raise KernelError(errno.EINVAL, "for binds, of several engines, or in a group already")
    if not value & MULTI_GROUP_CREATE:
        _join_group(queue, value)
        return
    if value != MULTI_GROUP_CREATE:
        raise KernelError(errno.EINVAL, f"unknown bits in {value:#x}")
    queue.group = XeExecQueueGroup(queue)


def _join_group(queue: XeExecQueue, primary_id: int) -> None:
    """Kernel: ``xe_exec_queue_group_validate``."""
    if primary_id >> 32:
        raise KernelError(errno.EINVAL, f"unknown bits in {primary_id:#x}")
    primary = _lookup(queue.xef, primary_id)
    if primary is None:
        raise KernelError(errno.ENOENT, f"no exec queue {primary_id}")
    if (
        primary.group is None
        or primary.is_secondary
        or queue.vm is not primary.vm
        or queue.logical_mask != primary.logical_mask
    ):
        primary.put()
        raise KernelError(
            errno.EINVAL, f"exec queue {primary_id} has no group that this could join"
        )
    queue.group = primary.group  # which now holds the reference of its primary


def _set_multi_queue_priority(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    if value > MAX_PRIORITY:
        raise KernelError(errno.EINVAL, f"no priority {value}")
    queue.multi_queue_priority = value


def _set_state_cache_perf_fix(xe: XeDevice, queue: XeExecQueue, value: int, caller: Caller) -> None:
    if queue.engine_class != xe_drm.DRM_XE_ENGINE_CLASS_RENDER:
        raise KernelError(errno.EOPNOTSUPP, "only render engines have that cache")


_PROPERTIES: dict[int, Callable[[XeDevice, XeExecQueue, int, Caller], None]] = {
    PRIORITY: _set_priority,
    TIMESLICE: _set_timeslice,
    PXP_TYPE: _set_pxp_type,
    HANG_REPLAY_STATE: _set_hang_replay_state,
    MULTI_GROUP: _set_multi_group,
    MULTI_QUEUE_PRIORITY: _set_multi_queue_priority,
    DISABLE_STATE_CACHE_PERF_FIX: _set_state_cache_perf_fix,
}


# ---- the others ----


def xe_exec_queue_destroy_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_exec_queue_destroy, file: DrmFile, caller: Caller
) -> None:
    """``EXEC_QUEUE_DESTROY``: ``EINVAL`` malformed, ``ENOENT`` unknown."""
    if args.pad or any(args.reserved):
        raise KernelError(errno.EINVAL, "pad and reserved must be zero")
    xef = file.driver_priv
    with xef.vm_lock:  # type: ignore[attr-defined]
        queue = xef.exec_queues.remove(args.exec_queue_id)  # type: ignore[attr-defined]
        if queue is None:
            raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
        xe_exec_queue_kill_and_put(queue)


def xe_exec_queue_get_property_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_exec_queue_get_property, file: DrmFile, caller: Caller
) -> None:
    """``EXEC_QUEUE_GET_PROPERTY``: whether it is banned; ``EINVAL`` malformed or no such
    property, ``ENOENT`` unknown."""
    if any(args.reserved):
        raise KernelError(errno.EINVAL, "reserved must be zero")
    queue = xe_exec_queue_lookup(file, args.exec_queue_id)
    if queue is None:
        raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
    try:
        if args.property != xe_drm.DRM_XE_EXEC_QUEUE_GET_PROPERTY_BAN:
            raise KernelError(errno.EINVAL, f"no property {args.property}")
        args.value = int(queue.is_reset)
    finally:
        queue.put()


def xe_exec_queue_set_property_ioctl(
    xe: XeDevice, args: xe_drm.drm_xe_exec_queue_set_property, file: DrmFile, caller: Caller
) -> None:
    """``EXEC_QUEUE_SET_PROPERTY``: the priority within a group; ``EINVAL`` malformed, no such
    property or priority, or a queue of no group, ``ENOENT`` unknown."""
    if any(args.reserved) or args.property != MULTI_QUEUE_PRIORITY:
        raise KernelError(errno.EINVAL, f"property {args.property}, or reserved is not zero")
    queue = xe_exec_queue_lookup(file, args.exec_queue_id)
    if queue is None:
        raise KernelError(errno.ENOENT, f"no exec queue {args.exec_queue_id}")
    try:
        if args.value > MAX_PRIORITY:
            raise KernelError(errno.EINVAL, f"no priority {args.value}")
        if queue.group is None:
            raise KernelError(errno.EINVAL, "the queue is in no group")
        xe.guc.set_multi_queue_priority(queue, args.value)
    finally:
        queue.put()
