"""Every vector on the real driver: for each policy, and however the device is reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.model import purgeability_ops as ops
from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.vector_runner import ClientDevice, run_vector
from tests.vectors.load import PurgeVector, load_purgeability
from xedev.testing.target import Target

EXPORT_POINTS = ("drm_gem_prime_export", "ttm_bo_setup_export")
_SETTLE = 5.0  # seconds

TargetMaker = Callable[..., Target[Any]]


class Route(NamedTuple):
    """A way to a device, and where its BOs live."""

    way: str
    profile: str = "bmg"
    region: int = 1


ROUTES = (
    pytest.param(Route("in-process"), id="inprocess"),
    pytest.param(Route("in-process", "lnl", 0), id="inprocess_lnl"),
    pytest.param(Route("ioctl"), id="ioctl", marks=pytest.mark.fuse),
    pytest.param(Route("frames"), id="frames", marks=pytest.mark.fuse),
)
VECTORS = load_purgeability()


FAILING_EXPORTS = [
    vector
    for vector in VECTORS
    if any(isinstance(step.step, ops.Export) and step.step.fail for step in vector.steps)
]


def _play(vector: PurgeVector, policy: Policy, route: Route, make: TargetMaker, point: str) -> None:
    target = make(route.way, profile=route.profile, purgeability=policy)
    early = {step.step.bo for step in vector.steps if isinstance(step.step, ops.Fault)}
    device = ClientDevice(
        target.device, target, region=route.region, export_point=point, early=early
    )
    try:
        run_vector(vector, policy, device, settle=0 if route.way == "in-process" else _SETTLE)
    finally:
        device.close()
    # At the end of the test the fixture looks that nothing is left of files, VMs and BOs.


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.id)
def test_vector(vector: PurgeVector, policy: Policy, route: Route, xe_target: TargetMaker) -> None:
    _play(vector, policy, route, xe_target, EXPORT_POINTS[0])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("vector", FAILING_EXPORTS, ids=lambda vector: vector.id)
def test_vector_with_pages_that_cannot_be_had(
    vector: PurgeVector, policy: Policy, route: Route, xe_target: TargetMaker
) -> None:
    """Both ways in which an export fails after it became a holder put the holder back."""
    _play(vector, policy, route, xe_target, EXPORT_POINTS[1])


def test_two_vectors_fail_an_export() -> None:
    assert [vector.id for vector in FAILING_EXPORTS] == ["V42", "V43"]
