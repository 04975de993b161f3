"""VMs of long-running work whose memory was evicted: it is brought back, or that is their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.node.fake_mount import eventually
from tests.xe.gate import error_of
from tests.xe.gpu_work import FAULT, FENCE, LR, RCS, Board
from xedev.client import Device
from xedev.client.memory import op_map
from xedev.testing.target import Target

AT = 0x4000_0000
MIB = 1 << 20
VRAM = 2

Targets = Callable[..., Target[Any]]


class Bench:
    """A card of 4 MiB, and a VM of long-running work on it."""

    def __init__(self, target: Target[Any], flags: int = LR) -> None:
        self.target = target
        self.device: Device = target.device()
        self.board = Board(self.device, flags, pages=40)
        self.queue = self.board.queue()
        self.bound = 0

    def bind(self, size: int, vm: int = 0) -> int:
        handle = self.device.gem_create(size, VRAM)
        address = AT + self.bound * 16 * MIB
        self.bound += 1
        self.device.vm_bind(vm or self.board.vm, [op_map(handle, 0, address, size)])
        return handle

    def spin(self) -> Callable[[], None]:
        """Work that goes on until what is returned is called."""
        spinner = self.board.spinner()
        self.board.exec_lr(self.queue, spinner.address)
        spinner.wait_started()
        return spinner.end

    def wait(self) -> None:
        fence = self.board.fence_address
        self.device.wait_user_fence(fence, 1, exec_queue_id=self.queue)

    def is_in_vram(self, handle: int) -> bool:
        number = int(self.device.bo_info(handle).id)
        places = {bo["id"]: bo["placement"] for bo in self.target.state()["bos"]}
        return bool(places[number] == "vram0")

    def evict(self, size: int = 3 * MIB) -> int:
        """Something else that takes the place."""
        return self.device.gem_create(size, VRAM)


@pytest.fixture
def bench(xe_target: Targets) -> Iterator[Bench]:
    made = Bench(xe_target("in-process", vram=4 * MIB, system=64 * MIB))
    yield made
    made.board.memory.close()


def test_what_is_evicted_under_work_is_brought_back(bench: Bench) -> None:
    victim = bench.bind(3 * MIB)
    end = bench.spin()
    other = bench.evict()
    assert eventually(lambda: bench.is_in_vram(victim))
    assert not bench.is_in_vram(other)
    end()
    bench.wait()


def test_without_work_it_is_brought_back_by_the_next_job(bench: Bench) -> None:
    victim = bench.bind(3 * MIB)
    bench.evict()
    assert not bench.is_in_vram(victim)
    end = bench.spin()
    assert eventually(lambda: bench.is_in_vram(victim))
    end()
    bench.wait()


def test_what_does_not_fit_any_more_ends_the_vm(bench: Bench) -> None:
    """A VM's own new objects may evict its old ones, and nobody may to bring these back."""
    device, vm = bench.device, bench.board.vm
    for index in range(2):
        handle = device.gem_create(3 * MIB, VRAM, vm_id=vm)
        device.vm_bind(vm, [op_map(handle, 0, AT + index * 16 * MIB, 3 * MIB)])
        if not index:
            bench.spin()
    assert error_of(bench.wait) == "EIO"
    batch = bench.board.storing(1)
    assert error_of(lambda: bench.board.exec_lr(bench.queue, batch)) == "ECANCELED"
    assert error_of(lambda: device.exec_queue_create(vm, [RCS])) == "ENOENT"


def test_work_that_takes_faults_brings_back_what_it_touches(xe_target: Targets) -> None:
    bench = Bench(xe_target("in-process", vram=4 * MIB, system=64 * MIB), FAULT)
    victim = bench.bind(3 * MIB)
    bench.board.exec_lr(bench.queue, bench.board.storing(1, AT))
    bench.wait()
    bench.evict()
    assert not bench.is_in_vram(victim)
    bench.board.write(0, FENCE)
    bench.board.exec_lr(bench.queue, bench.board.storing(2, AT))
    bench.wait()
    assert bench.is_in_vram(victim)
    bench.board.memory.close()
