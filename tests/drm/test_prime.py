"""PRIME: BOs as descriptors, and back (kernel: drm_prime.c, xe_dma_buf.c)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.drm.raw_ioctl import raw
from uapi import drm
from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.client import Device, IoctlError, Transport
from xedev.client.memory import op_map
from xedev.drm.dma_buf import DmaBuf, DmaBufFile
from xedev.kernel.caller import CAP_SYS_ADMIN
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
SYSTEM, VRAM = 1, 2
U32 = (1 << 32) - 1
EXPORT = drm.DRM_IOCTL_PRIME_HANDLE_TO_FD
IMPORT = drm.DRM_IOCTL_PRIME_FD_TO_HANDLE
RDWR, CLOEXEC = drm.DRM_RDWR, drm.DRM_CLOEXEC
STRANGER = 1 << 22  # no process of the machine has so large an id


def opened(xe: XeDevice, node: str = "card0") -> Device:
    return Device(LocalTransport(xe, node, caps=(CAP_SYS_ADMIN,)))


@pytest.fixture
def a(xe_device: XeDevice) -> Device:
    return opened(xe_device)


@pytest.fixture
def b(xe_device: XeDevice) -> Device:
    return opened(xe_device)


def local(device: Device) -> LocalTransport:
    assert isinstance(device.transport, LocalTransport)
    return device.transport


def dma_buf(device: Device, fd: int) -> DmaBuf:
    """The object behind a descriptor."""
    file = local(device).caller().fget(fd)
    assert isinstance(file, DmaBufFile)
    return file.dma_buf


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error


def show(xe: XeDevice) -> dict[str, Any]:
    return dict(xe.show())


def bos(xe: XeDevice) -> list[tuple[int, int, bool]]:
    """(id, handles, exported) of every BO."""
    return [(bo["id"], bo["handles"], bo["exported"]) for bo in show(xe)["bos"]]


# ---- HANDLE_TO_FD ------------------------------------------------------------------------------


def export(device: Device, handle: int, flags: int) -> tuple[int, drm.drm_prime_handle]:
    """(errno, the argument afterwards)."""
    arg = drm.drm_prime_handle(handle=handle, flags=flags, fd=-77)
    value, back = raw(device.transport, EXPORT, bytes(arg))
    return -value, drm.drm_prime_handle.from_buffer_copy(back)


GOOD_FLAGS = [0, RDWR, CLOEXEC, RDWR | CLOEXEC]


@pytest.mark.parametrize("flags", GOOD_FLAGS)
def test_export_flags(a: Device, flags: int) -> None:
    """The first export decides whether the memory may be written through the descriptor."""
    handle = a.gem_create(PAGE, SYSTEM)
    error, arg = export(a, handle, flags)
    assert error == 0
    assert arg.fd >= XE_MOCK_TOKEN_BASE
    assert (arg.handle, arg.flags) == (handle, flags)
    fd = local(a).open_fd(arg.fd, flags)
    first = dma_buf(a, fd)
    assert first.mode & os.O_ACCMODE == flags & RDWR
    for later in GOOD_FLAGS:
        other = a.prime_handle_to_fd(handle, later)
        assert dma_buf(a, other) is first
        a.close_fd(other)
    assert first.mode & os.O_ACCMODE == flags & RDWR
    a.close_fd(fd)


BAD_FLAGS = [1, 3, 4, 0x40, 0x800, 0x4000, 0x100000, CLOEXEC | 1, 0x8000_0000, U32]


@pytest.mark.parametrize("flags", BAD_FLAGS, ids=hex)
def test_export_with_unknown_flags(xe_device: XeDevice, a: Device, flags: int) -> None:
    """Comes before the handle is looked up; the descriptor in the argument stays."""
    handle = a.gem_create(PAGE, SYSTEM)
    for number in (handle, 99):
        error, arg = export(a, number, flags)
        assert (error, arg.fd) == (errno.EINVAL, -77)
    assert show(xe_device)["devices"][0]["pending_fds"] == 0


@pytest.mark.parametrize("handle", [0, 2, 0x7FFF_FFFF, U32])
def test_export_of_an_unknown_handle(a: Device, handle: int) -> None:
    a.gem_create(PAGE, SYSTEM)
    error, arg = export(a, handle, RDWR)
    assert (error, arg.fd) == (errno.ENOENT, -77)


@pytest.mark.parametrize("node", ["card0", "renderD128", "xe-mock"])
def test_export_of_a_private_bo(xe_device: XeDevice, node: str) -> None:
    device = opened(xe_device, node)
    handle = device.gem_create(PAGE, SYSTEM, vm_id=device.vm_create())
    assert export(device, handle, RDWR)[0] == errno.EPERM
    assert bos(xe_device) == [(1, 1, False)]


@pytest.mark.parametrize("point", ["drm_gem_prime_export", "ttm_bo_setup_export"])
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EINTR])
def test_export_that_fails(xe_device: XeDevice, a: Device, point: str, error: int) -> None:
    """Nothing is left of it, and the next one works."""
    handle = a.gem_create(PAGE, SYSTEM)
    before = a.bo_info(handle)
    xe_device.faults.arm(point, 1, error)
    found, arg = export(a, handle, RDWR)
    assert (found, arg.fd) == (error, -77)
    assert a.bo_info(handle) == before
    assert show(xe_device)["devices"][0]["pending_fds"] == 0
    a.close_fd(a.prime_handle_to_fd(handle))


def test_one_dma_buf_for_all_exports(a: Device, b: Device) -> None:
    """Through the file's own table, and in another file through the object."""
    handle = a.gem_create(PAGE, SYSTEM)
    name = a.gem_flink(handle)
    opened_by_b, _ = b.gem_open(name)
    fds = [
        (a, a.prime_handle_to_fd(handle)),
        (a, a.prime_handle_to_fd(handle)),
        (b, b.prime_handle_to_fd(opened_by_b)),
    ]
    assert len({fd for _, fd in fds}) == 3
    assert len({dma_buf(device, fd) for device, fd in fds}) == 1
    for device, fd in fds:
        device.close_fd(fd)


def test_export_of_an_import(a: Device, b: Device) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    again = b.prime_handle_to_fd(b.prime_fd_to_handle(fd))
    assert dma_buf(b, again) is dma_buf(a, fd)
    for descriptor in (fd, again):
        a.close_fd(descriptor)


def test_export_of_a_foreign_import(a: Device) -> None:
    handle = a.import_foreign(PAGE)
    fd = a.prime_handle_to_fd(handle)
    assert a.prime_fd_to_handle(fd) == handle
    assert a.bo_info(handle).exported == 0, "no dma-buf of this device"
    a.close_fd(fd)


# ---- FD_TO_HANDLE ------------------------------------------------------------------------------


@pytest.fixture
def null_fd() -> Iterator[int]:
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("fd", [-1, -2, -(1 << 31), 0x7FFF_FFFF, XE_MOCK_TOKEN_BASE + 12345])
def test_import_of_nothing(a: Device, fd: int) -> None:
    arg = bytes(drm.drm_prime_handle(handle=0xA5A5, flags=0, fd=fd))
    assert raw(a.transport, IMPORT, arg) == (-errno.EBADF, arg)


def test_import_of_a_closed_descriptor(a: Device) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    a.close_fd(fd)
    refused(errno.EBADF, lambda: a.prime_fd_to_handle(fd))


def test_import_of_something_else(a: Device, null_fd: int) -> None:
    refused(errno.EINVAL, lambda: a.prime_fd_to_handle(null_fd))
    refused(errno.EINVAL, lambda: a.prime_fd_to_handle(local(a).fileno()))


@pytest.mark.parametrize("flags", [0, RDWR | CLOEXEC, 1, U32])
def test_import_does_not_look_at_flags(a: Device, b: Device, flags: int) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    arg = bytes(drm.drm_prime_handle(handle=0xA5A5, flags=flags, fd=fd))
    value, back = raw(b.transport, IMPORT, arg)
    assert value == 0
    assert drm.drm_prime_handle.from_buffer_copy(back).handle == 1
    a.close_fd(fd)


def test_import_of_ones_own(xe_device: XeDevice, a: Device) -> None:
    """The known handle, with no further reference: one GEM_CLOSE ends it."""
    handle = a.gem_create(PAGE, SYSTEM)
    fd = a.prime_handle_to_fd(handle)
    assert [a.prime_fd_to_handle(fd) for _ in range(3)] == [handle] * 3
    assert bos(xe_device) == [(1, 1, True)]
    a.gem_close(handle)
    assert bos(xe_device) == [(1, 0, True)]
    a.close_fd(fd)
    assert bos(xe_device) == []


def test_import_twice_elsewhere(xe_device: XeDevice, a: Device, b: Device) -> None:
    b.gem_create(PAGE, SYSTEM)
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    assert [b.prime_fd_to_handle(fd) for _ in range(3)] == [2, 2, 2]
    b.gem_close(2)
    refused(errno.EINVAL, lambda: b.gem_close(2))
    assert b.prime_fd_to_handle(fd) == 2
    assert b.bo_info(2).id == a.bo_info(1).id
    a.close_fd(fd)


def test_import_after_the_handle_was_closed(a: Device) -> None:
    """A fresh handle, the lowest one; the memory is the same."""
    first, second = a.gem_create(PAGE, SYSTEM), a.gem_create(PAGE, SYSTEM)
    number = a.bo_info(second).id
    fd = a.prime_handle_to_fd(second)
    a.gem_close(second)
    a.gem_close(first)
    assert a.prime_fd_to_handle(fd) == 1
    assert a.bo_info(1).id == number
    a.close_fd(fd)


def test_import_when_no_handle_is_left(xe_device: XeDevice, a: Device, b: Device) -> None:
    handle = a.gem_create(PAGE, SYSTEM)
    fd = a.prime_handle_to_fd(handle)
    other = b.prime_fd_to_handle(fd)
    a.gem_close(handle)
    b.gem_close(other)
    assert bos(xe_device) == [(1, 0, True)]
    for device in (b, a):
        assert device.bo_info(device.prime_fd_to_handle(fd)).id == 1
    a.close_fd(fd)


def test_a_handle_without_prime_does_not_count(a: Device, b: Device) -> None:
    """B has the BO by name already; the import gives another handle all the same."""
    handle = a.gem_create(PAGE, SYSTEM)
    by_name, _ = b.gem_open(a.gem_flink(handle))
    fd = a.prime_handle_to_fd(handle)
    imported = b.prime_fd_to_handle(fd)
    assert imported != by_name
    assert b.prime_fd_to_handle(fd) == imported
    assert b.bo_info(imported).id == b.bo_info(by_name).id
    a.close_fd(fd)


def test_a_named_handle_that_was_exported_counts(a: Device, b: Device) -> None:
    handle = a.gem_create(PAGE, SYSTEM)
    by_name, _ = b.gem_open(a.gem_flink(handle))
    fd = b.prime_handle_to_fd(by_name)
    assert b.prime_fd_to_handle(fd) == by_name
    assert a.prime_fd_to_handle(fd) != handle, "A never exported its handle"
    a.close_fd(fd)


def test_closing_the_exporting_file(xe_device: XeDevice, a: Device, b: Device) -> None:
    handle = a.gem_create(PAGE, SYSTEM)
    fd = a.prime_handle_to_fd(handle)
    imported = b.prime_fd_to_handle(fd)
    a.close()
    local(b).close_fd(fd)
    assert b.bo_info(imported).id == 1
    vm = b.vm_create()
    b.vm_bind(vm, [op_map(imported, 0, PAGE, PAGE)])
    assert bos(xe_device) == [(1, 1, True)]
    b.close()
    assert bos(xe_device) == []


def test_across_nodes(xe_device: XeDevice) -> None:
    files = [opened(xe_device, node) for node in ("card0", "renderD128", "xe-mock")]
    fd = files[0].prime_handle_to_fd(files[0].gem_create(PAGE, SYSTEM))
    handles = [file.prime_fd_to_handle(fd) for file in files]
    assert {file.bo_info(h).id for file, h in zip(files, handles, strict=True)} == {1}
    files[0].close_fd(fd)


def test_into_another_process(xe_device: XeDevice, a: Device) -> None:
    """A descriptor names a file only in its process, until it was sent to another one."""
    other = Device(LocalTransport(xe_device, tgid=STRANGER))
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    refused(errno.EBADF, lambda: other.prime_fd_to_handle(fd))
    sent = local(a).pass_fd(fd, local(other))
    assert other.bo_info(other.prime_fd_to_handle(sent)).id == 1
    other.close_fd(sent)
    a.close_fd(fd)


def test_import_that_fails(xe_device: XeDevice, a: Device, b: Device) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    xe_device.faults.arm("drm_gem_handle_create", 1, errno.ENOMEM)
    refused(errno.ENOMEM, lambda: b.prime_fd_to_handle(fd))
    assert bos(xe_device) == [(1, 1, True)]
    assert b.prime_fd_to_handle(fd) == 1
    a.close_fd(fd)


@pytest.mark.parametrize("first_closed", [0, 1])
def test_two_exported_handles_of_one_bo(a: Device, first_closed: int) -> None:
    """As long as one of them is there, an import finds it and makes no third."""
    handle = a.gem_create(PAGE, SYSTEM)
    again, _ = a.gem_open(a.gem_flink(handle))
    pair = [handle, again]
    for fd in [a.prime_handle_to_fd(number) for number in pair]:
        assert a.prime_fd_to_handle(fd) in pair
        a.close_fd(fd)
    fd = a.prime_handle_to_fd(handle)
    a.gem_close(pair.pop(first_closed))
    assert a.prime_fd_to_handle(fd) == pair[0]
    a.gem_close(pair[0])
    assert a.prime_fd_to_handle(fd) == 1
    a.close_fd(fd)


# ---- two devices -------------------------------------------------------------------------------


@pytest.fixture
def lunar() -> Iterator[Device]:
    """A file of another device."""
    device = opened(XeDevice(XeConfig(profile="lnl")))
    yield device
    device.close()


def test_a_bo_of_another_device(xe_device: XeDevice, a: Device, lunar: Device) -> None:
    """An object of its own that stands for the memory."""
    fd = lunar.prime_handle_to_fd(lunar.gem_create(3 * PAGE, SYSTEM))
    handle = a.prime_fd_to_handle(fd)
    assert a.prime_fd_to_handle(fd) == handle
    info = a.bo_info(handle)
    assert (info.size, info.imported, info.exported) == (3 * PAGE, 1, 0)
    again = a.prime_handle_to_fd(handle)
    assert dma_buf(a, again) is dma_buf(lunar, fd)
    assert lunar.prime_fd_to_handle(again) == 1, "home again"
    for descriptor in (fd, again):
        a.close_fd(descriptor)
    a.gem_close(handle)
    assert bos(xe_device) == []


def test_memory_that_another_device_cannot_reach(
    xe_device: XeDevice, a: Device, lunar: Device
) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, VRAM))
    arg = bytes(drm.drm_prime_handle(handle=0xA5A5, fd=fd))
    assert raw(lunar.transport, IMPORT, arg) == (-errno.EOPNOTSUPP, arg)
    movable = a.prime_handle_to_fd(a.gem_create(PAGE, VRAM | SYSTEM))
    assert lunar.prime_fd_to_handle(movable) == 1
    for descriptor in (fd, movable):
        a.close_fd(descriptor)


def test_the_importer_keeps_the_exporters_memory(
    xe_device: XeDevice, a: Device, lunar: Device
) -> None:
    fd = a.prime_handle_to_fd(a.gem_create(PAGE, SYSTEM))
    handle = lunar.prime_fd_to_handle(fd)
    local(a).close_fd(fd)
    a.close()
    assert bos(xe_device) == [(1, 0, True)]
    lunar.gem_close(handle)
    assert bos(xe_device) == []


# ---- tokens ------------------------------------------------------------------------------------


def open_token(device: Device, token: int) -> int:
    """The errno of opening a token's file, 0 for success; the descriptor is closed again."""
    try:
        fd = device.transport.open_fd(token, RDWR)
    except OSError as error:
        return error.errno or -1
    device.transport.close_fd(fd)
    return 0


def test_a_token_is_good_for_one_descriptor(xe_device: XeDevice, a: Device) -> None:
    token = a.prime_handle_to_token(a.gem_create(PAGE, SYSTEM))
    assert show(xe_device)["devices"][0]["pending_fds"] == 1
    assert open_token(a, token + 1) == errno.ENOENT
    assert open_token(a, token) == 0
    assert open_token(a, token) == errno.ENOENT
    assert show(xe_device)["devices"][0]["pending_fds"] == 0


def test_tokens_are_never_used_again(a: Device) -> None:
    handle = a.gem_create(PAGE, SYSTEM)
    tokens = []
    for _ in range(20):
        tokens.append(a.prime_handle_to_token(handle))
        assert open_token(a, tokens[-1]) == 0
    assert len(set(tokens)) == 20
    assert min(tokens) >= XE_MOCK_TOKEN_BASE


def test_a_token_is_of_its_process(xe_device: XeDevice, a: Device) -> None:
    stranger = Device(LocalTransport(xe_device, tgid=STRANGER))
    token = a.prime_handle_to_token(a.gem_create(PAGE, SYSTEM))
    assert open_token(stranger, token) == errno.EACCES
    assert open_token(a, token) == 0, "the attempt does not use it up"


def test_a_token_is_no_descriptor(a: Device) -> None:
    token = a.prime_handle_to_token(a.gem_create(PAGE, SYSTEM))
    refused(errno.EBADF, lambda: a.prime_fd_to_handle(token))
    assert open_token(a, token) == 0


def test_tokens_end_with_their_file(xe_device: XeDevice, a: Device, b: Device) -> None:
    """What was never opened keeps nothing alive."""
    token = a.prime_handle_to_token(a.gem_create(PAGE, SYSTEM))
    a.close()
    assert bos(xe_device) == []
    assert open_token(b, token) == errno.ENOENT


# ---- through every transport -------------------------------------------------------------------


def test_prime_through(transport: Transport) -> None:
    device = Device(transport)
    handle = device.gem_create(2 * PAGE, SYSTEM)
    fd = device.prime_handle_to_fd(handle)
    assert device.prime_fd_to_handle(fd) == handle
    number = device.bo_info(handle).id
    device.gem_close(handle)
    assert device.prime_fd_to_handle(fd) == 1
    info = device.bo_info(1)
    assert (info.id, info.exported, info.size) == (number, 1, 2 * PAGE)
    for flags in (1, 4, U32):
        refused(errno.EINVAL, partial(device.prime_handle_to_token, 1, flags))
    refused(errno.ENOENT, lambda: device.prime_handle_to_fd(2))
    refused(errno.EBADF, lambda: device.prime_fd_to_handle(-1))
    private = device.gem_create(PAGE, SYSTEM, vm_id=device.vm_create())
    refused(errno.EPERM, lambda: device.prime_handle_to_fd(private))
    device.close_fd(fd)
    refused(errno.EBADF, lambda: device.prime_fd_to_handle(fd))
    token = device.prime_handle_to_token(1)
    assert token >= XE_MOCK_TOKEN_BASE
    refused(errno.EBADF, lambda: device.prime_fd_to_handle(token))
    assert open_token(device, token) == 0
    assert open_token(device, token) == errno.ENOENT


def test_something_else_through(transport: Transport, null_fd: int) -> None:
    refused(errno.EINVAL, lambda: Device(transport).prime_fd_to_handle(null_fd))
