"""What each core ioctl answers on a device without displays (kernel: drm_ioctl.c, drm_file.c)."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.drm.core_rows import CORE_ROWS, CoreRow
from tests.drm.raw_ioctl import BAD_ADDRESS, answer, copied_back, raw
from uapi import drm, xe_drm
from xedev.client import OUT, Buffer, Device, IoctlError, Transport
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

OVERFLOW_UID = 65534

card_ways = pytest.mark.parametrize(
    "way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)]
)


@pytest.fixture
def card(xe_device: XeDevice) -> Device:
    """The master, with every right."""
    return Device(LocalTransport(xe_device, "card0", caps=range(64)))


@pytest.fixture
def render(xe_device: XeDevice) -> Device:
    return Device(LocalTransport(xe_device))


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error


# ---- every ioctl once --------------------------------------------------------------------------


@pytest.mark.parametrize("row", CORE_ROWS, ids=str)
def test_the_master_with_every_right(card: Device, row: CoreRow) -> None:
    assert answer(card.transport, row.cmd, row.args) == row.answer


@pytest.mark.parametrize("row", CORE_ROWS, ids=str)
def test_a_render_node(render: Device, row: CoreRow) -> None:
    expected = row.answer if "R" in row.flags else errno.EACCES
    assert answer(render.transport, row.cmd, row.args) == expected


@card_ways
def test_all_on_the_primary_node(xe_target: Callable[..., Target[Any]], way: str) -> None:
    node = xe_target(way).open("card0")
    may_be_root = "Ro"
    for row in CORE_ROWS:
        found = answer(node, row.cmd, row.args)
        if may_be_root in row.flags and found == errno.EACCES:
            assert os.geteuid() != 0
            continue
        if row.name == "DRM_IOCTL_DROP_MASTER":
            node.ioctl(drm.DRM_IOCTL_SET_MASTER, None)
        assert found == row.answer, row.name
    assert answer(node, xe_drm.DRM_IOCTL_XE_EXEC) == errno.ENOENT


@pytest.mark.parametrize("fill", [0x5A, 0xA5, 0xFF])
@pytest.mark.parametrize(
    "row", [row for row in CORE_ROWS if row.answer == errno.EOPNOTSUPP], ids=str
)
def test_what_needs_a_display_does_not_look_at_its_argument(
    card: Device, row: CoreRow, fill: int
) -> None:
    size = row.cmd >> 16 & 0x3FFF
    pads = ("DRM_IOCTL_MODE_LIST_LESSEES", "DRM_IOCTL_MODE_GET_LEASE")
    expected = errno.EINVAL if row.name in pads else errno.EOPNOTSUPP
    assert answer(card.transport, row.cmd, bytes([fill]) * size) == expected


@pytest.mark.parametrize("cmd", [drm.DRM_IOCTL_MODE_LIST_LESSEES, drm.DRM_IOCTL_MODE_GET_LEASE])
def test_the_pad_of_a_lease_comes_first(card: Device, cmd: int) -> None:
    pad = 4  # where it lies in both
    assert answer(card.transport, cmd, bytes(pad) + b"\1") == errno.EINVAL
    assert answer(card.transport, cmd, b"\xff" * pad) == errno.EOPNOTSUPP


def test_the_pad_of_closefb_comes_after(card: Device) -> None:
    arg = bytes(drm.drm_mode_closefb(pad=1))
    assert answer(card.transport, drm.DRM_IOCTL_MODE_CLOSEFB, arg) == errno.EOPNOTSUPP


@pytest.mark.parametrize("fill", [0, 1, 0xFF])
@pytest.mark.parametrize("name", ["GEM_CHANGE_HANDLE", "SET_UNIQUE"])
def test_withdrawn(card: Device, name: str, fill: int) -> None:
    handle = card.gem_create(4096, 1)
    assert handle == 1
    cmd = getattr(drm, f"DRM_IOCTL_{name}")
    assert answer(card.transport, cmd, bytes([fill]) * 16) == errno.EINVAL
    arg = bytes(drm.drm_gem_change_handle(handle=handle, new_handle=5))
    assert answer(card.transport, drm.DRM_IOCTL_GEM_CHANGE_HANDLE, arg) == errno.EINVAL
    card.gem_close(handle)


# ---- VERSION -----------------------------------------------------------------------------------

STRINGS = {"name": b"xe", "date": b"0", "desc": b"Intel Xe Graphics"}
ROOM = 32


@dataclass
class VersionCall:
    """VERSION with a buffer for each string, filled with a pattern."""

    arg: drm.drm_version
    room: dict[str, ctypes.Array[ctypes.c_char]]

    @classmethod
    def make(cls, lengths: dict[str, int]) -> VersionCall:
        room = {field: ctypes.create_string_buffer(b"\xa5" * ROOM, ROOM) for field in STRINGS}
        arg = drm.drm_version()
        for field, buffer in room.items():
            setattr(arg, field, ctypes.addressof(buffer))
            setattr(arg, f"{field}_len", lengths[field])
        return cls(arg, room)

    def run(self, transport: Transport) -> int:
        """The errno, 0 for success."""
        buffers = [Buffer(buffer, OUT) for buffer in self.room.values()]
        try:
            return transport.ioctl(drm.DRM_IOCTL_VERSION, self.arg, buffers)
        except OSError as error:
            return error.errno or -1

    def lengths(self) -> list[int]:
        return [getattr(self.arg, f"{field}_len") for field in STRINGS]

    def numbers(self) -> tuple[int, int, int]:
        arg = self.arg
        return arg.version_major, arg.version_minor, arg.version_patchlevel


def _lengths(length: int) -> dict[str, int]:
    return dict.fromkeys(STRINGS, length)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 16, 17, 18, ROOM])
def test_version_copies_what_fits(transport: Transport, length: int) -> None:
    call = VersionCall.make(_lengths(length))
    assert call.run(transport) == 0
    assert call.numbers() == (1, 1, 0)
    assert call.lengths() == [2, 1, 17]
    for field, text in STRINGS.items():
        part = text[:length]
        assert call.room[field].raw == part + b"\xa5" * (ROOM - len(part)), field


def test_version_with_mixed_lengths(render: Device) -> None:
    call = VersionCall.make({"name": 0, "date": 99, "desc": 5})
    assert call.run(render.transport) == 0
    assert call.lengths() == [2, 1, 17]
    texts = [call.room[field].raw.rstrip(b"\xa5") for field in STRINGS]
    assert texts == [b"", b"0", b"Intel"]


@pytest.mark.parametrize("missing", list(itertools.combinations(STRINGS, 2)))
def test_version_without_some_pointers(render: Device, missing: tuple[str, str]) -> None:
    call = VersionCall.make(_lengths(ROOM))
    for field in missing:
        setattr(call.arg, field, 0)
    assert call.run(render.transport) == 0
    assert call.lengths() == [2, 1, 17]
    for field, text in STRINGS.items():
        written = b"" if field in missing else text
        assert call.room[field].raw.rstrip(b"\xa5") == written


def test_version_does_not_touch_a_pointer_without_length(render: Device) -> None:
    arg = drm.drm_version(name=BAD_ADDRESS, date=BAD_ADDRESS, desc=BAD_ADDRESS)
    value, back = raw(render.transport, drm.DRM_IOCTL_VERSION, bytes(arg))
    assert value == 0
    assert struct.unpack_from("<3i4xQ8xQ8xQ", back) == (1, 1, 0, 2, 1, 17)


@pytest.mark.parametrize("address", [BAD_ADDRESS, 1 << 63, (1 << 64) - 1, 0x7FFF_FFFF_F000])
@pytest.mark.parametrize("bad", STRINGS)
def test_version_stops_at_the_first_bad_pointer(render: Device, bad: str, address: int) -> None:
    """Its length and the numbers are told nevertheless, the later strings are not looked at."""
    call = VersionCall.make(_lengths(ROOM - 1))
    setattr(call.arg, bad, address)
    assert call.run(render.transport) == errno.EFAULT
    assert call.numbers() == (1, 1, 0)
    place = list(STRINGS).index(bad)
    for index, (field, text) in enumerate(STRINGS.items()):
        told = getattr(call.arg, f"{field}_len")
        assert told == (len(text) if index <= place else ROOM - 1), field
        written = text if index < place else b""
        assert call.room[field].raw.rstrip(b"\xa5") == written


def test_an_old_clients_version(render: Device) -> None:
    """Only the numbers fit into 16 bytes."""
    cmd = drm.DRM_IOCTL_VERSION & ~(0x3FFF << 16) | 16 << 16
    back = copied_back(render.transport, cmd, b"\xff" * 12 + bytes(4))
    assert struct.unpack("<3i4x", back) == (1, 1, 0)


# ---- GET_UNIQUE, SET_VERSION -------------------------------------------------------------------

BUS_ID = "pci:0000:03:00.0"


def set_version(device: Device, *numbers: int) -> tuple[int, tuple[int, ...]]:
    """errno of SET_VERSION, and the four numbers afterwards."""
    value, back = raw(device.transport, drm.DRM_IOCTL_SET_VERSION, struct.pack("<4i", *numbers))
    return -value, struct.unpack("<4i", back)


# (di_major, di_minor, dd_major, dd_minor), errno, is the bus id known afterwards
SET_VERSION_ROWS = [
    ((-1, -1, -1, -1), 0, False),
    ((-1, 4, -1, 0), 0, False),
    ((-1, 99, -1, 99), 0, False),
    ((1, 0, -1, -1), 0, False),
    ((1, 1, -1, -1), 0, True),
    ((1, 2, -1, -1), 0, True),
    ((1, 3, -1, -1), 0, True),
    ((1, 4, -1, -1), 0, True),
    ((1, 5, -1, -1), errno.EINVAL, False),
    ((1, -1, -1, -1), errno.EINVAL, False),
    ((0, 0, -1, -1), errno.EINVAL, False),
    ((2, 0, -1, -1), errno.EINVAL, False),
    ((-2, 0, -1, -1), errno.EINVAL, False),
    ((0, 1, 1, 1), errno.EINVAL, False),
    ((-1, -1, 1, 0), 0, False),
    ((-1, -1, 1, 1), 0, False),
    ((-1, -1, 1, 2), errno.EINVAL, False),
    ((-1, -1, 1, -1), errno.EINVAL, False),
    ((-1, -1, 0, 0), errno.EINVAL, False),
    ((-1, -1, 2, 0), errno.EINVAL, False),
    ((1, 4, 1, 1), 0, True),
    ((1, 4, 2, 0), errno.EINVAL, True),
    ((1, 1, 1, 2), errno.EINVAL, True),
    ((1, 0, 1, 2), errno.EINVAL, False),
]


@pytest.mark.parametrize(("numbers", "error", "known"), SET_VERSION_ROWS)
def test_set_version(card: Device, numbers: tuple[int, ...], error: int, known: bool) -> None:
    assert set_version(card, *numbers) == (error, (1, 4, 1, 1))
    assert card.get_unique() == (BUS_ID if known else "")


def test_the_bus_id_belongs_to_the_master(xe_device: XeDevice, card: Device) -> None:
    same_master = Device(LocalTransport(xe_device, "card0", caps=()))
    assert same_master.get_unique() == ""
    card.set_version()
    assert same_master.get_unique() == BUS_ID
    card.drop_master()
    other_master = Device(LocalTransport(xe_device, "card0", caps=()))
    assert other_master.get_unique() == ""
    assert card.get_unique() == same_master.get_unique() == BUS_ID


def test_the_pci_domain_needs_interface_1_4(xe_device: XeDevice) -> None:
    """Older clients do not understand it; once one asked for 1.4 the next bus id has it."""
    xe_device.unique = "0001:03:00.0"
    device = Device(LocalTransport(xe_device, "card0"))
    device.set_version(1, 1)
    assert device.get_unique() == "pci:0000:03:00.0"
    device.set_version(1, 4)
    assert device.get_unique() == "pci:0001:03:00.0"
    device.set_version(1, 1)
    assert device.get_unique() == "pci:0001:03:00.0"


@pytest.mark.parametrize(("length", "copied"), [(0, 0), (1, 0), (15, 0), (16, 16), (40, 16)])
def test_get_unique_copies_all_or_nothing(card: Device, length: int, copied: int) -> None:
    card.set_version()
    room = ctypes.create_string_buffer(b"\xa5" * 48, 48)
    arg = drm.drm_unique(unique_len=length, unique=ctypes.addressof(room))
    card.ioctl(drm.DRM_IOCTL_GET_UNIQUE, arg)
    assert arg.unique_len == len(BUS_ID)
    assert room.raw == BUS_ID.encode()[:copied] + b"\xa5" * (48 - copied)


@pytest.mark.parametrize("address", [0, BAD_ADDRESS])
def test_get_unique_with_a_bad_pointer(card: Device, address: int) -> None:
    """Touched only when there is something to write."""
    arg = bytes(drm.drm_unique(unique_len=40, unique=address))
    assert raw(card.transport, drm.DRM_IOCTL_GET_UNIQUE, arg)[0] == 0
    card.set_version()
    assert raw(card.transport, drm.DRM_IOCTL_GET_UNIQUE, arg) == (-errno.EFAULT, arg)
    short = bytes(drm.drm_unique(unique_len=15, unique=address))
    assert raw(card.transport, drm.DRM_IOCTL_GET_UNIQUE, short)[0] == 0


@card_ways
def test_bus_id_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    device = xe_target(way).device("card0")
    assert device.get_unique() == ""
    assert set_version(device, 1, 4, -1, -1) == (0, (1, 4, 1, 1))
    assert device.get_unique() == BUS_ID


# ---- GET_CLIENT, GET_STATS ---------------------------------------------------------------------


@pytest.mark.parametrize("trusted", [False, True])
def test_get_client_tells_of_the_caller_only(xe_device: XeDevice, trusted: bool) -> None:
    master = Device(LocalTransport(xe_device, "card0"))
    other = Device(LocalTransport(xe_device, "card0", caps=()))
    magic = other.get_magic()
    if trusted:
        master.auth_magic(magic)
    value, back = raw(other.transport, drm.DRM_IOCTL_GET_CLIENT, bytes(8) + b"\xff" * 32)
    assert value == 0
    me = threading.get_native_id()
    assert struct.unpack("<iiQQQQ", back) == (0, int(trusted), me, OVERFLOW_UID, 0, 0)


def test_get_client_tells_the_thread(card: Device) -> None:
    seen: list[tuple[int, int]] = []

    def ask() -> None:
        seen.append((card.get_client().pid, threading.get_native_id()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert seen[0][0] == seen[0][1] != os.getpid()


@pytest.mark.parametrize("idx", [1, 2, -1, 0x7FFF_FFFF, -(1 << 31)])
def test_get_client_knows_no_other(card: Device, idx: int) -> None:
    arg = struct.pack("<i", idx) + b"\xa5" * 36
    assert raw(card.transport, drm.DRM_IOCTL_GET_CLIENT, arg) == (-errno.EINVAL, arg)


def test_get_stats_is_all_zero(card: Device) -> None:
    assert raw(card.transport, drm.DRM_IOCTL_GET_STATS, b"\xff" * 248) == (0, bytes(248))


# ---- capabilities ------------------------------------------------------------------------------

CAPABILITIES = {0x5: 3, 0x6: 1, 0x13: 1, 0x14: 1}
DISPLAY_CAPABILITIES = [*range(0x20), 0x100, 1 << 31, 1 << 32 | 0x5, (1 << 64) - 1]


@pytest.mark.parametrize("node", ["card0", "renderD128", "xe-mock"])
@pytest.mark.parametrize(
    "capability", [cap for cap in DISPLAY_CAPABILITIES if cap not in CAPABILITIES], ids=hex
)
def test_a_capability_of_displays(xe_device: XeDevice, node: str, capability: int) -> None:
    """Also when it is unknown; the value comes back as 0 beside the error."""
    transport = LocalTransport(xe_device, node)
    arg = struct.pack("<QQ", capability, (1 << 64) - 1)
    expected = struct.pack("<QQ", capability, 0)
    assert raw(transport, drm.DRM_IOCTL_GET_CAP, arg) == (-errno.EOPNOTSUPP, expected)
    transport.close()


@pytest.mark.parametrize(("capability", "value"), CAPABILITIES.items())
def test_a_capability(transport: Transport, capability: int, value: int) -> None:
    arg = struct.pack("<QQ", capability, (1 << 64) - 1)
    expected = struct.pack("<QQ", capability, value)
    assert raw(transport, drm.DRM_IOCTL_GET_CAP, arg) == (0, expected)


@pytest.mark.parametrize("value", [0, 1, 2, (1 << 64) - 1])
@pytest.mark.parametrize("capability", [*range(9), 1 << 32, (1 << 64) - 1])
def test_no_client_capability(card: Device, capability: int, value: int) -> None:
    refused(errno.EOPNOTSUPP, lambda: card.set_client_cap(capability, value))


# ---- SET_CLIENT_NAME ---------------------------------------------------------------------------


def client_name(device: Device, xe: XeDevice) -> str:
    assert isinstance(device.transport, LocalTransport)
    state: Any = xe.show()
    (file,) = [f for f in state["files"] if f["node"] == "renderD128"]
    name: str = file["name"]
    return name


GOOD_NAMES = [b"x", b"!", b"~", b"a-b_c.d/e:f", b"%s%n", bytes(range(0x21, 0x61)), b"n" * 64]
BAD_BYTES = [0x00, 0x01, 0x0A, 0x1F, 0x20, 0x7F, 0x80, 0xFF]


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_client_name(xe_device: XeDevice, render: Device, name: bytes) -> None:
    render.set_client_name(name)
    assert client_name(render, xe_device) == name.decode()
    render.set_client_name("")
    assert client_name(render, xe_device) == ""


@pytest.mark.parametrize("place", [0, 31, 63])
@pytest.mark.parametrize("byte", BAD_BYTES, ids=hex)
def test_a_byte_that_no_name_has(
    xe_device: XeDevice, render: Device, byte: int, place: int
) -> None:
    """A name that is refused leaves the old one."""
    render.set_client_name("before")
    name = bytearray(b"n" * 64)
    name[place] = byte
    refused(errno.EINVAL, lambda: render.set_client_name(bytes(name)))
    assert client_name(render, xe_device) == "before"


NAME_ERRORS = [
    (65, BAD_ADDRESS, errno.EINVAL),  # the length is looked at first
    (65, 0, errno.EINVAL),
    (1 << 32, BAD_ADDRESS, errno.EINVAL),
    ((1 << 64) - 1, BAD_ADDRESS, errno.EINVAL),
    (64, BAD_ADDRESS, errno.EFAULT),
    (1, 0, errno.EFAULT),
    (1, 1 << 63, errno.EFAULT),
    (0, BAD_ADDRESS, 0),  # takes the name off, and does not look at the pointer
    (0, 0, 0),
]


@pytest.mark.parametrize(("length", "address", "error"), NAME_ERRORS)
def test_client_name_pointer_and_length(
    xe_device: XeDevice, render: Device, length: int, address: int, error: int
) -> None:
    render.set_client_name("before")
    arg = bytes(drm.drm_set_client_name(name_len=length, name=address))
    assert answer(render.transport, drm.DRM_IOCTL_SET_CLIENT_NAME, arg) == error
    assert client_name(render, xe_device) == ("before" if error else "")


def test_client_names_of_all_nodes(xe_device: XeDevice) -> None:
    for node in ("card0", "renderD128", "xe-mock"):
        device = Device(LocalTransport(xe_device, node, caps=()))
        device.set_client_name(node)
    state: Any = xe_device.show()
    assert [file["name"] for file in state["files"]] == ["card0", "renderD128", "xe-mock"]


@pytest.mark.parametrize(
    "way", ["in-process", *(pytest.param(w, marks=pytest.mark.fuse) for w in ("ioctl", "frames"))]
)
def test_client_name_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    target = xe_target(way)
    device = target.device()
    device.set_client_name("somebody")
    assert [file["name"] for file in target.state()["files"]] == ["somebody"]
    refused(errno.EINVAL, lambda: device.set_client_name("some body"))
    refused(errno.EINVAL, lambda: device.set_client_name("n" * 65))
