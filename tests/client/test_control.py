"""Control files, of a mount and of a device in this process."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uapi import xe_drm
from xedev.client import Device
from xedev.client.control import ControlFiles, Controls, LocalControls, card_index
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice

PAGE = 4096
VRAM = 1 << 1


@pytest.fixture(params=["in-process", pytest.param("mount", marks=pytest.mark.fuse)])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[Device, Controls]]:
    if request.param == "in-process":
        transport = LocalTransport(XeDevice(XeConfig()))
        with Device(transport) as device:
            yield device, LocalControls(transport.device.debugfs, transport.caller)
        return
    node = Path(request.getfixturevalue("mounted_node")()) / "dev/dri/renderD128"
    with Device.open(node) as device:
        yield device, ControlFiles.of_node(node)


def test_read_and_write(opened: tuple[Device, Controls]) -> None:
    device, controls = opened
    bo = device.bo_info(device.gem_create(PAGE, VRAM)).id
    shown = json.loads(controls.read("state"))["bos"]
    assert bo in [row["id"] for row in shown]
    answer = json.loads(controls.write("pressure", f"bo {bo} evict"))
    assert not answer["victims"], "its contents are wanted"
    assert [row["bo"] for row in answer["skipped"]] == [bo]
    with pytest.raises(OSError) as caught:
        controls.write("pressure", "make it so")
    assert caught.value.errno == errno.EINVAL


def test_failure_on_demand(opened: tuple[Device, Controls]) -> None:
    device, controls = opened
    controls.write("fail", "xe_bo_create_user 2 ENOMEM")
    device.gem_create(PAGE, VRAM)
    with pytest.raises(OSError) as caught:
        device.gem_create(PAGE, VRAM)
    assert caught.value.errno == errno.ENOMEM
    device.gem_create(PAGE, VRAM)


def test_local_controls_know_their_files() -> None:
    transport = LocalTransport(XeDevice(XeConfig()))
    controls = LocalControls(transport.device.debugfs, transport.caller)
    with pytest.raises(KeyError):
        controls.write("name", "another")
    with pytest.raises(KeyError):
        controls.read("nonsense")
    transport.close()


@pytest.mark.fuse
def test_trace(mounted_node: Callable[..., str]) -> None:
    node = Path(mounted_node()) / "dev/dri/renderD128"
    with Device.open(node) as device, ControlFiles.of_node(node).trace() as trace:
        assert trace.events() == []
        vm = device.vm_create(xe_drm.DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE)
        with pytest.raises(OSError):
            device.vm_destroy(vm + 1)
        created, destroyed = [event for event in trace.events() if event["event"] == "ioctl"]
        assert (created["name"], created["result"]) == ("DRM_IOCTL_XE_VM_CREATE", 0)
        assert created["pid"] == os.getpid()
        assert created["args"]["vm_id"] == vm
        assert (destroyed["errno"], bool(destroyed["reason"])) == ("ENOENT", True)
        assert trace.events() == []


@pytest.mark.parametrize(
    ("node", "index"),
    [
        ("card0", 0),
        ("renderD128", 0),
        ("xe-mock", 0),
        ("card1", 1),
        ("renderD129", 1),
        ("xe-mock1", 1),
        ("renderD143", 15),
        ("xe-mock15", 15),
    ],
)
def test_a_nodes_name_tells_its_card(node: str, index: int) -> None:
    assert card_index(node) == index
