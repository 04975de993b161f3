"""Random programs of several processes that share the memory of one card, held against a model.

The model (`tests.model.memory_model`) predicts each answer: errnos, handles, victims and their
order.  After each step, what ``state`` tells of BOs, VMs, files and regions is what the model says,
and every mapping in every process shows what was stored last, or raises SIGBUS.
"""

from __future__ import annotations

import copy
import errno
import itertools
import json
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.hostile.children import eventually
from tests.memory.actor import Actor, Expected
from tests.memory.stage import ACTORS, PATIENCE, Stage
from tests.model.memory_model import PAGE, MemoryModel, Seen, VmKind
from tests.model.placement_model import SYSTEM, VRAM, Victim
from tests.model.purgeability_ops import Advice, Result, State
from uapi import xe_drm

__all__ = ("OPTIONS", "MemoryMachine")

VRAM_PAGES = 32
SYSTEM_PAGES = 32
SPACE = 40  # pages that are used of a VM; few, so that mappings meet
MAX_BOS = 12
MAX_VMS = 5
MAX_FDS = 5
MAX_MAPPINGS = 10
MEMFDS = 2  # BOs with a memfd each; further ones have files

#: Options of the mount.
OPTIONS = {
    "vram": VRAM_PAGES * PAGE,
    "system": SYSTEM_PAGES * PAGE,
    "memory_fds": MEMFDS,
}
DEFERRED = xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING
LR_MODE = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
#: Flags of VM_CREATE, and what kind of VM that makes.
VM_KINDS: dict[int, VmKind] = {
    0: "usual",
    LR_MODE: "long-running",
    LR_MODE | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE: "faulting",
}
STATES: dict[str, State] = {"WILLNEED": "W", "DONTNEED": "D", "PURGED": "P"}

some = st.integers(0, 11)  # which of those that there are
sizes = st.sampled_from((1, 2, 4, 8, 8, 12, 16, 24, VRAM_PAGES, VRAM_PAGES + 1))
parts = st.sampled_from((1, 4, 8, 12, 16))
masks = st.sampled_from((1, 1, 2, 2, 3, 3))
vm_flags = st.sampled_from(tuple(VM_KINDS))
seldom = st.sampled_from((False, False, False, True))
starts = st.sampled_from((0, 0, 4, 8, 16, SPACE - 1))
maybe = st.one_of(st.none(), some)
counts = st.integers(3, 5)
twins = st.lists(st.booleans(), min_size=1, max_size=2)
contents = st.binary(min_size=1, max_size=24)
advices: st.SearchStrategy[Advice] = st.sampled_from(("DONTNEED", "DONTNEED", "WILLNEED"))

T = TypeVar("T")


def _pick(things: Sequence[T], which: int) -> T:
    return things[which % len(things)]


# ---- what can be seen of both ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class View:
    """All that ``state`` tells and the model knows.  BOs go by the driver's numbers."""

    bos: dict[int, Seen]
    vms: list[list[tuple[int, int, int, str]]]
    """VMAs of each VM: start, end, BO, advice."""
    files: list[tuple[int, int, int]]
    """Process, handles, VMs."""
    regions: dict[str, tuple[int, int, int]]
    """Bytes used, bytes that may be purged, and in how many BOs."""
    page_files: int
    pending_fds: int = 0


def view_of_state(state: Any) -> View:
    """What the driver tells."""
    (device,) = state["devices"]
    for region in device["regions"]:
        assert region["cpu_visible_used"] == region["used"], region
    return View(
        {bo["id"]: _seen(bo) for bo in state["bos"]},
        sorted([_vma(vma) for vma in vm["vmas"]] for vm in state["vms"]),
        sorted((file["pid"], file["handles"], file["vms"]) for file in state["files"]),
        {r["name"]: (r["used"], r["purgeable"], r["purgeable_bos"]) for r in device["regions"]},
        device["page_files"],
        device["pending_fds"],
    )


def _seen(bo: Any) -> Seen:
    return Seen(
        bo["size"],
        STATES[bo["state"]],
        bo["vma_count"],
        bo["willneed_count"],
        bo["placement"],
        bo["handles"],
        bo["exported"],
    )


def _vma(vma: Any) -> tuple[int, int, int, str]:
    return vma["start"] // PAGE, vma["end"] // PAGE, vma["bo"], STATES[vma["state"]]


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Offset and length of each piece without a gap."""
    for _, group in itertools.groupby(enumerate(offsets), key=lambda pair: pair[1] - pair[0]):
        piece = [offset for _, offset in group]
        yield piece[0], len(piece)


def _differences(driver: View, model: View) -> str:
    """Fields that differ, of BOs only those that do."""
    lines = []
    for field in fields(View):
        seen, expected = getattr(driver, field.name), getattr(model, field.name)
        if isinstance(seen, dict) and isinstance(expected, dict):
            same = {key for key in seen if seen[key] == expected.get(key)}
            seen, expected = _without(seen, same), _without(expected, same)
        if seen != expected:
            lines.append(f"{field.name}: {seen}, the model says {expected}")
    return "\n".join(lines)


def _without(values: dict[Any, Any], keys: set[Any]) -> dict[Any, Any]:
    return {key: value for key, value in values.items() if key not in keys}


# ---- the machine -------------------------------------------------------------------------------


class MemoryMachine(RuleBasedStateMachine):
    """Everything that gives, maps, shares, loses and takes memory."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self.model = MemoryModel(VRAM_PAGES * PAGE, SYSTEM_PAGES * PAGE)
        self.numbers = itertools.count(1)
        #: Of each actor: the file that it has open, and all that are not gone.
        self.file: list[str] = []
        self.owned: list[list[str]] = [[] for _ in range(ACTORS)]
        self.ids: dict[str, int] = {}
        self.fds: dict[int, tuple[int, int]] = {}  # name: actor, number there
        self.maps: dict[int, int] = {}  # name: actor
        self.agreed = True

    @initialize(shared=st.booleans(), flags=vm_flags)
    def make(self, shared: bool, flags: int) -> None:
        """Two clients with a VM each, and a BO that is mapped and perhaps known to both."""
        for which in range(ACTORS):
            self._open_file(which)
        self.create_vm(0, flags)
        self.create_vm(1, 0)
        self.create(0, 4, 3, False, None)
        self.bind(0, 0, 0, SPACE)
        if shared and self.bos(0):
            self.export(0, 0)
            self.send(0, 1)
            self.import_fd(1)
            self.map(1, 0)

    # --- both sides -----------------------------------------------------------------------

    @property
    def actors(self) -> list[Actor]:
        return self.stage.actors

    def attempt(self, call: Callable[[], T], expected: Result) -> T | None:
        """Make a call that the model has made; None when both refuse it."""
        self.agreed = False
        try:
            answer, error = call(), None
        except OSError as refusal:
            answer, error = None, errno.errorcode[refusal.errno or 0]
        assert error == expected.errno, f"{error}, the model says {expected.errno}"
        return answer

    @invariant()
    def everything_agrees(self) -> None:
        """Some ends take a moment after the call: those that the kernel tells a server late."""
        victims, self.model.places.victims = self.model.places.victims, []
        if not eventually(lambda: self._driver() == self._model(self.model), PATIENCE):
            driver, model = self._driver(), self._model(self.model)
            assert driver == model, _differences(driver, model)
        self.model.check()
        self._check_contents()
        self._check_purged([bo for bo, action, _ in victims if action == "purged"])
        self.agreed = True

    def _driver(self) -> View:
        return view_of_state(self.stage.state())

    def _model(self, model: MemoryModel) -> View:
        regions = model.places.sizes
        return View(
            {self.ids[bo]: model.seen(bo) for bo in model.bos()},
            sorted(self._vmas(model, vm) for vm in model.vms()),
            sorted(
                (actor.pid, len(model.files[file].handles), self._count_vms(model, file))
                for actor, files in zip(self.actors, self.owned, strict=True)
                for file in files
                if file in model.files
            ),
            {region: self._use(model, region) for region in regions},
            model.page_files,
        )

    def _vmas(self, model: MemoryModel, vm: str) -> list[tuple[int, int, int, str]]:
        ranges = model.vma_ranges(vm)
        return [(start, end, self.ids[bo], advice) for start, end, bo, advice in ranges]

    @staticmethod
    def _count_vms(model: MemoryModel, file: str) -> int:
        return sum(model.file_of(vm) == file for vm in model.vms())

    @staticmethod
    def _use(model: MemoryModel, region: str) -> tuple[int, int, int]:
        purgeable = model.places.purgeable(region)
        return model.places.used(region), sum(purgeable), len(purgeable)

    def _check_contents(self) -> None:
        """Each mapping shows what was stored last, through whatever mapping."""
        for which, actor in enumerate(self.actors):
            expected = [piece for name in self.live_maps(which) for piece in self._pieces(name)]
            assert not expected or actor.differences(expected) == []

    def _pieces(self, name: int) -> Iterator[Expected]:
        bo = self.model.mappings[name][0]
        last = self.model.pages(bo) * PAGE - 1
        for offset, size in ((0, 1), (last, 1), *_runs(self.model.written(bo))):
            yield name, offset, self.model.load(bo, offset, size)

    def _check_purged(self, bos: Sequence[str]) -> None:
        """A mapping of a BO that was just purged raises SIGBUS, from its first byte to its last."""
        for name, which in self.maps.items():
            bo = self.model.mappings[name][0]
            if bo in bos:
                offset = name % 2 * (self.model.pages(bo) * PAGE - 1)
                died = self.actors[which].touch(name, offset, write=bool(name % 3))
                assert died == signal.SIGBUS, f"{bo} through mapping {name}"

    # --- things to choose from ------------------------------------------------------------

    def bos(self, actor: int) -> list[str]:
        """BOs that the actor's file has a handle of."""
        return list(self.model.files[self.file[actor]].handles)

    def handle(self, actor: int, bo: str) -> int:
        return self.model.files[self.file[actor]].handles[bo]

    @property
    def vms(self) -> list[tuple[int, str]]:
        """VMs of files that are open, with their actors."""
        return [
            (self.file.index(file), vm)
            for vm in self.model.vms()
            if (file := self.model.file_of(vm)) in self.file
        ]

    def live_maps(self, actor: int) -> list[int]:
        """Mappings of the actor that may be touched."""
        return [
            name
            for name, owner in self.maps.items()
            if owner == actor and not self.model.is_purged(self.model.mappings[name][0])
        ]

    def _with_bo(self, actor: int) -> int:
        """The actor, or the next one that has a BO."""
        order = [(actor + step) % ACTORS for step in range(ACTORS)]
        return next((which for which in order if self.bos(which)), order[0])

    # --- making ---------------------------------------------------------------------------

    def _open_file(self, which: int) -> None:
        name = f"f{next(self.numbers)}"
        self.model.open_file(name)
        self.owned[which].append(name)
        self.file[which : which + 1] = [name]

    @precondition(lambda self: len(self.model.bos()) < MAX_BOS)
    @rule(actor=some, pages=sizes, mask=masks, deferred=st.booleans(), vm=maybe)
    def create(self, actor: int, pages: int, mask: int, deferred: bool, vm: int | None) -> None:
        """A BO; when memory is full others go for it, or it is refused."""
        actor, owner = actor % ACTORS, None
        if vm is not None and self.vms:
            actor, owner = _pick(self.vms, vm)
        self._create(actor, pages, mask, deferred, owner)

    def _create(
        self, actor: int, pages: int, mask: int, deferred: bool = False, vm: str | None = None
    ) -> str | None:
        bo = f"bo{next(self.numbers)}"
        made = self.model.gem_create(
            bo, pages=pages, mask=mask, deferred=deferred, vm=vm, file=self.file[actor]
        )
        client = self.actors[actor]
        flags, vm_id = DEFERRED * deferred, self.model.vm_id(vm) if vm else 0
        handle = self.attempt(lambda: client.create(pages * PAGE, mask, flags, vm_id), made)
        if handle is None:
            return None
        assert handle == self.handle(actor, bo)
        self.ids[bo] = client.bo_id(handle)
        return bo

    @precondition(lambda self: len(self.model.bos()) < MAX_BOS)
    @rule(pages=parts, count=counts, mask=masks, vm=maybe, data=contents)
    def overcommit(self, pages: int, count: int, mask: int, vm: int | None, data: bytes) -> None:
        """Equal BOs with contents until there is no room; perhaps all of one VM, only for VRAM,
        and bound there."""
        actor, owner = count % ACTORS, None
        if vm is not None and self.vms:
            actor, owner = _pick(self.vms, vm)
            mask = 2
        for _ in range(min(count, MAX_BOS - len(self.model.bos()))):
            bo = self._create(actor, pages, mask, False, owner)
            if bo is None:
                break
            if len(self.maps) < MAX_MAPPINGS:
                self.map(actor, self.bos(actor).index(bo))
                self.store(len(self.maps) - 1, pages * PAGE - 1, data)
        if vm is not None and owner is not None:
            self.bind_all(vm)

    @precondition(lambda self: len(self.model.vms()) < MAX_VMS)
    @rule(actor=some, flags=vm_flags)
    def create_vm(self, actor: int, flags: int) -> None:
        actor %= ACTORS
        vm = f"vm{next(self.numbers)}"
        self.model.vm_kinds[vm] = VM_KINDS[flags]
        made = self.model.create_vm(vm, self.file[actor])
        answer = self.attempt(lambda: self.actors[actor].vm(flags), made)
        assert answer == self.model.vm_id(vm)

    # --- ending ---------------------------------------------------------------------------

    @rule(actor=some, which=some)
    def close_handle(self, actor: int, which: int) -> None:
        actor = self._with_bo(actor)
        if not self.bos(actor):
            return
        bo = _pick(self.bos(actor), which)
        handle = self.handle(actor, bo)
        closed = self.model.gem_close(bo, self.file[actor])
        self.attempt(lambda: self.actors[actor].close(handle), closed)

    @precondition(lambda self: self.model.bos())
    @rule(which=some, really=seldom)
    def let_go(self, which: int, really: bool) -> None:
        """Of all handles and descriptors of a BO: mappings keep it."""
        if not really:
            return
        bo = _pick(self.model.bos(), which)
        for actor in range(ACTORS):
            if bo in self.bos(actor):
                self.close_handle(actor, self.bos(actor).index(bo))
        for fd in list(self.fds):
            if self.model.bo_of_fd(fd) == bo:
                self.close_fd(list(self.fds).index(fd))

    @precondition(lambda self: self.vms)
    @rule(which=some, really=seldom)
    def destroy_vm(self, which: int, really: bool) -> None:
        actor, vm = _pick(self.vms, which)
        if really:
            vm_id = self.model.vm_id(vm)
            gone = self.model.vm_destroy(vm)
            self.attempt(lambda: self.actors[actor].vm_destroy(vm_id), gone)

    @rule(actor=some, really=seldom)
    def reopen(self, actor: int, really: bool) -> None:
        """Close the DRM file, which mappings may keep, and open another one."""
        actor %= ACTORS
        if really:
            closed = self.model.close_file(self.file[actor])
            self._open_file(actor)
            self.attempt(self.actors[actor].reopen, closed)

    # --- the GPU's mappings ---------------------------------------------------------------

    @precondition(lambda self: self.vms)
    @rule(vm=some, bo=some, start=starts, pages=sizes)
    def bind(self, vm: int, bo: int, start: int, pages: int) -> None:
        """Brings the BO to its place, if it is needed."""
        actor, name = _pick(self.vms, vm)
        if not self.bos(actor):
            return
        found = _pick(self.bos(actor), bo)
        pages = min(pages, self.model.pages(found))
        handle, vm_id = self.handle(actor, found), self.model.vm_id(name)
        done = self.model.bind(name, start, pages, found)
        client = self.actors[actor]
        self.attempt(lambda: client.bind(vm_id, handle, start * PAGE, pages * PAGE), done)

    @precondition(lambda self: self.vms)
    @rule(vm=some)
    def bind_all(self, vm: int) -> None:
        """Each BO of the file somewhere: more than fits, perhaps."""
        actor, _ = _pick(self.vms, vm)
        for which in range(len(self.bos(actor))):
            self.bind(vm, which, which * SPACE, SPACE)

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=starts, pages=sizes)
    def unbind(self, vm: int, start: int, pages: int) -> None:
        actor, name = _pick(self.vms, vm)
        vm_id = self.model.vm_id(name)
        done = self.model.unbind(name, start, pages)
        client = self.actors[actor]
        self.attempt(lambda: client.unbind(vm_id, start * PAGE, pages * PAGE), done)

    @precondition(lambda self: self.vms)
    @rule(vm=some, start=st.one_of(st.none(), starts), pages=sizes, advice=advices)
    def advise(self, vm: int, start: int | None, pages: int, advice: Advice) -> None:
        """On a range, or on all that the VM maps."""
        actor, name = _pick(self.vms, vm)
        first, count = (0, MAX_BOS * SPACE) if start is None else (start, pages)
        vm_id = self.model.vm_id(name)
        done = self.model.madvise(name, first, count, advice)
        call = getattr(self.actors[actor], advice.lower())
        retained = self.attempt(lambda: call(vm_id, first * PAGE, count * PAGE), done)
        assert retained == done.retained

    @precondition(lambda self: self.vms and len(self.model.bos()) < MAX_BOS)
    @rule(vm=some, pages=parts, mask=masks, deferred=twins, data=contents)
    def make_something_unneeded(
        self, vm: int, pages: int, mask: int, deferred: Sequence[bool], data: bytes
    ) -> None:
        """DONTNEED BOs with contents, if nothing is refused: the shortest way to a purge."""
        actor, _ = _pick(self.vms, vm)
        for number, late in enumerate(deferred):
            bo = self._create(actor, pages, mask, late)
            if bo is None:
                return
            which, start = self.bos(actor).index(bo), number * SPACE // 2
            self.bind(vm, which, start, pages)
            self.map(actor, which)
            self.store(len(self.maps) - 1, pages * PAGE // 2, data)
            self.advise(vm, start, pages, "DONTNEED")

    # --- the processes' mappings ----------------------------------------------------------

    @precondition(lambda self: len(self.maps) < MAX_MAPPINGS)
    @rule(actor=some, which=some)
    def map(self, actor: int, which: int) -> None:
        """A BO, perhaps once more."""
        actor = self._with_bo(actor)
        if not self.bos(actor):
            return
        bo = _pick(self.bos(actor), which)
        name, handle = next(self.numbers), self.handle(actor, bo)
        mapped = self.model.map(name, bo, self.file[actor])
        size = self.model.pages(bo) * PAGE
        self.attempt(lambda: self.actors[actor].map(handle, size, name), mapped)
        if mapped.errno is None:
            self.maps[name] = actor

    @precondition(lambda self: self.fds and len(self.maps) < MAX_MAPPINGS)
    @rule(which=some)
    def map_dma_buf(self, which: int) -> None:
        fd = _pick(list(self.fds), which)
        actor, number = self.fds[fd]
        name = next(self.numbers)
        mapped = self.model.map_fd(name, fd)
        self.attempt(lambda: self.actors[actor].map_fd(number, name), mapped)
        self.maps[name] = actor

    @precondition(lambda self: self.maps)
    @rule(which=some)
    def unmap(self, which: int) -> None:
        name = _pick(list(self.maps), which)
        actor = self.maps.pop(name)
        self.model.unmap(name)
        self.attempt(lambda: self.actors[actor].unmap(name), Result())

    @precondition(lambda self: self.maps)
    @rule(which=some, offset=st.integers(0, 1 << 30), data=contents)
    def store(self, which: int, offset: int, data: bytes) -> None:
        """Through some mapping; nobody asks whether the BO is needed."""
        if not self.maps:
            return
        name = _pick(list(self.maps), which)
        bo = self.model.mappings[name][0]
        if self.model.is_purged(bo):
            return
        offset %= self.model.pages(bo) * PAGE - len(data)
        self.model.store(bo, offset, data)
        self.attempt(lambda: self.actors[self.maps[name]].store(name, offset, data), Result())

    @precondition(lambda self: self.maps)
    @rule(which=some)
    def look_at_every_byte(self, which: int) -> None:
        name = _pick(list(self.maps), which)
        bo = self.model.mappings[name][0]
        if not self.model.is_purged(bo):
            contents = self.model.load(bo, 0, self.model.pages(bo) * PAGE)
            assert self.actors[self.maps[name]].checksum(name) == zlib.crc32(contents)

    # --- sharing --------------------------------------------------------------------------

    @precondition(lambda self: len(self.fds) < MAX_FDS)
    @rule(actor=some, which=some)
    def export(self, actor: int, which: int) -> None:
        actor = self._with_bo(actor)
        if not self.bos(actor):
            return
        bo = _pick(self.bos(actor), which)
        fd, handle = next(self.numbers), self.handle(actor, bo)
        exported = self.model.export(bo, fd, self.file[actor])
        number = self.attempt(lambda: self.actors[actor].export(handle), exported)
        if number is not None:
            self.fds[fd] = actor, number

    @precondition(lambda self: self.fds and len(self.fds) < MAX_FDS)
    @rule(which=some, receiver=some)
    def send(self, which: int, receiver: int) -> None:
        """A descriptor to another process, or a second one to the same."""
        if not self.fds:
            return
        fd, receiver = _pick(list(self.fds), which), receiver % ACTORS
        sender, number = self.fds[fd]
        name = next(self.numbers)
        self.model.duplicate_fd(fd, name)
        self.agreed = False
        there = self.actors[sender].send_fd(number, self.actors[receiver])
        self.fds[name] = receiver, there

    @precondition(lambda self: self.fds)
    @rule(which=some)
    def import_fd(self, which: int) -> None:
        """Where the descriptor is."""
        if not self.fds:
            return
        fd = _pick(list(self.fds), which)
        actor, number = self.fds[fd]
        done = self.model.import_fd(fd, self.file[actor])
        handle = self.attempt(lambda: self.actors[actor].import_fd(number), done)
        assert handle == self.handle(actor, self.model.bo_of_fd(fd))

    @precondition(lambda self: self.fds)
    @rule(which=some)
    def close_fd(self, which: int) -> None:
        fd = _pick(list(self.fds), which)
        actor, number = self.fds.pop(fd)
        closed = self.model.close_fd(fd)
        self.attempt(lambda: self.actors[actor].close_fd(number), closed)

    # --- from outside ---------------------------------------------------------------------

    @rule(pages=sizes)
    def evict(self, pages: int) -> None:
        """Pressure on VRAM."""
        self.model.places.evict_bytes(pages * PAGE)
        answer = self._pressure(f"region vram0 {pages * PAGE} evict")
        assert answer == [victim for victim in self._victims() if victim[2] == VRAM]

    @rule(pages=sizes, caches=seldom)
    def shrink(self, pages: int, caches: bool) -> None:
        """Pressure on system memory, or ``echo 2 > drop_caches``."""
        if caches:
            self.model.places.shrink(1 << 40, set())
            self.agreed = False
            Path(self.stage.directory, "proc/sys/vm/drop_caches").write_text("2")
            return
        self.model.places.shrink(pages * PAGE, set())
        answer = self._pressure(f"region {SYSTEM} {pages * PAGE} shrink")
        assert answer == self._victims()

    @precondition(lambda self: self.model.bos())
    @rule(which=some, in_vram=st.booleans())
    def press_one(self, which: int, in_vram: bool) -> None:
        bo = _pick(self.model.bos(), which)
        self.model.places.purge_one(bo, in_vram)
        answer = self._pressure(f"bo {self.ids[bo]} {'evict' if in_vram else 'shrink'}")
        assert answer == self._victims()

    def _victims(self) -> list[Victim]:
        return self.model.places.victims

    def _pressure(self, command: str) -> list[Victim]:
        """The victims that the driver names; where they were, the model knows."""
        self.agreed = False
        names = {number: bo for bo, number in self.ids.items()}
        regions = {bo: region for bo, _, region in self._victims()}
        victims = json.loads(self.stage.controls.write("pressure", command))["victims"]
        named = [(names[victim["bo"]], victim["action"]) for victim in victims]
        return [(bo, action, regions.get(bo, "")) for bo, action in named]

    @rule(actor=some, really=seldom)
    def kill(self, actor: int, really: bool) -> None:
        """SIGKILL: the kernel closes for the process, in an order of its own."""
        if not really:
            return
        actor %= ACTORS
        fds = [fd for fd, (owner, _) in self.fds.items() if owner == actor]
        maps = [name for name, owner in self.maps.items() if owner == actor]
        files = [file for file in self.owned[actor] if file in self.model.files]
        late = copy.deepcopy(self.model)
        self.model.kill(fds, maps, files, late_fds=False)
        late.kill(fds, maps, files, late_fds=True)
        self.agreed = False
        with self.stage.controls.trace() as trace:
            self.actors[actor].kill()
            assert eventually(lambda: self._agrees_with_one_of(late), PATIENCE)
            became = [e["bo"] for e in trace.events() if e.get("new") == "DONTNEED"]
        names = {number: bo for bo, number in self.ids.items()}
        self.model.reorder_unwanted([names[number] for number in became])
        self.fds = {fd: place for fd, place in self.fds.items() if fd not in fds}
        self.maps = {name: owner for name, owner in self.maps.items() if name not in maps}
        self.owned[actor].clear()
        self.stage.replace(actor)
        self._open_file(actor)

    def _agrees_with_one_of(self, late: MemoryModel) -> bool:
        """Each BO may be in the state of either order; the model takes the driver's."""
        driver, trial = self._driver(), copy.deepcopy(self.model)
        for bo in trial.bos():
            other = late.seen(bo)
            if driver.bos.get(self.ids[bo]) == other:
                trial.adopt(bo, other.state)
        if driver != self._model(trial):
            return False
        self.model = trial
        return True

    def teardown(self) -> None:
        """When all is closed, nothing is left, and the daemon has what it had."""
        fds = [[fd for owner, fd in self.fds.values() if owner == actor] for actor in range(ACTORS)]
        if not self.agreed:
            self.stage.clear(fds)
            return
        try:
            self.stage.reset(fds)
            self.stage.check_holdings()
        except AssertionError:
            self.stage.clear([[] for _ in fds])
            raise
