"""A stuck device and one that is gone (kernel: ``xe_drm_ioctl``, ``xe_device_declare_wedged``,
``drm_dev_unplug``)."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.drm.core_rows import CORE_ROWS
from tests.drm.raw_ioctl import NULL, answer, raw
from uapi import dma_buf, drm, registry, xe_drm, xe_mock
from uapi.ioctl import IO, IOC, IOC_READ, IOC_WRITE, IOWR
from xedev.client import Device
from xedev.kernel.errors import KernelError
from xedev.node.local import LocalTransport
from xedev.testing.target import LocalTarget, Target
from xedev.xe.xe_device import XeDevice

PAGE = 4096
SYSTEM = 1
NODES = ("card0", "renderD128", "xe-mock")
ECANCELED, ENODEV, EINVAL, ENOTTY = errno.ECANCELED, errno.ENODEV, errno.EINVAL, errno.ENOTTY
EXPORT = drm.DRM_IOCTL_PRIME_HANDLE_TO_FD
SYNC = dma_buf.DMA_BUF_IOCTL_SYNC

Break = Callable[[XeDevice], None]


def wedge(xe: XeDevice) -> None:
    xe.declare_wedged()


def unplug(xe: XeDevice) -> None:
    xe.unplug()


def wedge_and_unplug(xe: XeDevice) -> None:
    xe.unplug()
    xe.declare_wedged()


BROKEN: list[tuple[Break, int]] = [
    (wedge, ECANCELED),
    (unplug, ENODEV),
    (wedge_and_unplug, ECANCELED),
]
broken = pytest.mark.parametrize(
    ("break_", "error"), BROKEN, ids=[row[0].__name__ for row in BROKEN]
)
every_node = pytest.mark.parametrize("node", NODES)
ways = pytest.mark.parametrize(
    "way",
    ["in-process", *(pytest.param(way, marks=pytest.mark.fuse) for way in ("ioctl", "frames"))],
)


def opened(xe: XeDevice, node: str = "renderD128") -> Device:
    return Device(LocalTransport(xe, node, caps=range(64)))


def local(device: Device) -> LocalTransport:
    assert isinstance(device.transport, LocalTransport)
    return device.transport


# ---- every ioctl -------------------------------------------------------------------------------


@broken
@every_node
def test_every_drm_ioctl(xe_device: XeDevice, node: str, break_: Break, error: int) -> None:
    """Before the number, the argument and the rights are looked at."""
    transport = local(opened(xe_device, node))
    break_(xe_device)
    commands = [row.cmd for row in CORE_ROWS] + [row.cmd for row in registry.XE.values()]
    for cmd in commands:
        data = b"\xa5" * (cmd >> 16 & 0x3FFF)
        value, back = raw(transport, cmd, data)
        assert value == -error, hex(cmd)
        # What is only written begins as zeros in the transport.
        assert back == (data if cmd >> 30 != IOC_READ else bytes(len(data)))
        assert answer(transport, cmd, NULL) == error, hex(cmd)


@broken
@every_node
def test_every_number(xe_device: XeDevice, node: str, break_: Break, error: int) -> None:
    """Also those that no table has, of DRM's type and of every other."""
    transport = local(opened(xe_device, node))
    break_(xe_device)
    for nr in range(0x100):
        assert answer(transport, IOWR("d", nr, 8)) == error, hex(nr)
    for type_ in {*range(0x100)} - {ord("x")}:
        assert answer(transport, IOC(IOC_READ | IOC_WRITE, type_, 1, 8)) == error, hex(type_)
        assert answer(transport, IO(type_, 0x7F), NULL) == error, hex(type_)
    for cmd in (0x5401, 0x5413, 0x541B):  # TCGETS, TIOCGWINSZ, FIONREAD
        assert answer(transport, cmd, bytes(8)) == error


@broken
@every_node
def test_private_numbers(xe_device: XeDevice, node: str, break_: Break, error: int) -> None:
    """Those that the mock does not know are like any other; those that it knows still answer."""
    device = opened(xe_device, node)
    handle = device.gem_create(PAGE, SYSTEM)
    break_(xe_device)
    known = {row.nr for row in registry.MOCK.values()}
    for nr in {*range(0x100)} - known:
        assert answer(device.transport, IOWR("x", nr, 8)) == error
    assert device.bo_info(handle).size == PAGE


@broken
def test_nothing_is_done(xe_device: XeDevice, break_: Break, error: int) -> None:
    device = opened(xe_device, "card0")
    handle = device.gem_create(PAGE, SYSTEM)
    break_(xe_device)
    transport = device.transport
    for cmd, arg in (
        (drm.DRM_IOCTL_GEM_CLOSE, drm.drm_gem_close(handle=handle)),
        (drm.DRM_IOCTL_GEM_FLINK, drm.drm_gem_flink(handle=handle)),
        (EXPORT, drm.drm_prime_handle(handle=handle)),
        (xe_drm.DRM_IOCTL_XE_VM_CREATE, xe_drm.drm_xe_vm_create()),
    ):
        assert answer(transport, cmd, bytes(arg)) == error
    assert answer(transport, drm.DRM_IOCTL_DROP_MASTER) == error
    state: Any = xe_device.show()
    (file,) = state["files"]
    assert (file["handles"], file["vms"], file["master"]) == (1, 0, True)
    assert state["devices"][0]["pending_fds"] == 0


@broken
def test_the_pid_is_not_taken(xe_device: XeDevice, break_: Break, error: int) -> None:
    owner = LocalTransport(xe_device, tgid=1 << 22)
    user = LocalTransport(xe_device)
    break_(xe_device)
    assert owner.file.ioctl(drm.DRM_IOCTL_GET_CAP, 0, user.caller()) == -error
    state: Any = xe_device.show()
    assert state["files"][0]["pid"] == 1 << 22


# ---- open, close, mmap -------------------------------------------------------------------------


@every_node
def test_a_wedged_device_can_be_opened(xe_device: XeDevice, node: str) -> None:
    xe_device.declare_wedged()
    device = opened(xe_device, node)
    assert answer(device.transport, drm.DRM_IOCTL_VERSION) == ECANCELED
    device.close()


@every_node
@pytest.mark.parametrize("break_", [unplug, wedge_and_unplug])
def test_an_unplugged_device_cannot_be_opened(
    xe_device: XeDevice, node: str, break_: Break
) -> None:
    break_(xe_device)
    with pytest.raises(KernelError) as caught:
        LocalTransport(xe_device, node)
    assert caught.value.errno == ENODEV


@broken
def test_closing_frees_everything(xe_device: XeDevice, break_: Break, error: int) -> None:
    device = opened(xe_device, "card0")
    device.gem_create(PAGE, SYSTEM, vm_id=device.vm_create())
    fd = device.prime_handle_to_fd(device.gem_create(PAGE, SYSTEM))
    device.prime_handle_to_token(device.gem_create(PAGE, SYSTEM))
    break_(xe_device)
    transport = local(device)
    transport.close()
    state: Any = xe_device.show()
    assert (state["files"], state["vms"], len(state["bos"])) == ([], [], 1)
    transport.close_fd(fd)
    state = xe_device.show()
    assert state["bos"] == []


@pytest.mark.parametrize(
    ("break_", "error"), [(wedge, 0), (unplug, ENODEV), (wedge_and_unplug, ENODEV)]
)
def test_mmap(xe_device: XeDevice, break_: Break, error: int) -> None:
    """A wedged device's memory can still be mapped."""
    device = opened(xe_device)
    offset = device.gem_mmap_offset(device.gem_create(PAGE, SYSTEM))
    break_(xe_device)
    ask = xe_mock.xe_mock_mmap(
        offset=offset, length=PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED
    )
    assert answer(device.transport, xe_mock.XE_MOCK_IOCTL_MMAP, bytes(ask)) == error


@pytest.mark.parametrize("break_", [unplug, wedge_and_unplug])
def test_a_mapping_of_an_unplugged_device_never_faults(xe_device: XeDevice, break_: Break) -> None:
    """Some other page is put there."""
    device = opened(xe_device)
    offset = device.gem_mmap_offset(device.gem_create(PAGE, SYSTEM))
    break_(xe_device)
    assert device.fault(offset) is False


# ---- other files -------------------------------------------------------------------------------


@broken
def test_a_dma_buf_goes_on(xe_device: XeDevice, break_: Break, error: int) -> None:
    """It is a file of its own, for which neither state counts."""
    device = opened(xe_device)
    fd = device.prime_handle_to_fd(device.gem_create(PAGE, SYSTEM))
    break_(xe_device)
    transport = local(device)
    flags = dma_buf.DMA_BUF_SYNC_READ
    assert transport.fd_ioctl(fd, SYNC, dma_buf.dma_buf_sync(flags=flags)) == 0
    assert transport.fd_size(fd) == PAGE
    transport.close_fd(fd)


@broken
def test_a_token_can_still_be_opened(xe_device: XeDevice, break_: Break, error: int) -> None:
    device = opened(xe_device)
    token = device.prime_handle_to_token(device.gem_create(PAGE, SYSTEM))
    break_(xe_device)
    transport = local(device)
    fd = transport.open_fd(token, os.O_RDWR)
    assert transport.fd_size(fd) == PAGE
    transport.close_fd(fd)


@broken
def test_poll_and_read_are_as_before(xe_device: XeDevice, break_: Break, error: int) -> None:
    transport = local(opened(xe_device))
    break_(xe_device)
    assert transport.file.poll(None) == 0
    with pytest.raises(KernelError) as caught:
        transport.file.read(4096, 0, True, transport.caller())
    assert caught.value.errno == errno.EAGAIN


def test_another_device_is_not_concerned(xe_device: XeDevice) -> None:
    other = XeDevice()
    device = opened(other)
    xe_device.declare_wedged()
    xe_device.unplug()
    assert device.version().name == "xe"
    device.close()


def test_calls_that_run_meanwhile(xe_device: XeDevice) -> None:
    """Each answers either as if nothing were, or with ECANCELED; never with anything else."""
    transport = local(opened(xe_device))
    started = threading.Event()
    seen: list[int] = []

    def call() -> None:
        while len(seen) < 200_000:
            seen.append(answer(transport, drm.DRM_IOCTL_GET_CAP, bytes([5]) + bytes(15)))
            started.set()
            if seen[-1]:
                return

    thread = threading.Thread(target=call)
    thread.start()
    started.wait()
    xe_device.declare_wedged()
    thread.join()
    assert seen[-1] == ECANCELED
    assert set(seen) == {0, ECANCELED}


# ---- the control files -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wedge", "unplug"])
@pytest.mark.parametrize("text", ["", "0", "2", "yes", "1 1", "-1"])
def test_there_is_no_way_back(name: str, text: str) -> None:
    target = LocalTarget(XeDevice())
    for expected in ("0\n", "1\n"):
        with pytest.raises(OSError) as caught:
            target.control(name, text)
        assert caught.value.errno == EINVAL
        assert target.debug(name) == expected
        target.control(name, "1\n")
    assert target.state()["devices"][0][{"wedge": "wedged", "unplug": "unplugged"}[name]]


WEDGED_ROWS: list[tuple[int, bytes | None]] = [
    (drm.DRM_IOCTL_VERSION, bytes(64)),
    (drm.DRM_IOCTL_GET_CAP, bytes(16)),
    (drm.DRM_IOCTL_GEM_FLINK, bytes(8)),
    (xe_drm.DRM_IOCTL_XE_VM_CREATE, bytes(32)),
    (IOWR("d", 0x03, 8), bytes(8)),
    (IOWR("d", 0x50, 8), bytes(8)),
    (IOWR("d", 0xFF, 8), bytes(8)),
    (IOWR("T", 0x0C, 8), bytes(8)),
    (IO("x", 0x7F), NULL),
]


@ways
@pytest.mark.parametrize(("control", "error"), [("wedge", ECANCELED), ("unplug", ENODEV)])
def test_through(xe_target: Callable[..., Target[Any]], way: str, control: str, error: int) -> None:
    target = xe_target(way, fresh=True)
    node = target.open()
    device = Device(node)
    fd = device.prime_handle_to_fd(device.gem_create(PAGE, SYSTEM))
    device.vm_create()
    target.control(control, "1")
    for cmd, data in WEDGED_ROWS:
        assert answer(node, cmd, data) == error, hex(cmd)
    if control == "wedge":
        assert answer(target.open(), drm.DRM_IOCTL_VERSION) == error
    else:
        with pytest.raises(OSError) as caught:
            target.open()
        assert caught.value.errno == ENODEV
    device.close_fd(fd)
