"""``proc/sys/vm/drop_caches`` of a mount, which stands in for the kernel's."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from uapi import xe_drm
from xedev.client import Device, IoctlTransport
from xedev.client.memory import op_map
from xedev.kernel.errors import KernelError
from xedev.node.local import LocalTransport
from xedev.node.tree import Tree
from xedev.testing.mounts import wait_until_empty
from xedev.xe.xe_device import XeConfig, XeDevice, xe_probe

PATH = "/proc/sys/vm/drop_caches"
SIZE = 0x10000
SYSTEM, VRAM = 1, 2
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED


@pytest.fixture
def cards() -> Iterator[tuple[XeDevice, ...]]:
    cards = xe_probe(XeConfig(), 2)
    yield cards
    for card in cards:
        card.shutdown()


@pytest.fixture
def clients(cards: tuple[XeDevice, ...]) -> Iterator[list[Device]]:
    nodes = ("renderD128", "renderD129")
    devices = [Device(LocalTransport(card, node)) for card, node in zip(cards, nodes, strict=True)]
    yield devices
    for device in devices:
        device.close()


def bind(device: Device, placement: int, *, keep: bool = False) -> None:
    """A BO that is mapped, and may be purged unless it is to be kept."""
    vm = device.vm_create()
    handle = device.gem_create(SIZE, placement)
    device.vm_bind(vm, [op_map(handle, 0, SIZE, SIZE)])
    if not keep:
        device.madvise_purgeable(vm, SIZE, SIZE, DONTNEED)


def states(card: XeDevice) -> list[str]:
    shown: Any = card.show()
    return [bo["state"] for bo in shown["bos"]]


def write(cards: tuple[XeDevice, ...], data: bytes) -> int:
    """The number of bytes that a write takes, or ``-errno``."""
    caller = None
    file = Tree(cards).open(PATH, os.O_WRONLY, caller)  # type: ignore[arg-type]
    try:
        return file.write(data, 0, False, caller)  # type: ignore[arg-type]
    except KernelError as error:
        return -(error.errno or 0)


@pytest.mark.parametrize("text", [b"2", b"3", b"3\n", b"  2 ", b"0x3", b"03", b"3 4"])
def test_every_card_purges_what_it_may(
    cards: tuple[XeDevice, ...], clients: list[Device], text: bytes
) -> None:
    for device in clients:
        bind(device, SYSTEM)
        bind(device, SYSTEM, keep=True)
        bind(device, VRAM)
    bind(clients[1], SYSTEM)
    assert write(cards, text) == len(text)
    assert states(cards[0]) == ["PURGED", "WILLNEED", "DONTNEED"]
    assert states(cards[1]) == ["PURGED", "WILLNEED", "DONTNEED", "PURGED"]


@pytest.mark.parametrize("text", [b"1", b"4\n"])
def test_what_is_about_other_caches_does_nothing(
    cards: tuple[XeDevice, ...], clients: list[Device], text: bytes
) -> None:
    bind(clients[0], SYSTEM)
    assert write(cards, text) == len(text)
    assert states(cards[0]) == ["DONTNEED"]


@pytest.mark.parametrize(
    "text",
    [
        *(b"0", b"5", b"7", b"-1", b"-3", b"+3", b"3x", b"x", b"", b"\n", b"\0", b"\xff", b"0x"),
        *(b"09", b"1.5", b"4294967299", b"0x100000003", b"3,2", "\u0663".encode(), b"3" * 5000),
    ],
)
def test_what_is_refused(cards: tuple[XeDevice, ...], clients: list[Device], text: bytes) -> None:
    bind(clients[0], SYSTEM)
    assert write(cards, text) == -errno.EINVAL
    assert states(cards[0]) == ["DONTNEED"]


def test_what_another_card_has_imported_is_kept(
    cards: tuple[XeDevice, ...], clients: list[Device]
) -> None:
    exporter, importer = clients
    bind(exporter, SYSTEM)
    vm = exporter.vm_create()
    handle = exporter.gem_create(SIZE, SYSTEM)
    fd = exporter.prime_handle_to_fd(handle)
    importer.prime_fd_to_handle(fd)
    exporter.close_fd(fd)
    exporter.vm_bind(vm, [op_map(handle, 0, SIZE, SIZE)])
    exporter.madvise_purgeable(vm, SIZE, SIZE, DONTNEED)
    assert write(cards, b"3") == 1
    assert states(cards[0]) == ["PURGED", "WILLNEED"]


def test_it_can_only_be_written(cards: tuple[XeDevice, ...], clients: list[Device]) -> None:
    tree = Tree(cards)
    assert tree.getattr(PATH).mode == stat.S_IFREG | 0o200
    assert tree.readdir("/proc/sys/vm") == ["drop_caches"]
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(KernelError) as raised:
            tree.open(PATH, flags, None)  # type: ignore[arg-type]
        assert raised.value.errno == errno.EACCES


@pytest.fixture
def directory(mounted_node: Callable[..., str]) -> Iterator[str]:
    directory = mounted_node(devices=2)
    yield directory
    wait_until_empty(directory)


@pytest.mark.fuse
def test_on_a_mount(directory: str) -> None:
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD129")) as device:
        bind(device, SYSTEM)
        path = Path(directory + PATH)
        with pytest.raises(OSError, match="Invalid argument"):
            path.write_text("0\n")
        assert purgeable(device) == 1
        path.write_text("3\n")
        assert purgeable(device) == 0


@pytest.mark.fuse
@pytest.mark.root
def test_in_the_place_of_the_kernels(directory: str) -> None:
    """As a container or a test wrapper sets it up: the machine's own caches stay untouched."""
    script = f'mount --bind "$1{PATH}" {PATH} && echo 3 > {PATH} && ! cat {PATH} 2>/dev/null'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with Device(IoctlTransport(f"{directory}/dev/dri/renderD129")) as device:
        bind(device, SYSTEM)
        assert purgeable(device) == 1
        subprocess.run([*command, "sh", directory], check=True, timeout=30)
        assert purgeable(device) == 0


def purgeable(device: Device) -> int | None:
    """Whether the BO of `bind` still has its contents."""
    return device.madvise_purgeable(1, SIZE, SIZE, DONTNEED)
