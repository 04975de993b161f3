"""Random programs on a device whose memory runs out and whose calls fail.

Nobody predicts the answers here. But after each call the `invariants` hold, and a call that was
refused has changed nothing.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Callable
from ctypes import addressof, c_char
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.model.purgeability_ops import Policy
from tests.purgeability.invariants import Invariants, changes, check_nothing_left
from tests.purgeability.vector_runner import CONSULT_PREF_LOC, PAGE
from uapi import xe_drm
from xedev.client import Device, UserFence
from xedev.client.memory import (
    op_map,
    op_map_null,
    op_map_userptr,
    op_prefetch,
    op_unmap,
    op_unmap_all,
)
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import FAULT_POINTS, XeConfig, XeDevice

__all__ = ("DeviceMachine",)

VRAM_PAGES = 48
SYSTEM_PAGES = 64
SPACE_PAGES = 32
MAX_FILES = 3
MAX_VMS = 5
MAX_HANDLES = 12
MAX_FDS = 4

#: What a refused call may answer. EIO is a bug of the mock.
REFUSALS = {
    errno.E2BIG,
    errno.EBUSY,
    errno.EINVAL,
    errno.ENOENT,
    errno.ENOMEM,
    errno.EPERM,
}

DEFERRED = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
VISIBLE = xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM

VM_FLAGS = (
    0,
    xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE,
    xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE,
    xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
    | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
    | xe_drm.DRM_XE_VM_CREATE_FLAG_NO_VM_OVERCOMMIT,
)

some = st.integers(0, 11)  # which of those that there are
starts = st.integers(0, SPACE_PAGES - 1)
lengths = st.integers(1, 12)
sizes = st.one_of(st.integers(1, 16), st.just(VRAM_PAGES // 2), st.just(VRAM_PAGES + 1))
states = st.sampled_from(
    (xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED, xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED)
)
placements = st.sampled_from((1, 2, 3))
#: Kind, start, length, which BO, offset into it, flag or region.
bind_ops = st.tuples(
    st.sampled_from(("map", "map", "map", "unmap", "unmap_all", "prefetch", "null", "userptr")),
    starts,
    lengths,
    some,
    st.integers(0, 3),
    st.integers(0, 2),
)

Op = xe_drm.drm_xe_vm_bind_op


class _UserPages:
    """Memory of the program that it may map for the GPU."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, SPACE_PAGES * PAGE)
        self.anchor = c_char.from_buffer(self.map)
        self.address = addressof(self.anchor)


_user_pages = _UserPages()


class DeviceMachine(RuleBasedStateMachine):
    """All memory ioctls, with little memory and with failures on purpose."""

    policy: ClassVar[Policy]

    def __init__(self) -> None:
        super().__init__()
        self.files: list[Device] = []
        self.handles: list[tuple[Device, int]] = []
        self.vms: list[tuple[Device, int]] = []
        self.fds: list[tuple[Device, int]] = []

    @initialize(discrete=st.sampled_from((True, True, False)), flags=st.sampled_from(VM_FLAGS))
    def make(self, discrete: bool, flags: int) -> None:
        config = XeConfig(
            profile="bmg" if discrete else "lnl",
            vram=VRAM_PAGES * PAGE if discrete else None,
            system=SYSTEM_PAGES * PAGE,
            purgeability=self.policy,
        )
        self.xe = XeDevice(config)
        self.target = LocalTarget(self.xe)
        self.checks = Invariants(self.xe)
        self.files.append(self.target.device())
        self._vm_create(self.files[0], flags)
        self._gem_create(self.files[0], 4, 1 + discrete)

    def attempt(self, call: Callable[[], Any], *, reclaim: bool = False) -> Any:
        """Make a call; None when it is refused, and then nothing has changed.

        Returns what the call does, True when that is nothing.
        """
        before = self.xe.show()
        answer, refusal = _outcome(call)
        if refusal is not None:
            found = changes(before, self.xe.show(), reclaim=reclaim)
            assert self._leaves_traces(reclaim) or not found, f"{refusal}: {found}"
        return answer

    def _leaves_traces(self, bind: bool) -> bool:
        """The older policies do not forget a bind that failed: `tests.model` knows how."""
        return bind and self.policy != "counters"

    @invariant()
    def everything_holds(self) -> None:
        self.checks.check()

    # --- making ---------------------------------------------------------------------------

    @rule(
        kind=st.sampled_from(("bo", "bo", "bo", "private", "private", "foreign", "vm", "file")),
        which=some,
        pages=sizes,
        placement=placements,
        flags=st.sampled_from((0, 0, DEFERRED, VISIBLE)),
        vm_flags=st.sampled_from(VM_FLAGS),
    )
    def create(
        self, kind: str, which: int, pages: int, placement: int, flags: int, vm_flags: int
    ) -> None:
        owner = self.files[which % len(self.files)]
        if kind == "file":
            if len(self.files) < MAX_FILES:
                self.files.append(self.target.device())
        elif kind == "vm":
            if len(self.vms) < MAX_VMS:
                self._vm_create(owner, vm_flags)
        elif len(self.handles) < MAX_HANDLES:
            if kind == "foreign":
                self._know(owner, self.attempt(lambda: owner.import_foreign(pages * PAGE)))
            elif kind == "private" and self.vms:
                owner, vm_id = self.vms[which % len(self.vms)]
                self._gem_create(owner, pages, placement, flags, vm_id)
            else:
                self._gem_create(owner, pages, placement, flags)

    def _vm_create(self, owner: Device, flags: int) -> None:
        vm_id = self.attempt(lambda: owner.vm_create(flags))
        if vm_id is not None:
            self.vms.append((owner, vm_id))

    def _gem_create(
        self, owner: Device, pages: int, placement: int, flags: int = 0, vm_id: int = 0
    ) -> int | None:
        if not placement & 2:
            flags &= ~VISIBLE
        handle: int | None = self.attempt(
            lambda: owner.gem_create(pages * PAGE, placement, flags=flags, vm_id=vm_id),
            reclaim=True,
        )
        return self._know(owner, handle)

    def _know(self, owner: Device, handle: int | None) -> int | None:
        """Keep a handle, which may be known already."""
        if handle is not None and (owner, handle) not in self.handles:
            self.handles.append((owner, handle))
        return handle

    @rule(
        kind=st.sampled_from(("handle", "handle", "handle", "fd", "fd", "vm", "file")), which=some
    )
    def end(self, kind: str, which: int) -> None:
        if kind == "handle" and self.handles:
            owner, handle = self.handles.pop(which % len(self.handles))
            owner.gem_close(handle)
        elif kind == "fd" and self.fds:
            owner, fd = self.fds.pop(which % len(self.fds))
            owner.close_fd(fd)
        elif kind == "vm" and self.vms:
            owner, vm_id = self.vms.pop(which % len(self.vms))
            owner.vm_destroy(vm_id)
        elif kind == "file" and len(self.files) > 1:
            closed = self.files.pop(which % len(self.files))
            closed.close()
            self.handles = [known for known in self.handles if known[0] is not closed]
            self.vms = [known for known in self.vms if known[0] is not closed]

    @precondition(lambda self: self.handles)
    @rule(which=some, write=st.booleans())
    def touch(self, which: int, write: bool) -> None:
        owner, handle = self.handles[which % len(self.handles)]
        info = owner.bo_info(handle)
        offset = owner.gem_mmap_offset(handle)
        self.attempt(lambda: owner.mmap_gate(offset, info.size))
        lost = owner.fault(offset, write=write)
        assert lost == (info.state != 0 or bool(info.imported))

    # --- VMs ------------------------------------------------------------------------------

    def _op(self, owner: Device, plan: tuple[str, int, int, int, int, int]) -> Op:
        kind, start, pages, which, offset, choice = plan
        known = [handle for file, handle in self.handles if file is owner] or [99]
        handle = known[which % len(known)]
        addr, length = start * PAGE, pages * PAGE
        match kind:
            case "map":
                flags = xe_drm.DRM_XE_VM_BIND_FLAG_IMMEDIATE if choice else 0
                return op_map(handle, offset * PAGE, addr, length, flags=flags)
            case "unmap":
                return op_unmap(addr, length)
            case "unmap_all":
                return op_unmap_all(handle)
            case "prefetch":
                return op_prefetch(addr, length, (0, 1, CONSULT_PREF_LOC)[choice])
            case "null":
                return op_map_null(addr, length)
        return op_map_userptr(_user_pages.address + offset * PAGE, addr, length)

    @precondition(lambda self: self.vms)
    @rule(vm=some, plans=st.lists(bind_ops, min_size=1, max_size=4))
    def bind(self, vm: int, plans: list[tuple[str, int, int, int, int, int]]) -> None:
        owner, vm_id = self.vms[vm % len(self.vms)]
        ops = [self._op(owner, plan) for plan in plans]
        fence = UserFence()
        done = self.attempt(lambda: owner.vm_bind(vm_id, ops, [fence]), reclaim=True)
        assert fence.signaled == (done is not None)

    @precondition(lambda self: self.vms and self.handles)
    @rule(vm=some, bo=some, start=starts)
    def bind_whole(self, vm: int, bo: int, start: int) -> None:
        """All of a BO that the VM's file has: seldom refused."""
        owner, vm_id = self.vms[vm % len(self.vms)]
        known = [handle for file, handle in self.handles if file is owner]
        if known:
            handle = known[bo % len(known)]
            op = op_map(handle, 0, start * PAGE, owner.bo_info(handle).size)
            self.attempt(lambda: owner.vm_bind(vm_id, [op]), reclaim=True)

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=st.one_of(st.none(), starts), pages=lengths, state=states)
    def madvise(self, vm: int, start: int | None, pages: int, state: int) -> None:
        """Advice on a range, or on all that the VM maps."""
        owner, vm_id = self.vms[vm % len(self.vms)]
        first, count = (0, 2 * SPACE_PAGES) if start is None else (start, pages)
        self.attempt(lambda: owner.madvise_purgeable(vm_id, first * PAGE, count * PAGE, state))

    @precondition(lambda self: self.vms and len(self.handles) < MAX_HANDLES)
    @rule(vm=some, pages=st.integers(1, 16), start=starts, placement=placements)
    def map_something_unneeded(self, vm: int, pages: int, start: int, placement: int) -> None:
        """A DONTNEED BO, if nothing fails: the shortest way to what is of interest."""
        owner, vm_id = self.vms[vm % len(self.vms)]
        handle = self._gem_create(owner, pages, placement)
        if handle is None:
            return
        addr, size = start * PAGE, pages * PAGE
        dontneed = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
        op = op_map(handle, 0, addr, size)
        self.attempt(lambda: owner.vm_bind(vm_id, [op]), reclaim=True)
        self.attempt(lambda: owner.madvise_purgeable(vm_id, addr, size, dontneed))

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=starts, pages=lengths, atomic=st.booleans(), value=st.integers(0, 3))
    def madvise_otherwise(self, vm: int, start: int, pages: int, atomic: bool, value: int) -> None:
        """Advice that splits mappings without a BO at its edges."""
        owner, vm_id = self.vms[vm % len(self.vms)]
        advise = owner.madvise_atomic if atomic else owner.madvise_pat
        before = self.xe.show()
        _outcome(lambda: advise(vm_id, start * PAGE, pages * PAGE, value))
        # The split comes before some checks, and stays if they refuse; it must lose nothing.
        assert _mapped(self.xe.show()) == _mapped(before)

    # --- sharing --------------------------------------------------------------------------

    @precondition(lambda self: self.handles and len(self.fds) < MAX_FDS)
    @rule(which=some, forget=st.booleans())
    def export(self, which: int, forget: bool) -> None:
        """A token that is never opened goes with its file."""
        owner, handle = self.handles[which % len(self.handles)]
        if forget:
            self.attempt(lambda: owner.prime_handle_to_token(handle), reclaim=True)
            return
        fd = self.attempt(lambda: owner.prime_handle_to_fd(handle), reclaim=True)
        if fd is not None:
            self.fds.append((owner, fd))

    @precondition(lambda self: self.fds and len(self.handles) < MAX_HANDLES)
    @rule(which=some, file=some)
    def import_fd(self, which: int, file: int) -> None:
        owner = self.files[file % len(self.files)]
        _, fd = self.fds[which % len(self.fds)]
        self._know(owner, self.attempt(lambda: owner.prime_fd_to_handle(fd)))

    # --- from outside ---------------------------------------------------------------------

    @rule(which=st.one_of(st.none(), some), pages=st.integers(1, VRAM_PAGES), evict=st.booleans())
    def pressure(self, which: int | None, pages: int, evict: bool) -> None:
        """On one BO or on a whole region."""
        how = "evict" if evict else "shrink"
        numbers = sorted(self.xe.bos)
        if which is not None and numbers:
            command = f"bo {numbers[which % len(numbers)]} {how}"
        elif evict and self.xe.vram_managers:
            command = f"region vram0 {pages * PAGE} evict"
        else:
            command = f"region gtt {pages * PAGE} shrink"
        before = self.xe.show()
        self.target.control("pressure", command)
        assert not changes(before, self.xe.show(), reclaim=True)

    @rule(point=st.sampled_from(("", *FAULT_POINTS)), nth=st.integers(1, 3))
    def fail_later(self, point: str, nth: int) -> None:
        """Without a point: fail no more."""
        self.target.control("fail", f"{point} {nth} ENOMEM" if point else "clear")

    def teardown(self) -> None:
        """When all is closed, nothing is left."""
        for owner, fd in self.fds:
            owner.close_fd(fd)
        self.target.close_all()
        check_nothing_left(self.xe)


def _outcome(call: Callable[[], Any]) -> tuple[Any, OSError | None]:
    """What a call returns, True when that is nothing; or how it was refused."""
    try:
        return call() or True, None
    except OSError as error:
        refusal = error
    assert refusal.errno in REFUSALS, refusal
    return None, refusal


def _mapped(state: dict[str, Any]) -> list[set[tuple[int, str]]]:
    """Which pages each VM maps to what kind of thing."""
    return [
        {
            (page, vma["kind"])
            for vma in vm["vmas"]
            for page in range(vma["start"] // PAGE, vma["end"] // PAGE)
        }
        for vm in state["vms"]
    ]
