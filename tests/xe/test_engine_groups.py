"""Jobs that take page faults give way to those whose fences have to come, in a group of engines."""

from __future__ import annotations

import pytest

from tests.xe.gate import error_of, is_signalled
from tests.xe.gpu_work import BCS, FAULT, LR, RCS, Board, Eci, wait_for
from uapi import xe_drm
from xedev.client import Device

CCS = Eci(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_COMPUTE)


@pytest.mark.parametrize(
    ("faulting", "engine", "waits"),
    [(FAULT, RCS, True), (FAULT, CCS, True), (FAULT, BCS, False), (LR, RCS, False)],
)
def test_who_waits_for_a_job_with_a_fence(
    local: Device, faulting: int, engine: Eci, waits: bool
) -> None:
    """A spinner whose fence has to come, on rcs; beside it a store of a long-running VM."""
    board, other = Board(local), Board(local, faulting)
    spinner = board.spinner()
    out = board.exec(board.queue(), spinner.address)
    spinner.wait_started(10)
    queue = other.queue([engine])
    other.exec_lr(queue, other.storing(7))
    patience = 50_000_000 if waits else 10**10  # nanoseconds
    error = error_of(lambda: local.wait_user_fence(other.fence_address, 1, timeout=patience))
    assert error == ("ETIME" if waits else "")
    assert not is_signalled(local, out)
    spinner.end()
    wait_for(local, out)
    local.wait_user_fence(other.fence_address, 1, timeout=10**10)
    assert other.read() == 7


def test_a_faulting_spinner_goes_on_after_the_others(local: Device) -> None:
    """It is taken off its engine, and put back when the job is done."""
    board, other = Board(local), Board(local, FAULT)
    spinner = other.spinner()
    other.exec_lr(other.queue(), spinner.address)
    spinner.wait_started(10)
    assert board.run(board.queue(), board.storing(5)) == 1
    assert board.read() == 5
    spinner.end()
    local.wait_user_fence(other.fence_address, 1, timeout=10**10)


def test_a_long_running_spinner_holds_nobody_up(local: Device) -> None:
    """Nobody waits for the fence of its job, so it runs beside those that take faults."""
    board, other = Board(local, LR), Board(local, FAULT)
    spinner = board.spinner()
    board.exec_lr(board.queue(), spinner.address)
    spinner.wait_started(10)
    other.exec_lr(other.queue([CCS]), other.storing(7))
    local.wait_user_fence(other.fence_address, 1, timeout=10**10)
    assert other.read() == 7
    spinner.end()
    local.wait_user_fence(board.fence_address, 1, timeout=10**10)
