"""Fences that clients put into a dma-buf and take out of it (implicit synchronisation)."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.xe.gate import Gate, error_of
from uapi import dma_buf as uapi
from xedev.client import Device
from xedev.client.igt_syncobj import sync_fence_status
from xedev.drm.dma_buf import DmaBuf, DmaBufFile
from xedev.kernel.dma_fence import DmaFence
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice
from xedev.xe.xe_dma_buf import XE_DMABUF_OPS

READ, WRITE = uapi.DMA_BUF_SYNC_READ, uapi.DMA_BUF_SYNC_WRITE

pytestmark = pytest.mark.fuse


@pytest.fixture
def device(xe_target: Callable[..., Target]) -> Device:  # type: ignore[type-arg]
    return xe_target("ioctl").device()


@pytest.fixture
def buffer(device: Device) -> Iterator[int]:
    fd = device.prime_handle_to_fd(device.gem_create(4096, 2, cpu_caching=2))
    yield fd
    device.close_fd(fd)


def import_into(device: Device, buffer: int, fence: int, flags: int) -> None:
    arg = uapi.dma_buf_import_sync_file(flags=flags, fd=fence)
    device.transport.fd_ioctl(buffer, uapi.DMA_BUF_IOCTL_IMPORT_SYNC_FILE, arg)


def export_from(device: Device, buffer: int, flags: int) -> int:
    arg = uapi.dma_buf_export_sync_file(flags=flags)
    device.transport.fd_ioctl(buffer, uapi.DMA_BUF_IOCTL_EXPORT_SYNC_FILE, arg)
    return device.transport.open_fd(arg.fd, os.O_CLOEXEC)


def status(device: Device, buffer: int, flags: int) -> int:
    fd = export_from(device, buffer, flags)
    try:
        return sync_fence_status(device, fd)
    finally:
        os.close(fd)


def ready(buffer: int) -> int:
    poller = select.poll()
    poller.register(buffer, select.POLLIN | select.POLLOUT)
    return next(iter(mask for _, mask in poller.poll(0)), 0)


def test_without_fences_all_is_done(device: Device, buffer: int) -> None:
    assert status(device, buffer, READ) == status(device, buffer, WRITE) == 1
    assert ready(buffer) == select.POLLIN | select.POLLOUT


@pytest.mark.parametrize(("put", "reader", "writer"), [(WRITE, 0, 0), (READ, 1, 0)])
def test_what_waits_for_whom(
    device: Device, buffer: int, put: int, reader: int, writer: int
) -> None:
    gate = Gate(device)
    fence = gate.sync_file()
    import_into(device, buffer, fence, put)
    assert status(device, buffer, READ) == reader
    assert status(device, buffer, WRITE) == writer
    assert bool(ready(buffer) & select.POLLIN) == bool(reader)
    assert not ready(buffer) & select.POLLOUT
    gate.open()
    assert status(device, buffer, READ | WRITE) == 1
    assert ready(buffer) == select.POLLIN | select.POLLOUT
    device.transport.close_fd(fence)
    gate.close()


def test_a_sleeper_is_woken(device: Device, buffer: int) -> None:
    gate = Gate(device)
    fence = gate.sync_file()
    import_into(device, buffer, fence, WRITE)
    poller = select.poll()
    poller.register(buffer, select.POLLOUT)
    assert poller.poll(0) == []
    gate.open()
    assert poller.poll(10_000)
    device.transport.close_fd(fence)
    gate.close()


@pytest.mark.parametrize("flags", [0, 4, READ | 8])
def test_flags_are_an_access(device: Device, buffer: int, flags: int) -> None:
    assert error_of(lambda: export_from(device, buffer, flags)) == "EINVAL"
    assert error_of(lambda: import_into(device, buffer, 0, flags)) == "EINVAL"


def test_only_sync_files_are_imported(device: Device, buffer: int) -> None:
    with pytest.raises(OSError) as caught:
        import_into(device, buffer, buffer, READ)
    assert caught.value.errno == errno.EINVAL


def test_looking_often_leaves_one_callback(xe_device: XeDevice) -> None:
    """Else who polls in a loop would fill the daemon's memory."""
    dma_buf = DmaBuf(XE_DMABUF_OPS, None, 4096, os.O_RDWR, xe_device)
    file, fence = DmaBufFile(dma_buf), DmaFence(1, 1)
    dma_buf.writers.add(fence)
    woken: list[int] = []
    for number in range(100):
        assert file.poll(lambda number=number: woken.append(number)) == 0  # type: ignore[misc]
    assert len(fence._callbacks) == 1
    fence.signal()
    assert woken == [99]
    assert file.poll(None) == select.POLLIN | select.POLLOUT


class LookedAt(DmaFence):
    """A fence that has something done when somebody looks whether it is signalled."""

    then: Callable[[], None] | None = None

    def is_signaled(self) -> bool:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().is_signaled()


def test_looking_while_a_fence_is_signalled(xe_device: XeDevice) -> None:
    """By another thread, as that of a client may."""
    dma_buf = DmaBuf(XE_DMABUF_OPS, None, 4096, os.O_RDWR, xe_device)
    file, woken = DmaBufFile(dma_buf), threading.Event()
    first, second, third = DmaFence(1, 1), LookedAt(2, 1), DmaFence(3, 1)
    dma_buf.writers.add(first)
    dma_buf.writers.add(second)
    file.poll(woken.set)
    dma_buf.writers.add(third)
    thread = threading.Thread(target=lambda: file.poll(woken.set))

    def look() -> None:
        thread.start()
        thread.join(0.1)  # it may have to wait until this is over

    second.then = look
    first.signal()
    thread.join()
    woken.clear()
    file.poll(woken.set)
    second.signal()
    third.signal()
    assert woken.is_set()
    assert not third._callbacks
