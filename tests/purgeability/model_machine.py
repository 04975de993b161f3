"""Random lives of BOs, played on the driver and on the reference model side by side.

What the model cannot know, memory that runs out, is kept away: there is plenty. Whatever else
either of them says or shows is compared after every step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.model import purgeability_ops as ops
from tests.model.purgeability_model import Model
from tests.model.purgeability_ops import Advice, ArrayOp, Policy, Step
from tests.purgeability.vector_runner import CONSULT_PREF_LOC, ClientDevice
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import XeConfig, XeDevice

__all__ = ("ModelMachine",)

FILES = ("f1", "f2", "f3")
SPACE = 12  # pages that are used of a VM; few, so that mappings meet
MAX_BOS = 5
MAX_VMS = 4
MAX_FDS = 3

some = st.integers(0, 11)  # which of those that there are
files = st.sampled_from(FILES)
starts = st.integers(0, SPACE - 1)
lengths = st.integers(1, 8)
advices = st.sampled_from(("DONTNEED", "DONTNEED", "WILLNEED"))
#: A start, a length, and a BO to map or None to unmap.
array_ops = st.lists(st.tuples(starts, lengths, st.one_of(st.none(), some)), min_size=2, max_size=4)

T = TypeVar("T")


def _pick(things: Sequence[T], which: int) -> T:
    return things[which % len(things)]


class ModelMachine(RuleBasedStateMachine):
    """The op set of the model, without limits of memory."""

    policy: ClassVar[Policy]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model(self.policy)
        self.foreign: set[str] = set()
        self.numbers = itertools.count()
        self.fds = itertools.count(100)

    @initialize(discrete=st.booleans(), shared=st.booleans())
    def make(self, discrete: bool, shared: bool) -> None:
        """Two files with a VM each, and a BO, which is mapped and perhaps known to both."""
        config = XeConfig(profile="bmg" if discrete else "lnl", purgeability=self.policy)
        self.target = LocalTarget(XeDevice(config))
        self.client = ClientDevice(
            self.target.device,
            self.target,
            region=int(discrete),
            # A foreign BO cannot be moved to VRAM, and the model moves nothing.
            prefetch_region=CONSULT_PREF_LOC,
        )
        self.create("vm", "f1", 1, 0)
        self.create("vm", "f2", 1, 0)
        self.create("bo", "f1", 4, 0)
        if shared:
            self.export(0, "f1", False)
            self.import_fd(0, "f2")
        self.bind(0, 0, 4, 0)

    def play(self, step: Step) -> None:
        """One step on both; everything that can be seen must agree."""
        expected = self.model.apply(step)
        assert self.client.apply(step) == expected, f"answer of {step}"
        states = self.client.states()
        assert states == {bo: self.model.state(bo) for bo in states}, f"states after {step}"
        handles = self.client.handle_counts()
        assert handles == {bo: len(self.model.handles(bo)) for bo in self.bos}, step
        for vm in self.vms:
            assert self.client.vma_ranges(vm) == self.model.vma_ranges(vm), f"{vm} after {step}"
        self.model.check()

    # --- things to choose from ------------------------------------------------------------

    @property
    def bos(self) -> list[str]:
        return self.model.bos()

    @property
    def vms(self) -> list[str]:
        return self.model.vms()

    def bos_of(self, vm: str) -> list[str]:
        """BOs that the VM's file can name; all when there are none."""
        file = self.model.file_of(vm)
        return [bo for bo in self.bos if file in self.model.handles(bo)] or self.bos

    def file_of(self, bo: str, which: int, otherwise: str) -> str:
        """A file with a handle of the BO; now and then, or when there is none, any file."""
        holders = sorted(self.model.handles(bo))
        return _pick(holders, which) if holders and which % 5 else otherwise

    # --- making and ending ----------------------------------------------------------------

    @rule(
        kind=st.sampled_from(("bo", "bo", "private", "foreign", "vm")),
        file=files,
        pages=lengths,
        which=some,
    )
    def create(self, kind: str, file: str, pages: int, which: int) -> None:
        name = f"{kind}{next(self.numbers)}"
        if kind == "vm":
            if len(self.vms) < MAX_VMS:
                self.play(ops.VmCreate(name, file))
        elif len(self.bos) < MAX_BOS:
            if kind == "foreign":
                self.foreign.add(name)
                self.play(ops.ImportForeign(name, pages, file))
            else:
                vm = _pick(self.vms, which) if kind == "private" and self.vms else None
                if vm is not None and which % 5:
                    file = self.model.file_of(vm)
                self.play(ops.Create(name, pages, vm, file))

    @rule(
        kind=st.sampled_from(("handle", "handle", "handle", "fd", "fd", "vm", "file")),
        which=some,
        file=files,
    )
    def end(self, kind: str, which: int, file: str) -> None:
        if kind == "handle" and self.bos:
            bo = _pick(self.bos, which)
            self.play(ops.GemClose(bo, self.file_of(bo, which, file)))
        elif kind == "fd" and self.model.fds():
            self.play(ops.CloseFd(_pick(self.model.fds(), which)))
        elif kind == "vm" and self.vms:
            self.play(ops.VmDestroy(_pick(self.vms, which)))
        elif kind == "file" and not which:
            self.play(ops.CloseFile(file))

    # --- VM_BIND --------------------------------------------------------------------------

    @precondition(lambda self: self.vms and self.bos)
    @rule(vm=some, start=starts, pages=lengths, bo=some)
    def bind(self, vm: int, start: int, pages: int, bo: int) -> None:
        """Seldom refused, unless the BO is not needed any more."""
        name = _pick(self.vms, vm)
        found = _pick(self.bos_of(name), bo)
        self.play(ops.Bind(name, start, min(pages, self.model.pages(found)), found))

    @precondition(lambda self: self.vms and self.bos)
    @rule(vm=some, start=starts, pages=lengths, bo=some)
    def bind_anything(self, vm: int, start: int, pages: int, bo: int) -> None:
        self.play(ops.Bind(_pick(self.vms, vm), start, pages, _pick(self.bos, bo)))

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=starts, pages=lengths)
    def unbind(self, vm: int, start: int, pages: int) -> None:
        self.play(ops.Unbind(_pick(self.vms, vm), start, pages))

    @precondition(lambda self: self.vms and self.bos)
    @rule(vm=some, bo=some)
    def unmap_all(self, vm: int, bo: int) -> None:
        name = _pick(self.vms, vm)
        self.play(ops.UnmapAll(name, _pick(self.bos_of(name), bo)))

    @precondition(lambda self: self.vms and self.bos)
    @rule(vm=some, steps=array_ops)
    def array(self, vm: int, steps: list[tuple[int, int, int | None]]) -> None:
        name = _pick(self.vms, vm)
        made: list[ArrayOp] = []
        for start, pages, which in steps:
            if which is None:
                made.append(ops.Unmap(name, start, pages))
                continue
            bo = _pick(self.bos_of(name), which)
            made.append(ops.Map(name, start, min(pages, self.model.pages(bo)), bo))
        self.play(ops.Array(tuple(made)))

    # --- advice ---------------------------------------------------------------------------

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=starts, pages=lengths, advice=advices)
    def madvise(self, vm: int, start: int, pages: int, advice: Advice) -> None:
        self.play(ops.Madvise(_pick(self.vms, vm), start, pages, advice))

    @precondition(lambda self: self.vms)
    @rule(spared=some, advice=advices)
    def madvise_everywhere(self, spared: int, advice: Advice) -> None:
        """All VMs agree; perhaps all but one."""
        for number, vm in enumerate(self.vms):
            if number != spared:
                self.play(ops.Madvise(vm, 0, 2 * SPACE, advice))

    @precondition(lambda self: self.bos)
    @rule(which=some)
    def pressure(self, which: int) -> None:
        self.play(ops.Pressure(_pick(self.bos, which)))

    @precondition(lambda self: self.vms and self.bos)
    @rule(kind=st.sampled_from(("mmap", "fault", "prefetch")), which=some, file=files, start=starts)
    def use(self, kind: str, which: int, file: str, start: int) -> None:
        """What a BO that is not needed refuses."""
        bo = _pick(self.bos, which)
        if kind == "mmap":
            self.play(ops.Mmap(bo, self.file_of(bo, which, file)))
        elif kind == "fault":
            self.play(ops.Fault(bo, file))
        else:
            self.play(ops.Prefetch(_pick(self.vms, which), start, 4))

    # --- sharing --------------------------------------------------------------------------

    @precondition(lambda self: set(self.bos) - self.foreign and len(self.model.fds()) < MAX_FDS)
    @rule(which=some, file=files, fail=st.booleans())
    def export(self, which: int, file: str, fail: bool) -> None:
        bo = _pick([bo for bo in self.bos if bo not in self.foreign], which)
        file = self.file_of(bo, which, file)
        self.play(ops.Export(bo, next(self.fds), file, fail))

    @precondition(lambda self: self.model.fds())
    @rule(which=some, file=files)
    def import_fd(self, which: int, file: str) -> None:
        self.play(ops.Import(_pick(self.model.fds(), which), file))

    def teardown(self) -> None:
        """Nothing is left of anything."""
        self.client.close()
        self.target.close_all()
