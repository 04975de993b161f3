"""The Xe driver's exec queues, and EXEC."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from uapi import xe_drm
from xedev.client.ioctls import Ioctls
from xedev.client.memory import ExecSync, address_of, chain_extensions, sync_buffers
from xedev.client.transport import IN, Buffer

__all__ = ("ExecQueueIoctls", "queue_property")


def queue_property(number: int, value: int) -> xe_drm.drm_xe_ext_set_property:
    """An extension of EXEC_QUEUE_CREATE that sets a property."""
    link = xe_drm.drm_xe_ext_set_property(property=number, value=value)
    link.base.name = xe_drm.DRM_XE_EXEC_QUEUE_EXTENSION_SET_PROPERTY
    return link


class ExecQueueIoctls(Ioctls):
    """Queues that feed engines, and the batches that go into them."""

    def exec_queue_create(
        self,
        vm_id: int,
        instances: Sequence[xe_drm.drm_xe_engine_class_instance],
        width: int = 1,
        placements: int = 1,
        flags: int = 0,
        properties: Sequence[tuple[int, int]] = (),
        *,
        buffers: Sequence[Buffer] = (),
    ) -> int:
        """Make a queue and return its id (EXEC_QUEUE_CREATE, kernel:
        ``xe_exec_queue_create_ioctl``).

        One EXEC runs ``width`` batches in parallel, each on one of ``placements`` engines:
        ``instances`` are width engines for the first placement, then for the next. One of class
        VM_BIND makes a queue for `vm_bind`. ``properties`` are pairs of
        DRM_XE_EXEC_QUEUE_SET_PROPERTY_* and value; ``buffers`` what values point to.

        EINVAL: engines that do not go together, flags, property or value. ENOENT: unknown VM.
        EPERM: priority. E2BIG: more than 16 properties. EOPNOTSUPP, ENODEV: the device or the
        class has no such thing. EFAULT: a pointer of a property.
        """
        engine_type = xe_drm.drm_xe_engine_class_instance
        engines = Buffer((engine_type * len(instances))(*instances), IN) if instances else None
        chain = [queue_property(number, value) for number, value in properties]
        arg = xe_drm.drm_xe_exec_queue_create(
            extensions=chain_extensions(chain),
            width=width,
            num_placements=placements,
            vm_id=vm_id,
            flags=flags,
            instances=engines.address if engines else 0,
        )
        memory = [engines] if engines else []
        memory += [Buffer(link, IN) for link in chain]
        self.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_CREATE, arg, [*memory, *buffers])
        return arg.exec_queue_id

    def exec_queue_destroy(self, exec_queue_id: int) -> None:
        """Destroy a queue with what is still in it (EXEC_QUEUE_DESTROY, kernel:
        ``xe_exec_queue_destroy_ioctl``).

        ENOENT: unknown queue.
        """
        arg = xe_drm.drm_xe_exec_queue_destroy(exec_queue_id=exec_queue_id)
        self.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_DESTROY, arg)

    def exec_queue_get_property(
        self,
        exec_queue_id: int,
        property_: int = xe_drm.DRM_XE_EXEC_QUEUE_GET_PROPERTY_BAN,
    ) -> int:
        """A DRM_XE_EXEC_QUEUE_GET_PROPERTY_* (EXEC_QUEUE_GET_PROPERTY, kernel:
        ``xe_exec_queue_get_property_ioctl``): 1 for a banned queue, else 0.

        ENOENT: unknown queue. EINVAL: unknown property.
        """
        arg = xe_drm.drm_xe_exec_queue_get_property(exec_queue_id=exec_queue_id, property=property_)
        self.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY, arg)
        return arg.value

    def exec_queue_set_property(self, exec_queue_id: int, property_: int, value: int) -> None:
        """Change a living queue (EXEC_QUEUE_SET_PROPERTY, kernel:
        ``xe_exec_queue_set_property_ioctl``); only MULTI_QUEUE_PRIORITY can be.

        EINVAL: another property, value, or a queue of no group. ENOENT: unknown queue.
        """
        arg = xe_drm.drm_xe_exec_queue_set_property(
            exec_queue_id=exec_queue_id, property=property_, value=value
        )
        self.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY, arg)

    def exec(
        self,
        exec_queue_id: int,
        address: int | Sequence[int] = 0,
        syncs: Sequence[ExecSync] = (),
        num_batch_buffer: int | None = None,
    ) -> None:
        """Submit the batch at a GPU address, or one for each engine of a wide queue (EXEC,
        kernel: ``xe_exec_ioctl``).

        ``num_batch_buffer`` is the number of addresses unless it is given; with 0 nothing runs,
        and syncobjs get the fence of what the queue does last.

        ENOENT: unknown queue or syncobj. ECANCELED: the queue is banned, or the VM closed.
        EINVAL: a queue of another width, or for binds; syncs. EOPNOTSUPP: syncs that this VM
        does not have. EFAULT: unreadable array. ENOMEM: no room for what was evicted.
        """
        addresses = [address] if isinstance(address, int) else list(address)
        # One address stands in the argument itself, several in an array of ours.
        wide = len(addresses) > 1
        batches = [Buffer((ctypes.c_uint64 * len(addresses))(*addresses), IN)] if wide else []
        sync_memory = sync_buffers(syncs)
        arg = xe_drm.drm_xe_exec(
            exec_queue_id=exec_queue_id,
            num_syncs=len(syncs),
            syncs=address_of(sync_memory),
            address=address_of(batches) if wide else next(iter(addresses), 0),
            num_batch_buffer=len(addresses) if num_batch_buffer is None else num_batch_buffer,
        )
        self.ioctl(xe_drm.DRM_IOCTL_XE_EXEC, arg, [*sync_memory, *batches])
