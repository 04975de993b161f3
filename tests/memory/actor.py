"""Client processes that a test drives: each with a device of its own, told what to do by calls."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import os
import signal
import traceback
import zlib
from collections.abc import Iterable
from typing import Any, TypeAlias

from uapi import dma_buf, xe_drm
from xedev.client import Device
from xedev.client.mapping import Mapping
from xedev.client.memory import op_map, op_unmap
from xedev.client.xe_ioctl import xe_vm_madvise_purgeable

__all__ = ("Actor", "Session")

_PR_SET_PDEATHSIG = 1
_PATIENCE = 60.0  # seconds
_context = multiprocessing.get_context("fork")

Expected: TypeAlias = tuple[int, int, bytes]
"""Name of a mapping, offset, bytes."""


class Session:
    """What happens in the client's process.  BOs are named by their handles."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.device = Device.open(node)
        self.fds: list[int] = []
        self.mappings: dict[int, Mapping] = {}

    # ---- BOs ----

    def create(self, size: int, placement: int = 1, flags: int = 0, vm: int = 0) -> int:
        """GEM_CREATE."""
        return self.device.gem_create(size, placement, flags=flags, vm_id=vm)

    def close(self, handle: int) -> None:
        """GEM_CLOSE."""
        self.device.gem_close(handle)

    def close_device(self) -> None:
        """Close the DRM file."""
        self.device.close()

    def reopen(self) -> None:
        """Close the DRM file and open another one; mappings stay."""
        self.device.close()
        self.device = Device.open(self.node)

    def reset(self, fds: Iterable[int] = ()) -> None:
        """Let go of everything, these descriptors too, and open the device afresh."""
        for fd in fds:
            self.device.close_fd(fd)
        for name in list(self.mappings):
            self.unmap(name)
        self.reopen()

    def state(self, handle: int) -> tuple[int, int, int]:
        """State and both counters."""
        info = self.device.bo_info(handle)
        return info.state, info.vma_count, info.willneed_count

    def bo_id(self, handle: int) -> int:
        """The driver's own number of a BO."""
        return self.device.bo_info(handle).id

    # ---- VMs ----

    def vm(self, flags: int = 0) -> int:
        """VM_CREATE."""
        return self.device.vm_create(flags)

    def vm_destroy(self, vm: int) -> None:
        """VM_DESTROY."""
        self.device.vm_destroy(vm)

    def bind(self, vm: int, handle: int, address: int, size: int) -> None:
        """Map a BO from its start for the GPU."""
        self.device.vm_bind(vm, [op_map(handle, 0, address, size)])

    def unbind(self, vm: int, address: int, size: int) -> None:
        """Unmap a range."""
        self.device.vm_bind(vm, [op_unmap(address, size)])

    def willneed(self, vm: int, address: int, size: int) -> int:
        """Advise WILLNEED: 1 if the contents were retained."""
        state = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
        return xe_vm_madvise_purgeable(self.device, vm, address, size, state)

    def dontneed(self, vm: int, address: int, size: int) -> int:
        """Advise DONTNEED."""
        state = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
        return xe_vm_madvise_purgeable(self.device, vm, address, size, state)

    # ---- dma-bufs ----

    def export(self, handle: int) -> int:
        """PRIME_HANDLE_TO_FD."""
        return self.device.prime_handle_to_fd(handle)

    def import_fd(self, fd: int) -> int:
        """PRIME_FD_TO_HANDLE."""
        return self.device.prime_fd_to_handle(fd)

    def close_fd(self, fd: int) -> None:
        """Close a descriptor."""
        self.device.close_fd(fd)

    def sync(self, fd: int, flags: int) -> None:
        """DMA_BUF_IOCTL_SYNC."""
        arg = dma_buf.dma_buf_sync(flags=flags)
        self.device.transport.fd_ioctl(fd, dma_buf.DMA_BUF_IOCTL_SYNC, arg)

    # ---- CPU mappings ----

    def map(self, handle: int, size: int, name: int | None = None) -> None:
        """Map a BO, once; more often under names of their own."""
        self.mappings[handle if name is None else name] = self.device.map(handle, size)

    def map_fd(self, fd: int, name: int) -> None:
        """Map a dma-buf under a name of its own."""
        self.mappings[name] = self.device.map_dma_buf(fd)

    def unmap(self, handle: int) -> None:
        """munmap(2)."""
        self.mappings.pop(handle).close()

    def store(self, handle: int, offset: int, data: bytes) -> None:
        """Store through the mapping."""
        self.mappings[handle].write(offset, data)

    def load(self, handle: int, offset: int, size: int) -> bytes:
        """Load through the mapping."""
        return self.mappings[handle].read(offset, size)

    def differences(self, expected: Iterable[Expected]) -> list[Expected]:
        """Which of these bytes are others, and what they are."""
        found = [
            (name, offset, self.load(name, offset, len(data)), data)
            for name, offset, data in expected
        ]
        return [(name, offset, seen) for name, offset, seen, data in found if seen != data]

    def checksum(self, handle: int) -> int:
        """CRC-32 of all that is mapped."""
        with self.mappings[handle].view as view:
            return zlib.crc32(view)

    def touch(self, handle: int, offset: int = 0, *, write: bool = False) -> int:
        """Touch a byte in a forked child: the signal that it dies of, or 0."""
        child = os.fork()
        if not child:
            signal.signal(signal.SIGBUS, signal.SIG_DFL)
            mapping = self.mappings[handle]
            if write:
                mapping[offset] = 1
            else:
                mapping[offset]
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0

    def cut(self, handle: int) -> int:
        """Truncate the file behind a mapping to nothing, as only a vandal does; how many."""
        address = self.mappings[handle].address
        with open("/proc/self/maps") as maps:
            (line,) = (line for line in maps if line.startswith(f"{address:x}-"))
        os.truncate(f"/proc/self/map_files/{line.split()[0]}", 0)
        return 1

    def descriptors(self) -> int:
        """How many descriptors the process has."""
        return len(os.listdir("/proc/self/fd"))


def _serve(node: str, pipe: multiprocessing.connection.Connection) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    session = Session(node)
    pipe.send((True, None))
    while True:
        try:
            name, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            if name == "take_fd":
                answer: Any = multiprocessing.reduction.recv_handle(pipe)
            elif name == "give_fd":
                multiprocessing.reduction.send_handle(pipe, args[0], os.getppid())
                answer = None
            else:
                answer = getattr(session, name)(*args, **kwargs)
            pipe.send((True, answer))
        except OSError as error:
            pipe.send((False, error.errno))
        except Exception:  # noqa: BLE001 - told to the parent, whose test fails by it
            pipe.send((False, traceback.format_exc()))


class Actor:
    """A client in another process.  Calls are those of `Session`; OSError comes back as one."""

    def __init__(self, directory: str, node: str = "renderD128") -> None:
        self._pipe, theirs = _context.Pipe()
        path = os.path.join(directory, "dev/dri", node)
        self._process = _context.Process(target=_serve, args=(path, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._answer()

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._pipe.send((name, args, kwargs))
            return self._answer()

        return call

    def _answer(self) -> Any:
        if not self._pipe.poll(_PATIENCE):
            raise AssertionError("the client does not answer")
        try:
            good, answer = self._pipe.recv()
        except EOFError:
            self._process.join(_PATIENCE)
            raise AssertionError(f"the client died: {self._process.exitcode}") from None
        if good:
            return answer
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        raise AssertionError(f"in the client: {answer}")

    def send_fd(self, fd: int, receiver: Actor) -> int:
        """Hand a descriptor over in a message; its number there."""
        self._pipe.send(("give_fd", (fd,), {}))
        number = multiprocessing.reduction.recv_handle(self._pipe)
        self._answer()
        receiver._pipe.send(("take_fd", (), {}))
        multiprocessing.reduction.send_handle(receiver._pipe, number, receiver.pid)
        os.close(number)
        return int(receiver._answer())

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.is_alive()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def end(self) -> None:
        """Let it end by itself; it exits without closing anything."""
        self._pipe.close()
        self._process.join(_PATIENCE)
        assert self._process.exitcode is not None


PAGE = mmap.PAGESIZE
