"""The GPU's process: when it lives, and what is left when it does not."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xe.gate import Gate, error_of, signals, waits_for
from tests.xe.gpu_work import ADDR, LR, Board, status_of, wait_for
from xedev.client import BatchBuilder, Device
from xedev.client.batch import RING_TIMESTAMP
from xedev.client.xe_ioctl import xe_vm_unbind_async
from xedev.node.local import LocalTransport
from xedev.testing.mounts import MountedNodes
from xedev.xe import xe_guc_ct
from xedev.xe.xe_device import XeConfig, XeDevice

PATIENCE = 20.0


@pytest.fixture
def device(xe: XeDevice) -> Device:
    return Device(LocalTransport(xe))


def until(condition: Callable[[], object]) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(xe: XeDevice) -> int:
    """Kill the process; its id, when that has been noticed."""
    pid = xe.guc.ct.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: xe.guc.ct.pid != pid)
    return pid


def children() -> set[int]:
    """Processes of ours, zombies too."""
    while True:
        tasks = list(Path("/proc/self/task").iterdir())
        try:
            texts = [(task / "children").read_text() for task in tasks]
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread ended, and left its children to another one
        return {int(pid) for text in texts for pid in text.split()}


def sockets() -> set[str]:
    """Those that this process has."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


# ---- its life ----


def test_there_is_none_before_there_is_work(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    board.queue()
    assert xe.guc.ct.pid == 0
    assert not children()


def test_it_starts_with_the_first_job(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    assert board.run(board.queue(), board.storing(42)) == 1
    assert children() == {xe.guc.ct.pid}


def test_it_ends_when_nobody_has_a_queue(
    xe: XeDevice, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xe_guc_ct, "IDLE_TIME", 0.05)
    before = sockets()
    board = Board(device)
    queue = board.queue()
    board.run(queue, board.storing(42))
    first = xe.guc.ct.pid
    time.sleep(0.2)
    assert xe.guc.ct.pid == first
    device.exec_queue_destroy(queue)
    until(lambda: not xe.guc.ct.pid)
    until(lambda: not children())
    until(lambda: sockets() == before)
    # And the next one knows what it has to.
    assert board.run(board.queue(), board.storing(43)) == 1
    assert board.read() == 43
    assert xe.guc.ct.pid not in (0, first)


def test_nothing_is_left_after_the_device() -> None:
    before, threads = sockets(), threading.active_count()
    xe = XeDevice(XeConfig())
    device = Device(LocalTransport(xe))
    board = Board(device)
    board.run(board.queue(), board.storing(42))
    # Even while something runs.
    spinner = board.spinner()
    board.exec(board.queue(), spinner.address)
    spinner.wait_started()
    pid = xe.guc.ct.pid
    device.close()
    xe.shutdown()
    assert not Path(f"/proc/{pid}").exists()
    assert not children()
    assert sockets() == before
    until(lambda: threading.active_count() <= threads)


def test_a_device_that_ends_with_work_in_flight(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    spinner = board.spinner()
    done = board.exec(board.queue(), spinner.address)
    spinner.wait_started()
    xe.shutdown()
    assert not children()
    assert error_of(lambda: device.syncobj_wait([done])) in ("", "ENODEV")


@pytest.mark.parametrize("number", [1024, 1500])
def test_many_descriptors_of_the_driver(xe: XeDevice, device: Device, number: int) -> None:
    """The socket's own number may be beyond what select(2) knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("not so many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < number:
            taken.append(os.dup(2))
        board = Board(device)
        assert board.run(board.queue(), board.storing(42)) == 1
        assert board.read() == 42
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_process_is_to_be_had(
    xe: XeDevice, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = Board(device)
    queue = board.queue()
    before = sockets()

    def none_left(*args: object, **kwargs: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", none_left)
        assert error_of(lambda: board.exec(queue, board.storing(42))) == "ENOMEM"
    assert sockets() == before
    assert board.run(queue, board.storing(43)) == 1


@pytest.mark.parametrize("attempt", range(4))
def test_several_vms_start_it_at_the_same_time(xe: XeDevice, device: Device, attempt: int) -> None:
    boards = [Board(device) for _ in range(4)]
    queues = [board.queue() for board in boards]
    batches = [board.storing(7 + attempt) for board in boards]
    start = threading.Barrier(len(boards))
    results: list[int] = []

    def run(index: int) -> None:
        start.wait()
        results.append(boards[index].run(queues[index], batches[index]))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [1] * 4
    assert children() == {xe.guc.ct.pid}


# ---- its death ----


@pytest.mark.expects_bug
def test_its_death_ends_the_work(
    xe: XeDevice, device: Device, caplog: pytest.LogCaptureFixture
) -> None:
    board = Board(device)
    spinner = board.spinner()
    queue = board.queue()
    running = board.exec(queue, spinner.address)
    behind = board.exec(queue, board.storing(42))
    spinner.wait_started()
    kill(xe)
    wait_for(device, running, behind)
    assert status_of(device, running) == -errno.EIO
    assert status_of(device, behind) == -errno.ECANCELED
    assert device.exec_queue_get_property(queue) == 1
    assert error_of(lambda: board.exec(queue, ADDR)) == "ECANCELED"
    assert board.read() == 0
    assert any(
        record.levelname == "ERROR" and "by itself, status -9" in record.message
        for record in caplog.records
    )


@pytest.mark.expects_bug
def test_the_device_goes_on_with_a_new_one(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    old = board.queue()
    board.run(old, board.storing(42))
    first = kill(xe)
    until(lambda: device.exec_queue_get_property(old))
    assert board.run(board.queue(), board.storing(43)) == 1
    assert board.read() == 43
    assert xe.guc.ct.pid != first
    assert children() == {xe.guc.ct.pid}


@pytest.mark.expects_bug
def test_a_queue_that_it_never_heard_of_is_not_banned(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    board.run(board.queue(), board.storing(42))
    fresh = board.queue()
    kill(xe)
    assert board.run(fresh, board.storing(43)) == 1
    assert device.exec_queue_get_property(fresh) == 0


@pytest.mark.expects_bug
def test_a_job_that_waits_meanwhile_fails_like_the_others(xe: XeDevice, device: Device) -> None:
    """The next process knows nothing of the VM that it was for."""
    gate = Gate(device)
    board, other = Board(device), Board(device)
    out = board.exec(board.queue(), board.storing(42), waits_for(gate.syncobj()))
    kill(xe)
    # Somebody else has the next process started before the job's turn comes.
    assert other.run(other.queue(), other.storing(43)) == 1
    gate.open()
    wait_for(device, out)
    assert status_of(device, out) == -errno.EIO
    assert other.run(other.queue(), other.storing(44)) == 1
    gate.close()


@pytest.mark.expects_bug
def test_binds_that_it_did_not_acknowledge_are_done(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    board.run(board.queue(), board.storing(42))
    pid = xe.guc.ct.pid
    os.kill(pid, signal.SIGSTOP)
    out = device.syncobj_create()
    for page in range(8):
        xe_vm_unbind_async(
            device, board.vm, 0, 0, ADDR + page * 4096, 4096, [signals(out)] if page == 7 else []
        )
    assert error_of(lambda: device.syncobj_wait([out])) == "ETIME"
    os.kill(pid, signal.SIGKILL)
    wait_for(device, out)


@pytest.mark.expects_bug
def test_queues_that_end_without_it(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    spinner = board.spinner()
    queue = board.queue()
    out = board.exec(queue, spinner.address)
    spinner.wait_started()
    os.kill(xe.guc.ct.pid, signal.SIGSTOP)
    device.exec_queue_destroy(queue)
    assert error_of(lambda: device.syncobj_wait([out])) == "ETIME"
    os.kill(xe.guc.ct.pid, signal.SIGKILL)
    wait_for(device, out)
    until(lambda: xe.guc.ct.users == 0)


@pytest.mark.expects_bug
def test_fdinfo_does_not_wait_long_for_one_that_hangs(xe: XeDevice, device: Device) -> None:
    board = Board(device)
    board.run(board.queue(), board.storing(42))
    pid = xe.guc.ct.pid
    os.kill(pid, signal.SIGSTOP)
    assert xe.guc.ct.query_ticks(0.01) == {}
    os.kill(pid, signal.SIGKILL)
    until(lambda: xe.guc.ct.pid != pid)
    assert xe.guc.ct.query_ticks(PATIENCE) == {}


@pytest.mark.expects_bug
def test_a_long_running_queue_is_banned_too(xe: XeDevice, device: Device) -> None:
    board = Board(device, LR)
    queue = board.queue()
    spinner = board.spinner()
    board.exec_lr(queue, spinner.address)
    spinner.wait_started()
    kill(xe)
    fence = board.fence_address
    assert error_of(lambda: device.wait_user_fence(fence, 1, exec_queue_id=queue)) == "EIO"


# ---- through a mount ----


@pytest.mark.fuse
def test_nothing_of_it_is_left_after_the_mount() -> None:
    nodes = MountedNodes()
    directory = nodes.get({}, fresh=True)
    with Device.open(os.path.join(directory, "dev/dri/renderD128")) as device:
        board = Board(device)
        assert board.run(board.queue(), board.storing(42)) == 1
        state = json.loads(Path(directory, "debug/dri/0/state").read_text())
        pid = state["devices"][0]["gpu_pid"]
        assert Path(f"/proc/{pid}").exists()
        board.memory.close()
    nodes.check()
    until(lambda: not Path(f"/proc/{pid}").exists())


# ---- deterministic ----


def released_at_once(seed: int) -> list[tuple[int, int]]:
    """Order and timestamps of jobs of several queues, which one fence lets go."""
    xe = XeDevice(XeConfig(deterministic=seed))
    device = Device(LocalTransport(xe))
    gate = Gate(device)
    board = Board(device)
    count = 8
    start = waits_for(gate.syncobj())
    done = []
    for number in range(count):
        batch = BatchBuilder().atomic_inc(ADDR)
        batch.copy_dword(ADDR + 16 + 16 * number, ADDR)
        batch.store_register_mem(RING_TIMESTAMP, ADDR + 24 + 16 * number)
        done.append(board.exec(board.queue(), board.batch(batch.end()), start))
    gate.open()
    wait_for(device, *done)
    found = [(board.read(ADDR + 16 + 16 * n), board.read(ADDR + 24 + 16 * n)) for n in range(count)]
    board.memory.close()
    gate.close()
    device.close()
    xe.shutdown()
    return found


def test_the_same_seed_gives_the_same_run() -> None:
    runs = [released_at_once(11) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert sorted(place for place, _ in runs[0]) == list(range(1, 9))


def test_other_seeds_give_other_runs() -> None:
    assert len({tuple(place for place, _ in released_at_once(seed)) for seed in range(3)}) > 1
