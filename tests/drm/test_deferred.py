"""A handler may answer late; whoever serves it decides how to wait."""

from __future__ import annotations

import ctypes
import errno
import threading
from dataclasses import replace

import pytest

from uapi.drm import DRM_IOCTL_GET_CAP, drm_get_cap
from uapi.ioctl import IOWR
from xedev.drm.drm_file import DrmFile
from xedev.drm.drm_ioctl import IoctlTable
from xedev.kernel.caller import Caller
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.kernel.user_memory import UserMemory
from xedev.kernel.wait import WaitQueue
from xedev.xe.xe_device import XeDevice

BIGGER_GET_CAP = IOWR(ord("d"), 0x0C, 24)


class Doorbell:
    """A handler that answers once somebody rings."""

    def __init__(self) -> None:
        self.queue = WaitQueue()
        self.rung = False
        self.error = 0

    def __call__(
        self, device: object, args: drm_get_cap, file: DrmFile, caller: Caller
    ) -> Deferred[int]:
        def finish() -> int:
            args.value = 42
            if self.error:
                raise KernelError(self.error, "the bell is broken")
            return 7

        return Deferred(self.queue, lambda: self.rung, finish)

    def ring(self) -> None:
        self.rung = True
        self.queue.wake_up()


class Nobody(Caller):
    """A caller that can wait and nothing else."""

    tid = tgid = 1
    uid = gid = 0
    comm = "nobody"

    @property
    def memory(self) -> UserMemory:
        raise KernelError(errno.EFAULT, "nobody has no memory")

    def mm(self) -> UserMemory:
        raise NotImplementedError

    def capable(self, cap: int) -> bool:
        return False

    def fget(self, fd: int) -> File | None:
        return None

    def dup_fd(self, fd: int) -> int:
        raise NotImplementedError

    def sees_our_proc(self) -> bool:
        return True

    def interrupted(self) -> bool:
        return False


class LoopCaller(Nobody):
    """A caller served from a loop."""

    may_defer = True


@pytest.fixture
def bell() -> Doorbell:
    return Doorbell()


@pytest.fixture
def file(bell: Doorbell) -> DrmFile:
    device = XeDevice()
    rows = [
        replace(row, func=bell) if row.cmd == DRM_IOCTL_GET_CAP else row
        for row in device.ioctls.by_nr.values()
    ]
    device.ioctls = IoctlTable(rows, device.ioctls.core_count, device.ioctls.driver_count)
    return device.open(device.minors[1], 0, Nobody())


@pytest.mark.parametrize("cmd", [DRM_IOCTL_GET_CAP, BIGGER_GET_CAP])
def test_a_thread_for_each_request_sleeps_until_the_answer_is_there(
    bell: Doorbell, file: DrmFile, cmd: int
) -> None:
    args = (ctypes.c_uint64 * 3)()
    threading.Timer(0.05, bell.ring).start()
    assert file.ioctl(cmd, ctypes.addressof(args), Nobody()) == 7
    assert args[1] == 42


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("cmd", [DRM_IOCTL_GET_CAP, BIGGER_GET_CAP])
def test_a_loop_gets_the_answer_to_finish_later(
    bell: Doorbell, file: DrmFile, cmd: int, traced: bool
) -> None:
    events = file.device.trace.subscribe() if traced else None
    args = (ctypes.c_uint64 * 3)()
    answer = file.ioctl_deferred(cmd, ctypes.addressof(args), LoopCaller())
    assert isinstance(answer, Deferred)
    woken: list[bool] = []
    forget = answer.queue.add_waker(lambda: woken.append(answer.ready()))
    bell.ring()
    forget()
    assert woken == [True]
    assert args[1] == 0
    assert answer.finish() == 7
    assert args[1] == 42
    if events is not None:
        assert [event["result"] for event in events.drain()] == [7]


def test_an_error_of_a_late_answer_is_a_number_with_a_reason(bell: Doorbell, file: DrmFile) -> None:
    bell.error = errno.ETIME
    args = drm_get_cap()
    caller = LoopCaller()
    answer = file.ioctl_deferred(DRM_IOCTL_GET_CAP, ctypes.addressof(args), caller)
    assert isinstance(answer, Deferred)
    bell.ring()
    assert answer.finish() == -errno.ETIME
    assert caller.reason == "the bell is broken"
