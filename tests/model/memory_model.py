"""The purgeability model with what memory adds: places, contents, CPU mappings, files that live
as long as these. A BO's page is 64 KiB here, so that few of them fill the card.

Use::

    model = MemoryModel(vram=4 << 20, system=6 << 20)
    model.open_file("f1")
    model.gem_create("A", pages=2, mask=3)
    model.map(1, "A", "f1")
    model.store("A", 100, b"bytes")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tests.model.placement_model import NoRoom, Placed, Places
from tests.model.purgeability_model import Model, Refused, _Bo, _Job, _Vm
from tests.model.purgeability_ops import DEFAULT_FILE, Result, State

__all__ = ("PAGE", "MemoryModel", "Seen", "VmKind")

PAGE = 64 << 10

VmKind: TypeAlias = Literal["usual", "long-running", "faulting"]
"""``usual`` VMs may evict what they map, ``faulting`` ones place it later."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What ``state`` tells of one BO."""

    size: int
    state: State
    vma_count: int
    willneed_count: int
    placement: str
    handles: int
    exported: bool


@dataclass(slots=True)
class _File:
    """A DRM file: its handles by BO; it ends once it is closed and nothing of it is mapped."""

    is_open: bool = True
    handles: dict[str, int] = field(default_factory=dict)


def _is_mapped(bo: _Bo, vm: _Vm) -> bool:
    return any(vma.vm is vm for vma in bo.vmas)


class MemoryModel(Model):
    """Calls answer as those of `Model`; ``places.victims`` says whom a call took memory from."""

    def __init__(self, vram: int, system: int) -> None:
        super().__init__("counters")
        self.places = Places(vram, system, self)
        self.files: dict[str, _File] = {}
        self.vm_kinds: dict[str, VmKind] = {}
        #: By name of the mapping; those of a dma-buf are descriptors of it with no number.
        self.mappings: dict[int, tuple[str, str | None]] = {}
        self._contents: dict[str, dict[int, int]] = {}
        self._touched: set[str] = set()

    # --- what can be seen -----------------------------------------------------------------

    def seen(self, bo: str) -> Seen:
        """A BO that is not freed."""
        found, place = self._bos[bo], self.places.bos[bo]
        return Seen(
            place.size,
            found.state,
            found.vma_count,
            found.willneed_count,
            place.shown,
            len(found.handles),
            found.dma_buf is not None,
        )

    @property
    def page_files(self) -> int:
        """BOs whose pages somebody may have touched."""
        return len(self._touched)

    def is_purged(self, bo: str) -> bool:
        """Whether the contents are lost."""
        return self._bos[bo].state == "P"

    def bo_of_fd(self, fd: int) -> str:
        """The BO that a descriptor shares."""
        return self._fds[fd].bo.name

    def vm_id(self, vm: str) -> int:
        """Its id in its file."""
        return self._vms[vm].id

    def load(self, bo: str, offset: int, size: int) -> bytes:
        """Bytes of a BO; never written ones are 0."""
        data = bytearray(size)
        for at, value in self._contents[bo].items():
            if 0 <= at - offset < size:
                data[at - offset] = value
        return bytes(data)

    def written(self, bo: str) -> list[int]:
        """Offsets that were stored to."""
        return sorted(self._contents[bo])

    # --- files ----------------------------------------------------------------------------

    def open_file(self, file: str) -> None:
        """open(2)."""
        self.files[file] = _File()

    def close_file(self, file: str) -> Result:
        """close(2)."""
        self.files[file].is_open = False
        self._end_file_if_unused(file)
        return Result()

    def _end_file_if_unused(self, file: str) -> None:
        found = self.files[file]
        if found.is_open or any(owner == file for _, owner in self.mappings.values()):
            return
        for bo in sorted(found.handles, key=found.handles.__getitem__):
            self.gem_close(bo, file)
        mine = [vm for vm in self._vms.values() if vm.file == file]
        for vm in sorted(mine, key=lambda vm: vm.id):
            self.vm_destroy(vm.name)
        del self.files[file]

    # --- BOs ------------------------------------------------------------------------------

    def gem_create(
        self,
        bo: str,
        *,
        pages: int,
        mask: int,
        deferred: bool = False,
        vm: str | None = None,
        file: str = DEFAULT_FILE,
    ) -> Result:
        """GEM_CREATE: ``mask`` of the places."""
        placed = Placed(bo, pages * PAGE, mask, f"vm {vm}" if vm else f"bo {bo}")
        try:
            # Whoever makes a BO in a VM may push out others of it.
            self.places.add(placed, deferred=deferred, own=placed.resv if vm else None)
        except NoRoom as refusal:
            return Result(refusal.errno)
        self._contents[bo] = {}
        self._name(bo, file)
        return self.create(bo, pages=pages, vm=vm, file=file)

    def _name(self, bo: str, file: str) -> None:
        """Give it the lowest free handle, unless it has one."""
        handles = self.files[file].handles
        if bo not in handles:
            used = set(handles.values())
            handles[bo] = next(n for n in range(1, len(used) + 2) if n not in used)

    def import_fd(self, fd: int, file: str) -> Result:
        """PRIME_FD_TO_HANDLE."""
        self._name(self.bo_of_fd(fd), file)
        return super().import_fd(fd, file)

    def gem_close(self, bo: str, file: str = DEFAULT_FILE) -> Result:
        """GEM_CLOSE."""
        self.files[file].handles.pop(bo, None)
        return super().gem_close(bo, file)

    def export(self, bo: str, fd: int, file: str = DEFAULT_FILE, *, fail: bool = False) -> Result:
        """PRIME_HANDLE_TO_FD, which populates."""
        found = self._bos[bo]
        if found.private_to is None and found.state == "W" and file in found.handles:
            fail = fail or not self._populate(bo)
        return super().export(bo, fd, file, fail=fail)

    def _populate(self, bo: str) -> bool:
        try:
            self.places.populate(bo, {self.places.bos[bo].resv})
        except NoRoom:
            return False
        return True

    # --- mappings -------------------------------------------------------------------------

    def map(self, name: int, bo: str, file: str) -> Result:
        """mmap(2) of all of a BO, which populates."""
        gate = self.mmap(bo, file)
        if gate.errno is not None:
            return gate
        if not self._populate(bo):
            return Result("ENOMEM")
        self._touched.add(bo)
        self.mappings[name] = bo, file
        return Result()

    def map_fd(self, name: int, fd: int) -> Result:
        """mmap(2) of a dma-buf; ``name`` is none of a descriptor."""
        dma_buf = self._fds[fd]
        self.duplicate_fd(fd, name)
        self._touched.add(dma_buf.bo.name)
        self.mappings[name] = dma_buf.bo.name, None
        return Result()

    def duplicate_fd(self, fd: int, other: int) -> None:
        """One more descriptor of a dma-buf."""
        if other in self._fds:
            raise ValueError(f"descriptor {other} is open")
        self._fds[other] = self._fds[fd]
        self._fds[fd].fds += 1

    def unmap(self, name: int) -> None:
        """munmap(2)."""
        bo, file = self.mappings.pop(name)
        if file is None:
            self.close_fd(name)
            return
        self._free_if_unused(self._bos[bo])
        self._end_file_if_unused(file)

    def store(self, bo: str, offset: int, data: bytes) -> None:
        """A store through any mapping."""
        self._contents[bo].update(enumerate(data, offset))

    # --- a process ends -------------------------------------------------------------------

    def kill(self, fds: list[int], mappings: list[int], files: list[str], late_fds: bool) -> None:
        """All that a process has goes. The kernel does not say whether the dma-bufs or the DRM
        files go first, and BOs that lose all mappings keep the state that they have then."""
        ours = [name for name in mappings if self.mappings[name][1] is None]
        shares = [*fds, *ours]
        for file in files:
            self.files[file].is_open = False
        if not late_fds:
            self._close_shares(shares)
        for name in [name for name in mappings if name not in ours]:
            self.unmap(name)
        for file in files:
            if file in self.files:
                self._end_file_if_unused(file)
        if late_fds:
            self._close_shares(shares)

    def _close_shares(self, shares: list[int]) -> None:
        for name in shares:
            self.mappings.pop(name, None)
            self.close_fd(name)

    def adopt(self, bo: str, state: State) -> None:
        """Of two states that both are right, this is the one."""
        found = self._bos[bo]
        if found.state != state:
            self._set_state(found, state)
            found.left_as = state if found.left_as is not None else None

    def reorder_unwanted(self, order: list[str]) -> None:
        """Of BOs that became DONTNEED at once, in any order, this was the order."""
        for bo in order:
            if bo in self.places.unwanted:
                self.places.no_longer_unwanted(bo)
                self.places.now_unwanted(bo)

    # --- what `Places` asks ---------------------------------------------------------------

    def is_dontneed(self, bo: str) -> bool:
        """Whether contents may be lost."""
        return self._bos[bo].state == "D"

    def purged(self, bo: str) -> None:
        """They are lost."""
        self._set_state(self._bos[bo], "P")
        self._contents[bo].clear()
        self._touched.discard(bo)

    # --- hooks ----------------------------------------------------------------------------

    def _prepare(self, job: _Job) -> None:
        """Each BO that is mapped anew goes to its place, unless a fault of the GPU shall bring it.
        BOs of the call are in nobody's reach."""
        kind = self.vm_kinds.get(job.vm.name, "usual")
        if kind == "faulting":
            return
        vm = f"vm {job.vm.name}"
        bos = [vma.bo.name for vma in (*job.removed, *job.created)]
        held = {vm, *(self.places.bos[bo].resv for bo in bos)}
        own: str | None = vm
        spared: set[str] = set()
        if kind == "long-running":
            own, spared = None, {bo.name for bo in self._bos.values() if _is_mapped(bo, job.vm)}
        try:
            for vma in job.created:
                if vma.attr == "W":
                    self.places.validate(vma.bo.name, held, own, spared)
        except NoRoom as refusal:
            raise Refused(refusal.errno) from None

    def _set_state(self, bo: _Bo, state: State) -> None:
        super()._set_state(bo, state)
        if state == "D":
            self.places.now_unwanted(bo.name)
        else:
            self.places.no_longer_unwanted(bo.name)

    def _free_if_unused(self, bo: _Bo) -> None:
        if any(mapped == bo.name for mapped, _ in self.mappings.values()):
            return
        super()._free_if_unused(bo)
        if bo.freed and bo.name in self.places.bos:
            self.places.forget(bo.name)
            self._touched.discard(bo.name)
