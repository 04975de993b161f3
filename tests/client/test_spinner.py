"""The spinner as IGT lays it out, without a GPU to run it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import threading
from typing import Any

import pytest

from xedev.client import Device, Transport
from xedev.client.spinner import (
    SpinCopy,
    Spinner,
    SpinOpts,
    XeSpin,
    spin_batch,
    xe_spin_init,
    xe_spin_nsec_to_ticks,
)

ADDR = 0x1_0010_0000
HI = 1
SIZE = ctypes.sizeof(XeSpin)

STORE_START = [0x10000002, 0x00100208, HI, 0x00C0FFEE]
END_OR_GO_ON = [0x1B200002, 0, 0x0010020C, HI]
MI_ARB_CHECK = 0x02800000


def jump(offset: int) -> list[int]:
    return [0x18800101, 0x00100000 + offset, HI]


def words(**opts: Any) -> list[int]:
    return list(spin_batch(SpinOpts(ADDR, **opts)).dwords)


def test_where_things_are() -> None:
    names = ("batch", "pad", "start", "end", "wait_cond", "ticks_delta", "exec_sync", "timestamp")
    offsets = [getattr(XeSpin, name).offset for name in names]
    assert offsets == [0, 512, 520, 524, 528, 532, 536, 544]


def test_the_plain_one() -> None:
    assert words() == [*STORE_START, *END_OR_GO_ON, *jump(16)]


def test_preemption() -> None:
    assert words(preempt=True) == [*STORE_START, MI_ARB_CHECK, *END_OR_GO_ON, *jump(16)]


def test_timestamps() -> None:
    assert words(write_timestamp=True) == [
        *STORE_START,
        *(0x150C0001, 0x3A8, 0x608),
        *(0x12080002, 0x608, 0x00100220, HI),
        *END_OR_GO_ON,
        *jump(16),
    ]


def test_a_limited_time() -> None:
    assert words(ctx_ticks=0x1234) == [
        *(0x11080001, 0x604, 0),
        *(0x150C0001, 0x3A8, 0x600),
        *STORE_START,
        *(0x11080001, 0x60C, 0),
        *(0x150C0001, 0x3A8, 0x608),
        *(0x0D000003, 0x08008001, 0x08008400, 0x10100000, 0x58000431),
        *(0x12080002, 0x608, 0x00100214, HI),
        *[0x10000002, 0x00100200, HI, 0x00C0FFEE] * 8,
        *(0x1B200002, 0xFFFFEDCB, 0x00100214, HI),
        *END_OR_GO_ON,
        *jump(40),
    ]


def test_copies_and_semaphores() -> None:
    copy = SpinCopy(target=0x3000, source=0x2000, length=16)
    assert words(mem_copy=copy, wait_cond=True) == [
        *STORE_START,
        *(0x56800008, 15, 0, 0, 0, 0x2000, 0, 0x3000, 0, 0),
        *(0x0E00C003, 0, 0x00100210, HI, 0),
        *END_OR_GO_ON,
        *jump(16),
    ]


def test_everything_at_once_has_room() -> None:
    copy = SpinCopy(0x3000, 0x2000, 16)
    batch = words(preempt=True, ctx_ticks=1, write_timestamp=True, wait_cond=True, mem_copy=copy)
    assert len(batch) <= 128
    with pytest.raises(ValueError, match="too many"):
        words(ctx_ticks=1, mem_copy=SpinCopy(0, 1 << 30, 8 * (1 << 18) - 1))


# --- in memory -----------------------------------------------------------------------------


def test_laid_out_and_ended() -> None:
    memory = bytearray(b"\xaa" * (SIZE + 64))
    spinner = xe_spin_init(memory, SpinOpts(ADDR, wait_cond=True), offset=32)
    assert memory[:32] == memory[32 + SIZE :] == b"\xaa" * 32
    image = XeSpin.from_buffer_copy(memory, 32)
    batch = spin_batch(spinner.opts).dwords
    assert tuple(image.batch) == batch + (0,) * (128 - len(batch))
    assert (image.pad, image.start, image.end, image.wait_cond) == (0, 0, 0xFFFFFFFF, 1)
    assert (image.ticks_delta, image.exec_sync, image.timestamp) == (0, 0, 0)
    assert spinner.address == ADDR

    spinner.go_on()
    spinner.end()
    image = XeSpin.from_buffer_copy(memory, 32)
    assert (image.end, image.wait_cond) == (0, 0)
    spinner.reset()
    assert XeSpin.from_buffer_copy(memory, 32).end == 0xFFFFFFFF


def run(memory: bytearray | mmap.mmap, **fields: int) -> None:
    """Store as the GPU would."""
    image = XeSpin.from_buffer_copy(memory)
    for name, value in fields.items():
        setattr(image, name, value)
    memory[:SIZE] = bytes(image)


def test_what_the_gpu_stored() -> None:
    memory = mmap.mmap(-1, 4096)
    spinner = Spinner(memory, SpinOpts(ADDR, ctx_ticks=100))
    before = spinner.started
    run(memory, start=0xC0FFEE, ticks_delta=~101 & 0xFFFFFFFF, timestamp=77)
    assert (before, spinner.started) == (False, True)
    assert (spinner.ticks, spinner.timestamp) == (101, 77)


def test_wait_for_the_start() -> None:
    memory = bytearray(SIZE)
    spinner = Spinner(memory, SpinOpts(ADDR))
    with pytest.raises(OSError, match="spinner") as caught:
        spinner.wait_started(0)
    assert caught.value.errno == errno.ETIME
    gpu = threading.Timer(0.01, run, [memory], {"start": 0xC0FFEE})
    gpu.start()
    spinner.wait_started()
    gpu.join()
    assert spinner.started


def test_ticks_are_rounded_up(transport: Transport) -> None:
    device = Device(transport)
    clock = device.query_gt_list()[0].reference_clock
    assert xe_spin_nsec_to_ticks(device, 0, 1_000_000_000) == clock
    assert xe_spin_nsec_to_ticks(device, 0, 1) == 1
    with pytest.raises(ValueError, match="ticks"):
        xe_spin_nsec_to_ticks(device, 0, 1000 * 1_000_000_000)
