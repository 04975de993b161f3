"""pytest fixtures: a mocked Xe device, in the test's own process or mounted.

``xe_device``     a device in this process
``mounted_node``  makes a mount with the options given, and returns its directory
``xe_target``     makes a device that is reached in-process, by ioctl(2) or by frames
``xe_targets``    the same for several cards of one machine
``transport``     an open node of one; the test runs once for each of the three ways

A test fails when a daemon that it used has logged an error, or when its clients left anything
behind.  Daemons end with the test's module, at the latest with its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xedev.testing.mounts import MountedNodes
    from xedev.testing.target import AnyTransport, Target
    from xedev.xe.xe_device import XeDevice

# What the fixtures need is imported when they are used: the plugin is loaded in every run of
# pytest wherever xe-mock is installed.

_WAYS = (
    "in-process",
    pytest.param("ioctl", marks=pytest.mark.fuse),
    pytest.param("frames", marks=pytest.mark.fuse),
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known that mounts bear."""
    config.addinivalue_line("markers", "fuse: makes a real FUSE mount")


@pytest.fixture
def xe_device() -> Iterator[XeDevice]:
    """A device in this process, with the default options."""
    from xedev.xe.xe_device import XeDevice

    device = XeDevice()
    yield device
    device.shutdown()


@pytest.fixture(scope="module")
def _mounted_nodes() -> Iterator[MountedNodes]:
    from xedev.testing.mounts import MountedNodes

    nodes = MountedNodes()
    try:
        yield nodes
    finally:
        nodes.end()


@pytest.fixture
def mounted_node(_mounted_nodes: MountedNodes) -> Iterator[Callable[..., str]]:
    """``mounted_node(profile="bmg", **options)``: the directory of a mount.

    Options are those of ``xe-mock mount``, with underscores.  Tests of one module share a mount
    of the same options; ``fresh=True`` makes one for this test alone.
    """

    def mount(*, fresh: bool = False, **options: object) -> str:
        return _mounted_nodes.get(options, fresh=fresh)

    yield mount
    _mounted_nodes.check()


@pytest.fixture
def xe_target(mounted_node: Callable[..., str]) -> Iterator[Callable[..., Target[Any]]]:
    """``xe_target(way, **options)``: a device and its way, ``in-process``, ``ioctl``, ``frames``.

    Options are those of the device: ``profile``, ``vram``, ``visible_vram`` and ``system``
    (bytes), ``purgeability``, ``debug_kernel``; and ``fresh`` as with ``mounted_node``.
    """
    targets: list[Target[Any]] = []

    def make(way: str, *, fresh: bool = False, **options: Any) -> Target[Any]:
        targets.extend(_make_targets(way, 1, fresh, options, mounted_node))
        return targets[-1]

    yield make
    for target in targets:
        target.close_all()


@pytest.fixture
def xe_targets(
    mounted_node: Callable[..., str],
) -> Iterator[Callable[..., list[Target[Any]]]]:
    """``xe_targets(way, devices, **options)``: equal cards of one machine, as ``xe_target``."""
    targets: list[Target[Any]] = []

    def make(way: str, devices: int, *, fresh: bool = False, **options: Any) -> list[Target[Any]]:
        made = _make_targets(way, devices, fresh, options, mounted_node)
        targets.extend(made)
        return made

    yield make
    for target in targets:
        target.close()
    # Only now: what one device has open may keep another one's memory.
    for target in targets:
        target.check_empty()


def _make_targets(
    way: str,
    devices: int,
    fresh: bool,
    options: dict[str, Any],
    mounted_node: Callable[..., str],
) -> list[Target[Any]]:
    from xedev.testing.target import LocalTarget, MountTarget
    from xedev.xe.xe_device import XeConfig, xe_probe

    if way == "in-process":
        return [LocalTarget(xe) for xe in xe_probe(XeConfig(**options), devices)]
    count = {"devices": devices} if devices > 1 else {}
    directory = mounted_node(fresh=fresh, **options, **count)
    return [MountTarget(directory, way, index) for index in range(devices)]


@pytest.fixture(params=_WAYS)
def transport(
    request: pytest.FixtureRequest, xe_target: Callable[..., Target[Any]]
) -> AnyTransport:
    """An open render node of a device with the default options, in each of the three ways."""
    target: Target[AnyTransport] = xe_target(request.param)
    return target.open()
