"""User memory that changes while jobs use it: what the preload library tells of munmap(2)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from tests.xe.gpu_work import ADDR, FAULT, LR, PAGE, Board, wait_for
from tests.xe.mirrors import Pages
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map_userptr, op_unmap
from xedev.testing.target import Target
from xedev.xe import xe_userptr

AT = 0x4000_0000
SOON = 0.2
"""Seconds in which a call that does not wait is over."""


@pytest.fixture
def local(xe_target: Callable[..., Target[Any]]) -> Device:
    """A device in this process, whose patience a test may set."""
    device: Device = xe_target("in-process").device()
    return device


def bound(device: Device, pages: Pages, flags: int = 0) -> Board:
    """A VM with the pages in it."""
    board = Board(device, flags)
    device.vm_bind(board.vm, [op_map_userptr(pages.address, AT, pages.size)])
    return board


def started(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def test_a_change_waits_for_the_jobs_that_use_the_memory(
    device: Device, gate: Gate, pages: Pages
) -> None:
    board = bound(device, pages)
    out = device.syncobj_create()
    syncs = [waits_for(gate.syncobj()), signals(out)]
    device.exec(board.queue(), board.storing(42, AT), syncs)
    was_done = []

    def change() -> None:
        cookie = device.mmu_notify(pages.address, pages.size)
        was_done.append(is_signalled(device, out))
        device.mmu_notify(0, 0, cookie)

    thread = started(change)
    thread.join(SOON)
    assert not was_done
    gate.open()
    thread.join()
    assert was_done == [True]
    assert pages.read() == 42


def test_a_batch_in_memory_that_is_replaced_runs_before(
    device: Device, gate: Gate, pages: Pages
) -> None:
    board = bound(device, pages)
    batch = bytes(BatchBuilder().store_dword(ADDR, 42).end())
    for offset in range(0, len(batch), 4):
        pages.write(int.from_bytes(batch[offset : offset + 4], "little"), offset)
    out = device.syncobj_create()
    device.exec(board.queue(), AT, [waits_for(gate.syncobj()), signals(out)])

    def change() -> None:
        cookie = device.mmu_notify(pages.address, pages.size)
        pages.map_again()
        device.mmu_notify(0, 0, cookie)

    thread = started(change)
    thread.join(SOON)
    gate.open()
    thread.join()
    wait_for(device, out)
    assert (board.read(), pages.read()) == (42, 0)


def test_no_job_begins_during_a_change(
    local: Device, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xe_userptr, "CHANGE_TIME", 60.0)
    board = bound(local, pages)
    queue, batch = board.queue(), board.storing(42, AT)
    cookie = local.mmu_notify(pages.address, PAGE)
    results = []
    thread = started(lambda: results.append(board.run(queue, batch)))
    thread.join(SOON)
    assert not results
    pages.map_again()
    local.mmu_notify(0, 0, cookie)
    thread.join()
    assert results == [1]
    assert pages.read() == 42


def test_a_change_whose_end_nobody_tells(
    local: Device, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xe_userptr, "CHANGE_TIME", 0.01)
    board = bound(local, pages)
    assert local.mmu_notify(pages.address, PAGE)
    assert board.run(board.queue(), board.storing(42, AT)) == 1


def test_others_need_not_tell(device: Device, pages: Pages) -> None:
    others = Pages(PAGE)
    assert device.mmu_notify(pages.address, pages.size) == 0
    board = bound(device, pages)
    assert device.mmu_notify(others.address, others.size) == 0
    assert device.mmu_notify(pages.address + pages.size, PAGE) == 0
    cookie = device.mmu_notify(pages.address + pages.size - PAGE, 2 * PAGE)
    assert cookie
    device.mmu_notify(0, 0, cookie)
    device.vm_bind(board.vm, [op_unmap(AT, pages.size)])
    assert device.mmu_notify(pages.address, pages.size) == 0
    others.close()


@pytest.mark.parametrize("flags", [LR, FAULT])
def test_work_that_may_run_for_ever_is_not_waited_for(
    device: Device, pages: Pages, flags: int
) -> None:
    bound(device, pages, flags)
    assert device.mmu_notify(pages.address, pages.size) == 0


def test_refused(device: Device) -> None:
    assert error_of(lambda: device.mmu_notify(1 << 63, PAGE)) == "EFAULT"
    device.mmu_notify(0, 0, 12345)  # a cookie that is none
