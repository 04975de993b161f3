"""The way of a request: which check comes first, what is copied in and back.

Holds the dispatcher to the order of the kernel's ``xe_drm_ioctl``, ``drm_ioctl`` and
``drm_ioctl_kernel``.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.drm.core_rows import CORE_ROWS, CoreRow
from tests.drm.raw_ioctl import (
    BAD_ADDRESS,
    NULL,
    answer,
    copied_back,
    raw,
    with_dir,
    with_size,
)
from uapi import drm, registry, xe_drm, xe_mock
from uapi.ioctl import IO, IOC, IOC_READ, IOC_SIZE_MAX, IOC_WRITE, IOWR, IoctlDef
from xedev.client import IoctlTransport, Transport
from xedev.node.daemon import probe
from xedev.node.fuse_binding import BackendName
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

RW = IOC_READ | IOC_WRITE
HOLES = (
    *(0x03, 0x04, 0x08, 0x0E, 0x0F, 0x3D, 0x3E),
    *range(0x14, 0x1E),
    *range(0x20, 0x27),
    *range(0x29, 0x2C),
    *range(0x2F, 0x3A),
)
BEYOND_DRIVER = range(0x50, 0xA0)
BEYOND_CORE = range(0xD3, 0x100)
NOTHING_THERE = (*HOLES, *BEYOND_DRIVER, *BEYOND_CORE)
FOREIGN_TYPES = {*range(0x100)} - {ord("d"), ord("x")}
NODES = ("card0", "renderD128", "xe-mock")

GET_CAP = drm.DRM_IOCTL_GET_CAP
CAP_PRIME = struct.pack("<QQ", drm.DRM_CAP_PRIME, 99)
CAP_UNKNOWN = struct.pack("<QQ", 0xDEAD, 99)


@pytest.fixture
def card(xe_device: XeDevice) -> LocalTransport:
    """The master, with every right."""
    return LocalTransport(xe_device, "card0", caps=range(64))


@pytest.fixture
def render(xe_device: XeDevice) -> LocalTransport:
    """A render node, with no capability."""
    return LocalTransport(xe_device, caps=())


# ---- numbers that nothing answers --------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("type_", sorted(FOREIGN_TYPES)[::7])
def test_a_foreign_type_is_no_tty(xe_device: XeDevice, node: str, type_: int) -> None:
    transport = LocalTransport(xe_device, node)
    for nr in (0x00, 0x01, 0x0C, 0x40, 0x50, 0xFF):
        assert answer(transport, IOC(RW, type_, nr, 16)) == errno.ENOTTY
        assert answer(transport, IOC(RW, type_, nr, 16), NULL) == errno.ENOTTY
    transport.close()


def test_every_foreign_type_is_no_tty(render: LocalTransport) -> None:
    for type_ in FOREIGN_TYPES:
        assert answer(render, IO(type_, 0x0C)) == errno.ENOTTY, hex(type_)


@pytest.mark.parametrize("cmd", [0x5401, 0x5413, 0x541B, 0x5421])  # TCGETS, TIOCGWINSZ, FIONREAD..
def test_it_is_no_terminal(render: LocalTransport, cmd: int) -> None:
    assert answer(render, cmd, bytes(64)) == errno.ENOTTY


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("nr", NOTHING_THERE, ids=hex)
def test_an_empty_slot(xe_device: XeDevice, node: str, nr: int) -> None:
    """Comes before the argument is looked at and before all rights."""
    transport = LocalTransport(xe_device, node, caps=())
    for direction in range(4):
        for size in (0, 8, 64, IOC_SIZE_MAX):
            assert answer(transport, IOC(direction, "d", nr, size), NULL) == errno.EINVAL
    assert raw(transport, IOWR("d", nr, 8), b"\xa5" * 8) == (-errno.EINVAL, b"\xa5" * 8)
    transport.close()


@pytest.mark.parametrize("node", NODES)
def test_no_slot_of_the_driver_is_empty(xe_device: XeDevice, node: str) -> None:
    """An empty slot would say so before it looks for the argument."""
    transport = LocalTransport(xe_device, node, caps=())
    assert {row.nr for row in registry.XE.values()} == set(range(0x40, 0x50))
    for row in registry.XE.values():
        assert answer(transport, row.cmd, NULL) == errno.EFAULT, row.name
    transport.close()


# ---- private ioctls ----------------------------------------------------------------------------


@pytest.mark.parametrize("node", NODES)
def test_unknown_private_numbers_are_foreign(xe_device: XeDevice, node: str) -> None:
    transport = LocalTransport(xe_device, node)
    known = {row.nr for row in registry.MOCK.values()}
    for nr in {*range(0x100)} - known:
        assert answer(transport, IOWR("x", nr, 64)) == errno.ENOTTY
        assert answer(transport, IO("x", nr), NULL) == errno.ENOTTY
    transport.close()


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("row", registry.MOCK.values(), ids=lambda row: row.name)
def test_known_private_numbers_are_answered(xe_device: XeDevice, node: str, row: IoctlDef) -> None:
    transport = LocalTransport(xe_device, node, caps=())
    assert answer(transport, row.cmd) in (0, errno.EINVAL, errno.ENOENT)
    assert answer(transport, row.cmd, NULL) == errno.EFAULT
    transport.close()


def test_a_private_question(xe_device: XeDevice) -> None:
    transport = LocalTransport(xe_device)
    arg = bytes(xe_mock.xe_mock_import_foreign(size=4096))
    value, back = raw(transport, xe_mock.XE_MOCK_IOCTL_IMPORT_FOREIGN, arg)
    assert (value, xe_mock.xe_mock_import_foreign.from_buffer_copy(back).handle) == (0, 1)
    transport.close()


# ---- bad pointers ------------------------------------------------------------------------------

READING_ROWS = [row for row in CORE_ROWS if row.cmd >> 30 & IOC_WRITE]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("row", READING_ROWS, ids=str)
def test_a_bad_argument_comes_before_missing_rights(
    xe_device: XeDevice, node: str, row: CoreRow
) -> None:
    master = LocalTransport(xe_device, "card0")
    transport = LocalTransport(xe_device, node, caps=())
    assert answer(transport, row.cmd, NULL) == errno.EFAULT
    transport.close()
    master.close()


@pytest.mark.parametrize("row", registry.XE.values(), ids=lambda row: row.name)
def test_a_bad_argument_of_a_driver_ioctl(
    xe_device: XeDevice, render: LocalTransport, row: IoctlDef
) -> None:
    assert answer(render, row.cmd, NULL) == errno.EFAULT
    assert not xe_device.vms


def test_a_bad_argument_is_not_read_when_nothing_is_to_be(card: LocalTransport) -> None:
    """Without the WRITE bit nothing is copied in, without READ nothing back."""
    assert answer(card, IO("d", 0x06), NULL) == 0  # GET_STATS
    assert answer(card, with_dir(GET_CAP, IOC_WRITE), NULL) == errno.EFAULT
    assert answer(card, IO("d", 0x0C), NULL) == errno.EOPNOTSUPP  # capability 0


@pytest.mark.parametrize("node", ["renderD128", "xe-mock"])
@pytest.mark.parametrize("cmd", [drm.DRM_IOCTL_GET_MAGIC, drm.DRM_IOCTL_GET_STATS])
def test_copying_back_fails_even_after_a_refusal(xe_device: XeDevice, node: str, cmd: int) -> None:
    """These only write: the refusal for a render node is replaced by that of the copy."""
    transport = LocalTransport(xe_device, node)
    assert answer(transport, cmd) == errno.EACCES
    assert answer(transport, cmd, NULL) == errno.EFAULT
    transport.close()


def test_the_handler_has_run_when_copying_back_fails(card: LocalTransport) -> None:
    assert answer(card, drm.DRM_IOCTL_GET_MAGIC, NULL) == errno.EFAULT
    assert card.file.magic == 1  # type: ignore[attr-defined]


# ---- what comes back ---------------------------------------------------------------------------


def test_outputs_are_seen_after_a_failure(render: LocalTransport) -> None:
    back = copied_back(render, GET_CAP, CAP_UNKNOWN)
    assert back == struct.pack("<QQ", 0xDEAD, 0)


def test_inputs_come_back_when_rights_are_missing(render: LocalTransport) -> None:
    dumb = bytes(drm.drm_mode_create_dumb(width=1, height=1, bpp=32, handle=7, pitch=8, size=9))
    for cmd, arg in (
        (drm.DRM_IOCTL_MODE_CREATE_DUMB, dumb),
        (drm.DRM_IOCTL_GEM_FLINK, b"\xa5" * 8),
        (drm.DRM_IOCTL_GET_CLIENT, b"\xa5" * 40),
        (drm.DRM_IOCTL_SET_VERSION, b"\xa5" * 16),
    ):
        assert raw(render, cmd, arg) == (-errno.EACCES, arg)


def test_a_refused_answer_without_input_is_zeros(render: LocalTransport) -> None:
    assert raw(render, drm.DRM_IOCTL_GET_MAGIC, b"\xa5" * 4) == (-errno.EACCES, bytes(4))
    assert raw(render, drm.DRM_IOCTL_GET_STATS, b"\xa5" * 248) == (-errno.EACCES, bytes(248))


def test_what_only_goes_in_stays_as_it_was(render: LocalTransport) -> None:
    arg = struct.pack("<II", 77, 0xA5A5A5A5)
    assert raw(render, drm.DRM_IOCTL_GEM_CLOSE, arg) == (-errno.EINVAL, arg)
    bind = bytes(xe_drm.drm_xe_vm_bind(vm_id=77, num_binds=1))
    assert copied_back(render, xe_drm.DRM_IOCTL_XE_VM_BIND, bind) == bind


def test_a_reading_ioctl_starts_as_zeros(card: LocalTransport) -> None:
    """What the client left in its buffer must not reach the handler, nor come back."""
    assert raw(card, drm.DRM_IOCTL_GET_STATS, b"\xff" * 248) == (0, bytes(248))
    assert raw(card, drm.DRM_IOCTL_GET_MAGIC, b"\xff" * 4) == (0, b"\1\0\0\0")


# ---- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", range(17))
def test_a_smaller_argument(render: LocalTransport, size: int) -> None:
    """The missing end reads as zero, and its outputs are not given back."""
    value, back = raw(render, with_size(GET_CAP, size), CAP_PRIME)
    capability = int.from_bytes(CAP_PRIME[: min(size, 8)], "little")
    assert value == (0 if capability == drm.DRM_CAP_PRIME else -errno.EOPNOTSUPP)
    whole = struct.pack("<QQ", drm.DRM_CAP_PRIME, 3)
    assert back == whole[:size] + CAP_PRIME[size:]


@pytest.mark.parametrize("size", [17, 24, 127, 128, 129, 248, 4096, IOC_SIZE_MAX])
def test_a_larger_argument(render: LocalTransport, size: int) -> None:
    """Its end is not looked at, and comes back as it was."""
    extra = b"\xa5" * (size - 16)
    value, back = raw(render, with_size(GET_CAP, size), CAP_PRIME + extra)
    assert value == 0
    assert back == struct.pack("<QQ", drm.DRM_CAP_PRIME, 3) + extra


@pytest.mark.parametrize("size", [24, IOC_SIZE_MAX])
def test_a_larger_argument_of_a_failing_call(render: LocalTransport, size: int) -> None:
    extra = b"\xa5" * (size - 16)
    value, back = raw(render, with_size(GET_CAP, size), CAP_UNKNOWN + extra)
    assert value == -errno.EOPNOTSUPP
    assert back == struct.pack("<QQ", 0xDEAD, 0) + extra


@pytest.mark.parametrize("row", registry.XE.values(), ids=lambda row: row.name)
def test_extra_bytes_never_change_a_drivers_answer(render: LocalTransport, row: IoctlDef) -> None:
    plain, _ = raw(render, row.cmd)
    extra = b"\xff" * 40
    value, back = raw(render, with_size(row.cmd, row.size + 40), bytes(row.size) + extra)
    assert value == plain
    assert back[row.size :] == extra


@pytest.mark.parametrize("size", [0, 8, 12, 16, 24, 32])
def test_an_older_clients_vm_create(xe_device: XeDevice, render: LocalTransport, size: int) -> None:
    """``vm_id`` lies at 12: a shorter argument makes the VM and does not learn its number."""
    cmd = with_size(xe_drm.DRM_IOCTL_XE_VM_CREATE, size)
    value, back = raw(render, cmd, bytes(32))
    assert value == 0
    assert back[12:16] == (b"\1\0\0\0" if size >= 16 else bytes(4))
    assert len(xe_device.vms) == 1


def test_a_larger_reading_ioctl_returns_zeros_behind(card: LocalTransport) -> None:
    cmd = with_size(drm.DRM_IOCTL_GET_MAGIC, 12)
    assert raw(card, cmd, b"\xff" * 12) == (0, b"\1" + bytes(11))
    cmd = with_size(drm.DRM_IOCTL_GET_MAGIC, 2)
    assert raw(card, cmd, b"\xff" * 4) == (0, b"\1\0\xff\xff")


# ---- directions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "value", "back"),
    [
        (IOC_WRITE | IOC_READ, 0, struct.pack("<QQ", drm.DRM_CAP_PRIME, 3)),
        (IOC_WRITE, 0, CAP_PRIME),
        (IOC_READ, -errno.EOPNOTSUPP, bytes(16)),
        (0, -errno.EOPNOTSUPP, CAP_PRIME),
    ],
)
def test_only_common_directions_are_copied(
    render: LocalTransport, direction: int, value: int, back: bytes
) -> None:
    assert raw(render, with_dir(GET_CAP, direction), CAP_PRIME) == (value, back)


def test_a_direction_that_the_driver_does_not_have(card: LocalTransport) -> None:
    """VM_DESTROY only reads its argument, GET_MAGIC only writes it, whatever the client says."""
    destroy = with_dir(xe_drm.DRM_IOCTL_XE_VM_DESTROY, RW)
    arg = bytes(xe_drm.drm_xe_vm_destroy(vm_id=9))
    assert raw(card, destroy, arg) == (-errno.ENOENT, arg)
    magic = with_dir(drm.DRM_IOCTL_GET_MAGIC, RW)
    assert raw(card, magic, b"\xff" * 4) == (0, b"\1\0\0\0")
    magic = with_dir(drm.DRM_IOCTL_GET_MAGIC, IOC_WRITE)
    assert raw(card, magic, b"\xff" * 4) == (0, b"\xff" * 4)


def test_without_argument_handlers_run_on_zeros(xe_device: XeDevice, card: LocalTransport) -> None:
    assert answer(card, IO("d", 0x43), NULL) == 0  # VM_CREATE
    assert len(xe_device.vms) == 1
    assert raw(card, IO("d", 0x02), b"\xff" * 4) == (0, b"\xff" * 4)  # GET_MAGIC
    assert answer(card, IO("d", 0x09), NULL) == errno.EINVAL  # GEM_CLOSE of handle 0
    assert answer(card, IO("d", 0x0A), NULL) == errno.ENOENT  # FLINK of handle 0


def test_no_direction_but_a_size(card: LocalTransport) -> None:
    """The size alone says nothing; nobody looks at the pointer."""
    assert answer(card, IOC(0, "d", 0x06, 248), NULL) == 0
    assert raw(card, IOC(0, "d", 0x0C, 16), CAP_PRIME) == (-errno.EOPNOTSUPP, CAP_PRIME)


def test_master_ioctls_take_an_argument_and_ignore_it(card: LocalTransport) -> None:
    assert raw(card, IOWR("d", 0x1E, 16), b"\xa5" * 16) == (0, b"\xa5" * 16)
    assert answer(card, IOWR("d", 0x1E, 16), NULL) == 0


# ---- through every transport -------------------------------------------------------------------


def test_numbers_through(transport: Transport) -> None:
    for nr in (0x03, 0x3E, 0x50, 0x9F, 0xD3, 0xFF):
        assert raw(transport, IOWR("d", nr, 8), b"\xa5" * 8) == (-errno.EINVAL, b"\xa5" * 8)
    assert answer(transport, IOWR("T", 0x0C, 16)) == errno.ENOTTY
    assert answer(transport, IOWR("x", 0x7F, 16)) == errno.ENOTTY
    no_queue = bytes(xe_drm.drm_xe_exec())
    assert raw(transport, xe_drm.DRM_IOCTL_XE_EXEC, no_queue) == (-errno.ENOENT, no_queue)


def test_sizes_through(transport: Transport) -> None:
    whole = struct.pack("<QQ", drm.DRM_CAP_PRIME, 3)
    for size in (24, 129, 4096, IOC_SIZE_MAX):
        extra = b"\xa5" * (size - 16)
        assert raw(transport, with_size(GET_CAP, size), CAP_PRIME + extra) == (0, whole + extra)
    assert raw(transport, with_size(GET_CAP, 12), CAP_PRIME) == (0, whole[:12] + CAP_PRIME[12:])


def test_directions_through(transport: Transport) -> None:
    assert raw(transport, with_dir(GET_CAP, IOC_WRITE), CAP_PRIME) == (0, CAP_PRIME)
    assert answer(transport, with_dir(GET_CAP, IOC_READ), CAP_PRIME) == errno.EOPNOTSUPP
    assert raw(transport, IO("d", 0x0C), CAP_PRIME) == (-errno.EOPNOTSUPP, CAP_PRIME)
    assert answer(transport, IO("d", 0x43)) == 0  # VM_CREATE on zeros


def test_bad_pointers_through(transport: Transport) -> None:
    for cmd in (GET_CAP, drm.DRM_IOCTL_GEM_FLINK, xe_drm.DRM_IOCTL_XE_VM_CREATE):
        assert answer(transport, cmd, NULL) == errno.EFAULT
    version = bytes(drm.drm_version(name_len=2, name=BAD_ADDRESS))
    assert answer(transport, drm.DRM_IOCTL_VERSION, version) == errno.EFAULT


@pytest.mark.fuse
@pytest.mark.parametrize(("backend", "left"), [("fusepy", 0), ("mfusepy", 99)])
def test_copying_back_after_a_failure_of_a_mount(
    mounted_node: Callable[..., str], backend: BackendName, left: int
) -> None:
    """libfuse3 has no way to answer an error with data; libfuse2 has."""
    if probe(backend) is not None:
        pytest.skip(f"no {backend} here")
    node = IoctlTransport(Path(mounted_node(backend=backend), "dev/dri/renderD128"))
    back = copied_back(node, GET_CAP, CAP_UNKNOWN)
    node.close()
    assert back == struct.pack("<QQ", 0xDEAD, left)


@pytest.mark.parametrize("way", ["in-process", pytest.param("frames", marks=pytest.mark.fuse)])
def test_copying_back_after_a_failure(xe_target: Callable[..., Target[Any]], way: str) -> None:
    node = xe_target(way).open()
    assert copied_back(node, GET_CAP, CAP_UNKNOWN) == struct.pack("<QQ", 0xDEAD, 0)
