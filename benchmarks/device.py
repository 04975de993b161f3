"""A client of a device in this process, with nothing between the two."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterable
from functools import partial

from uapi import drm, xe_drm, xe_mock
from uapi.base import Struct
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.kernel.user_memory import UserMemory
from xedev.xe.xe_bo import XeBo
from xedev.xe.xe_device import XeConfig, XeDevice

__all__ = ("PAGE", "SYSTEM", "VRAM", "Client", "fill_map", "make_device")

PAGE = 4096
SYSTEM, VRAM = 1, 2
"""Placement masks."""
_WRITE_BACK = 2  # row of the page attribute table
_OPS_AT_ONCE = 1000
_NODE = "renderD128"


class _OwnMemory(UserMemory):
    """This process's memory without any check: what is measured is the driver."""

    def read(self, address: int, length: int) -> bytes:
        return ctypes.string_at(address, length)

    def write(self, address: int, data: bytes | memoryview) -> None:
        ctypes.memmove(address, bytes(data), len(data))


class _Self(Caller):
    """This process as the caller, with root's rights."""

    tid = tgid = os.getpid()
    uid = gid = 0
    comm = "bench"
    memory = _OwnMemory()

    def capable(self, cap: int) -> bool:
        return True

    def fget(self, fd: int) -> File | None:
        return None

    def dup_fd(self, fd: int) -> int:
        raise KernelError(errno.EBADF, "the measurements pass no descriptors")

    def sees_our_proc(self) -> bool:
        return True

    def mm(self) -> UserMemory:
        return self.memory

    def interrupted(self) -> bool:
        return False


def make_device(purgeability: str = "counters", vram: int | None = None) -> XeDevice:
    """A device of the default kind; ``vram`` in bytes."""
    return XeDevice(XeConfig(purgeability=purgeability, vram=vram))


class Client:
    """An open DRM file, and the few requests that the measurements need."""

    def __init__(self, device: XeDevice) -> None:
        self._device = device
        self._caller = _Self()
        self._kept: list[object] = []
        minor = next(minor for minor in device.minors if minor.name == _NODE)
        self.file = device.open(minor, os.O_RDWR, self._caller)

    def prepare(self, cmd: int, arg: Struct, *pointed_to: object) -> Callable[[], int]:
        """A call of an ioctl that can be repeated; it returns what the ioctl does.

        The argument, and the memory that it points to, are kept as long as this client.
        """
        self._kept += (arg, *pointed_to)
        return partial(self.file.ioctl, cmd, ctypes.addressof(arg), self._caller)

    def call(self, cmd: int, arg: Struct) -> None:
        """Run an ioctl that must succeed."""
        result = self.file.ioctl(cmd, ctypes.addressof(arg), self._caller)
        if result < 0:
            raise OSError(-result, f"{os.strerror(-result)}: {self._caller.reason}")

    def close(self) -> None:
        """Close the file, with all that was made through it."""
        self.file.release()

    # ---- memory ----

    def create_vm(self) -> int:
        """A new VM's id."""
        arg = xe_drm.drm_xe_vm_create()
        self.call(xe_drm.DRM_IOCTL_XE_VM_CREATE, arg)
        return arg.vm_id

    def create_bo(self, size: int, placement: int = VRAM, *, vm: int = 0, flags: int = 0) -> int:
        """The handle of a new BO; ``size`` in bytes, ``vm`` if it is private to one."""
        arg = xe_drm.drm_xe_gem_create(
            size=size,
            placement=placement,
            cpu_caching=xe_drm.DRM_XE_GEM_CPU_CACHING_WC,
            vm_id=vm,
            flags=flags,
        )
        self.call(xe_drm.DRM_IOCTL_XE_GEM_CREATE, arg)
        return arg.handle

    def close_bo(self, handle: int) -> None:
        """Close a handle."""
        self.call(drm.DRM_IOCTL_GEM_CLOSE, drm.drm_gem_close(handle=handle))

    def find_bo(self, handle: int) -> XeBo:
        """The driver's own object of a handle."""
        info = xe_mock.xe_mock_bo_info(handle=handle)
        self.call(xe_mock.XE_MOCK_IOCTL_BO_INFO, info)
        return self._device.bos[info.id]

    def pressing(self, command: str) -> Callable[[], str]:
        """A call that writes to the control file ``pressure`` and returns the answer."""
        write = self._device.debugfs["pressure"].write
        assert write is not None
        return partial(write, command, self._caller)

    def bind_bo(self, vm: int, bo: int, size: int, address: int) -> None:
        """Map ``size`` bytes of a BO, from its first on."""
        arg = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=1)
        fill_map(arg.bind, bo, address, size)
        arg.bind.obj_offset = 0
        self.call(xe_drm.DRM_IOCTL_XE_VM_BIND, arg)

    def bind_pages(self, vm: int, bo: int, first: int, count: int) -> None:
        """Map ``count`` pages of a BO, each by a VMA of its own, at the addresses that are
        their offsets in the BO."""
        for start in range(first, first + count, _OPS_AT_ONCE):
            pages = range(start, min(start + _OPS_AT_ONCE, first + count))
            ops = (xe_drm.drm_xe_vm_bind_op * len(pages))()
            for op, page in zip(ops, pages, strict=True):
                fill_map(op, bo, page * PAGE, PAGE)
            arg = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=len(pages))
            if len(pages) == 1:
                arg.bind = ops[0]
            else:
                arg.vector_of_binds = ctypes.addressof(ops)
            self.call(xe_drm.DRM_IOCTL_XE_VM_BIND, arg)

    def binding(self, vm: int, bo: int, address: int, length: int) -> Callable[[], int]:
        """A call that maps a BO at the address that is its offset."""
        arg = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=1)
        fill_map(arg.bind, bo, address, length)
        return self.prepare(xe_drm.DRM_IOCTL_XE_VM_BIND, arg)

    def unbinding(self, vm: int, address: int, length: int) -> Callable[[], int]:
        """A call that unmaps a range."""
        arg = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=1)
        arg.bind = xe_drm.drm_xe_vm_bind_op(
            op=xe_drm.DRM_XE_VM_BIND_OP_UNMAP, addr=address, range=length
        )
        return self.prepare(xe_drm.DRM_IOCTL_XE_VM_BIND, arg)

    def advising(self, vm: int, address: int, length: int, state: int) -> Callable[[], int]:
        """A call that gives purgeable advice, with ``retained_ptr``."""
        retained = ctypes.c_uint32()
        arg = _purgeable_advice(vm, address, length, state)
        arg.purge_state_val.retained_ptr = ctypes.addressof(retained)
        advise = self.prepare(xe_drm.DRM_IOCTL_XE_MADVISE, arg, retained)

        def step() -> int:
            retained.value = 0
            return advise()

        return step

    def advise_pages(self, vm: int, pages: Iterable[int], state: int) -> None:
        """Give purgeable advice page by page, in the given order."""
        arg = _purgeable_advice(vm, 0, PAGE, state)
        for page in pages:
            arg.start = page * PAGE
            self.call(xe_drm.DRM_IOCTL_XE_MADVISE, arg)


def _purgeable_advice(vm: int, address: int, length: int, state: int) -> xe_drm.drm_xe_madvise:
    arg = xe_drm.drm_xe_madvise(
        vm_id=vm, start=address, range=length, type=xe_drm.DRM_XE_VMA_ATTR_PURGEABLE_STATE
    )
    arg.purge_state_val.val = state
    return arg


def fill_map(op: xe_drm.drm_xe_vm_bind_op, bo: int, address: int, length: int) -> None:
    """Make ``op`` map a BO at the address that is its offset."""
    op.op = xe_drm.DRM_XE_VM_BIND_OP_MAP
    op.obj = bo
    op.pat_index = _WRITE_BACK
    op.obj_offset = op.addr = address
    op.range = length
