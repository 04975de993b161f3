"""Request numbers: encoding, the known values, and the registry."""

from __future__ import annotations

import ctypes
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.uapi.make_golden import HOLES
from uapi import dma_buf, drm, registry, sync_file, xe_drm, xe_mock
from uapi.ioctl import (
    IO,
    IOC,
    IOC_DIR,
    IOC_NONE,
    IOC_NR,
    IOC_READ,
    IOC_SIZE,
    IOC_TYPE,
    IOC_WRITE,
    IOR,
    IOW,
    IOWR,
    IoctlDef,
    define,
)

# The tables of drm-core.md 1.5, 2.1 and 4.5, written out once more.
KNOWN = {
    "DRM_IOCTL_VERSION": 0xC0406400,
    "DRM_IOCTL_GET_UNIQUE": 0xC0106401,
    "DRM_IOCTL_GET_MAGIC": 0x80046402,
    "DRM_IOCTL_GET_CLIENT": 0xC0286405,
    "DRM_IOCTL_GET_STATS": 0x80F86406,
    "DRM_IOCTL_SET_VERSION": 0xC0106407,
    "DRM_IOCTL_GEM_CLOSE": 0x40086409,
    "DRM_IOCTL_GEM_FLINK": 0xC008640A,
    "DRM_IOCTL_GEM_OPEN": 0xC010640B,
    "DRM_IOCTL_GET_CAP": 0xC010640C,
    "DRM_IOCTL_SET_CLIENT_CAP": 0x4010640D,
    "DRM_IOCTL_SET_UNIQUE": 0x40106410,
    "DRM_IOCTL_AUTH_MAGIC": 0x40046411,
    "DRM_IOCTL_BLOCK": 0xC0046412,
    "DRM_IOCTL_UNBLOCK": 0xC0046413,
    "DRM_IOCTL_SET_MASTER": 0x0000641E,
    "DRM_IOCTL_DROP_MASTER": 0x0000641F,
    "DRM_IOCTL_ADD_DRAW": 0xC0046427,
    "DRM_IOCTL_RM_DRAW": 0xC0046428,
    "DRM_IOCTL_FINISH": 0x4008642C,
    "DRM_IOCTL_PRIME_HANDLE_TO_FD": 0xC00C642D,
    "DRM_IOCTL_PRIME_FD_TO_HANDLE": 0xC00C642E,
    "DRM_IOCTL_WAIT_VBLANK": 0xC018643A,
    "DRM_IOCTL_CRTC_GET_SEQUENCE": 0xC018643B,
    "DRM_IOCTL_CRTC_QUEUE_SEQUENCE": 0xC018643C,
    "DRM_IOCTL_UPDATE_DRAW": 0x4018643F,
    "DRM_IOCTL_SYNCOBJ_CREATE": 0xC00864BF,
    "DRM_IOCTL_SYNCOBJ_DESTROY": 0xC00864C0,
    "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD": 0xC01864C1,
    "DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE": 0xC01864C2,
    "DRM_IOCTL_SYNCOBJ_WAIT": 0xC02864C3,
    "DRM_IOCTL_SYNCOBJ_RESET": 0xC01064C4,
    "DRM_IOCTL_SYNCOBJ_SIGNAL": 0xC01064C5,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT": 0xC03064CA,
    "DRM_IOCTL_SYNCOBJ_QUERY": 0xC01864CB,
    "DRM_IOCTL_SYNCOBJ_TRANSFER": 0xC02064CC,
    "DRM_IOCTL_SYNCOBJ_TIMELINE_SIGNAL": 0xC01864CD,
    "DRM_IOCTL_SYNCOBJ_EVENTFD": 0xC01864CF,
    "DRM_IOCTL_SET_CLIENT_NAME": 0xC01064D1,
    "DRM_IOCTL_GEM_CHANGE_HANDLE": 0xC00864D2,
    "DRM_IOCTL_XE_DEVICE_QUERY": 0xC0286440,
    "DRM_IOCTL_XE_GEM_CREATE": 0xC0386441,
    "DRM_IOCTL_XE_GEM_MMAP_OFFSET": 0xC0286442,
    "DRM_IOCTL_XE_VM_CREATE": 0xC0206443,
    "DRM_IOCTL_XE_VM_DESTROY": 0x40186444,
    "DRM_IOCTL_XE_VM_BIND": 0x40886445,
    "DRM_IOCTL_XE_EXEC_QUEUE_CREATE": 0xC0306446,
    "DRM_IOCTL_XE_EXEC_QUEUE_DESTROY": 0x40186447,
    "DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY": 0xC0286448,
    "DRM_IOCTL_XE_EXEC": 0x40386449,
    "DRM_IOCTL_XE_WAIT_USER_FENCE": 0xC048644A,
    "DRM_IOCTL_XE_OBSERVATION": 0x4020644B,
    "DRM_IOCTL_XE_MADVISE": 0x4040644C,
    "DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS": 0xC040644D,
    "DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY": 0x4028644E,
    "DRM_IOCTL_XE_VM_GET_PROPERTY": 0xC038644F,
    "DMA_BUF_IOCTL_SYNC": 0x40086200,
    "DMA_BUF_SET_NAME_A": 0x40046201,
    "DMA_BUF_SET_NAME_B": 0x40086201,
    "DMA_BUF_IOCTL_EXPORT_SYNC_FILE": 0xC0086202,
    "DMA_BUF_IOCTL_IMPORT_SYNC_FILE": 0x40086203,
    "SYNC_IOC_MERGE": 0xC0303E03,
    "SYNC_IOC_FILE_INFO": 0xC0383E04,
    "SYNC_IOC_SET_DEADLINE": 0x40103E05,
    "SW_SYNC_IOC_CREATE_FENCE": 0xC0285700,
    "SW_SYNC_IOC_INC": 0x40045701,
    "XE_MOCK_IOCTL_MMAP": 0xC2407800,
    "XE_MOCK_IOCTL_FAULT": 0xC0207801,
    "XE_MOCK_IOCTL_IMPORT_FOREIGN": 0xC0207802,
    "XE_MOCK_IOCTL_BO_INFO": 0xC0407803,
    "XE_MOCK_IOCTL_FDINFO": 0xD0007804,
    "XE_MOCK_IOCTL_MMU_NOTIFY": 0xC0307805,
}
DISPLAY = [*range(0xA0, 0xBF), *range(0xC6, 0xCA), 0xCE, 0xD0]


@pytest.mark.parametrize(("name", "cmd"), KNOWN.items())
def test_known_numbers(name: str, cmd: int) -> None:
    row = registry.BY_NAME[name]
    assert row.cmd == cmd
    assert (row.nr, row.dir, row.size) == (cmd & 0xFF, cmd >> 30, cmd >> 16 & 0x3FFF)


@pytest.mark.parametrize("row", registry.BY_NAME.values(), ids=lambda row: row.name)
def test_rows_agree_with_their_structs_and_constants(row: IoctlDef) -> None:
    modules = (drm, xe_drm, dma_buf, sync_file, xe_mock)
    assert [row.cmd] == [getattr(m, row.name) for m in modules if hasattr(m, row.name)]
    assert row.size == (ctypes.sizeof(row.struct) if row.struct else IOC_SIZE(row.cmd))
    assert registry.lookup(row.cmd) is row


def test_core_table_has_exactly_the_holes_of_the_kernels() -> None:
    core = {nr for nr in range(registry.CORE_IOCTL_COUNT) if not 0x40 <= nr < 0xA0}
    assert set(registry.CORE) == core - HOLES
    assert {nr for nr, row in registry.CORE.items() if "_MODE_" in row.name} == set(DISPLAY)
    assert max(registry.CORE) == registry.CORE_IOCTL_COUNT - 1


def test_driver_table_is_compact() -> None:
    assert list(registry.XE) == list(range(0x40, 0x40 + registry.XE_IOCTL_COUNT))
    assert registry.XE_IOCTL_COUNT == 16
    assert drm.DRM_COMMAND_BASE == 0x40
    offsets = {n: v for n, v in vars(xe_drm).items() if f"DRM_IOCTL_{n[4:]}" in vars(xe_drm)}
    assert {registry.BY_NAME[f"DRM_IOCTL_{n[4:]}"].nr - 0x40: n for n in offsets} == {
        v: n for n, v in offsets.items()
    }


def test_only_what_is_never_looked_at_has_no_struct() -> None:
    bare = {name for name, row in registry.BY_NAME.items() if row.struct is None and row.size}
    assert all(re.match("DRM_IOCTL_MODE_|DMA_BUF_SET_NAME", name) for name in bare)


@pytest.mark.parametrize(
    ("cmd", "name"),
    [
        (0xC01064C1, "DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD"),  # before points
        (0xC02064C3, "DRM_IOCTL_SYNCOBJ_WAIT"),  # before deadlines
        (0xC02864CA, "DRM_IOCTL_SYNCOBJ_TIMELINE_WAIT"),
        (IO("d", 0x4C), "DRM_IOCTL_XE_MADVISE"),  # other size and direction
        (0x40046201, "DMA_BUF_SET_NAME_A"),
        (0x40086201, "DMA_BUF_SET_NAME_B"),
        (IO("b", 1), "DMA_BUF_SET_NAME_B"),
    ],
)
def test_lookup_goes_by_type_and_nr(cmd: int, name: str) -> None:
    row = registry.lookup(cmd)
    assert row is not None
    assert row.name == name


@pytest.mark.parametrize("cmd", [0, IO("d", 0x03), IO("d", 0x50), IO("d", 0xD3), IO("T", 0x01)])
def test_lookup_of_the_unknown(cmd: int) -> None:
    assert registry.lookup(cmd) is None


@given(st.integers(0, 3), st.integers(0, 255), st.integers(0, 255), st.integers(0, (1 << 14) - 1))
def test_encoding_round_trip(direction: int, type_: int, nr: int, size: int) -> None:
    cmd = IOC(direction, type_, nr, size)
    assert 0 <= cmd < 1 << 32
    assert (IOC_DIR(cmd), IOC_TYPE(cmd), IOC_NR(cmd), IOC_SIZE(cmd)) == (direction, type_, nr, size)


def test_encoders_set_their_direction() -> None:
    assert IOC_DIR(IO("d", 1)) == IOC_NONE
    assert IOC_DIR(IOR("d", 1, 4)) == IOC_READ
    assert IOC_DIR(IOW("d", 1, 4)) == IOC_WRITE
    assert IOC_DIR(IOWR("d", 1, 4)) == IOC_READ | IOC_WRITE
    assert IOWR("d", 1, drm.drm_gem_close) == IOWR(0x64, 1, 8)


@pytest.mark.parametrize("parts", [(4, 0, 0, 0), (0, 256, 0, 0), (0, 0, -1, 0), (0, 0, 0, 1 << 14)])
def test_parts_must_fit(parts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        IOC(*parts)


def test_a_row_refuses_a_struct_of_another_size() -> None:
    with pytest.raises(ValueError, match="not 16 bytes"):
        define("X", IOW("d", 1, 16), drm.drm_gem_close)


def test_os_flags_of_prime() -> None:
    assert (drm.DRM_CLOEXEC, drm.DRM_RDWR) == (0x80000, 2)
