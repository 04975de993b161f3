"""The sys directory of the tree and of a mount."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xedev.client import Device
from xedev.client.transport import IoctlError
from xedev.drm.drm_file import DrmFile
from xedev.kernel.errors import KernelError
from xedev.node.local import LocalTransport
from xedev.node.tree import Tree
from xedev.xe.xe_device import XeConfig, XeDevice, xe_probe, xe_probe_again

BMG = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:03:00.0"
BMG_1 = "devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:02.0/0000:04:00.0"
LNL = "devices/pci0000:00/0000:00:02.0"


@pytest.fixture
def machine() -> Iterator[Callable[..., tuple[Tree, tuple[XeDevice, ...]]]]:
    made: list[XeDevice] = []

    def make(count: int = 1, **options: str) -> tuple[Tree, tuple[XeDevice, ...]]:
        devices = xe_probe(XeConfig(**options), count)  # type: ignore[arg-type]
        made.extend(devices)
        return Tree(devices), devices

    yield make
    for device in made:
        device.shutdown()


def read(tree: Tree, client: LocalTransport, path: str) -> bytes:
    file = tree.open(f"/sys/{path}", os.O_RDONLY, client.caller())
    return file.read(4096, 0, False, client.caller())


def links(tree: Tree, top: str) -> dict[str, str]:
    """Where each link below ``top`` leads to, as paths below sys."""
    found = {}
    for name in tree.readdir(top):
        path = f"{top}/{name}"
        mode = tree.getattr(path).mode
        if stat.S_ISLNK(mode):
            target = os.path.normpath(os.path.join(top, tree.readlink(path)))
            found[path.removeprefix("/sys/")] = target.removeprefix("/sys/")
        elif stat.S_ISDIR(mode):
            found |= links(tree, path)
    return found


def test_two_cards_are_found_by_class_number_and_bus(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, _ = machine(2)
    for top, expected in {
        "/sys/class/drm": {
            "class/drm/card0": f"{BMG}/drm/card0",
            "class/drm/renderD128": f"{BMG}/drm/renderD128",
            "class/drm/card1": f"{BMG_1}/drm/card1",
            "class/drm/renderD129": f"{BMG_1}/drm/renderD129",
        },
        "/sys/dev/char": {
            "dev/char/226:0": f"{BMG}/drm/card0",
            "dev/char/226:128": f"{BMG}/drm/renderD128",
            "dev/char/226:1": f"{BMG_1}/drm/card1",
            "dev/char/226:129": f"{BMG_1}/drm/renderD129",
        },
        "/sys/bus/pci/devices": {
            "bus/pci/devices/0000:03:00.0": BMG,
            "bus/pci/devices/0000:04:00.0": BMG_1,
        },
    }.items():
        assert links(tree, top) == expected


@pytest.mark.parametrize("profile", ["bmg", "lnl", "dg2", "cri"])
def test_every_link_leads_somewhere(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]], profile: str
) -> None:
    tree, _ = machine(profile=profile)
    found = links(tree, "/sys")
    assert len(found) >= 12
    for target in found.values():
        tree.getattr(f"/sys/{target}")


def test_the_link_to_the_device_ends_with_its_name(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, _ = machine()
    assert tree.readlink(f"/sys/{BMG}/drm/card0/device") == "../../../0000:03:00.0"
    assert tree.readlink(f"/sys/{BMG}/subsystem").endswith("/bus/pci")


def test_what_libdrm_and_udev_read(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, (xe,) = machine(profile="lnl")
    client = LocalTransport(xe)
    assert read(tree, client, f"{LNL}/uevent").decode().splitlines() == [
        "DRIVER=xe",
        "PCI_CLASS=30000",
        "PCI_ID=8086:64A0",
        "PCI_SUBSYS_ID=8086:2212",
        "PCI_SLOT_NAME=0000:00:02.0",
        "MODALIAS=pci:v00008086d000064A0sv00008086sd00002212bc03sc00i00",
    ]
    texts = {
        "vendor": b"0x8086\n",
        "device": b"0x64a0\n",
        "revision": b"0x04\n",
        "class": b"0x030000\n",
        "drm/renderD128/dev": b"226:128\n",
        "drm/card0/uevent": b"MAJOR=226\nMINOR=0\nDEVNAME=dri/card0\nDEVTYPE=drm_minor\n",
        "tile0/gt0/freq0/max_freq": b"2050\n",
    }
    assert {name: read(tree, client, f"{LNL}/{name}") for name in texts} == texts
    client.close()


def test_the_configuration_space_agrees_with_the_files(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, (xe,) = machine()
    client = LocalTransport(xe)
    config = read(tree, client, f"{BMG}/config")
    assert len(config) == tree.getattr(f"/sys/{BMG}/config").size == 256

    def number(offset: int, size: int) -> int:
        return int.from_bytes(config[offset : offset + size], "little")

    for name, offset, size in (
        ("vendor", 0x00, 2),
        ("device", 0x02, 2),
        ("revision", 0x08, 1),
        ("class", 0x09, 3),
        ("subsystem_vendor", 0x2C, 2),
        ("subsystem_device", 0x2E, 2),
    ):
        assert number(offset, size) == int(read(tree, client, f"{BMG}/{name}"), 16), name
    windows = read(tree, client, f"{BMG}/resource").decode().splitlines()
    start, end, _ = (int(word, 16) for word in windows[2].split())
    assert number(0x18, 8) & ~0xF == start
    assert end - start + 1 == 16 << 30
    client.close()


def test_an_attribute_is_read_anew_from_its_beginning(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, (xe,) = machine()
    client = LocalTransport(xe)
    caller = client.caller()
    file = tree.open(f"/sys/{BMG}/tile0/gt0/freq0/min_freq", os.O_RDWR, caller)
    assert file.read(2, 0, False, caller) == b"40"
    assert file.write(b"1234\n", 0, False, caller) == 5
    assert file.read(100, 2, False, caller) == b"0\n"
    assert file.read(100, 0, False, caller) == b"1234\n"
    with pytest.raises(KernelError) as raised:
        file.write(b"\xff", 0, False, caller)
    assert raised.value.errno == errno.EINVAL
    client.close()


def test_what_cannot_be_set(
    machine: Callable[..., tuple[Tree, tuple[XeDevice, ...]]],
) -> None:
    tree, (xe,) = machine()
    client = LocalTransport(xe)
    file = tree.open(f"/sys/{BMG}/vendor", os.O_RDWR, client.caller())
    with pytest.raises(KernelError) as raised:
        file.write(b"1", 0, False, client.caller())
    assert raised.value.errno == errno.EIO
    client.close()


@pytest.mark.fuse
def test_through_a_mount(mounted_node: Callable[..., str]) -> None:
    sys = Path(mounted_node(), "sys")
    card = sys / "dev/char/226:0"
    assert (card / "device/vendor").read_text() == "0x8086\n"
    assert os.path.realpath(card / "device") == str(sys / BMG)
    assert {path.name for path in (card / "device/drm").iterdir()} == {"card0", "renderD128"}
    timeslice = card / "device/tile0/gt0/engines/rcs/timeslice_duration_us"
    timeslice.write_text("2000\n")
    assert timeslice.read_text() == "2000\n"
    timeslice.write_text("1000\n")
    with pytest.raises(OSError) as raised:
        timeslice.write_text("0\n")
    assert raised.value.errno == errno.EINVAL


@pytest.mark.fuse
def test_debugfs_is_found_by_minor_and_by_slot(mounted_node: Callable[..., str]) -> None:
    dri = Path(mounted_node(), "debug/dri")
    names = {(dri / name / "name").read_text() for name in ("0", "128", "0000:03:00.0")}
    assert len(names) == 1
    assert "PAT[ 2] = [ 0, 0, 0, 0, 3, 3 ]" in (dri / "0/tile0/gt1/pat_sw_config").read_text()


# ---- the driver lets go of a device, and takes it again --------------------------------------

DRIVER = "/sys/bus/pci/drivers/xe"
SLOT = "0000:03:00.0"


@pytest.fixture
def card() -> Iterator[tuple[Tree, list[XeDevice]]]:
    devices = [XeDevice()]

    def probe(index: int) -> XeDevice:
        devices.append(xe_probe_again(devices[-1]))
        return devices[-1]

    yield Tree(devices[:1], [], probe), devices
    devices[-1].shutdown()


def write(tree: Tree, client: LocalTransport, path: str, text: bytes) -> None:
    tree.open(path, os.O_WRONLY, client.caller()).write(text, 0, False, client.caller())


def failure(call: Callable[[], object]) -> int | None:
    with pytest.raises(KernelError) as raised:
        call()
    return raised.value.errno


def test_an_unbound_device_has_no_nodes(card: tuple[Tree, list[XeDevice]]) -> None:
    tree, devices = card
    client = LocalTransport(devices[0])
    write(tree, client, f"{DRIVER}/unbind", SLOT.encode() + b"\0")
    assert tree.readdir("/dev/dri") == []
    assert f"{DRIVER}/{SLOT}" not in links(tree, DRIVER)
    assert failure(lambda: tree.open("/dev/dri/card0", os.O_RDWR, client.caller())) == errno.ENOENT
    assert failure(lambda: write(tree, client, f"{DRIVER}/unbind", SLOT.encode())) == errno.ENODEV
    with pytest.raises(IoctlError) as raised:
        Device(client).vm_create()
    assert raised.value.errno == errno.ENODEV


def test_an_unbound_device_is_only_one_of_its_bus(card: tuple[Tree, list[XeDevice]]) -> None:
    tree, devices = card
    client = LocalTransport(devices[0])
    pci = f"/sys/{devices[0].pci.directory}"
    before = tree.readdir(pci)
    write(tree, client, f"{DRIVER}/unbind", SLOT.encode())
    assert set(before) - set(tree.readdir(pci)) == {"driver", "drm", "tile0"}
    assert tree.readdir("/sys/class/drm") == ["version"]
    assert tree.readdir("/sys/dev/char") == []
    assert failure(lambda: tree.getattr("/sys/class/drm/card0")) == errno.ENOENT
    write(tree, client, f"{DRIVER}/bind", SLOT.encode())
    assert tree.readdir(pci) == before
    assert set(tree.readdir("/sys/class/drm")) == {"card0", "renderD128", "version"}


def test_a_device_that_was_bound_again_works_as_if_new(card: tuple[Tree, list[XeDevice]]) -> None:
    tree, devices = card
    client = LocalTransport(devices[0])
    before = tree.getattr("/dev/dri/card0")
    devices[0].declare_wedged()
    write(tree, client, f"{DRIVER}/unbind", SLOT.encode())
    write(tree, client, f"{DRIVER}/bind", SLOT.encode())
    assert tree.getattr("/dev/dri/card0").ino == before.ino
    assert sorted(tree.readdir("/dev/dri")) == ["card0", "renderD128", "xe-mock"]
    file = tree.open("/dev/dri/renderD128", os.O_RDWR, client.caller())
    assert isinstance(file, DrmFile)
    assert file.device is devices[1]
    file.release()
    with Device(LocalTransport(devices[1])) as device:
        assert device.vm_create() == 1
    with pytest.raises(IoctlError) as raised:
        Device(client).vm_create()
    assert raised.value.errno == errno.ECANCELED


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("bind", SLOT),
        *((name, slot) for name in ("bind", "unbind") for slot in ("0000:07:00.0", "")),
    ],
)
def test_only_its_own_devices_can_be_bound(
    card: tuple[Tree, list[XeDevice]], name: str, slot: str
) -> None:
    tree, devices = card
    client = LocalTransport(devices[0])
    path = f"{DRIVER}/{name}"
    assert failure(lambda: write(tree, client, path, slot.encode())) == errno.ENODEV


def test_the_driver_is_found_by_its_module(card: tuple[Tree, list[XeDevice]]) -> None:
    tree, _ = card
    assert links(tree, "/sys/module") == {"module/xe/drivers/pci:xe": "bus/pci/drivers/xe"}
