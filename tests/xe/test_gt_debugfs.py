"""What debugfs tells of a GT, keeps awake, and counts."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import Any

import pytest

from tests.xe.gate import error_of
from tests.xe.gpu_work import ADDR, FAULT, FENCE, Board, wait_for
from tests.xe.mirrors import Pages
from uapi import xe_drm
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map, op_map_userptr, op_unmap
from xedev.client.transport import IoctlError
from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import Attribute, kstrtobool
from xedev.node.local import LocalTransport
from xedev.node.tree import DEBUG_DIR, Tree
from xedev.xe.xe_device import XeDevice

ELSEWHERE = ADDR + (1 << 30)
PAGE = 4096


def open_file(xe: XeDevice, name: str, flags: int = os.O_RDWR) -> Any:
    return Tree([xe]).open(f"/{DEBUG_DIR}/{name}", flags, LocalTransport(xe).caller())


def read(xe: XeDevice, name: str) -> str:
    text: bytes = open_file(xe, name).read(1 << 20, 0, False, LocalTransport(xe).caller())
    return text.decode()


def write(xe: XeDevice, name: str, text: bytes) -> None:
    open_file(xe, name).write(text, 0, False, LocalTransport(xe).caller())


def sysfs(xe: XeDevice, name: str) -> str:
    shown = {entry.name: entry for entry in xe.sysfs() if isinstance(entry, Attribute)}[name].show
    assert shown is not None
    return str(shown()).strip()


def stat(xe: XeDevice, name: str, gt: int = 0) -> int:
    lines = (line.split(": ") for line in read(xe, f"gt{gt}/stats").splitlines())
    return int(dict(lines)[name])


# ---- sleep -----------------------------------------------------------------------------------


def test_no_gt_sleeps_while_forcewake_is_open(xe: XeDevice) -> None:
    states = [f"tile0/gt{gt}/gtidle/idle_status" for gt in (0, 1)]
    assert {sysfs(xe, name) for name in states} == {"gt-c6"}
    one, other = open_file(xe, "forcewake_all"), open_file(xe, "forcewake_all")
    assert {sysfs(xe, name) for name in states} == {"gt-c0"}
    one.release()
    assert {sysfs(xe, name) for name in states} == {"gt-c0"}
    other.release()
    assert {sysfs(xe, name) for name in states} == {"gt-c6"}


def test_the_time_awake_is_no_residency(xe: XeDevice) -> None:
    gt = xe.gts[0]
    file = open_file(xe, "forcewake_all")
    before = gt.idle.residency_ms()
    time.sleep(0.005)
    assert gt.idle.residency_ms() == before
    file.release()


def test_power_gates(xe: XeDevice) -> None:
    asleep = read(xe, "gt0/powergate_info")
    assert asleep == "Render Power Gating Enabled: yes\nRender Power Gate Status: down\n"
    file = open_file(xe, "forcewake_all")
    assert read(xe, "gt1/powergate_info").splitlines() == [
        "Media Power Gating Enabled: yes",
        "Media Slice0 Power Gate Status: up",
        "Media Slice1 Power Gate Status: up",
    ]
    file.release()


# ---- counters --------------------------------------------------------------------------------


@pytest.mark.parametrize("has_run", [False, True])
def test_what_a_bind_takes_away_is_invalidated(xe: XeDevice, local: Device, has_run: bool) -> None:
    board = Board(local)
    if has_run:
        assert board.run(board.queue(), board.storing(7)) == 1
    before = stat(xe, "tlb_inval_count"), stat(xe, "tlb_inval_count", gt=1)
    local.vm_bind(board.vm, [op_map(board.bo, 0, ELSEWHERE, PAGE)])
    assert (stat(xe, "tlb_inval_count"), stat(xe, "tlb_inval_count", gt=1)) == before
    local.vm_bind(board.vm, [op_unmap(ELSEWHERE, PAGE)])
    after = stat(xe, "tlb_inval_count"), stat(xe, "tlb_inval_count", gt=1)
    assert after == (before[0] + 1, before[1] + 1)


def test_faults_are_counted_unless_they_ask_for_what_cannot_be(
    xe: XeDevice, local: Device, pages: Pages
) -> None:
    """Atomics on a discrete card, of the memory of a process."""
    board = Board(local, FAULT)
    local.vm_bind(board.vm, [op_map_userptr(pages.address, ELSEWHERE, pages.size)])

    def counted() -> tuple[int, int]:
        return stat(xe, "vma_pagefault_count"), stat(xe, "vma_pagefault_kb")

    def run(batch: BatchBuilder) -> str:
        queue, fence = board.queue(), board.fence_address
        board.write(0, FENCE)
        board.exec_lr(queue, board.batch(batch.end()))
        return error_of(lambda: local.wait_user_fence(fence, 1, exec_queue_id=queue))

    assert run(BatchBuilder().atomic_inc(ELSEWHERE)) == "EIO"
    assert counted() == (0, 0)
    assert run(BatchBuilder().copy_dword(ADDR, ELSEWHERE)) == ""
    assert counted() == (1, pages.size // 1024)


def test_counters_can_be_cleared(xe: XeDevice, local: Device) -> None:
    local.vm_destroy(local.vm_create())
    assert stat(xe, "tlb_inval_count")
    write(xe, "gt0/stats", b"0")
    assert stat(xe, "tlb_inval_count")
    write(xe, "gt0/stats", b"1")
    assert not stat(xe, "tlb_inval_count")
    assert stat(xe, "tlb_inval_count", gt=1)


def test_all_counters_have_names(xe: XeDevice) -> None:
    names = [line.partition(":")[0] for line in read(xe, "gt0/stats").splitlines()]
    assert names[:2] == ["svm_pagefault_count", "tlb_inval_count"]
    assert names[-1] == "prl_aborted_count"
    assert len(set(names)) == len(names) == 54
    assert {"svm_2M_migrate_count", "svm_64K_bind_us", "svm_cpu_copy_kb"} <= set(names)


# ---- tables ----------------------------------------------------------------------------------


def test_registers_hold_what_was_written_to_them(xe: XeDevice) -> None:
    hardware, software = read(xe, "gt0/pat"), read(xe, "gt0/pat_sw_config")
    assert software.startswith(hardware)
    assert software[len(hardware) :].startswith("Cache Level:\nIDX[XE_CACHE_NONE] = 3\n")
    assert "PTA_MODE= [ 0, 0, 0, 0, 3, 0 ]  (     0xc)\n" in hardware
    assert "PAT_ATS = [ 0, 0, 0, 0, 3, 3 ]  (     0xf)\n" in hardware
    assert "PAT[13] = [ 0, 0, 0, 0, 0, 0 ]  (       0)\n" in hardware


@pytest.mark.parametrize(
    ("xe_options", "line"),
    [
        ({"profile": "bmg"}, "GLOB_MOCS[ 3] = [1, 0, 3]  (   0x13c)"),
        ({"profile": "dg2"}, "LNCFCMOCS[ 1] = [1, 1, 1] (0xd00090)"),
    ],
)
def test_mocs(xe: XeDevice, line: str) -> None:
    assert line in read(xe, "gt0/mocs").splitlines()


# ---- wedged mode -----------------------------------------------------------------------------


def test_the_wedged_mode_is_one_of_three(xe: XeDevice) -> None:
    assert read(xe, "wedged_mode") == "1\n"
    for mode in (b"0\n", b"2", b"1\0"):
        write(xe, "wedged_mode", mode)
        assert read(xe, "wedged_mode")[0] == chr(mode[0])
    for text in (b"3", b"x", b""):
        with pytest.raises(KernelError) as raised:
            write(xe, "wedged_mode", text)
        assert raised.value.errno == errno.EINVAL


@pytest.mark.parametrize("mode", [1, 2])
def test_a_hang_wedges_the_device_if_that_is_its_mode(
    xe: XeDevice, local: Device, mode: int
) -> None:
    write(xe, "wedged_mode", b"%d" % mode)
    board = Board(local)
    fence = board.exec(board.queue(), ELSEWHERE)
    with contextlib.suppress(IoctlError):  # it may be wedged before it looks
        wait_for(local, fence)
    assert xe.wedged is (mode == 2)


# ---- yes and no ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "y", "Yes", "on", "oN", "T", "enable"])
def test_yes(text: str) -> None:
    assert kstrtobool(text)


@pytest.mark.parametrize("text", ["0", "n", "No", "off", "oF", "f", "D"])
def test_no(text: str) -> None:
    assert not kstrtobool(text)


@pytest.mark.parametrize("text", ["", "o", "2", " 1"])
def test_neither(text: str) -> None:
    with pytest.raises(KernelError) as raised:
        kstrtobool(text)
    assert raised.value.errno == errno.EINVAL


# ---- registers -------------------------------------------------------------------------------


def test_the_first_window_shows_registers(xe: XeDevice) -> None:
    path = f"/sys/{xe.pci.directory}/resource0"
    tree, caller = Tree([xe]), LocalTransport(xe).caller()
    file = tree.open(path, os.O_RDWR, caller)
    assert tree.getattr(path).size == file.size == 16 << 20
    assert file.is_mappable
    graphics = file.read(4, 0xD8C, False, caller)
    assert int.from_bytes(graphics, "little") == 20 << 22 | 1 << 14
    assert file.read(PAGE, 0x190000, False, caller) == bytes(PAGE)
    assert xe.platform.gts[1].type == xe_drm.DRM_XE_QUERY_GT_TYPE_MEDIA
    media = file.read(PAGE, 0x380000, False, caller)[0xD8C:0xD90]
    assert int.from_bytes(media, "little") == 13 << 22 | 1 << 14
