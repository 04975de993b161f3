"""What only the primary node answers: master, names, dumb buffers."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uapi import drm
from xedev.client import Device, IoctlError, IoctlTransport, Transport
from xedev.client.control import ControlFiles
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
SYSTEM = 1 << 0

Opener = Callable[[], Device]


@pytest.fixture(params=["in-process", pytest.param("ioctl", marks=pytest.mark.fuse)])
def open_card(request: pytest.FixtureRequest) -> Iterator[Opener]:
    """Opens card0 of one device, as often as it is called."""
    opened: list[Device] = []
    make: Callable[[], Transport]
    if request.param == "in-process":
        xe = XeDevice(XeConfig())

        def make() -> Transport:
            return LocalTransport(xe, "card0")

        def files() -> object:
            return xe.show()["files"]
    else:
        node = Path(request.getfixturevalue("mounted_node")()) / "dev/dri/card0"

        def make() -> Transport:
            return IoctlTransport(node)

        def files() -> object:
            return json.loads(ControlFiles.of_node(node).read("state"))["files"]

    def open_one() -> Device:
        opened.append(Device(make()))
        return opened[-1]

    yield open_one
    for device in opened:
        device.close()
    # The kernel tells of the last close a little later, and the next test wants to be master.
    end = time.monotonic() + 5
    while files() and time.monotonic() < end:
        time.sleep(0.01)


def refused(error: int, call: Callable[[], object]) -> None:
    with pytest.raises(IoctlError) as caught:
        call()
    assert caught.value.errno == error


def test_master_and_magic(open_card: Opener) -> None:
    master, other = open_card(), open_card()
    refused(errno.EBUSY, other.set_master)
    magic = other.get_magic()
    assert other.get_magic() == magic
    master.auth_magic(magic)
    refused(errno.EINVAL, lambda: master.auth_magic(magic))
    refused(errno.EACCES, lambda: other.auth_magic(magic))
    master.drop_master()
    refused(errno.EINVAL, master.drop_master)
    other.set_master()
    other.drop_master()
    master.set_master()


def test_client_and_bus_id(open_card: Opener) -> None:
    device = open_card()
    client = device.get_client()
    assert (client.idx, client.auth) == (0, 1)
    assert client.pid == os.getpid()
    refused(errno.EINVAL, lambda: device.get_client(1))
    assert device.get_stats().count == 0
    assert device.get_unique() == ""
    version = device.set_version()
    assert (version.drm_di_major, version.drm_di_minor) == (1, 4)
    assert device.get_unique().startswith("pci:0000:")
    refused(errno.EOPNOTSUPP, lambda: device.set_client_cap(drm.DRM_CLIENT_CAP_ATOMIC, 1))


def test_names(open_card: Opener) -> None:
    device, other = open_card(), open_card()
    handle = device.gem_create(2 * PAGE, SYSTEM)
    name = device.gem_flink(handle)
    assert device.gem_flink(handle) == name
    opened, size = other.gem_open(name)
    assert size == 2 * PAGE
    assert other.bo_info(opened).id == device.bo_info(handle).id
    device.gem_close(handle)
    other.gem_close(opened)
    refused(errno.ENOENT, lambda: other.gem_open(name))


def test_dumb_buffers(open_card: Opener) -> None:
    device = open_card()
    dumb = device.create_dumb(100, 10, 32)
    assert (dumb.pitch, dumb.size) == (448, 2 * PAGE)
    assert device.map_dumb(dumb.handle) == device.gem_mmap_offset(dumb.handle)
    device.destroy_dumb(dumb.handle)
    refused(errno.EINVAL, lambda: device.destroy_dumb(dumb.handle))
    refused(errno.EINVAL, lambda: device.create_dumb(0, 10, 32))


def test_two_files_share_a_dma_buf(open_card: Opener) -> None:
    device, other = open_card(), open_card()
    handle = device.gem_create(PAGE, SYSTEM)
    fd = device.prime_handle_to_fd(handle)
    imported = other.prime_fd_to_handle(fd)
    assert other.bo_info(imported).id == device.bo_info(handle).id
    assert other.prime_fd_to_handle(fd) == imported
    device.gem_close(handle)
    device.close_fd(fd)
    assert other.bo_info(imported).exported == 1, "the handle keeps the dma-buf"
