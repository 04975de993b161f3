"""The mock's private ioctls; no real driver knows them (ENOTTY)."""

from __future__ import annotations

import mmap

from uapi import xe_mock
from xedev.client.ioctls import Ioctls

__all__ = ("MockIoctls",)


class MockIoctls(Ioctls):
    """Questions that only a mock answers."""

    def mmap_gate(
        self,
        offset: int,
        length: int,
        prot: int = mmap.PROT_READ | mmap.PROT_WRITE,
        flags: int = mmap.MAP_SHARED,
    ) -> None:
        """Ask what mmap(2) of this file would say (kernel: ``xe_mmap``, ``xe_gem_object_mmap``).

        EBUSY: the BO is DONTNEED. EINVAL: it is PURGED; no BO there; length; private and
        writable. EACCES: this file has no handle of it. ENODEV: unplugged.
        """
        arg = xe_mock.xe_mock_mmap(offset=offset, length=length, prot=prot, flags=flags)
        self.ioctl(xe_mock.XE_MOCK_IOCTL_MMAP, arg)
        # Nothing gets mapped, so the lease that was granted is given back.
        self.transport.hold_lease(arg.token, self.transport.fileno())()

    def fault(self, offset: int, *, write: bool = False) -> bool:
        """Touch a mapping where no page is yet; True for SIGBUS (kernel: ``xe_bo_cpu_fault``).

        EINVAL: no BO at that offset.
        """
        arg = xe_mock.xe_mock_fault(offset=offset, write=write)
        self.ioctl(xe_mock.XE_MOCK_IOCTL_FAULT, arg)
        return bool(arg.sigbus)

    def import_foreign(self, size: int) -> int:
        """Handle of a BO imported from the mock's built-in foreign exporter (kernel:
        ``xe_gem_prime_import``).

        EINVAL: size.
        """
        arg = xe_mock.xe_mock_import_foreign(size=size)
        self.ioctl(xe_mock.XE_MOCK_IOCTL_IMPORT_FOREIGN, arg)
        return arg.handle

    def bo_info(self, handle: int) -> xe_mock.xe_mock_bo_info:
        """State and counters of a BO. ENOENT: unknown handle."""
        arg = xe_mock.xe_mock_bo_info(handle=handle)
        self.ioctl(xe_mock.XE_MOCK_IOCTL_BO_INFO, arg)
        return arg

    def mmu_notify(self, address: int, length: int, cookie: int = 0) -> int:
        """Tell that memory of this process is about to change: waits for the jobs that use it as
        user memory.  A cookie to tell of the end with, in a second call; 0 when nobody cares
        (kernel: ``xe_vma_userptr_invalidate_start``).

        EFAULT: not in user space.
        """
        arg = xe_mock.xe_mock_mmu_notify(address=address, length=length, cookie=cookie)
        self.ioctl(xe_mock.XE_MOCK_IOCTL_MMU_NOTIFY, arg)
        return int(arg.cookie)
