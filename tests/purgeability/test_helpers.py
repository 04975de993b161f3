"""The four helpers and the setter of the state: what they assert, and what they leave alone."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import op_map
from xedev.kernel.errors import KernelBug
from xedev.testing.target import LocalTarget
from xedev.xe.xe_bo import (
    DONTNEED,
    PURGED,
    WILLNEED,
    XeBo,
    xe_bo_set_purgeable_state,
    xe_bo_vma_count_dec_locked,
    xe_bo_vma_count_inc_locked,
    xe_bo_willneed_get_locked,
    xe_bo_willneed_put_locked,
)
from xedev.xe.xe_device import XeDevice

PAGE = 4096

HELPERS: tuple[Callable[[XeBo], None], ...] = (
    xe_bo_vma_count_inc_locked,
    xe_bo_vma_count_dec_locked,
    xe_bo_willneed_get_locked,
    xe_bo_willneed_put_locked,
)


class Setup:
    def __init__(self) -> None:
        self.target = LocalTarget(XeDevice())
        self.device: Device = self.target.device()

    def bo(self, handle: int) -> XeBo:
        return self.target.xe.bos[self.device.bo_info(handle).id]


@pytest.fixture
def setup() -> Iterator[Setup]:
    setup = Setup()
    yield setup
    setup.target.close_all()


@pytest.fixture
def bo(setup: Setup) -> XeBo:
    """A BO that nobody maps."""
    return setup.bo(setup.device.gem_create(PAGE, 1))


def _facts(bo: XeBo) -> tuple[str, int, int]:
    purgeable = bo.purgeable
    return purgeable.state.name, purgeable.vma_count, purgeable.willneed_count


@pytest.mark.parametrize("helper", HELPERS)
def test_the_reservation_must_be_held(helper: Callable[[XeBo], None], bo: XeBo) -> None:
    with pytest.raises(KernelBug, match="must be held"):
        helper(bo)
    assert _facts(bo) == ("WILLNEED", 0, 0)


def test_the_reservation_must_be_held_for_the_state(bo: XeBo) -> None:
    with pytest.raises(KernelBug, match="must be held"):
        xe_bo_set_purgeable_state(bo, DONTNEED)
    assert bo.purgeable.state is WILLNEED


@pytest.mark.parametrize("helper", [xe_bo_vma_count_dec_locked, xe_bo_willneed_put_locked])
def test_no_count_goes_below_zero(helper: Callable[[XeBo], None], bo: XeBo) -> None:
    with bo.resv, pytest.raises(KernelBug):
        helper(bo)
    assert _facts(bo) == ("WILLNEED", 0, 0)


def test_the_last_holder_of_a_mapped_bo_takes_its_need_along(bo: XeBo) -> None:
    with bo.resv:
        xe_bo_vma_count_inc_locked(bo)
        xe_bo_willneed_get_locked(bo)
        xe_bo_willneed_get_locked(bo)
        xe_bo_willneed_put_locked(bo)
        assert _facts(bo) == ("WILLNEED", 1, 1)
        xe_bo_willneed_put_locked(bo)
        assert _facts(bo) == ("DONTNEED", 1, 0)
        xe_bo_willneed_get_locked(bo)
        assert _facts(bo) == ("WILLNEED", 1, 1)
        xe_bo_vma_count_dec_locked(bo)
        xe_bo_willneed_put_locked(bo)
        assert _facts(bo) == ("WILLNEED", 0, 0), "no VMA: the state is kept"


def test_purged_is_for_ever(bo: XeBo) -> None:
    with bo.resv:
        xe_bo_vma_count_inc_locked(bo)
        xe_bo_set_purgeable_state(bo, PURGED)
        for state in (WILLNEED, DONTNEED):
            with pytest.raises(KernelBug, match="leaves PURGED"):
                xe_bo_set_purgeable_state(bo, state)
        xe_bo_willneed_get_locked(bo)
        xe_bo_willneed_put_locked(bo)
        assert _facts(bo) == ("PURGED", 1, 0), "neither holder moves it"
        xe_bo_vma_count_dec_locked(bo)


def test_an_imported_bo_is_never_tracked(setup: Setup) -> None:
    bo = setup.bo(setup.device.import_foreign(PAGE))
    for helper in HELPERS:
        with bo.resv:
            helper(bo)
    assert _facts(bo) == ("WILLNEED", 0, 0)


@pytest.mark.expects_bug
def test_a_count_that_is_wrong_fails_the_run(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken invariant is logged as a bug and answers EIO, never something that looks right."""
    handle = setup.device.gem_create(PAGE, 1)
    vm = setup.device.vm_create()
    setup.device.vm_bind(vm, [op_map(handle, 0, 0, PAGE)])
    purgeable = setup.bo(handle).purgeable
    purgeable.willneed_count = 0
    with pytest.raises(OSError) as caught:
        setup.device.madvise_purgeable(vm, 0, PAGE, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED)
    assert caught.value.errno == errno.EIO
    assert [record.levelname for record in caplog.records] == ["ERROR"]
