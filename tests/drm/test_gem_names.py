"""Handles of one file, and names that all files know (kernel: drm_gem.c)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.drm.raw_ioctl import answer, raw
from uapi import drm
from xedev.client import Device, IoctlError, Transport
from xedev.client.memory import op_map
from xedev.kernel.caller import CAP_SYS_ADMIN
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

PAGE = 4096
SYSTEM = 1
U32 = (1 << 32) - 1
UNKNOWN = [0, 3, 0x7FFF_FFFF, 0x8000_0000, U32]


def opened(xe: XeDevice, node: str = "card0", *, trusted: bool = True) -> Device:
    return Device(LocalTransport(xe, node, caps=(CAP_SYS_ADMIN,) if trusted else ()))


@pytest.fixture
def card(xe_device: XeDevice) -> Device:
    return opened(xe_device)


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error


def bos(xe: XeDevice) -> list[tuple[int, int]]:
    """(id, handles) of every BO."""
    state: Any = xe.show()
    return [(bo["id"], bo["handles"]) for bo in state["bos"]]


# ---- handles -----------------------------------------------------------------------------------


def test_the_lowest_free_number(card: Device) -> None:
    assert [card.gem_create(PAGE, SYSTEM) for _ in range(5)] == [1, 2, 3, 4, 5]
    for handle in (4, 2):
        card.gem_close(handle)
    assert [card.gem_create(PAGE, SYSTEM) for _ in range(3)] == [2, 4, 6]
    card.gem_close(6)
    card.gem_close(5)
    assert card.gem_create(PAGE, SYSTEM) == 5


def test_numbers_are_those_of_a_plain_list(card: Device) -> None:
    """Random creating and closing beside the simplest possible model."""
    chance = random.Random(1)
    held: set[int] = set()
    for _ in range(600):
        if held and chance.random() < 0.48:
            handle = chance.choice(sorted(held))
            card.gem_close(handle)
            held.remove(handle)
        else:
            expected = next(number for number in range(1, 1000) if number not in held)
            assert card.gem_create(PAGE, SYSTEM) == expected
            held.add(expected)


def test_each_file_counts_for_itself(xe_device: XeDevice) -> None:
    files = [opened(xe_device, node) for node in ("card0", "renderD128", "card0", "xe-mock")]
    assert [file.gem_create(PAGE, SYSTEM) for file in files] == [1, 1, 1, 1]
    assert [handles for _, handles in bos(xe_device)] == [1, 1, 1, 1]


@pytest.mark.parametrize("pad", [0, 1, U32])
def test_close(xe_device: XeDevice, card: Device, pad: int) -> None:
    handle = card.gem_create(PAGE, SYSTEM)
    arg = bytes(drm.drm_gem_close(handle=handle, pad=pad))
    assert answer(card.transport, drm.DRM_IOCTL_GEM_CLOSE, arg) == 0
    assert answer(card.transport, drm.DRM_IOCTL_GEM_CLOSE, arg) == errno.EINVAL
    assert bos(xe_device) == []


def _bind(device: Device, handle: int) -> None:
    device.vm_bind(device.vm_create(), [op_map(handle, 0, PAGE, PAGE)])


# Every ioctl that takes a handle, and what it says to one that names nothing.
HANDLE_TAKERS: list[tuple[str, Callable[[Device, int], object], int]] = [
    ("GEM_CLOSE", lambda d, h: d.gem_close(h), errno.EINVAL),
    ("MODE_DESTROY_DUMB", lambda d, h: d.destroy_dumb(h), errno.EINVAL),
    ("GEM_FLINK", lambda d, h: d.gem_flink(h), errno.ENOENT),
    ("PRIME_HANDLE_TO_FD", lambda d, h: d.prime_handle_to_token(h), errno.ENOENT),
    ("MODE_MAP_DUMB", lambda d, h: d.map_dumb(h), errno.ENOENT),
    ("XE_GEM_MMAP_OFFSET", lambda d, h: d.gem_mmap_offset(h), errno.ENOENT),
    ("XE_VM_BIND", _bind, errno.ENOENT),
    ("GEM_CHANGE_HANDLE", lambda d, h: d.gem_change_handle(h, 9), errno.EINVAL),
    ("XE_MOCK_BO_INFO", lambda d, h: d.bo_info(h), errno.ENOENT),
]


@pytest.mark.parametrize(
    ("what", "take", "error"), HANDLE_TAKERS, ids=[row[0] for row in HANDLE_TAKERS]
)
def test_a_handle_that_names_nothing(
    card: Device, what: str, take: Callable[[Device, int], object], error: int
) -> None:
    handle = card.gem_create(PAGE, SYSTEM)
    card.gem_create(PAGE, SYSTEM)
    card.gem_close(handle)
    # A bind without a BO has handle 0, which is another mistake there.
    for number in [handle, *UNKNOWN[what == "XE_VM_BIND" :]]:
        refused(error, partial(take, card, number))


def test_what_is_bound_outlives_its_handle(xe_device: XeDevice, card: Device) -> None:
    handle, vm = card.gem_create(PAGE, SYSTEM), card.vm_create()
    card.vm_bind(vm, [op_map(handle, 0, PAGE, PAGE)])
    ((bo, _),) = bos(xe_device)
    card.gem_close(handle)
    assert bos(xe_device) == [(bo, 0)]
    assert card.gem_create(PAGE, SYSTEM) == handle, "the number is free at once"
    card.vm_destroy(vm)
    assert bos(xe_device) == [(bo + 1, 1)]


def test_closing_the_file_frees_all(xe_device: XeDevice, card: Device) -> None:
    """Also what only a VM of the file still holds."""
    vm = card.vm_create()
    for place in range(4):
        handle = card.gem_create(PAGE, SYSTEM)
        card.vm_bind(vm, [op_map(handle, 0, (1 + place) * PAGE, PAGE)])
    card.gem_close(2)
    assert len(bos(xe_device)) == 4
    card.close()
    assert bos(xe_device) == []


def test_the_order_in_which_a_file_ends(xe_device: XeDevice, card: Device) -> None:
    """Handles first, ascending; then VMs, ascending, and with them what they held."""
    loose = [card.gem_create(PAGE, SYSTEM) for _ in range(2)]
    bound = card.gem_create(PAGE, SYSTEM)
    for vm in [card.vm_create() for _ in range(3)]:
        card.vm_bind(vm, [op_map(bound, 0, PAGE, PAGE)])
    numbers = [number for number, _ in bos(xe_device)]
    listener = xe_device.trace.subscribe()
    card.close()
    seen = [
        (event["event"], event.get("bo") or event.get("id"))
        for event in listener.drain()
        if event["event"] in ("bo_free", "vm_close")
    ]
    listener.close()
    assert seen[:2] == [("bo_free", numbers[handle - 1]) for handle in loose]
    assert [number for what, number in seen if what == "vm_close"] == [1, 2, 3]
    last = ("bo_free", numbers[bound - 1])
    assert seen.index(last) > seen.index(("vm_close", 2))


# ---- FLINK and OPEN ----------------------------------------------------------------------------


def flink(device: Device, handle: int) -> tuple[int, int]:
    """(errno, name); the name begins as nonsense."""
    arg = bytes(drm.drm_gem_flink(handle=handle, name=0xA5A5))
    value, back = raw(device.transport, drm.DRM_IOCTL_GEM_FLINK, arg)
    return -value, drm.drm_gem_flink.from_buffer_copy(back).name


def test_a_name_is_made_once(card: Device) -> None:
    one, two = card.gem_create(PAGE, SYSTEM), card.gem_create(PAGE, SYSTEM)
    assert [card.gem_flink(handle) for handle in (two, one, two, one)] == [1, 2, 1, 2]


def test_names_are_the_devices(xe_device: XeDevice, card: Device) -> None:
    other = opened(xe_device)
    mine, theirs = card.gem_create(PAGE, SYSTEM), other.gem_create(PAGE, SYSTEM)
    assert (card.gem_flink(mine), other.gem_flink(theirs)) == (1, 2)
    again, size = other.gem_open(1)
    assert (again, size, other.gem_flink(again)) == (2, PAGE, 1), "another handle, the same BO"


def test_two_devices_have_names_of_their_own(card: Device) -> None:
    other = opened(XeDevice())
    assert card.gem_flink(card.gem_create(PAGE, SYSTEM)) == 1
    refused(errno.ENOENT, lambda: other.gem_open(1))
    assert other.gem_flink(other.gem_create(PAGE, SYSTEM)) == 1


def test_the_lowest_free_name(card: Device) -> None:
    handles = [card.gem_create(PAGE, SYSTEM) for _ in range(3)]
    assert [card.gem_flink(handle) for handle in handles] == [1, 2, 3]
    card.gem_close(handles[1])
    refused(errno.ENOENT, lambda: card.gem_open(2))
    assert card.gem_flink(card.gem_create(PAGE, SYSTEM)) == 2


def test_open_always_gives_a_new_handle(xe_device: XeDevice, card: Device) -> None:
    handle = card.gem_create(3 * PAGE, SYSTEM)
    name = card.gem_flink(handle)
    assert [card.gem_open(name) for _ in range(3)] == [(2, 3 * PAGE), (3, 3 * PAGE), (4, 3 * PAGE)]
    assert bos(xe_device) == [(1, 4)]
    for number in (1, 3, 4):
        card.gem_close(number)
    assert card.gem_open(name) == (1, 3 * PAGE)
    for number in (1, 2):
        card.gem_close(number)
    assert bos(xe_device) == []


def test_a_name_goes_with_the_last_handle_anywhere(xe_device: XeDevice, card: Device) -> None:
    """A binding keeps the memory, not the name."""
    other = opened(xe_device)
    handle, vm = card.gem_create(PAGE, SYSTEM), card.vm_create()
    card.vm_bind(vm, [op_map(handle, 0, PAGE, PAGE)])
    name = card.gem_flink(handle)
    second, _ = other.gem_open(name)
    card.gem_close(handle)
    third, _ = other.gem_open(name)
    other.gem_close(second)
    other.gem_close(third)
    refused(errno.ENOENT, lambda: other.gem_open(name))
    assert bos(xe_device) == [(1, 0)]


def test_closing_a_file_takes_its_names_along(xe_device: XeDevice, card: Device) -> None:
    other = opened(xe_device)
    card.gem_flink(card.gem_create(PAGE, SYSTEM))
    card.gem_flink(card.gem_create(PAGE, SYSTEM))
    kept, _ = other.gem_open(2)
    card.close()
    refused(errno.ENOENT, lambda: other.gem_open(1))
    assert other.gem_open(2) == (2, PAGE)
    assert other.gem_flink(kept) == 2
    assert other.gem_flink(other.gem_create(PAGE, SYSTEM)) == 1


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name(card: Device, name: int) -> None:
    card.gem_flink(card.gem_create(PAGE, SYSTEM))
    arg = bytes(drm.drm_gem_open(name=name, handle=0xA5A5, size=0xA5A5))
    value, back = raw(card.transport, drm.DRM_IOCTL_GEM_OPEN, arg)
    assert (value, back) == (-errno.ENOENT, arg)


def test_a_refused_name_leaves_the_argument(card: Device) -> None:
    assert flink(card, 7) == (errno.ENOENT, 0xA5A5)


@pytest.mark.parametrize("node", ["renderD128", "xe-mock"])
@pytest.mark.parametrize("trusted", [False, True])
def test_no_names_on_render_nodes(
    xe_device: XeDevice, card: Device, node: str, trusted: bool
) -> None:
    name = card.gem_flink(card.gem_create(PAGE, SYSTEM))
    render = opened(xe_device, node, trusted=trusted)
    handle = render.gem_create(PAGE, SYSTEM)
    refused(errno.EACCES, lambda: render.gem_flink(handle))
    refused(errno.EACCES, lambda: render.gem_flink(99))
    refused(errno.EACCES, lambda: render.gem_open(name))


def test_no_names_without_authentication(xe_device: XeDevice, card: Device) -> None:
    name = card.gem_flink(card.gem_create(PAGE, SYSTEM))
    plain = opened(xe_device, trusted=False)
    handle = plain.gem_create(PAGE, SYSTEM)
    refused(errno.EACCES, lambda: plain.gem_flink(handle))
    refused(errno.EACCES, lambda: plain.gem_open(name))
    card.auth_magic(plain.get_magic())
    assert plain.gem_flink(handle) == 2
    assert plain.gem_open(name) == (2, PAGE)


def test_a_failing_open_takes_nothing(xe_device: XeDevice, card: Device) -> None:
    name = card.gem_flink(card.gem_create(PAGE, SYSTEM))
    xe_device.faults.arm("drm_gem_handle_create", 1, errno.ENOMEM)
    refused(errno.ENOMEM, lambda: card.gem_open(name))
    assert bos(xe_device) == [(1, 1)]
    assert card.gem_open(name) == (2, PAGE)


@pytest.mark.parametrize("way", ["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)])
def test_names_through(xe_target: Callable[..., Target[Any]], way: str) -> None:
    target = xe_target(way)
    one, two = target.device("card0"), target.device("card0")
    one.auth_magic(two.get_magic())
    name = one.gem_flink(one.gem_create(2 * PAGE, SYSTEM))
    handle, size = two.gem_open(name)
    assert size == 2 * PAGE
    assert two.bo_info(handle).id == one.bo_info(1).id
    one.gem_close(1)
    assert two.gem_open(name) == (2, size)
    two.gem_close(1)
    two.gem_close(2)
    refused(errno.ENOENT, lambda: one.gem_open(name))


def test_handles_through(transport: Transport) -> None:
    device = Device(transport)
    assert [device.gem_create(PAGE, SYSTEM) for _ in range(4)] == [1, 2, 3, 4]
    device.gem_close(2)
    refused(errno.EINVAL, lambda: device.gem_close(2))
    refused(errno.ENOENT, lambda: device.gem_mmap_offset(2))
    assert device.gem_create(PAGE, SYSTEM) == 2
