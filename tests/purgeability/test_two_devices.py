"""The vectors of foreign BOs, played on a BO that another card of the machine exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.model import purgeability_ops as ops
from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.vector_runner import ClientDevice, run_vector
from tests.vectors.load import PurgeVector, load_purgeability
from xedev.testing.target import Target

_SETTLE = 5.0  # seconds

WAYS = (
    "in-process",
    pytest.param("ioctl", marks=pytest.mark.fuse),
    pytest.param("frames", marks=pytest.mark.fuse),
)
FOREIGN = [
    vector
    for vector in load_purgeability()
    if any(isinstance(step.step, ops.ImportForeign) for step in vector.steps)
]


def test_there_is_such_a_vector() -> None:
    assert "V46" in [vector.id for vector in FOREIGN]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("profile", ["bmg", "lnl"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("vector", FOREIGN, ids=lambda vector: vector.id)
def test_vector(
    vector: PurgeVector,
    policy: Policy,
    profile: str,
    way: str,
    xe_targets: Callable[..., list[Target[Any]]],
) -> None:
    near, far = xe_targets(way, 2, profile=profile, purgeability=policy)
    region = 1 if profile == "bmg" else 0
    device = ClientDevice(near.device, near, region=region, exporter=far.device())
    try:
        run_vector(vector, policy, device, settle=0 if way == "in-process" else _SETTLE)
        imported = near.state()["bos"]
        exported = far.state()["bos"]
    finally:
        device.close()
    assert imported
    assert all(bo["imported"] and not bo["exported"] for bo in imported)
    # What the importer does is nothing to the exporter, where the dma-buf holds the contents.
    assert [(bo["state"], bo["exported"], bo["handles"]) for bo in exported] == [
        ("WILLNEED", True, 0)
    ] * len(imported)
