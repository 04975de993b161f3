"""The in-process transport behaves as ioctl(2) on a node does."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from uapi import dma_buf, drm, xe_drm
from uapi.ioctl import IOC, IOC_NR, IOC_READ, IOC_WRITE, IOR, IOW
from xedev.client import Device, IoctlError
from xedev.kernel.caller import CAP_SYS_ADMIN, CAP_SYS_NICE
from xedev.kernel.errors import KernelError
from xedev.node.local import LOCAL_FD_BASE, LocalTransport
from xedev.xe.xe_device import XeDevice

STRANGER = 1 << 22  # no process of the machine has so large an id


def refused(error: int, transport: LocalTransport, cmd: int, arg: ctypes.Structure | None) -> str:
    with pytest.raises(IoctlError) as raised:
        transport.ioctl(cmd, arg)
    assert raised.value.errno == error
    return raised.value.reason


@pytest.fixture
def device(xe_device: XeDevice) -> Device:
    return Device(LocalTransport(xe_device))


def local(device: Device) -> LocalTransport:
    assert isinstance(device.transport, LocalTransport)
    return device.transport


def test_two_files_of_one_device(xe_device: XeDevice) -> None:
    one, two = Device(LocalTransport(xe_device)), Device(LocalTransport(xe_device, "xe-mock"))
    assert (one.transport.name, one.transport.path) == ("in-process", "in-process")
    assert one.vm_create() == two.vm_create() == 1
    assert one.version().name == "xe"
    assert len(xe_device.filelist) == 2
    one.close()
    one.close()
    assert len(xe_device.filelist) == 1
    two.close()


def test_there_is_no_such_node(xe_device: XeDevice) -> None:
    with pytest.raises(FileNotFoundError):
        LocalTransport(xe_device, "card7")


def test_opening_may_be_refused(xe_device: XeDevice) -> None:
    xe_device.unplug()
    with pytest.raises(KernelError) as raised:
        LocalTransport(xe_device)
    assert raised.value.errno == errno.ENODEV


# ---- arguments -------------------------------------------------------------------------------


def test_a_write_only_argument_is_not_written(device: Device) -> None:
    arg = xe_drm.drm_xe_vm_destroy(vm_id=77)
    before = bytes(arg)
    refused(errno.ENOENT, local(device), xe_drm.DRM_IOCTL_XE_VM_DESTROY, arg)
    assert bytes(arg) == before
    device.close()


def test_a_read_only_argument_begins_as_zeros(xe_device: XeDevice) -> None:
    device = Device(LocalTransport(xe_device, "card0"))
    arg = drm.drm_stats.from_buffer_copy(b"\xff" * ctypes.sizeof(drm.drm_stats))
    local(device).ioctl(drm.DRM_IOCTL_GET_STATS, arg)
    assert bytes(arg) == bytes(ctypes.sizeof(arg))
    device.close()


def test_outputs_are_seen_after_a_failure(device: Device) -> None:
    arg = drm.drm_get_cap(capability=0xDEAD, value=5)
    refused(errno.EOPNOTSUPP, local(device), drm.DRM_IOCTL_GET_CAP, arg)
    assert arg.value == 0
    device.close()


def test_no_argument_is_a_bad_pointer(device: Device) -> None:
    assert refused(errno.EFAULT, local(device), drm.DRM_IOCTL_GET_CAP, None)
    device.close()


def test_an_argument_shorter_than_the_number_says(device: Device) -> None:
    with pytest.raises(ValueError, match="takes 16 bytes"):
        local(device).ioctl(drm.DRM_IOCTL_GET_CAP, drm.drm_auth())
    device.close()


def test_numbers_of_other_directions(device: Device) -> None:
    nr = IOC_NR(drm.DRM_IOCTL_GET_CAP)
    arg = drm.drm_get_cap(capability=drm.DRM_CAP_PRIME, value=99)
    local(device).ioctl(IOW("d", nr, 16), arg)
    assert arg.value == 99
    refused(errno.EOPNOTSUPP, local(device), IOR("d", nr, 16), arg)
    assert arg.capability == 0
    refused(errno.EINVAL, local(device), IOC(IOC_READ | IOC_WRITE, "d", 0x3D, 16), arg)
    refused(errno.ENOTTY, local(device), IOC(IOC_READ | IOC_WRITE, "T", nr, 16), arg)
    device.close()


# ---- memory ----------------------------------------------------------------------------------


def version_into(device: Device, address: int, length: int) -> None:
    device.ioctl(drm.DRM_IOCTL_VERSION, drm.drm_version(name=address, name_len=length))


def test_bad_pointers_are_faults(device: Device) -> None:
    with mmap.mmap(-1, 2 * mmap.PAGESIZE) as pages:
        view = ctypes.c_char.from_buffer(pages)
        start = ctypes.addressof(view)
        del view
        version_into(device, start, 2)
        assert pages[:2] == b"xe"
        _protect(start + mmap.PAGESIZE, 0)
        for address in (
            start + mmap.PAGESIZE,
            start + mmap.PAGESIZE - 1,
            8,
            1 << 47,
            (1 << 64) - 1,
        ):
            with pytest.raises(IoctlError) as raised:
                version_into(device, address, 2)
            assert raised.value.errno == errno.EFAULT
        _protect(start + mmap.PAGESIZE, mmap.PROT_READ)
        with pytest.raises(IoctlError):
            version_into(device, start + mmap.PAGESIZE, 2)
    device.close()


def _protect(address: int, protection: int) -> None:
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert mprotect(address, mmap.PAGESIZE, protection) == 0


# ---- who asks --------------------------------------------------------------------------------


def test_the_caller_is_this_thread(device: Device) -> None:
    caller = local(device).caller()
    assert (caller.tgid, caller.uid, caller.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert caller.comm
    assert not caller.interrupted()
    threads: list[int] = []
    thread = threading.Thread(target=lambda: threads.append(caller.tid))
    thread.start()
    thread.join()
    assert caller.tid == threading.get_native_id() != threads[0]
    device.close()


def test_another_process_can_be_played(xe_device: XeDevice) -> None:
    other = LocalTransport(
        xe_device, tgid=STRANGER, uid=5, gid=6, comm="player", caps=[CAP_SYS_NICE]
    )
    caller = other.caller()
    assert (caller.tid, caller.tgid, caller.uid, caller.gid) == (STRANGER, STRANGER, 5, 6)
    assert caller.comm == "player"
    assert caller.capable(CAP_SYS_NICE)
    assert not caller.capable(CAP_SYS_ADMIN)
    files: Any = xe_device.show()["files"]
    (shown,) = files
    assert (shown["pid"], shown["comm"], shown["uid"]) == (STRANGER, "player", 5)
    other.close()


def test_capabilities_decide(xe_device: XeDevice) -> None:
    first = Device(LocalTransport(xe_device, "card0", caps=[]))
    for caps, authenticated in (([], 0), ([CAP_SYS_ADMIN], 1)):
        device = Device(LocalTransport(xe_device, "card0", caps=caps, tgid=STRANGER))
        assert device.get_client(0).auth == authenticated
        device.close()
    first.close()


def test_our_own_capabilities_are_the_real_ones(device: Device) -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    assert local(device).caller().capable(CAP_SYS_ADMIN) == bool(effective >> CAP_SYS_ADMIN & 1)
    device.close()


# ---- descriptors -----------------------------------------------------------------------------


def test_a_descriptor_of_a_dma_buf(xe_device: XeDevice, device: Device) -> None:
    handle = device.gem_create(8192, placement=1)
    fd = device.prime_handle_to_fd(handle)
    transport = local(device)
    assert fd >= LOCAL_FD_BASE
    assert transport.fd_size(fd) == 8192
    sync = dma_buf.dma_buf_sync(flags=dma_buf.DMA_BUF_SYNC_READ)
    assert transport.fd_ioctl(fd, dma_buf.DMA_BUF_IOCTL_SYNC, sync) == 0
    other = Device(LocalTransport(xe_device))
    assert other.prime_fd_to_handle(fd) == 1
    transport.close_fd(fd)
    for gone in (fd, 12345678, -1):
        with pytest.raises(IoctlError) as raised:
            other.prime_fd_to_handle(gone)
        assert raised.value.errno == errno.EBADF
    with pytest.raises(OSError, match="Bad file descriptor"):
        transport.close_fd(fd)
    device.close()
    other.close()


def test_what_is_no_dma_buf(device: Device) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for fd in (null, local(device).fileno()):
        with pytest.raises(IoctlError) as raised:
            device.prime_fd_to_handle(fd)
        assert raised.value.errno == errno.EINVAL
    os.close(null)
    device.close()


def test_processes_have_descriptors_of_their_own(xe_device: XeDevice, device: Device) -> None:
    stranger = Device(LocalTransport(xe_device, tgid=STRANGER))
    fd = device.prime_handle_to_fd(device.gem_create(4096, placement=1))
    with pytest.raises(IoctlError) as raised:
        stranger.prime_fd_to_handle(fd)
    assert raised.value.errno == errno.EBADF
    sent = local(device).pass_fd(fd, local(stranger))
    local(device).close_fd(fd)
    device.close()
    handle = stranger.prime_fd_to_handle(sent)
    copy = local(stranger).pass_fd(sent)
    local(stranger).close_fd(sent)
    assert stranger.prime_fd_to_handle(copy) == handle
    assert len(xe_device.bos) == 1
    stranger.gem_close(handle)
    assert len(xe_device.bos) == 1
    local(stranger).close_fd(copy)
    assert not xe_device.bos
    stranger.close()


def test_a_token_is_for_its_process_and_once(xe_device: XeDevice, device: Device) -> None:
    stranger = LocalTransport(xe_device, tgid=STRANGER)
    token = device.prime_handle_to_token(device.gem_create(4096, placement=1))
    with pytest.raises(KernelError) as raised:
        stranger.open_fd(token, os.O_RDWR)
    assert raised.value.errno == errno.EACCES
    fd = local(device).open_fd(token, os.O_RDWR)
    with pytest.raises(KernelError) as raised:
        local(device).open_fd(token, os.O_RDWR)
    assert raised.value.errno == errno.ENOENT
    local(device).close_fd(fd)
    stranger.close()
    device.close()


def test_a_dma_buf_of_another_device(device: Device) -> None:
    elsewhere = Device(LocalTransport(XeDevice()))
    fd = elsewhere.prime_handle_to_fd(elsewhere.gem_create(4096, placement=1))
    handle = device.prime_fd_to_handle(fd)
    assert device.bo_info(handle).imported == 1
    local(elsewhere).close_fd(fd)
    elsewhere.close()
    device.close()


def test_a_drm_file_lives_while_a_descriptor_does(xe_device: XeDevice, device: Device) -> None:
    copy = local(device).pass_fd(local(device).fileno())
    device.close()
    assert len(xe_device.filelist) == 1
    keeper = LocalTransport(xe_device)
    keeper.close_fd(copy)
    keeper.close()
    assert not xe_device.filelist
