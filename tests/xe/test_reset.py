"""What ends work that goes on: a reset of the engines, the time limit of a job, a stuck device."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, signals, waits_for
from tests.xe.gpu_work import ADDR, BCS, LR, PATIENCE, Board, status_of, wait_for
from xedev.client import BatchBuilder, Compare, Device
from xedev.client.batch import gpr
from xedev.drm.drm_device import DebugfsFile
from xedev.kernel.errors import KernelError
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice

END = ADDR + 0x100
STARTED = ADDR + 0x104


def spin(board: Board, queue: int) -> int:
    """A job that has begun, and ends when somebody stores 0 to `END`."""
    board.write(1, END)
    batch = BatchBuilder().store_dword(STARTED, 1)
    batch.semaphore_wait(END, 0, Compare.EQ)
    fence = board.exec(queue, board.batch(batch.end()))
    wait_started(board)
    return fence


def wait_started(board: Board) -> None:
    deadline = time.monotonic() + PATIENCE
    while not board.read(STARTED):
        assert time.monotonic() < deadline


def is_banned(device: Device, queue: int) -> bool:
    return bool(device.exec_queue_get_property(queue))


def read(file: DebugfsFile) -> str:
    assert file.read is not None
    return file.read()


def write(file: DebugfsFile, text: str) -> str:
    assert file.write is not None
    caller: Any = None  # a control file does not ask who writes it
    return file.write(text, caller)


def refusal(file: DebugfsFile, text: str) -> int | None:
    """The errno of a write; None when it was taken."""
    # Not by pytest.raises, whose object would keep the test's mapping beyond its end.
    try:
        write(file, text)
    except KernelError as error:
        return error.errno
    return None


# ---- reset -----------------------------------------------------------------------------------


def test_each_gt_has_the_files(xe: XeDevice) -> None:
    for gt in (0, 1):
        for name in ("force_reset", "force_reset_sync"):
            assert xe.debugfs[f"gt{gt}/{name}"].mode == 0o600


@pytest.mark.parametrize("name", ["gt0/force_reset", "gt0/force_reset_sync"])
def test_a_reset_ends_what_runs(xe: XeDevice, local: Device, name: str) -> None:
    board = Board(local)
    queue = board.queue()
    fence = spin(board, queue)
    behind = board.exec(queue, board.storing(7))
    assert read(xe.debugfs[name]) == ""
    wait_for(local, fence, behind)
    assert (status_of(local, fence), status_of(local, behind)) == (-errno.ETIME, -errno.ECANCELED)
    assert is_banned(local, queue)
    assert board.read() == 0
    assert error_of(lambda: board.exec(queue, board.storing(7))) == "ECANCELED"


def test_behind_a_synchronous_reset_all_is_known(xe: XeDevice, local: Device) -> None:
    board = Board(local)
    queue = board.queue()
    fence = spin(board, queue)
    read(xe.debugfs["gt0/force_reset_sync"])
    assert is_banned(local, queue)
    assert status_of(local, fence) == -errno.ETIME


def test_work_that_has_not_begun_survives_a_reset(
    xe: XeDevice, local: Device, local_gate: Gate
) -> None:
    board = Board(local)
    spinning, waiting = board.queue(), board.queue([BCS])
    fence = spin(board, spinning)
    later = board.exec(waiting, board.storing(7), waits_for(local_gate.syncobj()))
    read(xe.debugfs["gt0/force_reset_sync"])
    wait_for(local, fence)
    local_gate.open()
    wait_for(local, later)
    assert status_of(local, later) == 1
    assert board.read() == 7
    assert not is_banned(local, waiting)


def test_a_new_queue_works_after_a_reset(xe: XeDevice, local: Device) -> None:
    board = Board(local)
    spin(board, board.queue())
    read(xe.debugfs["gt0/force_reset"])
    assert board.run(board.queue(), board.storing(9)) == 1
    assert board.read() == 9


def test_a_reset_of_nothing(xe: XeDevice, local: Device) -> None:
    read(xe.debugfs["gt1/force_reset_sync"])
    board = Board(local)
    queue = board.queue()
    assert board.run(queue, board.storing(1)) == 1
    read(xe.debugfs["gt0/force_reset_sync"])
    assert not is_banned(local, queue)
    assert board.run(queue, board.storing(2)) == 1


@pytest.mark.parametrize("text", ["1", "y\n", "On", "true"])
def test_a_reset_by_writing(xe: XeDevice, local: Device, text: str) -> None:
    board = Board(local)
    queue = board.queue()
    spin(board, queue)
    assert write(xe.debugfs["gt0/force_reset_sync"], text) == ""
    assert is_banned(local, queue)


@pytest.mark.parametrize(
    ("text", "error"), [("", errno.EINVAL), ("2", errno.EINVAL), ("0", None), ("n", None)]
)
def test_no_reset_by_writing_anything_else(
    xe: XeDevice, local: Device, text: str, error: int | None
) -> None:
    board = Board(local)
    queue = board.queue()
    fence = spin(board, queue)
    assert refusal(xe.debugfs["gt0/force_reset_sync"], text) == error
    board.write(0, END)
    wait_for(local, fence)
    assert status_of(local, fence) == 1


WAYS = ("in-process", pytest.param("ioctl", marks=pytest.mark.fuse))


@pytest.mark.parametrize("way", WAYS)
def test_a_reset_through_the_file(xe_target: Callable[..., Target[Any]], way: str) -> None:
    target = xe_target(way)
    device = target.device()
    board = Board(device)
    queue = board.queue()
    fence = spin(board, queue)
    assert target.debug("gt0/force_reset") == ""
    wait_for(device, fence)
    assert is_banned(device, queue)


# ---- the time limit --------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_job_has_the_time_that_the_option_says(
    xe_target: Callable[..., Target[Any]], way: str
) -> None:
    device = xe_target(way, job_timeout_ms=100).device()
    board = Board(device)
    queue = board.queue()
    fence = spin(board, queue)
    wait_for(device, fence)
    assert status_of(device, fence) == -errno.ETIME
    assert is_banned(device, queue)


JOBS = 6


def order_of_jobs(target: Target[Any]) -> list[int]:
    """When each of some jobs runs, if the GPU hears of all of them at once."""
    device = target.device()
    board = Board(device)
    assert board.run(board.queue(), board.storing(0, END)) == 1
    gpu = target.state()["devices"][0]["gpu_pid"]
    os.kill(gpu, signal.SIGSTOP)
    try:
        jobs = [board.exec(board.queue(), _count_to(board, number)) for number in range(JOBS)]
    finally:
        os.kill(gpu, signal.SIGCONT)
    wait_for(device, *jobs)
    return [board.read(ADDR + 4 * number) for number in range(JOBS)]


def _count_to(board: Board, number: int) -> int:
    """A batch that counts at `END`, and stores how far that is in its own place."""
    batch = BatchBuilder().atomic_inc(END).load_register_mem(gpr(0), END)
    return board.batch(batch.store_register_mem(gpr(0), ADDR + 4 * number).end())


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_runs_jobs_in_the_same_order(
    xe_target: Callable[..., Target[Any]], way: str
) -> None:
    def order(seed: int) -> list[int]:
        return order_of_jobs(xe_target(way, deterministic=seed, fresh=True))

    first = order(1)
    assert sorted(first) == list(range(1, JOBS + 1))
    assert order(1) == first
    assert any(order(seed) != first for seed in (2, 3, 4))


# ---- a stuck device --------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, LR])
def test_a_wedged_device_ends_all_work(xe: XeDevice, local: Device, flags: int) -> None:
    board = Board(local, flags)
    queue = board.queue()
    board.write(1, END)
    batch = BatchBuilder().store_dword(STARTED, 1).semaphore_wait(END, 0, Compare.EQ).end()
    syncs = [] if flags else [signals(local.syncobj_create())]
    local.exec(queue, board.batch(batch), syncs)
    wait_started(board)
    assert write(xe.debugfs["wedge"], "1") == "1\n"
    (shown,) = queues_of(xe)
    assert (shown["banned"], shown["jobs"]) == (True, 0)
    assert json.loads(read(xe.debugfs["state"]))["devices"][0]["gpu_pid"] == 0
    assert error_of(lambda: local.exec(queue, 0)) == "ECANCELED"


def queues_of(xe: XeDevice) -> list[dict[str, Any]]:
    queues: list[dict[str, Any]] = json.loads(read(xe.debugfs["state"]))["exec_queues"]
    return queues
