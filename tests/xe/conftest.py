"""A device reached in each of the three ways, and fences of it that a test signals by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.xe.gate import Gate
from xedev.client import Device
from xedev.client.transport import Transport


@pytest.fixture
def device(transport: Transport) -> Device:
    return Device(transport)


@pytest.fixture
def gate(device: Device) -> Iterator[Gate]:
    gate = Gate(device)
    yield gate
    gate.close()
