"""Dumb buffers: a primary node makes them without any display (kernel: drm_dumb_buffers.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from tests.drm.raw_ioctl import answer, raw
from uapi import drm
from xedev.client import Device
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
GIB = 1 << 30
U32 = (1 << 32) - 1

CREATE = drm.DRM_IOCTL_MODE_CREATE_DUMB
MAP = drm.DRM_IOCTL_MODE_MAP_DUMB
DESTROY = drm.DRM_IOCTL_MODE_DESTROY_DUMB


@pytest.fixture
def card(xe_device: XeDevice) -> Device:
    return Device(LocalTransport(xe_device, "card0", caps=()))


def create(device: Device, width: int, height: int, bpp: int, flags: int = 0) -> tuple[int, Any]:
    """(errno, the argument afterwards); its outputs begin as nonsense."""
    arg = drm.drm_mode_create_dumb(width=width, height=height, bpp=bpp, flags=flags)
    arg.handle, arg.pitch, arg.size = 0xA5A5, 0xA5A5, 0xA5A5
    value, back = raw(device.transport, CREATE, bytes(arg))
    return -value, drm.drm_mode_create_dumb.from_buffer_copy(back)


# width, height, bpp, pitch, size: pitch is a multiple of 64 bytes, size of 4 KiB
GOOD = [
    (1, 1, 1, 64, PAGE),
    (1, 1, 8, 64, PAGE),
    (64, 1, 8, 64, PAGE),
    (65, 1, 8, 128, PAGE),
    (16, 64, 32, 64, PAGE),
    (16, 65, 32, 64, 2 * PAGE),
    (17, 32, 32, 128, PAGE),
    (100, 10, 32, 448, 2 * PAGE),
    (100, 10, 24, 320, PAGE),
    (100, 10, 15, 256, PAGE),
    (100, 10, 33, 512, 2 * PAGE),
    (1920, 1080, 32, 7680, 7680 * 1080),
    (1366, 768, 32, 5504, 5504 * 768),
    (3840, 2160, 64, 30720, 30720 * 2160),
    (1, U32 // 64 // 2, 8, 64, 2 * GIB),
    (1, 1, U32 - 8, 512 << 20, 512 << 20),
    (U32 - 4095, 1, 8, U32 - 4095, U32 - 4095),
]


@pytest.mark.parametrize(("width", "height", "bpp", "pitch", "size"), GOOD)
def test_create(card: Device, width: int, height: int, bpp: int, pitch: int, size: int) -> None:
    error, arg = create(card, width, height, bpp)
    assert (error, arg.handle, arg.pitch, arg.size) == (0, 1, pitch, size)
    assert (arg.width, arg.height, arg.bpp) == (width, height, bpp)
    assert card.bo_info(1).size == size


REFUSED = [
    ("width is zero", 0, 1, 32),
    ("height is zero", 1, 0, 32),
    ("bpp is zero", 1, 1, 0),
    ("all are zero", 0, 0, 0),
    ("bpp rounds over 32 bits", 1, 1, U32 - 7),
    ("largest bpp", 1, 1, U32),
    ("stride overflows", 1 << 30, 1, 32),
    ("stride overflows by one", U32 // 4 + 1, 1, 32),
    ("bytes per pixel times width", 16, 1, U32 - 8),
    ("size overflows", 1 << 16, 1 << 16, 8),
    ("size overflows by much", 1 << 16, 1 << 16, 32),
    ("everything at its largest", U32, U32, U32 - 8),
    ("page-aligned size wraps to zero", U32, 1, 8),
    ("page-aligned size wraps to zero, lowest", U32 - 4094, 1, 8),
    ("rounded pitch times height overflows", 1, 1 << 26, 8),
    ("rounded pitch times height overflows by much", 1, U32 - PAGE, 8),
    ("page-aligned size wraps after rounding the pitch", 1, (1 << 26) - 1, 8),
    ("page-aligned size wraps after rounding the pitch, lowest", 1, (1 << 26) - 63, 8),
]


@pytest.mark.parametrize(
    ("what", "width", "height", "bpp"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_create_refused(
    xe_device: XeDevice, card: Device, what: str, width: int, height: int, bpp: int
) -> None:
    """All outputs are zero then, and nothing was made."""
    error, arg = create(card, width, height, bpp)
    assert (error, arg.handle, arg.pitch, arg.size) == (errno.EINVAL, 0, 0, 0)
    assert (arg.width, arg.height, arg.bpp) == (width, height, bpp)
    assert not xe_device.bos


def test_the_largest_that_fits_before_it_wraps(card: Device) -> None:
    error, arg = create(card, 1, (1 << 26) - 64, 8)
    assert (error, arg.pitch, arg.size) == (0, 64, (1 << 32) - PAGE)


@pytest.mark.parametrize("flags", [1, 0x8000_0000, U32])
def test_flags_are_not_looked_at(card: Device, flags: int) -> None:
    error, arg = create(card, 1, 1, 32, flags)
    assert (error, arg.handle, arg.flags) == (0, 1, flags)


@pytest.mark.parametrize("point", ["xe_bo_create_user", "drm_gem_handle_create"])
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC, errno.EINTR])
def test_the_errno_of_the_bos_creation(
    xe_device: XeDevice, card: Device, point: str, error: int
) -> None:
    xe_device.faults.arm(point, 1, error)
    found, arg = create(card, 1, 1, 32)
    assert (found, arg.handle, arg.pitch, arg.size) == (error, 0, 0, 0)
    assert not xe_device.bos


@pytest.mark.parametrize(
    ("profile", "regions", "placement"), [("bmg", 2, "vram0"), ("lnl", 1, "gtt")]
)
def test_where_it_lies(profile: str, regions: int, placement: str) -> None:
    xe = XeDevice(XeConfig(profile=profile))
    device = Device(LocalTransport(xe, "card0"))
    create(device, 1, 1, 32)
    state: Any = xe.show()
    (bo,) = state["bos"]
    assert (bo["regions"], bo["placement"]) == (regions, placement)
    device.close()


def test_64k_pages() -> None:
    """Where VRAM is given out in 64 KiB so are dumb buffers."""
    xe = XeDevice()
    xe.dumb_alignment = 1 << 16
    device = Device(LocalTransport(xe, "card0"))
    _, arg = create(device, 1, 1, 32)
    assert (arg.pitch, arg.size) == (64, 1 << 16)
    device.close()


# ---- MAP_DUMB, DESTROY_DUMB --------------------------------------------------------------------


def map_dumb(device: Device, handle: int, pad: int = 0) -> tuple[int, int]:
    """(errno, offset); the offset begins as nonsense."""
    arg = bytes(drm.drm_mode_map_dumb(handle=handle, pad=pad, offset=0xA5A5))
    value, back = raw(device.transport, MAP, arg)
    return -value, drm.drm_mode_map_dumb.from_buffer_copy(back).offset


def test_map_gives_the_bos_offset(card: Device) -> None:
    _, arg = create(card, 100, 100, 32)
    offset = card.gem_mmap_offset(arg.handle)
    assert map_dumb(card, arg.handle) == (0, offset)
    assert map_dumb(card, arg.handle, pad=0xFFFF_FFFF) == (0, offset)


@pytest.mark.parametrize("placement", [1, 2])
def test_any_bo_can_be_asked(card: Device, placement: int) -> None:
    handle = card.gem_create(PAGE, placement)
    assert map_dumb(card, handle) == (0, card.gem_mmap_offset(handle))


def test_an_imported_bo_can_be_asked(card: Device) -> None:
    handle = card.import_foreign(PAGE)
    assert map_dumb(card, handle) == (0, card.gem_mmap_offset(handle))


@pytest.mark.parametrize("handle", [0, 2, 0x7FFF_FFFF, U32])
def test_map_of_an_unknown_handle(card: Device, handle: int) -> None:
    create(card, 1, 1, 32)
    assert map_dumb(card, handle) == (errno.ENOENT, 0)


def test_map_of_another_files_handle(xe_device: XeDevice, card: Device) -> None:
    other = Device(LocalTransport(xe_device, "card0"))
    create(other, 1, 1, 32)
    assert map_dumb(card, 1) == (errno.ENOENT, 0)


def test_destroy_is_gem_close(xe_device: XeDevice, card: Device) -> None:
    create(card, 1, 1, 32)
    made = card.gem_create(PAGE, 1)
    for handle in (1, made):
        arg = bytes(drm.drm_mode_destroy_dumb(handle=handle))
        assert answer(card.transport, DESTROY, arg) == 0
        assert answer(card.transport, DESTROY, arg) == errno.EINVAL
    assert not xe_device.bos
    assert create(card, 1, 1, 32)[1].handle == 1, "the number is free at once"
    card.gem_close(1)


@pytest.mark.parametrize("handle", [0, 2, U32])
def test_destroy_of_an_unknown_handle(card: Device, handle: int) -> None:
    create(card, 1, 1, 32)
    arg = bytes(drm.drm_mode_destroy_dumb(handle=handle))
    assert answer(card.transport, DESTROY, arg) == errno.EINVAL


# ---- who may -----------------------------------------------------------------------------------


@pytest.mark.parametrize("node", ["renderD128", "xe-mock"])
@pytest.mark.parametrize("cmd", [CREATE, MAP, DESTROY])
def test_not_on_render_nodes(xe_device: XeDevice, node: str, cmd: int) -> None:
    """Refused before the handler: what the client had in its outputs comes back."""
    transport = LocalTransport(xe_device, node, caps=range(64))
    size = cmd >> 16 & 0x3FFF
    assert raw(transport, cmd, b"\xa5" * size) == (-errno.EACCES, b"\xa5" * size)


def test_without_being_master_or_trusted(xe_device: XeDevice, card: Device) -> None:
    other = Device(LocalTransport(xe_device, "card0", caps=()))
    assert other.get_client().auth == 0
    assert create(other, 1, 1, 32)[0] == 0
    assert map_dumb(other, 1)[0] == 0
    other.destroy_dumb(1)


@pytest.mark.parametrize("way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)])
def test_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    device = xe_target(way).device("card0")
    error, arg = create(device, 640, 480, 32)
    assert (error, arg.handle, arg.pitch, arg.size) == (0, 1, 2560, 2560 * 480)
    assert map_dumb(device, 1) == (0, device.gem_mmap_offset(1))
    assert create(device, 0, 480, 32)[0] == errno.EINVAL
    device.destroy_dumb(1)
