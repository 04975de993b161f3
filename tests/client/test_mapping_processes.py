"""CPU mappings that several processes have: over a mount, as only there are several."""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.node.fake_mount import Child, eventually
from uapi import xe_drm
from uapi.xe_mock import XE_MOCK_IOCTL_MMAP, token_path, xe_mock_mmap
from xedev.client.memory import op_map
from xedev.testing.target import MountTarget

pytestmark = pytest.mark.fuse

PAGE = mmap.PAGESIZE
SYSTEM = 1
ADDR = 0x10000000
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED


@pytest.fixture(params=["ioctl", "frames"])
def target(request: pytest.FixtureRequest, xe_target: Callable[..., Any]) -> MountTarget:
    made = xe_target(request.param)
    assert isinstance(made, MountTarget)
    return made


class Client:
    """A child that holds something until it is killed."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        ready, tell = os.pipe()
        self._process = Child(lambda: self._hold(prepare, tell))
        os.close(tell)
        assert os.read(ready, 1) == b"!", "the child failed"
        os.close(ready)

    @staticmethod
    def _hold(prepare: Callable[[], object], tell: int) -> None:
        _held = prepare()
        os.write(tell, b"!")
        while True:
            signal.pause()

    def kill(self) -> None:
        self._process.kill()
        assert self._process.wait() == -signal.SIGKILL


def bo_count(target: MountTarget) -> int:
    return len(target.state()["bos"])


def test_two_processes_see_each_others_stores(target: MountTarget) -> None:
    device = target.device()
    handle = device.gem_create(2 * PAGE, SYSTEM)
    fd = device.prime_handle_to_fd(handle)

    def answer() -> int:
        other = target.device()
        mapping = other.map(other.prime_fd_to_handle(fd), 2 * PAGE)
        assert mapping.read(PAGE, 8) == b"question"
        mapping.write(PAGE, b"answer!!")
        return 42

    with device.map(handle, 2 * PAGE) as mapping:
        mapping.write(PAGE, b"question")
        assert Child(answer).wait() == 42
        assert mapping.read(PAGE, 8) == b"answer!!"
    device.close_fd(fd)


def test_a_child_inherits_the_mapping(target: MountTarget) -> None:
    device = target.device()
    mapping = device.map(device.gem_create(PAGE, SYSTEM), PAGE)
    device.close()
    child = Client(lambda: mapping.write(0, b"child"))
    assert mapping.read(0, 5) == b"child"
    mapping.close()
    assert bo_count(target) == 1, "the child has it yet"
    child.kill()
    assert eventually(lambda: bo_count(target) == 0)


def test_a_child_may_end_its_part(target: MountTarget) -> None:
    device = target.device()
    mapping = device.map(device.gem_create(PAGE, SYSTEM), PAGE)
    device.close()
    child = Client(mapping.close)
    mapping.write(0, b"mine")
    assert mapping.read(0, 4) == b"mine"
    assert bo_count(target) == 1
    child.kill()
    assert bo_count(target) == 1
    mapping.close()
    assert eventually(lambda: bo_count(target) == 0)


@pytest.mark.parametrize("through", ["node", "dma-buf"])
def test_a_killed_mapper_frees_the_bo(target: MountTarget, through: str) -> None:
    def hold() -> object:
        device = target.device()
        handle = device.gem_create(PAGE, SYSTEM)
        if through == "node":
            mapping = device.map(handle, PAGE)
        else:
            fd = device.prime_handle_to_fd(handle)
            mapping = device.map_dma_buf(fd)
            device.close_fd(fd)
        mapping[0] = 1
        device.close()
        return mapping

    child = Client(hold)
    assert bo_count(target) == 1
    child.kill()
    assert eventually(lambda: bo_count(target) == 0)


def test_a_purged_bo_raises_sigbus(target: MountTarget) -> None:
    device = target.device()
    handle = device.gem_create(PAGE, SYSTEM)
    mapping = device.map(handle, PAGE)
    mapping[0] = 7
    vm = device.vm_create()
    device.vm_bind(vm, [op_map(handle, 0, ADDR, PAGE)])
    device.madvise_purgeable(vm, ADDR, PAGE, DONTNEED)
    assert Child(lambda: mapping[0]).wait() == 7
    target.control("pressure", f"bo {device.bo_info(handle).id} shrink")

    def touch() -> int:
        faulthandler.disable()  # it would tell what is no surprise
        return mapping[0]

    assert Child(touch).wait() == -signal.SIGBUS
    mapping.close()


def test_execve_ends_a_mapping(target: MountTarget) -> None:
    def run() -> None:
        device = target.device()
        device.map(device.gem_create(PAGE, SYSTEM), PAGE)[0] = 1
        os.execvp("sleep", ["sleep", "60"])

    child = Child(run)
    assert eventually(lambda: b"sleep" in command_of(child.pid))
    assert eventually(lambda: bo_count(target) == 0)
    child.kill()
    child.wait()


def command_of(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().split(b"\0")[0]


def test_another_process_cannot_open_the_lease(target: MountTarget) -> None:
    device = target.device()
    offset = device.gem_mmap_offset(device.gem_create(PAGE, SYSTEM))
    answer = xe_mock_mmap(offset=offset, length=PAGE, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
    device.ioctl(XE_MOCK_IOCTL_MMAP, answer)
    path = token_path(target.node(), answer.token)

    def steal() -> int:
        try:
            os.open(path, os.O_RDONLY)
        except OSError as error:
            return error.errno or 0
        return 0

    assert Child(steal).wait() == errno.EACCES
    os.close(os.open(path, os.O_RDONLY))
