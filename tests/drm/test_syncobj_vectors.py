"""The sequences of drm-core.md 3.8, in-process, by ioctl(2) and by frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.drm.syncobj_runner import Runner
from tests.vectors.syncobj_load import SyncobjVector, load_syncobj
from xedev.client import Device
from xedev.drm import drm_syncobj
from xedev.testing.target import Target

VECTORS = load_syncobj()
LONG = 1  # seconds


def test_all_of_them_are_here() -> None:
    assert [vector.id for vector in VECTORS] == list(range(1, 56))


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.takes_seconds < LONG], ids=str)
def test_vector(transport: Any, vector: SyncobjVector) -> None:
    Runner(Device(transport)).run(vector)


@pytest.mark.parametrize("vector", [v for v in VECTORS if v.takes_seconds >= LONG], ids=str)
def test_long_vector_with_a_fast_clock(
    xe_target: Callable[..., Target[Any]], vector: SyncobjVector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drm_syncobj, "TRANSFER_TIMEOUT", drm_syncobj.TRANSFER_TIMEOUT / 10)
    Runner(xe_target("in-process").device()).run(vector)


@pytest.mark.slow
@pytest.mark.fuse
@pytest.mark.parametrize("way", ["ioctl", "frames"])
@pytest.mark.parametrize("vector", [v for v in VECTORS if v.takes_seconds >= LONG], ids=str)
def test_long_vector(
    xe_target: Callable[..., Target[Any]], vector: SyncobjVector, way: str
) -> None:
    Runner(xe_target(way).device()).run(vector)
