"""What DEVICE_QUERY tells of each profile, decoded by the layout of the header's
text and not by our own mirrors (kernel: xe_query.c, xe_pci.c)."""

from __future__ import annotations

import ctypes
import errno
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.drm.raw_ioctl import answer_as
from uapi import xe_drm
from xedev.client import Device, IoctlError
from xedev.kernel.caller import CAP_SYS_ADMIN, CAP_SYS_NICE
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice

MIB = 1 << 20
PAGE = 4096
SYSTEM, VRAM = 1, 2
RENDER, COPY, DECODE, ENHANCE, COMPUTE = range(5)
OAG, OAM, OAM_SAG = range(3)
SIMD8, SIMD16 = 4, 5

(ENGINES, MEM_REGIONS, CONFIG, GT_LIST, HWCONFIG, GT_TOPOLOGY) = range(6)
(ENGINE_CYCLES, UC_FW_VERSION, OA_UNITS, PXP_STATUS, EU_STALL) = range(6, 11)


@dataclass(frozen=True)
class Expected:
    """One profile's values."""

    device_id: int
    revision: int
    flags: int
    near: int
    far: int
    alignment: int
    gts: tuple[tuple[int, int, int], ...]
    """Type (0 main, 1 media), major and minor version, by GT id."""
    engines: tuple[tuple[int, int, int], ...]
    """Class, instance, GT, in the order of the answer."""
    dss: int
    eus: tuple[int, int]
    """Type of the mask, and the mask of one dual sub-slice."""
    l3_banks: int
    oa_units: tuple[tuple[int, int, int, tuple[tuple[int, int], ...]], ...]
    """Id, type, GT, (class, instance) of the engines."""


EXPECTED = {
    "bmg": Expected(
        device_id=0xE20B,
        revision=0,
        flags=0x3F,
        near=2,
        far=1,
        alignment=4096,
        gts=((0, 20, 1), (1, 13, 1)),
        engines=(
            *((RENDER, 0, 0), (COPY, 0, 0), (COMPUTE, 0, 0)),
            *((DECODE, 0, 1), (DECODE, 1, 1), (ENHANCE, 0, 1), (ENHANCE, 1, 1)),
        ),
        dss=0xFFFFF,
        eus=(SIMD16, 0xFF),
        l3_banks=36,
        oa_units=(
            (0, OAG, 0, ((RENDER, 0), (COMPUTE, 0))),
            (1, OAM_SAG, 1, ()),
            (2, OAM, 1, ((DECODE, 0), (ENHANCE, 0))),
            (3, OAM, 1, ((DECODE, 1), (ENHANCE, 1))),
        ),
    ),
    "lnl": Expected(
        device_id=0x64A0,
        revision=4,
        flags=0x3E,
        near=1,
        far=0,
        alignment=4096,
        gts=((0, 20, 4), (1, 20, 0)),
        engines=((RENDER, 0, 0), (COPY, 0, 0), (COMPUTE, 0, 0), (DECODE, 0, 1), (ENHANCE, 0, 1)),
        dss=0xFF,
        eus=(SIMD16, 0xFF),
        l3_banks=8,
        oa_units=(
            (0, OAG, 0, ((RENDER, 0), (COMPUTE, 0))),
            (1, OAM_SAG, 1, ()),
            (2, OAM, 1, ((DECODE, 0), (ENHANCE, 0))),
        ),
    ),
    "dg2": Expected(
        device_id=0x56A0,
        revision=8,
        flags=0x33,
        near=2,
        far=1,
        alignment=64 * 1024,
        gts=((0, 0, 0),),
        engines=(
            *((RENDER, 0, 0), (COPY, 0, 0), (DECODE, 0, 0), (DECODE, 1, 0)),
            *((ENHANCE, 0, 0), (ENHANCE, 1, 0), (COMPUTE, 0, 0)),
        ),
        dss=0xFFFFFFFF,
        eus=(SIMD8, 0xFFFF),
        l3_banks=32,
        oa_units=((0, OAG, 0, ((RENDER, 0), (COMPUTE, 0))),),
    ),
}
every_profile = pytest.mark.parametrize("profile", EXPECTED)


def opened(profile: str = "bmg", *caps: int, **options: Any) -> Device:
    return Device(LocalTransport(XeDevice(XeConfig(profile=profile, **options)), caps=caps))


def u64s(data: bytes, count: int, at: int = 0) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}Q", data, at)


# ---- ENGINES -----------------------------------------------------------------------------------


@every_profile
def test_engines(profile: str) -> None:
    data = opened(profile).query(ENGINES)
    count, pad = struct.unpack_from("<II", data)
    rows = [struct.unpack_from("<HHHH3Q", data, 8 + 32 * index) for index in range(count)]
    assert len(data) == 8 + 32 * count
    assert pad == 0
    assert tuple(row[:3] for row in rows) == EXPECTED[profile].engines
    assert {row[3:] for row in rows} == {(0, 0, 0, 0)}


# ---- CONFIG ------------------------------------------------------------------------------------


@every_profile
def test_config(profile: str) -> None:
    data = opened(profile).query(CONFIG)
    expected = EXPECTED[profile]
    assert struct.unpack_from("<II", data) == (5, 0)
    assert u64s(data, 5, 8) == (
        expected.revision << 16 | expected.device_id,
        expected.flags,
        expected.alignment,
        48,
        1,
    )


@pytest.mark.parametrize(
    ("caps", "priority"), [((), 1), ((CAP_SYS_NICE,), 2), ((CAP_SYS_ADMIN,), 1), (range(64), 2)]
)
@every_profile
def test_the_highest_priority_is_a_matter_of_rights(
    profile: str, caps: tuple[int, ...], priority: int
) -> None:
    assert opened(profile, *caps).query_config()[4] == priority


def test_the_priority_is_that_of_each_caller() -> None:
    """Not of whoever opened the file."""
    xe = XeDevice()
    plain, nice = LocalTransport(xe, caps=()), LocalTransport(xe, caps=(CAP_SYS_NICE,))
    for owner in (plain, nice):
        for caller, priority in ((plain, 1), (nice, 2)):
            room = ctypes.create_string_buffer(48)
            arg = xe_drm.drm_xe_device_query(query=CONFIG, size=48, data=ctypes.addressof(room))
            assert answer_as(caller, owner, xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, bytes(arg)) == 0
            assert u64s(room.raw, 5, 8)[4] == priority


# ---- GT_LIST, GT_TOPOLOGY ----------------------------------------------------------------------


@every_profile
def test_gt_list(profile: str) -> None:
    data = opened(profile).query(GT_LIST)
    expected = EXPECTED[profile]
    assert struct.unpack_from("<II", data) == (len(expected.gts), 0)
    for gt_id, (type_, major, minor) in enumerate(expected.gts):
        gt = data[8 + 96 * gt_id : 8 + 96 * (gt_id + 1)]
        assert struct.unpack_from("<HHH3H", gt) == (type_, 0, gt_id, 0, 0, 0)
        assert struct.unpack_from("<I", gt, 12) == (19_200_000,)
        assert u64s(gt, 2, 16) == (expected.near, expected.far)
        assert struct.unpack_from("<HH", gt, 32) == (major, minor)
        assert gt[38:] == bytes(58)


def masks(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """GT id, type, bytes and mask of each entry."""
    at = 0
    while at < len(data):
        gt_id, type_, size = struct.unpack_from("<HHI", data, at)
        yield gt_id, type_, size, int.from_bytes(data[at + 8 : at + 8 + size], "little")
        at += 8 + size


@every_profile
def test_topology(profile: str) -> None:
    """Geometry, compute, L3 banks, and as the last one the execution units."""
    expected = EXPECTED[profile]
    eu_type, eus = expected.eus
    found = list(masks(opened(profile).query(GT_TOPOLOGY)))
    kinds = [(1, 16), (2, 16), (3, 8), (eu_type, 8)]
    gts = range(len(expected.gts))
    assert [entry[:3] for entry in found] == [(gt, *kind) for gt in gts for kind in kinds]
    main = {type_: mask for gt, type_, _, mask in found if gt == 0}
    assert (main[1], main[2], main[eu_type]) == (expected.dss, expected.dss, eus)
    assert main[3].bit_count() == expected.l3_banks
    vector_engines = main[1].bit_count() * main[eu_type].bit_count()
    assert vector_engines == {"bmg": 160, "lnl": 64, "dg2": 512}[profile]


# ---- HWCONFIG ----------------------------------------------------------------------------------

_HWCONFIG_TEXT = """
1=5 2=20 3=8 10=12 11=4 15=8 23=1 24=1 25=2 26=2 27=1 62=1 64=512 65=128 70=20 71=8
"""
HWCONFIG_OF_BMG = {
    int(key): int(value) for key, value in (pair.split("=") for pair in _HWCONFIG_TEXT.split())
}


@every_profile
def test_hwconfig(profile: str) -> None:
    data = opened(profile).query(HWCONFIG)
    words = struct.unpack(f"<{len(data) // 4}I", data)
    table = dict(zip(words[::3], words[2::3], strict=True))
    assert set(words[1::3]) == {1}, "the length of each value, in words"
    assert len(table) * 12 == len(data)
    assert table[1] > 0, "NEO divides by the number of slices"
    assert table[64] > 0, "NEO tells the cache's size by it"
    assert table[2] == table[70] == EXPECTED[profile].dss.bit_count()
    assert table[3] == table[71] == EXPECTED[profile].eus[1].bit_count()
    if profile == "bmg":
        assert table == HWCONFIG_OF_BMG


# ---- UC_FW_VERSION -----------------------------------------------------------------------------


@every_profile
def test_firmware(profile: str) -> None:
    device = opened(profile)
    for uc_type, lowest in ((0, (1, 1, 3)), (1, (1, 0, 0)))[: 1 if profile == "dg2" else 2]:
        data = device.query(UC_FW_VERSION, struct.pack("<H30x", uc_type))
        type_, pad, branch, *version, pad2, reserved = struct.unpack("<HHIIIIIQ", data)
        assert (type_, pad, branch, pad2, reserved) == (uc_type, 0, 0, 0, 0)
        assert tuple(version) >= lowest


def test_huc_of_battlemage() -> None:
    data = opened().query(UC_FW_VERSION, struct.pack("<H30x", 1))
    assert struct.unpack_from("<III", data, 8) == (8, 2, 10)


# ---- OA_UNITS ----------------------------------------------------------------------------------


@every_profile
def test_oa_units(profile: str) -> None:
    data = opened(profile).query(OA_UNITS)
    expected = EXPECTED[profile].oa_units
    assert struct.unpack_from("<QII", data) == (0, len(expected), 0)
    at = 16
    for unit_id, type_, gt_id, engines in expected:
        assert struct.unpack_from("<QII", data, at) == (0, unit_id, type_)
        assert u64s(data, 2, at + 16) == (0x3F, 19_200_000)
        assert struct.unpack_from("<H", data, at + 32) == (gt_id,)
        assert data[at + 34 : at + 64] == bytes(30)
        assert u64s(data, 1, at + 64) == (len(engines),)
        at += 72
        found = [struct.unpack_from("<4H", data, at + 8 * index) for index in range(len(engines))]
        assert found == [(*engine, gt_id, 0) for engine in engines]
        at += 8 * len(engines)
    assert at == len(data)


# ---- PXP_STATUS, EU_STALL ----------------------------------------------------------------------


def test_pxp() -> None:
    """Ready, for sessions of type HWDRM; Battlemage has no such thing."""
    ready, hwdrm = 1, 1 << 1
    assert struct.unpack("<II", opened("lnl").query(PXP_STATUS)) == (ready, hwdrm)
    with pytest.raises(IoctlError) as caught:
        opened("bmg").query(PXP_STATUS)
    assert caught.value.errno == errno.ENODEV


@pytest.mark.parametrize("profile", ["bmg", "lnl"])
def test_eu_stall(profile: str) -> None:
    data = opened(profile).query(EU_STALL)
    assert u64s(data, 4) == (0, 1, 64, 512 * 1024)
    assert u64s(data, 5, 32) == (0,) * 5
    assert u64s(data, 8, 72) == (7, *(251 * step for step in range(1, 8)))


# ---- MEM_REGIONS -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """One element of the answer."""

    mem_class: int
    instance: int
    min_page_size: int
    total_size: int
    used: int
    cpu_visible_size: int
    cpu_visible_used: int


def regions(device: Device) -> list[Region]:
    """Decode MEM_REGIONS, and hold it to what must always be so."""
    data = device.query(MEM_REGIONS)
    count, pad = struct.unpack_from("<II", data)
    assert (pad, len(data)) == (0, 8 + 88 * count)
    found = []
    for index in range(count):
        *numbers, r0, r1, r2, r3, r4, r5 = struct.unpack_from("<HHI10Q", data, 8 + 88 * index)
        assert (r0, r1, r2, r3, r4, r5) == (0,) * 6
        found.append(Region(*numbers))
        region = found[-1]
        assert region.used <= region.total_size
        assert region.cpu_visible_size <= region.total_size
        assert region.cpu_visible_used <= min(region.cpu_visible_size, region.used)
    return found


def machine_memory() -> int:
    """Bytes of this machine's memory, as si_meminfo counts them."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemTotal")


def test_regions_of_battlemage() -> None:
    """The array's index is the bit in a placement mask; all VRAM is visible to the CPU."""
    vram = 0x2FB80_0000
    assert regions(opened("bmg")) == [
        Region(0, 0, 4096, machine_memory(), 0, 0, 0),
        Region(1, 1, 4096, vram, 0, vram, 0),
    ]


def test_regions_of_alchemist() -> None:
    """VRAM comes in pieces of 64 KiB."""
    vram = 0x3_FA00_0000
    assert regions(opened("dg2")) == [
        Region(0, 0, 4096, machine_memory(), 0, 0, 0),
        Region(1, 1, 65536, vram, 0, vram, 0),
    ]


def test_regions_of_lunar_lake() -> None:
    assert regions(opened("lnl")) == [Region(0, 0, 4096, machine_memory(), 0, 0, 0)]


def test_sizes_of_the_mount_options() -> None:
    system, vram = regions(opened(vram=256 * MIB, system=512 * MIB))
    assert (system.total_size, system.cpu_visible_size) == (512 * MIB, 0)
    assert (vram.total_size, vram.cpu_visible_size) == (256 * MIB, 256 * MIB)
    (system,) = regions(opened("lnl", system=512 * MIB))
    assert system.total_size == 512 * MIB


def test_used_is_live() -> None:
    """Told to everybody, rights or not."""
    device = opened()
    other = Device(LocalTransport(_device_of(device), caps=()))
    sizes = [PAGE, MIB, 3 * MIB]
    handles = [device.gem_create(size, VRAM) for size in sizes]
    for _ in range(len(sizes)):
        used = sum(sizes)
        system, vram = regions(other)
        assert (vram.used, vram.cpu_visible_used, system.used) == (used, used, 0)
        device.gem_close(handles.pop())
        sizes.pop()
    handle = device.gem_create(5 * MIB, SYSTEM)
    system, vram = regions(other)
    assert (vram.used, vram.cpu_visible_used) == (0, 0)
    assert (system.used, system.cpu_visible_used) == (5 * MIB, 0)
    device.gem_close(handle)
    assert [region.used for region in regions(other)] == [0, 0]


def _device_of(device: Device) -> XeDevice:
    transport = device.transport
    assert isinstance(transport, LocalTransport)
    xe = transport.device
    assert isinstance(xe, XeDevice)
    return xe


def test_sizes_stay_while_used_changes() -> None:
    device = opened()
    before = regions(device)
    device.gem_create(MIB, VRAM)
    after = regions(device)
    assert [(r.total_size, r.cpu_visible_size) for r in before] == [
        (r.total_size, r.cpu_visible_size) for r in after
    ]


def test_memory_of_an_exported_bo_stays_used() -> None:
    device = opened()
    handle = device.gem_create(MIB, VRAM)
    fd = device.prime_handle_to_fd(handle)
    device.gem_close(handle)
    assert regions(device)[1].used == MIB
    device.close_fd(fd)
    assert regions(device)[1].used == 0


def test_closing_a_file_gives_its_memory_back() -> None:
    device = opened()
    other = Device(LocalTransport(_device_of(device)))
    other.gem_create(MIB, VRAM)
    assert regions(device)[1].used == MIB
    other.close()
    assert regions(device)[1].used == 0


# ---- ENGINE_CYCLES -----------------------------------------------------------------------------

CLOCKS = {"MONOTONIC": 1, "MONOTONIC_RAW": 4, "REALTIME": 0, "BOOTTIME": 7, "TAI": 11}
HZ = 19_200_000
TICK = 1e9 / HZ
WIDTH = {"bmg": 64, "lnl": 64, "dg2": 36}
DRIFT = 1e-3  # of one clock against another, while one of them is slewed


@dataclass(frozen=True)
class Sample:
    """One answer, and the two moments between which it was made (ns)."""

    cycles: int
    timestamp: int
    delta: int
    before: int
    after: int


def sample(device: Device, engine: tuple[int, int, int] = (RENDER, 0, 0), clock: int = 1) -> Sample:
    question = struct.pack("<HHHHiI24x", *engine, 0, clock, 0)
    before = time.clock_gettime_ns(clock)
    data = device.query(ENGINE_CYCLES, question)
    after = time.clock_gettime_ns(clock)
    eci = struct.unpack_from("<HHHHiI", data)
    assert eci[:5] == (*engine, 0, clock)
    assert eci[5] in (36, 64)
    cycles, timestamp, delta = u64s(data, 3, 16)
    return Sample(cycles, timestamp, delta, before, after)


@every_profile
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_cpu_time_is_that_of_the_clock(profile: str, clock: int) -> None:
    found = sample(opened(profile), clock=clock)
    assert found.before <= found.timestamp <= found.after
    assert 0 <= found.delta <= found.after - found.before


@every_profile
@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_cycles_go_as_fast_as_the_clock(profile: str, clock: int) -> None:
    """Between two samples the counter runs for at least the time from the end of the first to
    the beginning of the second, and for at most that from beginning to end."""
    device = opened(profile)
    first = sample(device, clock=clock)
    time.sleep(0.03)
    second = sample(device, clock=clock)
    passed = (second.cycles - first.cycles) % (1 << WIDTH[profile]) * TICK
    assert passed >= (second.before - first.after) * (1 - DRIFT) - 2 * TICK
    assert passed <= (second.after - first.before) * (1 + DRIFT) + 2 * TICK


def test_cycles_agree_with_the_cpu_timestamps() -> None:
    """The register is read right after the CPU's clock; a busy machine may come in between."""
    device = opened()
    errors = []
    for _ in range(50):
        first = sample(device)
        time.sleep(0.002)
        second = sample(device)
        gpu = (second.cycles - first.cycles) * TICK
        errors.append(abs(gpu - (second.timestamp - first.timestamp)))
        if sum(error < 5_000 for error in errors) >= 3:
            return
    pytest.fail(f"off by {sorted(errors)[:3]} ns at best")


def test_cycles_never_go_back() -> None:
    device = opened()
    cycles = [sample(device).cycles for _ in range(200)]
    assert cycles == sorted(cycles)


@every_profile
def test_old_counters_are_narrow(profile: str) -> None:
    """36 bits before Xe2; they begin again after an hour."""
    question = struct.pack("<HHHHiI24x", RENDER, 0, 0, 0, CLOCKS["MONOTONIC"], 0)
    data = opened(profile).query(ENGINE_CYCLES, question)
    (width,) = struct.unpack_from("<I", data, 12)
    assert width == WIDTH[profile]
    assert u64s(data, 1, 16)[0] < 1 << width


@every_profile
def test_every_engine_has_a_counter(profile: str) -> None:
    device = opened(profile)
    for engine in EXPECTED[profile].engines:
        assert sample(device, engine).cycles > 0


# ---- through every transport -------------------------------------------------------------------

STEADY = [ENGINES, GT_LIST, HWCONFIG, GT_TOPOLOGY, OA_UNITS]
every_way = pytest.mark.parametrize(
    "way",
    ["in-process", *(pytest.param(way, marks=pytest.mark.fuse) for way in ("ioctl", "frames"))],
)


def has_cap(cap: int) -> bool:
    """Whether this process has a capability."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> cap & 1)
    return False


@every_way
@every_profile
def test_values_through(xe_target: Callable[..., Target[Any]], way: str, profile: str) -> None:
    """A mount answers byte by byte what a device in this process does."""
    device, twin = xe_target(way, profile=profile).device(), opened(profile)
    for query in STEADY:
        assert device.query(query) == twin.query(query)
    config = device.query_config()
    assert config[:4] == twin.query_config()[:4]
    assert config[4] == (2 if has_cap(CAP_SYS_NICE) else 1)
    for uc_type in (0,) if profile == "dg2" else (0, 1):
        question = struct.pack("<H30x", uc_type)
        assert device.query(UC_FW_VERSION, question) == twin.query(UC_FW_VERSION, question)
    found = sample(device)
    assert found.before <= found.timestamp <= found.after


@every_way
def test_used_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    device = xe_target(way).device()
    handle = device.gem_create(MIB, VRAM)
    assert [region.used for region in regions(device)] == [0, MIB]
    device.gem_close(handle)
    assert [region.used for region in regions(device)] == [0, 0]
