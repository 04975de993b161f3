"""The device that IGT opens in its fixtures: ``drm_open_driver(DRIVER_XE)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from xedev.client import Device


@pytest.fixture
def node(mounted_node: Callable[..., str]) -> str:
    """A render node of a mounted ``bmg``, a discrete device."""
    return str(Path(mounted_node(profile="bmg")) / "dev/dri/renderD128")


@pytest.fixture
def fd(node: str) -> Iterator[Device]:
    """The node, opened for ioctl(2)."""
    with Device.open(node, "ioctl") as device:
        yield device
