"""Random lives of BOs, played on the driver and on the reference model side by side.

What the model cannot know, memory that runs out, is kept away: there is plenty. Whatever else
either of them says or shows is compared after every step.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.model import purgeability_ops as ops
from tests.model.purgeability_model import Model
from tests.model.purgeability_ops import ArrayOp, Policy, Step
from tests.purgeability.vector_runner import CONSULT_PREF_LOC, ClientDevice
from xedev.testing.target import LocalTarget
from xedev.xe.xe_device import XeConfig, XeDevice

__all__ = ("ModelMachine",)

FILES = ("f1", "f2", "f3")
MAX_BOS = 6
MAX_VMS = 4
MAX_FDS = 4

some = st.integers(0, 11)  # which of those that there are
files = st.sampled_from(FILES)
starts = st.integers(0, 11)
lengths = st.integers(1, 8)
advices = st.sampled_from(("WILLNEED", "DONTNEED"))
#: A start, a length, and a BO to map or None to unmap.
array_ops = st.lists(st.tuples(starts, lengths, st.one_of(st.none(), some)), min_size=2, max_size=4)


def _pick(things: list[str], which: int) -> str:
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

    @initialize(discrete=st.booleans())
    def make(self, discrete: bool) -> None:
        config = XeConfig(profile="bmg" if discrete else "lnl", purgeability=self.policy)
        self.target = LocalTarget(XeDevice(config))
        self.client = ClientDevice(
            self.target.device,
            self.target,
            region=int(discrete),
            # A foreign BO cannot be moved to VRAM, and the model moves nothing.
            prefetch_region=CONSULT_PREF_LOC,
        )

    def play(self, step: Step) -> None:
        """One step on both; everything that can be seen must agree."""
        expected = self.model.apply(step)
        assert self.client.apply(step) == expected, f"answer of {step}"
        states = self.client.states()
        assert states == {bo: self.model.state(bo) for bo in states}, f"states after {step}"
        handles = self.client.handle_counts()
        assert handles == {bo: len(self.model.handles(bo)) for bo in self.model.bos()}, step
        for vm in self.model.vms():
            assert self.client.vma_ranges(vm) == self.model.vma_ranges(vm), f"{vm} after {step}"
        self.model.check()

    # --- things to choose from ------------------------------------------------------------

    def bos(self) -> list[str]:
        return self.model.bos()

    def own_bos(self) -> list[str]:
        return [bo for bo in self.bos() if bo not in self.foreign]

    def holders(self) -> list[tuple[str, str]]:
        """All pairs of a BO and a file with a handle for it."""
        return [(bo, file) for bo in self.bos() for file in sorted(self.model.handles(bo))]

    # --- BOs ------------------------------------------------------------------------------

    @precondition(lambda self: len(self.bos()) < MAX_BOS)
    @rule(file=files, pages=lengths, private=st.one_of(st.none(), some))
    def create(self, file: str, pages: int, private: int | None) -> None:
        vms = self.model.vms()
        vm = _pick(vms, private) if private is not None and vms else None
        bo = f"A{next(self.numbers)}"
        self.play(ops.Create(bo, pages, vm, file))

    @precondition(lambda self: len(self.bos()) < MAX_BOS)
    @rule(file=files, pages=lengths)
    def import_foreign(self, file: str, pages: int) -> None:
        bo = f"X{next(self.numbers)}"
        self.foreign.add(bo)
        self.play(ops.ImportForeign(bo, pages, file))

    @precondition(lambda self: self.holders())
    @rule(which=some)
    def gem_close(self, which: int) -> None:
        holders = self.holders()
        self.play(ops.GemClose(*holders[which % len(holders)]))

    @precondition(lambda self: self.bos())
    @rule(which=some, file=files)
    def gem_close_of_anybody(self, which: int, file: str) -> None:
        self.play(ops.GemClose(_pick(self.bos(), which), file))

    @precondition(lambda self: self.bos())
    @rule(which=some)
    def pressure(self, which: int) -> None:
        self.play(ops.Pressure(_pick(self.bos(), which)))

    @precondition(lambda self: self.bos())
    @rule(which=some, file=files)
    def mmap(self, which: int, file: str) -> None:
        self.play(ops.Mmap(_pick(self.bos(), which), file))

    @precondition(lambda self: self.bos())
    @rule(which=some, file=files)
    def fault(self, which: int, file: str) -> None:
        self.play(ops.Fault(_pick(self.bos(), which), file))

    # --- VMs ------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.vms()) < MAX_VMS)
    @rule(file=files)
    def vm_create(self, file: str) -> None:
        self.play(ops.VmCreate(f"v{next(self.numbers)}", file))

    @precondition(lambda self: self.model.vms())
    @rule(vm=some)
    def vm_destroy(self, vm: int) -> None:
        self.play(ops.VmDestroy(_pick(self.model.vms(), vm)))

    @precondition(lambda self: self.model.vms() and self.bos())
    @rule(vm=some, start=starts, pages=lengths, bo=some)
    def bind(self, vm: int, start: int, pages: int, bo: int) -> None:
        names = _pick(self.model.vms(), vm), _pick(self.bos(), bo)
        self.play(ops.Bind(names[0], start, pages, names[1]))

    @precondition(lambda self: self.model.vms() and self.bos())
    @rule(vm=some, start=starts, bo=some)
    def bind_what_can_be_bound(self, vm: int, start: int, bo: int) -> None:
        """A BO that the VM's file has, and all of it, so that many binds succeed."""
        name = _pick(self.model.vms(), vm)
        file = self.model.file_of(name)
        known = [bo for bo in self.bos() if file in self.model.handles(bo)]
        if known:
            found = _pick(known, bo)
            self.play(ops.Bind(name, start, self.model.pages(found), found))

    @precondition(lambda self: self.model.vms())
    @rule(vm=some, start=starts, pages=lengths)
    def unbind(self, vm: int, start: int, pages: int) -> None:
        self.play(ops.Unbind(_pick(self.model.vms(), vm), start, pages))

    @precondition(lambda self: self.model.vms() and self.bos())
    @rule(vm=some, bo=some)
    def unmap_all(self, vm: int, bo: int) -> None:
        self.play(ops.UnmapAll(_pick(self.model.vms(), vm), _pick(self.bos(), bo)))

    @precondition(lambda self: self.model.vms() and self.bos())
    @rule(vm=some, steps=array_ops)
    def array(self, vm: int, steps: list[tuple[int, int, int | None]]) -> None:
        name = _pick(self.model.vms(), vm)
        made: list[ArrayOp] = []
        for start, pages, which in steps:
            if which is None:
                made.append(ops.Unmap(name, start, pages))
                continue
            bo = _pick(self.bos(), which)
            made.append(ops.Map(name, start, min(pages, self.model.pages(bo)), bo))
        self.play(ops.Array(tuple(made)))

    @precondition(lambda self: self.model.vms())
    @rule(vm=some, start=starts, pages=lengths, advice=advices)
    def madvise(self, vm: int, start: int, pages: int, advice: ops.Advice) -> None:
        self.play(ops.Madvise(_pick(self.model.vms(), vm), start, pages, advice))

    @precondition(lambda self: self.model.vms())
    @rule(vm=some, advice=advices)
    def madvise_everything(self, vm: int, advice: ops.Advice) -> None:
        self.play(ops.Madvise(_pick(self.model.vms(), vm), 0, 32, advice))

    @precondition(lambda self: self.model.vms())
    @rule(vm=some, start=starts, pages=lengths)
    def prefetch(self, vm: int, start: int, pages: int) -> None:
        self.play(ops.Prefetch(_pick(self.model.vms(), vm), start, pages))

    # --- sharing --------------------------------------------------------------------------

    @precondition(lambda self: self.own_bos() and len(self.model.fds()) < MAX_FDS)
    @rule(which=some, file=files, fail=st.booleans())
    def export(self, which: int, file: str, fail: bool) -> None:
        bo = _pick(self.own_bos(), which)
        holders = sorted(self.model.handles(bo))
        file = holders[which % len(holders)] if holders and which % 4 else file
        self.play(ops.Export(bo, next(self.fds), file, fail))

    @precondition(lambda self: self.model.fds())
    @rule(which=some, file=files)
    def import_fd(self, which: int, file: str) -> None:
        fds = self.model.fds()
        self.play(ops.Import(fds[which % len(fds)], file))

    @precondition(lambda self: self.model.fds())
    @rule(which=some)
    def close_fd(self, which: int) -> None:
        fds = self.model.fds()
        self.play(ops.CloseFd(fds[which % len(fds)]))

    @rule(file=files)
    def close_file(self, file: str) -> None:
        self.play(ops.CloseFile(file))

    def teardown(self) -> None:
        """Nothing is left of anything."""
        self.client.close()
        self.target.close_all()
