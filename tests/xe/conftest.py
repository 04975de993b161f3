"""A device reached in each of the three ways or in this process, fences of it that a test signals
by hand, and memory that it may unmap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.xe.gate import Gate
from tests.xe.gpu_work import PAGE
from tests.xe.mirrors import Pages
from xedev.client import Device
from xedev.client.transport import Transport
from xedev.node.local import LocalTransport
from xedev.xe.xe_device import XeConfig, XeDevice


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


@pytest.fixture
def gate(device: Device) -> Iterator[Gate]:
    gate = Gate(device)
    yield gate
    gate.close()


@pytest.fixture
def xe_options() -> dict[str, Any]:
    """How `xe` is made, as `XeConfig` has it; modules and tests have options of their own."""
    return {}


@pytest.fixture
def xe(xe_options: dict[str, Any]) -> Iterator[XeDevice]:
    xe = XeDevice(XeConfig(**xe_options))
    yield xe
    xe.shutdown()


@pytest.fixture
def local(xe: XeDevice) -> Iterator[Device]:
    """A client of `xe`."""
    with Device(LocalTransport(xe)) as device:
        yield device


@pytest.fixture
def local_gate(local: Device) -> Iterator[Gate]:
    gate = Gate(local)
    yield gate
    gate.close()


@pytest.fixture
def pages() -> Iterator[Pages]:
    pages = Pages(16 * PAGE)
    yield pages
    pages.close()
