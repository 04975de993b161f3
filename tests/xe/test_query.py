"""DEVICE_QUERY: the protocol of sizes, and in which order each question is refused
(kernel: xe_query.c)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.drm.raw_ioctl import BAD_ADDRESS, raw
from uapi import xe_drm
from xedev.client import IN, OUT, Buffer, Device, IoctlError, Transport
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice

QUERY = xe_drm.DRM_IOCTL_XE_DEVICE_QUERY
U32, U64 = (1 << 32) - 1, (1 << 64) - 1
EINVAL, EFAULT, ENOSPC, ENODEV = errno.EINVAL, errno.EFAULT, errno.ENOSPC, errno.ENODEV

ENGINES, MEM_REGIONS, CONFIG, GT_LIST, HWCONFIG, GT_TOPOLOGY = range(6)
ENGINE_CYCLES, UC_FW_VERSION, OA_UNITS, PXP_STATUS, EU_STALL = range(6, 11)
NAMES = (
    *("ENGINES", "MEM_REGIONS", "CONFIG", "GT_LIST", "HWCONFIG", "GT_TOPOLOGY"),
    *("ENGINE_CYCLES", "UC_FW_VERSION", "OA_UNITS", "PXP_STATUS", "EU_STALL"),
)
# Required sizes, bytes; of HWCONFIG only that it is whole words is fixed.
SIZES = {
    "bmg": {0: 232, 1: 184, 2: 48, 3: 200, 5: 160, 6: 40, 7: 32, 8: 352, 9: 8, 10: 136},
    "lnl": {0: 168, 1: 96, 2: 48, 3: 200, 5: 160, 6: 40, 7: 32, 8: 264, 9: 8, 10: 136},
    "dg2": {0: 232, 1: 184, 2: 48, 3: 104, 5: 80, 6: 40, 7: 32, 8: 104, 9: 8},
}
PROFILES = tuple(SIZES)

every_query = pytest.mark.parametrize("query", range(11), ids=NAMES)
every_profile = pytest.mark.parametrize("profile", PROFILES)
every_query_of_a_profile = pytest.mark.parametrize(
    ("profile", "query"),
    [
        pytest.param(profile, query, id=f"{profile}-{name}")
        for profile, sizes in SIZES.items()
        for query, name in enumerate(NAMES)
        if query == HWCONFIG or query in sizes
    ],
)


def opened(profile: str = "bmg", **changes: Any) -> Device:
    """A render node of a new device, whose platform may be changed a bit."""
    xe = XeDevice(XeConfig(profile=profile))
    xe.platform = replace(xe.platform, **changes)
    return Device(LocalTransport(xe, caps=()))


@pytest.fixture
def bmg() -> Device:
    return opened()


def ask(
    transport: Transport, query: int, size: int = 0, data: int = 0, **fields: Any
) -> tuple[int, int]:
    """(errno, size afterwards) of one DEVICE_QUERY; nothing else of the argument may change."""
    arg = xe_drm.drm_xe_device_query(query=query, size=size, data=data, **fields)
    value, back = raw(transport, QUERY, bytes(arg))
    after = xe_drm.drm_xe_device_query.from_buffer_copy(back)
    told, after.size = after.size, size
    assert bytes(after) == bytes(arg)
    return -value, told


def required(device: Device, query: int) -> int:
    error, size = ask(device.transport, query)
    assert error == 0
    return size


def fill(device: Device, query: int, size: int, pattern: bytes = b"\0") -> tuple[int, bytes]:
    """(errno, what is in the buffer afterwards) of a query with a good buffer."""
    room = ctypes.create_string_buffer(pattern * (size + 64), size + 64)
    error, told = ask(device.transport, query, size, ctypes.addressof(room))
    assert told == size, "a size that was given is not rewritten"
    return error, room.raw


@pytest.fixture
def read_only() -> Iterator[int]:
    """Address of a page that can only be read."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    anonymous = ctypes.c_int(mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = libc.mmap(
        None, ctypes.c_size_t(4096), mmap.PROT_READ, anonymous, -1, ctypes.c_long(0)
    )
    yield address
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))


# ---- the size ----------------------------------------------------------------------------------


@every_query_of_a_profile
def test_the_size_is_told(profile: str, query: int) -> None:
    size = required(opened(profile), query)
    if query == HWCONFIG:
        assert size % 4 == 0
    else:
        assert size == SIZES[profile][query]


@every_query
@pytest.mark.parametrize("data", [0, BAD_ADDRESS, 1 << 63, U64])
def test_asking_for_the_size_does_not_look_at_the_data(bmg: Device, query: int, data: int) -> None:
    assert ask(bmg.transport, query, 0, data) == (0, required(bmg, query))


@every_query_of_a_profile
@pytest.mark.parametrize("delta", [-8, -4, -1, 1, 4, 8, 96, 4096])
def test_any_other_size(profile: str, query: int, delta: int) -> None:
    """Too much is as wrong as too little; comes before the data is looked at."""
    device = opened(profile)
    size = required(device, query)
    if size + delta <= 0:
        size = 1 - delta
    assert fill(device, query, size + delta, b"\xa5")[0] == EINVAL
    assert ask(device.transport, query, size + delta, BAD_ADDRESS) == (EINVAL, size + delta)
    assert set(fill(device, query, size + delta, b"\xa5")[1]) == {0xA5}


@every_query
@pytest.mark.parametrize("size", [1, U32, 1 << 31])
def test_absurd_sizes(bmg: Device, query: int, size: int) -> None:
    assert ask(bmg.transport, query, size, BAD_ADDRESS) == (EINVAL, size)


@every_query_of_a_profile
def test_no_byte_more_is_written(profile: str, query: int) -> None:
    device = opened(profile)
    size = required(device, query)
    _, after = fill(device, query, size, b"\xa5")
    assert after[size:] == b"\xa5" * 64


# ---- the order of refusals ---------------------------------------------------------------------

MUST_BE_ZERO: list[dict[str, Any]] = [
    {"extensions": 1},
    {"extensions": U64},
    {"reserved": (1, 0)},
    {"reserved": (0, 1)},
    {"reserved": (U64, U64)},
]


@every_query
@pytest.mark.parametrize("fields", MUST_BE_ZERO, ids=str)
def test_must_be_zero(bmg: Device, query: int, fields: dict[str, Any]) -> None:
    """Also where the right size is given; nothing is written then."""
    fields = {k: (ctypes.c_uint64 * 2)(*v) if k == "reserved" else v for k, v in fields.items()}
    assert ask(bmg.transport, query, 0, 0, **fields) == (EINVAL, 0)
    size = required(bmg, query)
    room = ctypes.create_string_buffer(b"\xa5" * size, size)
    address = ctypes.addressof(room)
    assert ask(bmg.transport, query, size, address, **fields) == (EINVAL, size)
    assert room.raw == b"\xa5" * size


@pytest.mark.parametrize("size", [0, 8, U32])
@pytest.mark.parametrize("query", [11, 12, 255, 256, 1 << 16, 1 << 31, U32])
def test_unknown_query(bmg: Device, query: int, size: int) -> None:
    assert ask(bmg.transport, query, size, BAD_ADDRESS) == (EINVAL, size)


@pytest.mark.parametrize("size", [0, 1, 135, 136, 137])
@pytest.mark.parametrize("data", [0, BAD_ADDRESS])
def test_a_platform_without_stall_sampling(size: int, data: int) -> None:
    """Not even the size is told."""
    device = opened("dg2")
    assert ask(device.transport, EU_STALL, size, data) == (ENODEV, size)


def test_must_be_zero_comes_before_what_the_platform_lacks() -> None:
    device = opened("dg2")
    assert ask(device.transport, EU_STALL, 0, 0, extensions=1) == (EINVAL, 0)


def test_an_empty_hwconfig_has_size_zero() -> None:
    device = opened(hwconfig=())
    assert ask(device.transport, HWCONFIG, 0, BAD_ADDRESS) == (0, 0)
    assert ask(device.transport, HWCONFIG, 4, BAD_ADDRESS) == (EINVAL, 4)
    assert device.query_hwconfig() == {}


def _unwritable(query: int) -> int:
    return {MEM_REGIONS: ENOSPC, PXP_STATUS: ENODEV}.get(query, EFAULT)


@every_query
@pytest.mark.parametrize("data", [0, BAD_ADDRESS, 1 << 63, U64 - 7])
def test_data_that_is_not_there(bmg: Device, query: int, data: int) -> None:
    size = required(bmg, query)
    assert ask(bmg.transport, query, size, data) == (_unwritable(query), size)


@every_query
def test_data_that_can_only_be_read(bmg: Device, read_only: int, query: int) -> None:
    """Reading what a query brings along works there; a good question is then refused late."""
    size = required(bmg, query)
    assert ask(bmg.transport, query, size, read_only) == (_unwritable(query), size)


def test_pxp_status_that_cannot_be_written() -> None:
    device = opened("lnl")
    assert ask(device.transport, PXP_STATUS, 8, BAD_ADDRESS) == (EFAULT, 8)


@pytest.mark.parametrize(
    ("profile", "size", "answer"),
    [
        ("bmg", 0, (0, 8)),
        ("bmg", 7, (EINVAL, 7)),
        ("bmg", 8, (ENODEV, 8)),
        ("bmg", 9, (EINVAL, 9)),
        ("lnl", 0, (0, 8)),
        ("lnl", 7, (EINVAL, 7)),
        ("dg2", 8, (ENODEV, 8)),
    ],
)
def test_pxp_looks_at_the_size_first(profile: str, size: int, answer: tuple[int, int]) -> None:
    assert ask(opened(profile).transport, PXP_STATUS, size, 0) == answer


# ---- UC_FW_VERSION -----------------------------------------------------------------------------


def ask_firmware(device: Device, **fields: int) -> tuple[int, xe_drm.drm_xe_query_uc_fw_version]:
    """(errno, the struct afterwards)."""
    arg = xe_drm.drm_xe_query_uc_fw_version(**fields)
    size = ctypes.sizeof(arg)
    error, _ = ask(device.transport, UC_FW_VERSION, size, ctypes.addressof(arg))
    return error, arg


# Fields, profile, errno: pads come first, then the type. HuC of dg2 does not run.
FIRMWARE_ROWS: list[tuple[dict[str, int], str, int]] = [
    ({"uc_type": 0}, "bmg", 0),
    ({"uc_type": 1}, "bmg", 0),
    ({"uc_type": 1}, "dg2", ENODEV),
    ({"uc_type": 2}, "bmg", EINVAL),
    ({"uc_type": 0xFFFF}, "bmg", EINVAL),
    ({"uc_type": 0, "pad": 1}, "bmg", EINVAL),
    ({"uc_type": 0, "pad2": 1}, "bmg", EINVAL),
    ({"uc_type": 0, "pad2": U32}, "bmg", EINVAL),
    ({"uc_type": 0, "reserved": 1}, "bmg", EINVAL),
    ({"uc_type": 0, "reserved": U64}, "bmg", EINVAL),
    ({"uc_type": 1, "pad": 1}, "dg2", EINVAL),
    ({"uc_type": 0, "branch_ver": 7, "major_ver": 7, "minor_ver": 7, "patch_ver": 7}, "bmg", 0),
]


@pytest.mark.parametrize(("fields", "profile", "error"), FIRMWARE_ROWS, ids=str)
def test_firmware(fields: dict[str, int], profile: str, error: int) -> None:
    device = opened(profile)
    before = xe_drm.drm_xe_query_uc_fw_version(**fields)
    found, after = ask_firmware(device, **fields)
    assert found == error
    if error:
        assert after == before
    else:
        assert (after.uc_type, after.branch_ver) == (fields["uc_type"], 0)
        assert after.major_ver > 0


# ---- ENGINE_CYCLES -----------------------------------------------------------------------------

CLOCKS = {"MONOTONIC": 1, "MONOTONIC_RAW": 4, "REALTIME": 0, "BOOTTIME": 7, "TAI": 11}
RENDER, COPY, DECODE, ENHANCE, COMPUTE, VM_BIND = range(6)


def ask_cycles(
    device: Device, engine: tuple[int, int, int], clockid: int = 1, **fields: int
) -> tuple[int, xe_drm.drm_xe_query_engine_cycles]:
    """(errno, the struct afterwards) for an engine's class, instance and GT."""
    eci = xe_drm.drm_xe_engine_class_instance(
        engine_class=engine[0], engine_instance=engine[1], gt_id=engine[2], pad=fields.pop("pad", 0)
    )
    arg = xe_drm.drm_xe_query_engine_cycles(eci=eci, clockid=clockid, **fields)
    size = ctypes.sizeof(arg)
    error, _ = ask(device.transport, ENGINE_CYCLES, size, ctypes.addressof(arg))
    return error, arg


@pytest.mark.parametrize("clockid", [*range(16), -1, -6, 100, 1 << 30, -(1 << 31)])
def test_clocks(bmg: Device, clockid: int) -> None:
    error, _ = ask_cycles(bmg, (RENDER, 0, 0), clockid)
    assert error == (0 if clockid in CLOCKS.values() else EINVAL)


BMG_ENGINES = [
    *((RENDER, 0, 0), (COPY, 0, 0), (COMPUTE, 0, 0)),
    *((DECODE, 0, 1), (DECODE, 1, 1), (ENHANCE, 0, 1), (ENHANCE, 1, 1)),
]
LNL_ENGINES = [(RENDER, 0, 0), (COPY, 0, 0), (COMPUTE, 0, 0), (DECODE, 0, 1), (ENHANCE, 0, 1)]
DG2_ENGINES = [
    *((RENDER, 0, 0), (COPY, 0, 0), (COMPUTE, 0, 0)),
    *((DECODE, 0, 0), (DECODE, 1, 0), (ENHANCE, 0, 0), (ENHANCE, 1, 0)),
]
ENGINES_OF = {"bmg": BMG_ENGINES, "lnl": LNL_ENGINES, "dg2": DG2_ENGINES}


@every_profile
def test_cycles_of_every_possible_engine(profile: str) -> None:
    """Only the engines that ENGINES lists have a counter."""
    device = opened(profile)
    for gt in (0, 1, 2, 3, 255):
        for engine_class in (*range(7), 255, 0xFFFF):
            for instance in (0, 1, 2, 8, 255, 0xFFFF):
                engine = (engine_class, instance, gt)
                error, _ = ask_cycles(device, engine)
                assert error == (0 if engine in ENGINES_OF[profile] else EINVAL), engine


def test_pads_of_cycles_are_not_looked_at(bmg: Device) -> None:
    error, arg = ask_cycles(
        bmg, (COPY, 0, 0), pad=0xFFFF, width=7, engine_cycles=7, cpu_timestamp=7, cpu_delta=U64
    )
    assert error == 0
    assert (arg.eci.engine_class, arg.eci.pad, arg.clockid) == (COPY, 0xFFFF, 1)
    assert arg.width == 64
    assert arg.cpu_delta != U64


@pytest.mark.parametrize("engine", [(RENDER, 9, 0), (VM_BIND, 0, 0), (RENDER, 0, 9)])
def test_a_refused_question_for_cycles_changes_nothing(
    bmg: Device, engine: tuple[int, int, int]
) -> None:
    error, arg = ask_cycles(bmg, engine, width=7, engine_cycles=8, cpu_timestamp=9, cpu_delta=10)
    assert error == EINVAL
    assert (arg.width, arg.engine_cycles, arg.cpu_timestamp, arg.cpu_delta) == (7, 8, 9, 10)


# ---- through every transport -------------------------------------------------------------------


@every_query
def test_query_through(transport: Transport, query: int) -> None:
    """The protocol once for each question, with memory that the driver has to reach."""
    size = required(Device(transport), query)
    assert size == SIZES["bmg"].get(query, size)
    assert ask(transport, query, size + 1, 0) == (EINVAL, size + 1)
    assert ask(transport, query, size, BAD_ADDRESS) == (_unwritable(query), size)
    room = ctypes.create_string_buffer(size)
    if query == ENGINE_CYCLES:
        struct.pack_into("<HHHHi", room, 0, RENDER, 0, 0, 0, CLOCKS["MONOTONIC"])
    arg = xe_drm.drm_xe_device_query(query=query, size=size, data=ctypes.addressof(room))
    buffers = [Buffer(room, IN | OUT)]
    if query == PXP_STATUS:
        with pytest.raises(IoctlError) as caught:
            transport.ioctl(QUERY, arg, buffers)
        assert caught.value.errno == ENODEV
        return
    assert transport.ioctl(QUERY, arg, buffers) == 0
    assert any(room.raw)


@pytest.mark.parametrize(
    "way",
    ["in-process", *(pytest.param(way, marks=pytest.mark.fuse) for way in ("ioctl", "frames"))],
)
@every_profile
def test_sizes_of_profiles_through(
    xe_target: Callable[..., Target[Any]], way: str, profile: str
) -> None:
    device = xe_target(way, profile=profile).device()
    assert {query: required(device, query) for query in SIZES[profile]} == SIZES[profile]
