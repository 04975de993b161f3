"""What sysfs tells of the first job that failed."""

from __future__ import annotations

import base64
import errno
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from tests.xe.gpu_work import ADDR, Board, status_of, wait_for
from uapi import xe_drm
from xedev.client import BatchBuilder, Device
from xedev.client.memory import op_map
from xedev.kernel.errors import KernelError
from xedev.node.local import LocalTransport
from xedev.node.tree import Tree
from xedev.xe import xe_devcoredump
from xedev.xe.xe_device import XeDevice

DUMPABLE = xe_drm.DRM_XE_VM_BIND_FLAG_DUMPABLE
DUMPED = ADDR + (1 << 30)
PAGE = 4096
MIB = 1 << 20
HANG = 0xFFFF_FFFF
"""No command."""

Read = Callable[[], str]


@pytest.fixture
def xe_options() -> dict[str, Any]:
    return {"job_timeout_ms": 100}


@pytest.fixture
def path(xe: XeDevice) -> str:
    return f"/sys/{xe.pci.directory}/devcoredump/data"


def open_file(xe: XeDevice, path: str) -> Any:
    return Tree([xe]).open(path, os.O_RDWR, LocalTransport(xe).caller())


def read(xe: XeDevice, path: str) -> str:
    caller = LocalTransport(xe).caller()
    data: bytes = open_file(xe, path).read(1 << 22, 0, False, caller)
    return data.decode()


def section(text: str, title: str) -> list[str]:
    _, _, rest = text.partition(f"**** {title} ****\n")
    return rest.partition("\n\n")[0].splitlines()


def hang(board: Board, queue: int) -> int:
    """Run what is no command; its GPU address."""
    address = board.batch(BatchBuilder().dword(HANG))
    fence = board.exec(queue, address)
    wait_for(board.device, fence)
    assert status_of(board.device, fence) == -errno.EIO
    return address


def test_there_is_none_before_something_fails(xe: XeDevice, local: Device, path: str) -> None:
    tree = Tree([xe])
    board = Board(local)
    assert board.run(board.queue(), board.storing(7)) == 1
    with pytest.raises(KernelError) as raised:
        tree.open(path, os.O_RDONLY, LocalTransport(xe).caller())
    assert raised.value.errno == errno.ENOENT
    assert "devcoredump" not in tree.readdir(f"/sys/{xe.pci.directory}")


def test_it_tells_where_the_job_was(xe: XeDevice, local: Device, path: str) -> None:
    board = Board(local)
    address = hang(board, board.queue())
    text = read(xe, path)
    assert text.startswith("**** Xe Device Coredump ****\nReason: Timedout job - seqno=1, ")
    assert section(text, "Job") == [f"batch_addr[0]: {address:#018x}"]
    engine = section(text, "HW Engines")
    assert engine[:2] == ["rcs0 (physical), logical instance=0", "\tCapture_source: GuC"]
    assert engine[-2:] == [f"\tACTHD: {address:#018x}", f"\tRING_BBADDR: {address:#018x}"]
    assert "devcoredump" in Tree([xe]).readdir(f"/sys/{xe.pci.directory}")


def test_it_holds_memory_that_was_bound_to_be_dumped(
    xe: XeDevice, local: Device, path: str
) -> None:
    board = Board(local)
    bo = local.gem_create(PAGE, 1)
    local.vm_bind(board.vm, [op_map(bo, 0, DUMPED, PAGE, flags=DUMPABLE)])
    assert board.run(board.queue(), board.storing(0x12345678, DUMPED)) == 1
    hang(board, board.queue())
    length, data = section(read(xe, path), "VM state")
    assert length == f"[{DUMPED:x}].length: 0x1000"
    assert data.startswith(f"[{DUMPED:x}].data: ")
    words = base64.a85decode(data.partition(": ")[2])
    assert words == (0x12345678).to_bytes(4, "big") + bytes(PAGE - 4)


def test_it_holds_no_more_memory_than_a_dump_may_have(
    xe: XeDevice, local: Device, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the daemon take more for a while."""
    monkeypatch.setattr(xe_devcoredump, "CONTENTS_MAX", 2 * MIB)
    board = Board(local)
    bo = local.gem_create(MIB, 1)
    places = range(DUMPED, DUMPED + 64 * MIB, MIB)
    local.vm_bind(board.vm, [op_map(bo, 0, place, MIB, flags=DUMPABLE) for place in places])
    assert board.run(board.queue(), board.storing(1, DUMPED)) == 1
    tracemalloc.start()
    try:
        hang(board, board.queue())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 * MIB
    lines = section(read(xe, path), "VM state")
    assert [line.partition("]")[2][:6] for line in lines[1::2]] == [".data:"] * 2 + [".error"] * 62
    assert lines[5] == f"[{places[2]:x}].error: -12"


def test_a_job_that_takes_too_long(xe: XeDevice, local: Device, path: str) -> None:
    board = Board(local)
    spinner = board.spinner()
    fence = board.exec(board.queue(), spinner.address)
    wait_for(local, fence)
    text = read(xe, path)
    where = int(section(text, "HW Engines")[-1].rpartition(" ")[2], 16)
    assert spinner.address <= where < spinner.address + 64


def test_only_the_first_failure_is_kept_until_it_is_written_to(
    xe: XeDevice, local: Device, path: str
) -> None:
    board = Board(local)
    first = hang(board, board.queue())
    second = hang(board, board.queue())
    assert f"batch_addr[0]: {first:#018x}" in read(xe, path)
    open_file(xe, path).write(b"0", 0, False, LocalTransport(xe).caller())
    with pytest.raises(KernelError):
        open_file(xe, path)
    third = hang(board, board.queue())
    assert len({first, second, third}) == 3
    assert f"batch_addr[0]: {third:#018x}" in read(xe, path)
