"""Every call of a program fails once at every step that can fail, and leaves nothing behind.

The program uses each ioctl of the memory side. A first run counts which failure points each call
passes, and how often. Then, for each of these passages, the program runs up to the call, the
passage fails, and the state must be what it was before the call; after that the program runs to
its end as if nothing had been.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from tests.model.purgeability_ops import POLICIES, Policy
from tests.purgeability.invariants import Invariants, changes, check_nothing_left
from tests.purgeability.vector_runner import PAGE
from uapi import xe_drm
from xedev.client import UserFence
from xedev.client.memory import (
    op_map,
    op_map_null,
    op_prefetch,
    op_unmap,
    op_unmap_all,
)
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import FAULT_POINTS, XeConfig, XeDevice

#: No check of the driver answers this, so it can only come from the injection.
INJECTED = errno.ENOTRECOVERABLE

SYSTEM, VRAM, BOTH = 1, 2, 3
MIB = 1 << 20

WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
DEFERRED = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
LR_FAULT = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
IMMEDIATE = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE


class Program:
    """A device, two files on it, and what the calls have made so far."""

    def __init__(self, policy: Policy) -> None:
        self.xe = XeDevice(XeConfig(vram=8 * MIB, system=16 * MIB, purgeability=policy))
        self.target = LocalTarget(self.xe)
        self.one = self.target.device()
        self.two = self.target.device()
        self.made: dict[str, int] = {}
        self.open_fds: list[int] = []

    def export(self, bo: str) -> int:
        """HANDLE_TO_FD without the opening of the token."""
        return self.one.prime_handle_to_token(self.made[bo])

    def take(self, name: str, token: str) -> None:
        """Open a token."""
        self.made[name] = self.one.transport.open_fd(self.made[token], 0)
        self.open_fds.append(self.made[name])

    def madvise(self, start: int, pages: int, state: int) -> int | None:
        """MADVISE in the first VM."""
        return self.one.madvise_purgeable(self.made["vm"], start * PAGE, pages * PAGE, state)

    def bind(self, vm: str, *plans: tuple[str, int, int] | xe_drm.drm_xe_vm_bind_op) -> None:
        """Plans are (BO, start, pages), or ops as they are; one user fence follows."""
        ops = [self._map(*plan) if isinstance(plan, tuple) else plan for plan in plans]
        fence = UserFence()
        self.one.vm_bind(self.made[vm], ops, [fence])
        assert fence.signaled

    def _map(self, bo: str, start: int, pages: int) -> xe_drm.drm_xe_vm_bind_op:
        return op_map(self.made[bo], 0, start * PAGE, pages * PAGE)

    def close(self) -> None:
        """The end of both files."""
        for fd in self.open_fds:
            self.one.close_fd(fd)
        self.target.close_all()
        check_nothing_left(self.xe)


class Call(NamedTuple):
    """One call of the program. What it returns is kept under ``name``, if it returns something."""

    name: str
    run: Callable[[Program], object]


def _create(pages: int, placement: int, flags: int = 0) -> Callable[[Program], object]:
    return lambda p: p.one.gem_create(pages * PAGE, placement, flags=flags)


CALLS = (
    Call("vm", lambda p: p.one.vm_create()),
    Call("fault_vm", lambda p: p.one.vm_create(LR_FAULT)),
    Call("a", _create(8, VRAM)),
    Call("b", _create(8, SYSTEM)),
    Call("deferred", _create(4, BOTH, DEFERRED)),
    Call("private", lambda p: p.one.gem_create(4 * PAGE, VRAM, vm_id=p.made["vm"])),
    Call("late", _create(4, BOTH, DEFERRED)),
    Call("foreign", lambda p: p.one.import_foreign(4 * PAGE)),
    Call("mmap offset", lambda p: p.one.gem_mmap_offset(p.made["a"])),
    Call("bind a", lambda p: p.bind("vm", ("a", 0, 8))),
    Call("bind b twice", lambda p: p.bind("vm", ("b", 16, 4), ("b", 32, 8))),
    Call("bind the deferred", lambda p: p.bind("vm", ("deferred", 48, 4))),
    Call("bind the private", lambda p: p.bind("vm", ("private", 56, 4))),
    Call("bind the foreign", lambda p: p.bind("vm", ("foreign", 60, 4))),
    Call("bind on fault", lambda p: p.bind("fault_vm", ("a", 0, 8), ("late", 8, 4))),
    Call(
        "bind at once",
        lambda p: p.bind(
            "fault_vm", op_map(p.made["late"], 0, 16 * PAGE, 4 * PAGE, flags=IMMEDIATE)
        ),
    ),
    Call("map nothing", lambda p: p.bind("vm", op_map_null(64 * PAGE, 16 * PAGE))),
    Call("split the null", lambda p: p.one.madvise_atomic(p.made["vm"], 66 * PAGE, 4 * PAGE, 1)),
    Call("split by advice", lambda p: p.madvise(74, 2, DONTNEED)),
    Call("punch a", lambda p: p.bind("vm", op_unmap(2 * PAGE, 2 * PAGE))),
    Call("head of b", lambda p: p.bind("vm", op_unmap(32 * PAGE, 1 * PAGE))),
    Call("b over a", lambda p: p.bind("vm", ("b", 5, 2))),
    Call(
        "array",
        lambda p: p.bind(
            "vm",
            op_unmap(0, PAGE),
            ("a", 80, 8),
            ("b", 84, 2),
            op_unmap_all(p.made["deferred"]),
            ("deferred", 96, 4),
            op_prefetch(80 * PAGE, PAGE, 1),
        ),
    ),
    Call("prefetch", lambda p: p.bind("vm", op_prefetch(96 * PAGE, 4 * PAGE, 0))),
    Call("pat", lambda p: p.one.madvise_pat(p.made["vm"], 0, 4 * PAGE, 3)),
    Call("attrs", lambda p: _nothing(p.one.vm_query_mem_range_attrs(p.made["vm"], 0, MIB))),
    Call("faults", lambda p: _nothing(p.one.vm_get_faults(p.made["vm"]))),
    Call("token", lambda p: p.export("a")),
    Call("fd", lambda p: p.take("fd", "token")),
    Call("token of late", lambda p: p.export("late")),
    Call("fd of late", lambda p: p.take("fd of late", "token of late")),
    Call("imported", lambda p: p.two.prime_fd_to_handle(p.made["fd"])),
    Call("dontneed", lambda p: p.madvise(0, 128, DONTNEED)),
    Call("split of dontneed", lambda p: p.bind("vm", op_unmap(82 * PAGE, PAGE))),
    Call("willneed", lambda p: p.madvise(0, 8, WILLNEED)),
    Call("unmap_all", lambda p: p.bind("vm", op_unmap_all(p.made["a"]))),
    Call("gem_close", lambda p: p.one.gem_close(p.made["a"])),
    Call("reimported", lambda p: p.one.prime_fd_to_handle(p.made["fd"])),
    Call("no binds", lambda p: p.one.vm_bind(p.made["vm"], [])),
    Call("vm_destroy", lambda p: p.one.vm_destroy(p.made["vm"])),
)
NAMES = [call.name for call in CALLS]


def _nothing(answer: object) -> None:
    """Lists are no numbers to keep."""


def _step(program: Program, call: Call) -> None:
    made = call.run(program)
    if made is not None:
        assert isinstance(made, int)
        program.made[call.name] = made


@contextmanager
def _program(policy: Policy) -> Iterator[Program]:
    program = Program(policy)
    try:
        yield program
    finally:
        program.close()


def _count_passages(policy: Policy) -> dict[str, dict[str, int]]:
    """How often each call passes each failure point."""
    passages = {}
    with _program(policy) as program:
        faults = program.xe.faults
        faults.counting = True
        for call in CALLS:
            faults.passed.clear()
            _step(program, call)
            passages[call.name] = dict(faults.passed)
    return passages


def _final_state(program: Program) -> dict[str, Any]:
    """The state, with BOs numbered by their age: failed calls use up numbers."""
    state: dict[str, Any] = program.xe.show()
    age = {bo["id"]: place for place, bo in enumerate(state["bos"])}
    for bo in state["bos"]:
        bo["id"] = age[bo["id"]]
    for vm in state["vms"]:
        for vma in vm["vmas"]:
            if vma["bo"] is not None:
                vma["bo"] = age[vma["bo"]]
    for file in state["files"]:
        del file["id"]
    return state


@pytest.fixture(scope="module", params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Policy:
    found: Policy = request.param
    return found


@pytest.fixture(scope="module")
def passages(policy: Policy) -> dict[str, dict[str, int]]:
    return _count_passages(policy)


@pytest.fixture(scope="module")
def end(policy: Policy) -> dict[str, Any]:
    """The state after the program when nothing fails."""
    with _program(policy) as program:
        for call in CALLS:
            _step(program, call)
        return _final_state(program)


def test_the_program_passes_every_point(passages: dict[str, dict[str, int]]) -> None:
    passed = Counter[str]()
    for counts in passages.values():
        passed.update(counts)
    assert set(passed) == set(FAULT_POINTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_changes_nothing(
    name: str, policy: Policy, passages: dict[str, dict[str, int]], end: dict[str, Any]
) -> None:
    for point, count in passages[name].items():
        for nth in range(1, count + 1):
            with _program(policy) as program:
                _fail_once(program, name, point, nth)
                # Room: what a second BO had moved before the failure counts as reclaim.
                assert _final_state(program) == end, f"end after {point} {nth} in {name}"


def _fail_once(program: Program, name: str, point: str, nth: int) -> None:
    """Run the whole program; the nth passage of ``point`` in call ``name`` fails at first."""
    invariants = Invariants(program.xe)
    for call in CALLS:
        if call.name == name:
            where = f"{point} {nth} in {name}"
            before = program.xe.show()
            program.xe.faults.arm(point, nth, INJECTED)
            with pytest.raises(OSError) as caught:
                _step(program, call)
            assert caught.value.errno == INJECTED, where
            moved = point == "ttm_bo_validate" and nth > 1
            assert not changes(before, program.xe.show(), reclaim=moved), where
        _step(program, call)
        invariants.check()
