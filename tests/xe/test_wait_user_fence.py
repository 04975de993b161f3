"""WAIT_USER_FENCE: what it compares, how long it waits, who wakes it."""

from __future__ import annotations

import ctypes
import operator
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.errno.user_pages import UserPages
from tests.hostile.children import Child, eventually
from tests.kernel.fakes import FakeCaller
from tests.xe.gate import Gate, error_of, waits_for
from uapi import xe_drm
from xedev.client import Device, UserFence, xe_ioctl
from xedev.client.memory import op_map_null
from xedev.client.transport import IN, OUT, Buffer
from xedev.drm.drm_file import DrmFile
from xedev.kernel.deferred import Deferred
from xedev.kernel.user_memory import UserMemory
from xedev.node.local import LocalTransport
from xedev.testing.mounts import wait_until_empty
from xedev.testing.target import Target
from xedev.xe.xe_device import XeDevice
from xedev.xe.xe_wait_user_fence import xe_wait_user_fence_ioctl

WAIT = xe_drm.DRM_IOCTL_XE_WAIT_USER_FENCE
ABSTIME = xe_drm.DRM_XE_UFENCE_WAIT_FLAG_ABSTIME
EQ, NEQ, GT, GTE, LT, LTE = range(6)
OPS = (operator.eq, operator.ne, operator.gt, operator.ge, operator.lt, operator.le)
U64 = (1 << 64) - 1
LONG_MAX = (1 << 63) - 1
SECOND = 10**9  # nanoseconds
PAGE = 4096
ADDR = 0x1A0000
UNKNOWN = 0x7FFF_FFFF


class Cell:
    """Eight bytes to wait for."""

    def __init__(self, value: int = 0) -> None:
        self.word = ctypes.c_uint64(value)
        self.address = ctypes.addressof(self.word)

    def ask(self, device: Device, **fields: Any) -> tuple[str, int]:
        """WAIT_USER_FENCE: the errno, and the timeout that came back."""
        arg = xe_drm.drm_xe_wait_user_fence(addr=self.address, mask=U64, op=EQ)
        for name, value in fields.items():
            setattr(arg, name, value)
        buffers = [Buffer(self.word, IN)]
        return error_of(lambda: device.ioctl(WAIT, arg, buffers)), arg.timeout


# ---- arguments ----

MALFORMED = [
    {"extensions": 1},
    {"pad": 1},
    {"pad2": 1},
    {"reserved": (1, 0)},
    {"reserved": (0, 1)},
    {"flags": 2},
    {"flags": 0x8001},
    {"op": LTE + 1},
    {"op": 0xFFFF},
    {"addr": 4},
    {"addr": 1},
]


@pytest.mark.parametrize("fields", MALFORMED, ids=str)
def test_a_malformed_argument_is_told_first(device: Device, fields: dict[str, Any]) -> None:
    wrong = {"addr": 8, "exec_queue_id": UNKNOWN, "timeout": -1, **fields}
    assert Cell().ask(device, **wrong) == ("EINVAL", -1)


def test_then_an_unknown_queue_then_memory_that_is_not_there(device: Device) -> None:
    cell = Cell()
    assert cell.ask(device, addr=8, exec_queue_id=UNKNOWN, timeout=-1) == ("ENOENT", -1)
    for timeout in (0, SECOND, -1):
        error, left = cell.ask(device, addr=8, timeout=timeout)
        assert error == "EFAULT"
        assert left <= timeout if timeout >= 0 else LONG_MAX - 60 * SECOND < left < LONG_MAX


@given(
    cell=st.integers(0, U64),
    value=st.integers(0, U64),
    mask=st.integers(0, U64) | st.sampled_from([0, 1, 0xFF, 1 << 63, U64]),
    same=st.booleans(),
    op=st.sampled_from(range(6)),
)
def test_the_masked_values_are_compared_unsigned(
    cell: int, value: int, mask: int, same: bool, op: int
) -> None:
    value = cell ^ ~mask & U64 if same else value
    with Device(LocalTransport(XeDevice())) as device:
        answer, left = Cell(cell).ask(device, op=op, value=value, mask=mask)
    assert (answer == "") == OPS[op](cell & mask, value & mask)
    assert answer in ("", "ETIME")
    assert left == 0


# ---- time ----


@pytest.mark.parametrize("timeout", [1, 999, 5_000_000])
def test_a_relative_timeout_is_used_up(device: Device, timeout: int) -> None:
    assert Cell().ask(device, value=1, timeout=timeout) == ("ETIME", 0)


def test_what_is_left_of_a_relative_timeout_comes_back(device: Device) -> None:
    met = Cell(1)
    error, left = met.ask(device, value=1, timeout=60 * SECOND)
    assert error == ""
    assert 0 < left < 60 * SECOND
    error, left = met.ask(device, value=1, timeout=-1)
    assert error == ""
    assert LONG_MAX - 60 * SECOND < left < LONG_MAX
    assert 0 < xe_ioctl.xe_wait_ufence(device, met.address, 1, 0, SECOND) < SECOND


def test_a_moment_of_the_clock_stays_what_it_was(device: Device) -> None:
    cell, now = Cell(1), time.monotonic_ns()
    for moment in (1, now, now + 5_000_000):
        assert cell.ask(device, value=2, timeout=moment, flags=ABSTIME) == ("ETIME", moment)
    for moment in (0, 1, now, now + 60 * SECOND, LONG_MAX):
        assert cell.ask(device, value=1, timeout=moment, flags=ABSTIME) == ("", moment)
    assert cell.ask(device, value=1, timeout=-5, flags=ABSTIME) == ("", LONG_MAX)
    assert xe_ioctl.xe_wait_ufence_abstime(device, cell.address, 1, 0, now) == now
    assert time.monotonic_ns() >= now + 5_000_000


def test_a_plain_store_is_found_when_the_time_is_up(device: Device) -> None:
    cell = Cell()
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(cell.ask, device, value=1, timeout=SECOND // 5)
        cell.word.value = 1
        assert asked.result(60)[0] == ""


# ---- who wakes it ----


def test_a_bind_wakes_those_who_wait_for_its_fence(device: Device, gate: Gate) -> None:
    vm, first, second = device.vm_create(), UserFence(1), UserFence(5)
    ops = [op_map_null(ADDR, PAGE)]
    device.vm_bind(vm, ops, [waits_for(gate.syncobj(1)), first])
    device.vm_bind(vm, [op_map_null(2 * ADDR, PAGE)], [waits_for(gate.syncobj(2)), second])
    gate.kept += [first, second]
    with ThreadPoolExecutor() as pool:
        early = pool.submit(first.wait, 60, device)
        late = pool.submit(second.wait, 60, device)
        gate.open()
        early.result(60)
        assert not second.signaled
        gate.open()
        late.result(60)
    assert first.signaled and second.signaled


def test_a_value_that_does_not_do_lets_it_sleep_on(device: Device, gate: Gate) -> None:
    vm, cell = device.vm_create(), Cell()
    gate.kept.append(cell)
    for value in (1, 2, 3):
        sync = UserFence(value).sync()
        sync.addr = cell.address
        op = op_map_null(value * ADDR, PAGE)
        syncs = [waits_for(gate.syncobj(value)), sync]
        device.vm_bind(vm, [op], syncs, buffers=[Buffer(cell.word, IN | OUT)])
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(cell.ask, device, op=GT, value=2, timeout=-1)
        for _ in range(2):
            gate.open()
        assert not asked.done()
        gate.open()
        assert asked.result(60)[0] == ""


def test_memory_that_goes_away_ends_the_wait(device: Device, gate: Gate) -> None:
    pages, fence = UserPages(PAGE), UserFence()
    gate.kept.append(fence)
    device.vm_bind(
        device.vm_create(), [op_map_null(ADDR, PAGE)], [waits_for(gate.syncobj()), fence]
    )
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(
            lambda: error_of(lambda: device.wait_user_fence(pages.address, 1, timeout=-1))
        )
        time.sleep(0.05)  # it sleeps by then; if not, the answer is the same
        pages.free()
        gate.open()
        assert asked.result(60) == "EFAULT"


def test_a_queue_that_ends_wakes_those_who_named_it(device: Device) -> None:
    queue = _queue(device)
    cell = Cell()
    assert cell.ask(device, value=0, exec_queue_id=queue) == ("", 0)
    assert cell.ask(device, value=1, exec_queue_id=queue) == ("ETIME", 0)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(cell.ask, device, value=1, exec_queue_id=queue, timeout=-1)
        time.sleep(0.1)  # it sleeps by then
        arg = xe_drm.drm_xe_exec_queue_destroy(exec_queue_id=queue)
        device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_DESTROY, arg)
        assert asked.result(60)[0] == "EIO"


def _queue(device: Device) -> int:
    engine = xe_drm.drm_xe_engine_class_instance(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_COPY)
    buffer = Buffer(engine, IN)
    arg = xe_drm.drm_xe_exec_queue_create(
        width=1, num_placements=1, vm_id=device.vm_create(), instances=buffer.address
    )
    device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_CREATE, arg, [buffer])
    return arg.exec_queue_id


def test_a_hundred_threads_are_woken(device: Device, gate: Gate) -> None:
    vm, fences = device.vm_create(), [UserFence() for _ in range(4)]
    gate.kept += fences
    for number, fence in enumerate(fences, 1):
        op = op_map_null(number * ADDR, PAGE)
        device.vm_bind(vm, [op], [waits_for(gate.syncobj(number)), fence])
    with ThreadPoolExecutor(100) as pool:
        waits: list[Future[None]] = [
            pool.submit(fences[number % 4].wait, 60, device) for number in range(100)
        ]
        for _ in fences:
            gate.open()
        for wait in waits:
            wait.result(60)


class FlickeringMemory(UserMemory):
    """A cell that is 1 at every second look."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self, address: int, length: int) -> bytes:
        self.looks += 1
        return (self.looks + 1 & 1).to_bytes(8, "little")

    def write(self, address: int, data: bytes | memoryview) -> None:
        raise NotImplementedError


class FlickeringCaller(FakeCaller):
    def __init__(self) -> None:
        self.flickering = FlickeringMemory()

    @property
    def memory(self) -> UserMemory:
        return self.flickering


def test_what_a_look_found_is_the_answer() -> None:
    xe = XeDevice()
    transport = LocalTransport(xe)
    args = xe_drm.drm_xe_wait_user_fence(addr=8, mask=U64, op=EQ, value=1, timeout=SECOND)
    assert isinstance(transport.file, DrmFile)
    wait = xe_wait_user_fence_ioctl(xe, args, transport.file, FlickeringCaller())
    assert isinstance(wait, Deferred)
    assert wait.ready()
    assert wait.finish() == 0
    transport.close()


# ---- signals ----


@pytest.fixture
def node(xe_target: Callable[..., Target[Any]]) -> str:
    target = xe_target("ioctl")
    return str(target.node())  # type: ignore[attr-defined]


def _sleeps_in_ioctl(pid: int) -> bool:
    """Whether the process waits in ioctl(2), number 16."""
    return Path(f"/proc/{pid}/syscall").read_text().startswith("16 ")


def _interrupted_wait(node: str, timeout: int) -> tuple[int, int, bool]:
    """errno, what is left of the timeout, and whether the process may wait again."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    libc = ctypes.CDLL(None, use_errno=True)
    cell = Cell()
    fd = os.open(node, os.O_RDWR)
    arg = xe_drm.drm_xe_wait_user_fence(addr=cell.address, mask=U64, value=1, timeout=timeout)
    result = libc.ioctl(fd, ctypes.c_ulong(WAIT), ctypes.byref(arg))
    error = ctypes.get_errno() if result else 0
    cell.word.value = 1
    again = libc.ioctl(fd, ctypes.c_ulong(WAIT), ctypes.byref(arg)) == 0
    return error, arg.timeout, again


@pytest.mark.fuse
@pytest.mark.parametrize("timeout", [60 * SECOND, -1])
def test_a_signal_interrupts_and_the_rest_of_the_time_is_kept(node: str, timeout: int) -> None:
    child = Child(lambda: _interrupted_wait(node, timeout))
    assert eventually(lambda: _sleeps_in_ioctl(child.pid))
    time.sleep(0.05)
    child.kill(signal.SIGUSR1)
    error, left, again = child.result()
    assert os.strerror(error) == os.strerror(4)  # EINTR
    limit = timeout if timeout > 0 else LONG_MAX
    assert limit - 60 * SECOND < left < limit
    assert again


@pytest.mark.fuse
def test_killed_waiters_leave_nothing(mounted_node: Callable[..., str]) -> None:
    directory = mounted_node()
    path = os.path.join(directory, "dev/dri/renderD128")

    def wait() -> None:
        with Device.open(path) as device:
            UserFence().wait(3600, device)

    children = [Child(wait) for _ in range(10)]
    for child in children:
        assert eventually(lambda: _sleeps_in_ioctl(child.pid))  # noqa: B023
    for child in children:
        child.kill()
        assert child.wait() == -signal.SIGKILL
    wait_until_empty(directory)


@pytest.mark.fuse
def test_processes_are_woken_by_their_own_fences(node: str) -> None:
    with Device.open(node) as device:
        gate = Gate(device)
        sync_file = gate.sync_file()

        def bind_and_wait() -> bool:
            with Device.open(node) as mine:
                waited, fence = mine.syncobj_create(), UserFence(os.getpid())
                mine.syncobj_import_sync_file(waited, sync_file)
                op = op_map_null(ADDR, PAGE)
                mine.vm_bind(mine.vm_create(), [op], [waits_for(waited), fence])
                fence.wait(60, mine)
                return fence.signaled

        children = [Child(bind_and_wait) for _ in range(40)]
        for child in children:
            assert eventually(lambda: _sleeps_in_ioctl(child.pid))  # noqa: B023
        gate.open()
        woken = [child.result() for child in children]
        assert all(woken)
        os.close(sync_file)
        gate.close()


def test_one_who_sleeps_holds_up_nobody(device: Device, gate: Gate) -> None:
    vm, fence, done = device.vm_create(), UserFence(), threading.Event()
    gate.kept.append(fence)
    device.vm_bind(vm, [op_map_null(ADDR, PAGE)], [waits_for(gate.syncobj()), fence])

    def sleep() -> None:
        fence.wait(60, device)
        done.set()

    thread = threading.Thread(target=sleep)
    thread.start()
    for number in range(2, 20):
        device.vm_bind(vm, [op_map_null(number * ADDR, PAGE)])
    assert not done.is_set()
    gate.open()
    thread.join(60)
    assert done.is_set()
