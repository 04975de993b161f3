"""The driver in this process under a flood of bad calls, by one thread and by several."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.hostile.arena import Arena
from tests.hostile.generate import Call, Generator, written_ranges
from uapi import xe_drm
from uapi.ioctl import IOC_DIR, IOC_NONE, IOC_READ, IOC_SIZE, IOC_WRITE
from xedev.drm.ttm import MemType
from xedev.kernel import locking
from xedev.kernel.trace import Subscription
from xedev.node.local import LocalTransport
from xedev.xe.xe_bo import DONTNEED, PURGED, WILLNEED
from xedev.xe.xe_device import XeConfig, XeDevice
from xedev.xe.xe_purgeability import POLICIES, xe_bo_recount
from xedev.xe.xe_shrinker import xe_pressure

CALLS = 34_000
"""Of one seed by one thread; three seeds make 10^5."""
CALLS_OF_A_THREAD = 6_000
RECOUNT_EVERY = 1_000
NODES = ("renderD128", "card0", "xe-mock")
CAP_SYS_ADMIN, CAP_SYS_NICE = 21, 23
EVERYTHING = frozenset({CAP_SYS_ADMIN, CAP_SYS_NICE})
CANARY = 0xC5


@pytest.fixture(autouse=True)
def lock_order_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_lockdep", locking._Lockdep())


def make_device(policy: str = "counters", profile: str = "bmg") -> XeDevice:
    # So little VRAM that somebody always has to leave.
    vram = 24 << 20 if profile == "bmg" else None
    return XeDevice(XeConfig(profile, vram=vram, system=256 << 30, purgeability=policy))


class Process:
    """One client with files on all nodes, descriptors of others, and its own way of failing."""

    def __init__(self, xe: XeDevice, seed: str, tgid: int, leader: Process | None = None) -> None:
        """With a ``leader``: another thread of its process, on the same files."""
        self.xe = xe
        self.tgid = tgid
        self.rng = random.Random(seed)
        self.arena = Arena()
        self.is_alone = leader is None
        if leader is not None:
            leader.is_alone = False
        self.fds: list[tuple[LocalTransport, int]] = leader.fds if leader else []
        self.files: list[LocalTransport] = []
        self.generators: dict[LocalTransport, Generator] = {}
        self.answers: dict[int, int] = {}
        self.late: list[tuple[int, int]] = []
        """Where binds that were accepted may still write their user fences."""
        for file in leader.files if leader else ():
            self.add(file)
        for node in () if leader else NODES:
            self.open(node)

    def open(self, node: str) -> None:
        """Open a node, with or without rights."""
        caps = self.rng.choice((EVERYTHING, frozenset[int]()))
        self.add(LocalTransport(self.xe, node, tgid=self.tgid, caps=caps))

    def add(self, file: LocalTransport) -> None:
        """Use an open file."""
        generator = Generator(self.rng, self.arena, lambda token: self.claim(file, token))
        # One table of descriptors for the whole process.
        generator.known.fds = self.known_fds()
        self.files.append(file)
        self.generators[file] = generator

    def known_fds(self) -> list[int]:
        """Numbers that are open: our files, our dma-bufs, and something foreign."""
        return [0, *(fd for _, fd in self.fds), *(file.fileno() for file in self.files)]

    def claim(self, file: LocalTransport, token: int) -> None:
        """Open a token, or leave it to rot."""
        if self.rng.random() < 0.8:
            self.fds.append((file, file.open_fd(token, os.O_RDWR)))

    def step(self) -> None:
        """One call, or now and then something else that clients do."""
        dice = self.rng.random()
        # A file that others use is not closed under their hands: the kernel, which keeps it open
        # for as long as they are inside, is not there to do it.
        if dice < 0.002 and self.is_alone:
            self.reopen()
        elif dice < 0.02 and len(self.fds) > 4:
            self.close_one()
        elif dice < 0.03 and self.fds and self.is_alone:
            self.call_dma_buf(*self.rng.choice(self.fds))
        elif dice < 0.04:
            self.press()
        else:
            file = self.rng.choice(self.files)
            generator = self.generators[file]
            generator.known.fds = self.known_fds()
            self.call(file, generator)

    def close_one(self) -> None:
        """Close a dma-buf."""
        with suppress(IndexError):  # another thread of ours may be faster
            owner, fd = self.fds.pop(self.rng.randrange(len(self.fds)))
            owner.close_fd(fd)

    def reopen(self) -> None:
        """Close a file with all that it has, and open it again."""
        file = self.files.pop(self.rng.randrange(len(self.files)))
        del self.generators[file]
        node = file.file.minor.name  # type: ignore[attr-defined]
        file.close()
        self.open(node)

    def press(self) -> None:
        """Ask for memory back, from anybody."""
        region, how = self.rng.choice((("vram0", "evict"), ("system", "shrink")))
        if self.xe.vram_managers or how == "shrink":
            xe_pressure(self.xe, f"region {region} {self.rng.choice((1, 1 << 20))} {how}")

    def call_dma_buf(self, owner: LocalTransport, fd: int) -> None:
        """A call on a dma-buf, which knows few."""
        call = self.generators[self.files[0]].next()
        caller = owner.caller()
        found = caller.fget(fd)
        assert found is not None
        result = found.ioctl(call.cmd, self.place(call, _size(call)), caller)
        self.judge(call, result, caller.reason)

    def call(self, file: LocalTransport, generator: Generator) -> None:
        """Make a call and look at all that it may have done to us."""
        arena = self.arena
        call = generator.next()
        size = _size(call)
        address = self.place(call, size)
        written = [*written_ranges(arena, call)]
        good = arena.snapshot()
        before = ctypes.string_at(arena.arg, arena.arg_end - arena.arg)
        caller = file.caller()
        result = file.file.ioctl(call.cmd, address, caller)
        self.judge(call, result, caller.reason)
        if call.cmd == xe_drm.DRM_IOCTL_XE_VM_BIND and result == 0:
            self.late += written
        spoilt = arena.changed_outside(good, [*written, *self.late])
        assert spoilt is None, f"{spoilt:#x} was overwritten by {call}"
        after = ctypes.string_at(arena.arg, arena.arg_end - arena.arg)
        at = address - arena.arg if address else 0
        end = at + size if address else 0
        assert before[:at] == after[:at] and before[end:] == after[end:], call
        data = after[at:end] if IOC_DIR(call.cmd) & IOC_READ else call.data
        generator.learn(call, result, data)

    def place(self, call: Call, size: int) -> int:
        """Put the argument where the kernel would have it; 0 for a pointer that it refuses."""
        arena = self.arena
        ctypes.memset(arena.arg, CANARY, arena.arg_end - arena.arg)
        if not size or not arena.arg <= call.address <= arena.arg_end - size:
            return 0
        data = call.data if IOC_DIR(call.cmd) & IOC_WRITE else bytes(size)
        ctypes.memmove(call.address, data, size)
        return call.address

    def judge(self, call: Call, result: int, reason: str) -> None:
        """A refusal has an errno of the uAPI and a reason; EIO is a bug of ours."""
        self.answers[result] = self.answers.get(result, 0) + 1
        assert -512 < result < 1 << 31, call
        assert result != -errno.EIO, call
        assert result >= 0 or reason, f"no reason for {errno.errorcode[-result]}: {call}"

    def close(self) -> None:
        """End, as the kernel ends a process: in any order."""
        self.rng.shuffle(self.fds)
        self.rng.shuffle(self.files)
        for owner, fd in self.fds:
            owner.close_fd(fd)
        for file in self.files:
            file.close()


def _size(call: Call) -> int:
    return IOC_SIZE(call.cmd) if IOC_DIR(call.cmd) != IOC_NONE else 0


# ---- what must always hold -------------------------------------------------------------------


def check_invariants(xe: XeDevice) -> None:
    """Counters against a recount, budgets against a sum, lists against what is in them."""
    used = dict.fromkeys(MemType, 0)
    for bo in xe.bos.values():
        counts = bo.purgeable
        if xe.policy.name != "walk":
            assert (counts.vma_count, counts.willneed_count) == xe_bo_recount(bo)
        if xe.policy.name == "counters":
            assert counts.state is not DONTNEED or not counts.willneed_count
            stale = counts.state is WILLNEED and counts.vma_count and not counts.willneed_count
            assert not stale or bo.imported
        assert counts.state is not PURGED or not bo.populated
        if bo.populated:
            assert bo.mem_type is not None
            used[bo.mem_type] += bo.size
    for mem_type, manager in xe.ttm.managers.items():
        assert manager.used == used[mem_type] <= manager.size
        assert all(bo.mem_type is mem_type for bo in manager.lru)
        expected = {bo for bo in manager.lru if bo.populated and bo.is_dontneed()}
        assert set(manager.purgeable) == expected
    assert xe.ttm.system_used == used[MemType.SYSTEM] + used[MemType.TT]
    for vm in xe.vms.values():
        bounds = [bound for vma in vm.gpuvm for bound in (vma.start, vma.end)]
        assert bounds == sorted(bounds)


def check_nothing_left(xe: XeDevice) -> None:
    """All clients are gone."""
    state = xe.show()
    assert (state["files"], state["vms"], state["bos"]) == ([], [], [])
    assert not len(xe.tokens) and not xe.live_exports and not len(xe.object_names)
    assert all(manager.used == manager.visible_used == 0 for manager in xe.ttm.managers.values())
    assert xe.master is None or not xe.filelist


@contextmanager
def told_on_failure(what: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"to see it again: {what}")
        raise


# ---- tests -----------------------------------------------------------------------------------


def flood(seed: str, calls: int, policy: str, profile: str = "bmg") -> None:
    """Two processes take turns; for a while somebody listens to the events."""
    xe = make_device(policy, profile)
    clients = [Process(xe, f"{seed}/{number}", 1000 + number) for number in range(2)]
    listener: Subscription | None = None
    for number in range(calls):
        clients[number & 1].step()
        if number % RECOUNT_EVERY == 0:
            check_invariants(xe)
            if listener is not None:
                listener.close()
            listener = xe.trace.subscribe(64) if number // RECOUNT_EVERY % 3 == 1 else None
    if listener is not None:
        listener.close()
    for client in clients:
        client.close()
        check_invariants(xe)
    check_nothing_left(xe)
    answers = clients[0].answers
    # The corpus is worth something: a good part succeeds, and the refusals are of many kinds.
    assert answers[0] > calls // 10, answers
    assert len(answers) >= 10, answers


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("policy", "profile"), [("counters", "bmg"), ("seed", "lnl"), ("walk", "bmg")]
)
def test_flood(policy: str, profile: str) -> None:
    seed = f"driver {policy} {profile}"
    with told_on_failure(f"seed {seed!r}"):
        flood(seed, CALLS, policy, profile)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("policy", POLICIES)
def test_long_flood(policy: str) -> None:
    seed = f"driver {policy} {time.time_ns()}"
    with told_on_failure(f"seed {seed!r}"):
        flood(seed, 10 * CALLS, policy)


def threads_flood(seed: str, calls: int) -> None:
    """Two processes of two threads each; what one thread makes, the other one breaks."""
    xe = make_device()
    leaders = [Process(xe, f"{seed}/{number}", 2000 + number) for number in range(2)]
    others = [Process(xe, f"{seed}/{p.tgid}", p.tgid, leader=p) for p in leaders]
    clients = [*leaders, *others]
    failures: list[BaseException] = []

    def run(client: Process) -> None:
        try:
            for _ in range(calls):
                client.step()
        except BaseException as error:  # noqa: BLE001 - told by the thread that can fail the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    check_invariants(xe)
    for leader in leaders:
        leader.close()
    check_nothing_left(xe)


@pytest.fixture
def short_switches() -> Iterator[None]:
    """Let threads change places often, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("short_switches")
def test_flood_of_several_threads() -> None:
    with told_on_failure("seed 'threads'; the order of threads is up to the system"):
        threads_flood("threads", CALLS_OF_A_THREAD)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("short_switches")
def test_long_flood_of_several_threads() -> None:
    seed = f"threads {time.time_ns()}"
    with told_on_failure(f"seed {seed!r}; the order of threads is up to the system"):
        threads_flood(seed, 10 * CALLS_OF_A_THREAD)
