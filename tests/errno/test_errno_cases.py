"""Every case of ``errno_memory.json``, in-process, by ioctl(2) and by frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tests.errno.device import CARDS, PROFILES, device_options
from tests.errno.executor import play
from tests.vectors.errno_load import Case, Errno, Expr, Out, Profile, load_errno
from xedev.testing.target import Target

VECTORS = load_errno()


@pytest.mark.parametrize(
    ("profile", "case"),
    [
        pytest.param(profile, case, id=f"{profile}-{case.id}")
        for profile in PROFILES
        for case in VECTORS.reachable(profile)
    ],
)
@pytest.mark.parametrize(
    "way",
    [
        "in-process",
        pytest.param("ioctl", marks=pytest.mark.fuse),
        pytest.param("frames", marks=pytest.mark.fuse),
    ],
)
def test_case(
    way: str, profile: Profile, case: Case, xe_targets: Callable[..., list[Target[Any]]]
) -> None:
    near, far = xe_targets(way, CARDS, **device_options(VECTORS, profile))
    play(VECTORS, case, near, far)


def test_every_row_has_a_case() -> None:
    covered = {case.row for case in VECTORS.cases}
    rows = {f"{section}/{row}" for section, rows in VECTORS.tables.items() for row in rows}
    assert rows - covered == set()


@pytest.mark.parametrize(
    "wrong",
    [{"errno": Errno("EPERM")}, {"out": (Out("arg.handle", "==", Expr.parse(2)),)}],
)
def test_wrong_answers_are_told(
    wrong: dict[str, Any], xe_target: Callable[..., Target[Any]]
) -> None:
    case = next(case for case in VECTORS.cases if case.id == "gem_create.ok")
    assert case.call is not None
    case = dataclasses.replace(case, call=dataclasses.replace(case.call, **wrong))
    with pytest.raises(AssertionError, match="DRM_IOCTL_XE_GEM_CREATE"):
        play(VECTORS, case, xe_target("in-process", **device_options(VECTORS, "bmg")))
