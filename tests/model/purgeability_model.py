"""A slow, obvious model of purgeable BOs: memory.md 4.1 and 4.2 word by word, for three policies.

Nothing here is shared with the driver. The model knows VMs, VMAs, BOs, handles and dma-bufs as
plain lists, plays each call as the list of events that the kernel would see, and takes a failed
call back event by event, because not every policy forgets a failed call.

==============  =============================================================================
``counters``    two counters per BO; a VMA of an unwanted BO is refused at its creation
``seed``        the same counters; refused late, when the count has already moved the state
``walk``        no counters; the state is computed anew from all VMAs when one changes or goes
==============  =============================================================================

Use::

    model = Model("counters")
    model.create_vm("v1")
    model.create("A")
    model.bind("v1", 0, 4, "A")
    assert model.madvise("v1", 0, 4, "DONTNEED") == Result(retained=1)
    assert model.state("A") == BoState("D", 1, 0)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.model import purgeability_ops as ops
from tests.model.purgeability_ops import (
    DEFAULT_FILE,
    DEFAULT_PAGES,
    Advice,
    ArrayOp,
    BoState,
    Policy,
    Result,
    State,
    Step,
)

__all__ = ("Model", "Refused")

_ADVICE: dict[Advice, State] = {"WILLNEED": "W", "DONTNEED": "D"}


class Refused(Exception):
    """A call ends with this errno."""

    def __init__(self, errno: str) -> None:
        super().__init__(errno)
        self.errno = errno


@dataclass(eq=False, slots=True)
class _DmaBuf:
    """A struct dma_buf and the number of descriptors open on it."""

    bo: _Bo
    fds: int = 0


@dataclass(eq=False, slots=True)
class _Bo:
    name: str
    pages: int
    foreign: bool
    private_to: str | None
    state: State = "W"
    vma_count: int = 0
    willneed_count: int = 0
    vmas: list[_Vma] = field(default_factory=list)
    #: Files with a handle. The model needs no more than one handle per file and BO.
    handles: set[str] = field(default_factory=set)
    #: The dma-buf that lives, and whether ``obj->dma_buf`` points at it (then it is kept alive).
    dma_buf: _DmaBuf | None = None
    cached: bool = False
    freed: bool = False
    #: State when the last VMA went; None while there are VMAs or have never been any.
    left_as: State | None = None

    @property
    def shared(self) -> bool:
        """What ``walk`` takes for shared: imported, or ``obj->dma_buf`` is set."""
        return self.foreign or self.cached


@dataclass(eq=False, slots=True)
class _Vma:
    vm: _Vm
    start: int
    end: int
    bo: _Bo
    attr: State = "W"


@dataclass(eq=False, slots=True)
class _Vm:
    name: str
    file: str
    id: int
    tree: list[_Vma] = field(default_factory=list)

    def overlapping(self, start: int, end: int) -> list[_Vma]:
        """VMAs that share a page with the range, lowest address first."""
        return sorted(
            (vma for vma in self.tree if vma.start < end and start < vma.end),
            key=lambda vma: vma.start,
        )


@dataclass(slots=True)
class _Job:
    """One VM_BIND under way: what to take back on failure, what to finish on success."""

    vm: _Vm
    created: list[_Vma] = field(default_factory=list)
    removed: list[_Vma] = field(default_factory=list)


class Model:
    """One device with all its files, under one policy.

    Every call returns a `Result`; a call that a driver would refuse answers the driver's errno
    and may be made. Only what no program can do (a name that was never created, a descriptor
    number taken twice) is a KeyError or ValueError.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._bos: dict[str, _Bo] = {}
        self._vms: dict[str, _Vm] = {}
        self._fds: dict[int, _DmaBuf] = {}

    # --- what can be seen -----------------------------------------------------------------

    def state(self, bo: str) -> BoState | None:
        """State and counters of a BO; None once it is freed."""
        found = self._bos[bo]
        if found.freed:
            return None
        if self.policy == "walk":
            return BoState(found.state, None, None)
        return BoState(found.state, found.vma_count, found.willneed_count)

    def recount(self, bo: str) -> tuple[int, int]:
        """VMAs and WILLNEED holders of a BO, counted one by one."""
        found = self._bos[bo]
        wanted = sum(vma.attr == "W" for vma in found.vmas)
        return len(found.vmas), wanted + (found.dma_buf is not None)

    def bos(self) -> list[str]:
        """Names of the BOs that are not freed."""
        return [name for name, bo in self._bos.items() if not bo.freed]

    def vms(self) -> list[str]:
        """Names of the VMs that exist."""
        return list(self._vms)

    def fds(self) -> list[int]:
        """Open dma-buf descriptors."""
        return list(self._fds)

    def handles(self, bo: str) -> set[str]:
        """Files that have a handle for a BO."""
        return set(self._bos[bo].handles)

    def pages(self, bo: str) -> int:
        """Size of a BO."""
        return self._bos[bo].pages

    def file_of(self, vm: str) -> str:
        """The file that a VM belongs to."""
        return self._vms[vm].file

    def vma_ranges(self, vm: str) -> list[tuple[int, int, str, State]]:
        """VMAs of a VM as (start, end, BO, advice), lowest address first."""
        tree = sorted(self._vms[vm].tree, key=lambda vma: vma.start)
        return [(vma.start, vma.end, vma.bo.name, vma.attr) for vma in tree]

    def check(self) -> None:
        """Assert the invariants I1 to I6 of memory.md 4.2 that hold under the policy."""
        for bo in self._bos.values():
            if bo.freed:
                assert not bo.vmas, f"{bo.name} is freed and has VMAs"
            elif bo.foreign:
                assert bo.state == "W", f"I6: {bo.name}"
                assert (bo.vma_count, bo.willneed_count) == (0, 0), f"I6: {bo.name}"
            elif self.policy != "walk":
                self._check_counters(bo)

    def _check_counters(self, bo: _Bo) -> None:
        assert (bo.vma_count, bo.willneed_count) == self.recount(bo.name), f"I1, I2: {bo.name}"
        if bo.vma_count and bo.state != "P":
            assert (bo.state == "D") == (bo.willneed_count == 0), f"I3: {bo.name}"
        assert bo.state != "P" or bo.willneed_count == 0, f"I4: {bo.name}"
        if self.policy == "counters" and bo.left_as is not None and bo.state != "P":
            assert bo.state == bo.left_as, f"I5: {bo.name}"

    # --- calls ----------------------------------------------------------------------------

    def apply(self, step: Step) -> Result:
        """Play one step of a vector."""
        return _CALLS[type(step)](self, step)

    def create_vm(self, vm: str, file: str = DEFAULT_FILE) -> Result:
        """VM_CREATE; ids are the lowest free ones of the file."""
        if vm in self._vms:
            raise ValueError(f"{vm} exists")
        used = {other.id for other in self._vms.values() if other.file == file}
        free = next(number for number in itertools.count(1) if number not in used)
        self._vms[vm] = _Vm(vm, file, free)
        return Result()

    def create(
        self,
        bo: str,
        *,
        pages: int = DEFAULT_PAGES,
        vm: str | None = None,
        file: str = DEFAULT_FILE,
    ) -> Result:
        """GEM_CREATE, populated at once; ``vm`` makes it private to that VM."""
        if vm is not None and (vm not in self._vms or self._vms[vm].file != file):
            return Result("ENOENT")
        self._add_bo(_Bo(bo, pages, foreign=False, private_to=vm, handles={file}))
        return Result()

    def import_foreign(
        self, bo: str, *, pages: int = DEFAULT_PAGES, file: str = DEFAULT_FILE
    ) -> Result:
        """FD_TO_HANDLE of another device's dma-buf."""
        self._add_bo(_Bo(bo, pages, foreign=True, private_to=None, handles={file}))
        return Result()

    def bind(self, vm: str, start: int, pages: int, bo: str) -> Result:
        """MAP of the BO's first ``pages`` pages."""
        return self._vm_bind([ops.Map(vm, start, pages, bo)])

    def unbind(self, vm: str, start: int, pages: int) -> Result:
        """UNMAP; what sticks out of the range stays mapped."""
        return self._vm_bind([ops.Unmap(vm, start, pages)])

    def array(self, steps: Sequence[ArrayOp]) -> Result:
        """VM_BIND of several ops; one call per run of ops on the same VM, until one fails."""
        for _, same_vm in itertools.groupby(steps, key=lambda step: step.vm):
            result = self._vm_bind(list(same_vm))
            if result.errno is not None:
                return result
        return Result()

    def unmap_all(self, vm: str, bo: str) -> Result:
        """UNMAP_ALL; the VMAs go in the order in which they were made."""
        if vm not in self._vms:
            return Result("EINVAL")
        target, found = self._vms[vm], self._bos[bo]
        if target.file not in found.handles:
            return Result("ENOENT")
        if found.private_to not in (None, vm):
            return Result("EINVAL")
        mine = [vma for vma in found.vmas if vma.vm is target]
        for vma in mine:
            target.tree.remove(vma)
        for vma in mine:
            self._destroy_vma(vma)
        return Result()

    def prefetch(self, vm: str, start: int, pages: int) -> Result:
        """PREFETCH to system memory: no effect, but the purge gate is in its way."""
        if vm not in self._vms:
            return Result("EINVAL")
        try:
            for vma in self._vms[vm].overlapping(start, start + pages):
                self._gate(vma.bo)
        except Refused as refused:
            return Result(refused.errno)
        return Result()

    def madvise(self, vm: str, start: int, pages: int, advice: Advice) -> Result:
        """MADVISE PURGEABLE_STATE: whole VMAs that share a page with the range."""
        if vm not in self._vms:
            return Result("EINVAL")
        purged = False
        for vma in self._vms[vm].overlapping(start, start + pages):
            purged |= self._advise(vma, _ADVICE[advice])
        return Result(retained=0 if purged else 1)

    def vm_destroy(self, vm: str) -> Result:
        """VM_DESTROY: VMAs of private BOs first, then the others, each lowest address first."""
        if vm not in self._vms:
            return Result("ENOENT")
        gone = self._vms.pop(vm)
        tree = sorted(gone.tree, key=lambda vma: vma.start)
        gone.tree.clear()
        for vma in sorted(tree, key=lambda vma: vma.bo.private_to is None):
            self._destroy_vma(vma)
        return Result()

    def pressure(self, bo: str) -> Result:
        """Reclaim looks at the BO: it takes an unwanted one and leaves every other alone."""
        found = self._bos[bo]
        if not found.foreign and found.state == "D":
            self._set_state(found, "P")
        return Result()

    def mmap(self, bo: str, file: str = DEFAULT_FILE) -> Result:
        """GEM_MMAP_OFFSET and mmap(2)."""
        found = self._bos[bo]
        if file not in found.handles:
            return Result("ENOENT")
        return Result({"W": None, "D": "EBUSY", "P": "EINVAL"}[found.state])

    def fault(self, bo: str) -> Result:
        """A CPU access where no page is present."""
        found = self._bos[bo]
        return Result(None if found.state == "W" and not found.foreign else "SIGBUS")

    def export(self, bo: str, fd: int, file: str = DEFAULT_FILE, *, fail: bool = False) -> Result:
        """HANDLE_TO_FD. ``fail`` counts only where a new dma-buf has to be made."""
        if fd in self._fds:
            raise ValueError(f"descriptor {fd} is open")
        found = self._bos[bo]
        if found.foreign:
            raise ValueError("passing a foreign dma-buf on is not modelled")
        if file not in found.handles:
            return Result("ENOENT")
        if not found.cached:
            try:
                self._new_dma_buf(found, fail)
            except Refused as refused:
                return Result(refused.errno)
        assert found.dma_buf is not None
        found.dma_buf.fds += 1
        self._fds[fd] = found.dma_buf
        return Result()

    def import_fd(self, fd: int, file: str) -> Result:
        """FD_TO_HANDLE of a dma-buf of this device."""
        if fd not in self._fds:
            return Result("EBADF")
        bo = self._fds[fd].bo
        bo.handles.add(file)
        bo.cached = True
        return Result()

    def close_fd(self, fd: int) -> Result:
        """close(2) of a dma-buf descriptor."""
        if fd not in self._fds:
            return Result("EBADF")
        dma_buf = self._fds.pop(fd)
        dma_buf.fds -= 1
        self._release_if_unused(dma_buf.bo)
        return Result()

    def gem_close(self, bo: str, file: str = DEFAULT_FILE) -> Result:
        """GEM_CLOSE; the last handle takes ``obj->dma_buf`` with it."""
        found = self._bos[bo]
        if file not in found.handles:
            return Result("EINVAL")
        found.handles.remove(file)
        if not found.handles:
            found.cached = False
        self._release_if_unused(found)
        return Result()

    def close_file(self, file: str) -> Result:
        """close(2) of a DRM file: all its handles, then its VMs, lowest id first."""
        for bo in list(self._bos.values()):
            if file in bo.handles:
                self.gem_close(bo.name, file)
        mine = [vm for vm in self._vms.values() if vm.file == file]
        for vm in sorted(mine, key=lambda vm: vm.id):
            self.vm_destroy(vm.name)
        return Result()

    # --- VM_BIND --------------------------------------------------------------------------

    def _vm_bind(self, steps: Sequence[ArrayOp]) -> Result:
        vm = self._vms.get(steps[0].vm)
        if vm is None:
            return Result("EINVAL")
        job = _Job(vm)
        try:
            for step in steps:
                self._validate(vm, step)
            for step in steps:
                self._play(job, step)
            if self.policy != "counters":
                for vma in job.created:
                    self._gate(vma.bo)
            self._prepare(job)
        except Refused as refused:
            self._undo(job)
            return Result(refused.errno)
        for vma in job.removed:
            self._destroy_vma(vma)
        return Result()

    def _validate(self, vm: _Vm, step: ArrayOp) -> None:
        if not isinstance(step, ops.Map):
            return
        bo = self._bos[step.bo]
        if vm.file not in bo.handles:
            raise Refused("ENOENT")
        if step.pages > bo.pages or bo.private_to not in (None, vm.name):
            raise Refused("EINVAL")

    def _play(self, job: _Job, step: ArrayOp) -> None:
        """Do one op on the tree of VMAs. VMAs that leave it are destroyed when the job ends."""
        start, end = step.start, step.start + step.pages
        for old in job.vm.overlapping(start, end):
            if old.start < start:
                self._create_vma(job, _Vma(job.vm, old.start, start, old.bo, old.attr))
            if end < old.end:
                self._create_vma(job, _Vma(job.vm, end, old.end, old.bo, old.attr))
            job.vm.tree.remove(old)
            job.removed.append(old)
        if isinstance(step, ops.Map):
            self._create_vma(job, _Vma(job.vm, start, end, self._bos[step.bo]))

    def _prepare(self, job: _Job) -> None:
        """Last part of a bind; `Refused` takes all of it back. Here there is always memory."""

    def _undo(self, job: _Job) -> None:
        for vma in reversed(job.created):
            if vma in job.vm.tree:
                job.vm.tree.remove(vma)
            self._destroy_vma(vma)
        job.vm.tree.extend(vma for vma in job.removed if vma not in job.created)

    def _create_vma(self, job: _Job, vma: _Vma) -> None:
        bo = vma.bo
        if self.policy == "counters" and vma.attr == "W":
            self._gate(bo)
        bo.vmas.append(vma)
        bo.left_as = None
        job.vm.tree.append(vma)
        job.created.append(vma)
        self._vma_count_add(bo, 1)
        if vma.attr == "W":
            self._willneed_get(bo)

    def _destroy_vma(self, vma: _Vma) -> None:
        bo = vma.bo
        bo.vmas.remove(vma)
        self._vma_count_add(bo, -1)
        if vma.attr == "W":
            self._willneed_put(bo)
        if self.policy == "walk":
            self._recompute(bo)
        if not bo.vmas:
            bo.left_as = bo.state
        self._free_if_unused(bo)

    # --- the rules ------------------------------------------------------------------------

    def _gate(self, bo: _Bo) -> None:
        if bo.state == "D":
            raise Refused("EBUSY")
        if bo.state == "P":
            raise Refused("EINVAL")

    def _advise(self, vma: _Vma, value: State) -> bool:
        """Advice reaches one VMA; True when its BO is purged."""
        bo = vma.bo
        if self.policy == "walk":
            if bo.shared:
                return False
            if bo.state == "P":
                return True
            vma.attr = value
            self._recompute(bo)
            return False
        if bo.state == "P":
            return True
        if vma.attr != value:
            vma.attr = value
            if value == "W":
                self._willneed_get(bo)
            else:
                self._willneed_put(bo)
        return False

    def _recompute(self, bo: _Bo) -> None:
        """``walk``: the state follows from all VMAs."""
        if bo.state == "P":
            return
        if bo.shared:
            self._set_state(bo, "W")
        elif bo.vmas:
            self._set_state(bo, "D" if all(vma.attr == "D" for vma in bo.vmas) else "W")

    def _counted(self, bo: _Bo) -> bool:
        return self.policy != "walk" and not bo.foreign

    def _vma_count_add(self, bo: _Bo, change: int) -> None:
        if self._counted(bo):
            bo.vma_count += change
            assert bo.vma_count >= 0, f"vma_count of {bo.name} below 0"

    def _willneed_get(self, bo: _Bo) -> None:
        if not self._counted(bo):
            return
        bo.willneed_count += 1
        if bo.willneed_count == 1 and bo.state == "D":
            self._set_state(bo, "W")

    def _willneed_put(self, bo: _Bo) -> None:
        if not self._counted(bo):
            return
        assert bo.willneed_count > 0, f"willneed_count of {bo.name} below 0"
        bo.willneed_count -= 1
        if bo.willneed_count == 0 and bo.vma_count > 0 and bo.state != "P":
            self._set_state(bo, "D")

    def _set_state(self, bo: _Bo, state: State) -> None:
        assert bo.state != "P", f"I7: {bo.name} leaves PURGED"
        bo.state = state

    # --- lifetimes ------------------------------------------------------------------------

    def _add_bo(self, bo: _Bo) -> None:
        if bo.name in self._bos and not self._bos[bo.name].freed:
            raise ValueError(f"{bo.name} exists")
        self._bos[bo.name] = bo

    def _new_dma_buf(self, bo: _Bo, fail: bool) -> None:
        if bo.private_to is not None:
            raise Refused("EPERM")
        self._gate(bo)
        self._willneed_get(bo)
        if fail:
            self._willneed_put(bo)
            raise Refused("ENOMEM")
        assert bo.dma_buf is None, "a BO has one dma-buf at a time"
        bo.dma_buf = _DmaBuf(bo)
        bo.cached = True

    def _release_if_unused(self, bo: _Bo) -> None:
        """The dma-buf ends with its last descriptor once ``obj->dma_buf`` is clear."""
        if bo.dma_buf is not None and not bo.dma_buf.fds and not bo.cached:
            bo.dma_buf = None
            self._willneed_put(bo)
        self._free_if_unused(bo)

    def _free_if_unused(self, bo: _Bo) -> None:
        if not (bo.handles or bo.vmas or bo.dma_buf):
            bo.freed = True


_CALLS: dict[type[Step], Callable[[Model, Any], Result]] = {
    ops.Create: lambda model, step: model.create(
        step.bo, pages=step.pages, vm=step.vm, file=step.file
    ),
    ops.ImportForeign: lambda model, step: model.import_foreign(
        step.bo, pages=step.pages, file=step.file
    ),
    ops.Bind: lambda model, step: model.bind(step.vm, step.start, step.pages, step.bo),
    ops.Unbind: lambda model, step: model.unbind(step.vm, step.start, step.pages),
    ops.UnmapAll: lambda model, step: model.unmap_all(step.vm, step.bo),
    ops.Array: lambda model, step: model.array(step.ops),
    ops.Madvise: lambda model, step: model.madvise(step.vm, step.start, step.pages, step.advice),
    ops.Prefetch: lambda model, step: model.prefetch(step.vm, step.start, step.pages),
    ops.Pressure: lambda model, step: model.pressure(step.bo),
    ops.Mmap: lambda model, step: model.mmap(step.bo, step.file),
    ops.Fault: lambda model, step: model.fault(step.bo),
    ops.Export: lambda model, step: model.export(step.bo, step.fd, step.file, fail=step.fail),
    ops.Import: lambda model, step: model.import_fd(step.fd, step.file),
    ops.CloseFd: lambda model, step: model.close_fd(step.fd),
    ops.GemClose: lambda model, step: model.gem_close(step.bo, step.file),
    ops.VmCreate: lambda model, step: model.create_vm(step.vm, step.file),
    ops.VmDestroy: lambda model, step: model.vm_destroy(step.vm),
    ops.CloseFile: lambda model, step: model.close_file(step.file),
}
