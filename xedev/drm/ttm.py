"""Where memory objects live, who must leave when a place is full (kernel: drivers/gpu/drm/ttm).

A `TtmBuffer` has at most one resource: so many bytes in one `TtmManager`.  Pages that live in
system memory are accounted against one budget, whatever manager they are filed under.
"""

from __future__ import annotations

import errno
import itertools
import random
import threading
import time
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TypeVar

from xedev.drm.drm_device import DrmDevice
from xedev.drm.drm_gem import DrmGemObject
from xedev.kernel.errors import KernelError, warn_on
from xedev.kernel.locking import LockLevel, Mutex
from xedev.kernel.shmem import ShmemFile, ShmemStore

__all__ = (
    "Contention",
    "MemType",
    "OperationCtx",
    "Place",
    "PlaceFlag",
    "ShrinkResult",
    "TtmBuffer",
    "TtmDevice",
    "TtmManager",
    "retry_on_contention",
)

T = TypeVar("T")


class MemType(IntEnum):
    """Where memory is (kernel: ``TTM_PL_SYSTEM``, ``XE_PL_*``)."""

    SYSTEM = 0
    """System memory that the GPU has not mapped; may have no pages at all."""
    TT = 1
    """System memory mapped for the GPU."""
    VRAM0 = 2
    VRAM1 = 3

    # An enum's own hash is a function in Python, which every look-up of a manager would call.
    __hash__ = int.__hash__

    @property
    def is_vram(self) -> bool:
        """True for memory on the card."""
        return self >= MemType.VRAM0


class PlaceFlag(IntFlag):
    """When a place is tried (kernel: ``TTM_PL_FLAG_*``)."""

    NONE = 0
    DESIRED = 1
    """Only without eviction."""
    FALLBACK = 2
    """Only after eviction failed elsewhere."""


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of a placement list."""

    mem_type: MemType
    flags: PlaceFlag = PlaceFlag.NONE
    visible: bool = False
    """Whether it must be within the CPU-visible part."""


@dataclass(slots=True)
class OperationCtx:
    """How one validation may behave (kernel: ``struct ttm_operation_ctx``)."""

    resv: Mutex | None = None
    """The reservation that the caller holds for its own VM, if any."""
    allow_res_evict: bool = False
    """Whether BOs under that reservation may be evicted too."""
    validating: object | None = None
    """The address space whose BOs are being made resident: none of them is evicted."""


class TtmManager:
    """One kind of memory with its size, its use and its least-recently-used list.

    ``size`` and ``used`` are bytes.  ``visible_size`` bytes of it can be reached by the CPU.
    """

    def __init__(self, name: str, mem_type: MemType, size: int, visible_size: int = 0) -> None:
        self.name = name
        self.mem_type = mem_type
        self.size = size
        self.used = 0
        self.visible_size = visible_size
        self.visible_used = 0
        # Oldest first.  An OrderedDict, because a plain dict gets slow at its front.
        self.lru: OrderedDict[TtmBuffer, None] = OrderedDict()
        self.purgeable: OrderedDict[TtmBuffer, None] = OrderedDict()

    @property
    def small_bar(self) -> bool:
        """Whether the CPU reaches only a part."""
        return self.visible_size < self.size

    def check_possible(self, size: int, visible: bool) -> None:
        """``E2BIG`` when ``size`` bytes can never fit."""
        limit = self.visible_size if visible else self.size
        if size > limit:
            raise KernelError(errno.E2BIG, f"{size} bytes never fit in {self.name} of {limit}")

    def has_room(self, size: int, visible: bool) -> bool:
        """Whether ``size`` bytes fit now, in the CPU-visible part if they must."""
        if visible and self.visible_used + size > self.visible_size:
            return False
        return self.used + size <= self.size

    def charge(self, size: int, visible: bool) -> int:
        """Take ``size`` bytes; returns how many of them are CPU-visible.

        Without a wish for visibility memory comes from the top, so the visible part is the last
        to be used.
        """
        self.used += size
        hidden = self.size - self.visible_size - (self.used - size - self.visible_used)
        seen = size if visible else max(0, size - max(0, hidden))
        self.visible_used += seen
        return seen

    def uncharge(self, size: int, seen: int) -> None:
        """Give bytes back."""
        self.used -= size
        self.visible_used -= seen
        warn_on(self.used < 0 or self.visible_used < 0, f"{self.name} is given back too much")


@dataclass(slots=True)
class ShrinkResult:
    """What one round of reclaim did."""

    victims: list[dict[str, object]] = field(default_factory=list)
    skipped: list[dict[str, object]] = field(default_factory=list)

    def add(self, bo: TtmBuffer, action: str, freed: int, target: str = "") -> None:
        """Note a victim: ``purged`` or ``moved``, and the bytes that it gave."""
        entry: dict[str, object] = {"bo": bo.id, "action": action, "bytes": freed}
        if target:
            entry["to"] = target
        self.victims.append(entry)

    def skip(self, bo: TtmBuffer, reason: str) -> None:
        """Note why a candidate was left alone."""
        self.skipped.append({"bo": bo.id, "reason": reason})


class TtmBuffer(DrmGemObject):
    """An object with a place (kernel: ``struct ttm_buffer_object``).  Guarded by ``resv``."""

    __slots__ = (
        "cpu_mappings",
        "id",
        "mem_type",
        "pages",
        "pin_count",
        "populated",
        "resv",
        "visible_bytes",
    )

    def __init__(self, device: DrmDevice, size: int, resv: Mutex | None) -> None:
        super().__init__(device, size)
        self.id = next(device.object_ids)
        self.resv = resv if resv is not None else Mutex(f"resv of bo {self.id}", LockLevel.RESV)
        self.mem_type: MemType | None = None
        """Where it is; None: nowhere, not even without pages."""
        self.populated = False
        """Whether it has pages, in the driver's sense."""
        self.visible_bytes = 0
        self.pin_count = 0
        self.pages: ShmemFile | None = None
        """Its contents, once somebody may have touched them.  `populated` does not follow from
        it: that is the driver's accounting, which does not know what was never written."""
        self.cpu_mappings = 0

    def is_in(self, place: Place) -> bool:
        """Whether it need not move for ``place`` (kernel: ``ttm_resource_compatible``)."""
        hidden = place.visible and self.visible_bytes < self.size
        return self.mem_type == place.mem_type and not hidden

    def eviction_valuable(self, place: Place, ctx: OperationCtx) -> bool:
        """Whether it may be evicted, and would make room in ``place``
        (kernel: ``ttm_device_funcs.eviction_valuable``)."""
        return self.visible_bytes > 0 or not place.visible

    def drop_pages(self) -> None:
        """The contents are lost; CPU mappings raise SIGBUS from now on."""
        pages, self.pages = self.pages, None
        if pages is not None:
            pages.drop()

    @abstractmethod
    def is_busy(self) -> bool:
        """Whether work runs that may use its contents."""

    @abstractmethod
    def is_dontneed(self) -> bool:
        """Whether its contents may be dropped."""

    @abstractmethod
    def ttm_move_notify(self, evict: bool) -> None:
        """Its pages are about to move or to go."""

    @abstractmethod
    def ttm_purged(self) -> None:
        """Its pages went, for good."""

    @abstractmethod
    def ttm_moved(self, target: MemType) -> None:
        """Its pages are elsewhere now."""


BUSY = "busy"
"""Why a victim was skipped that another thread, or the GPU, works on."""
BUSY_RETRIES = 8
BUSY_WAIT = 0.0005
"""Seconds of the first wait for busy victims; each next one is longer by as much."""
CONTENTION_RETRIES = 100
CONTENTION_WAIT = 0.02
"""Seconds, at most, before the next try."""
LRU_PIECE = 64


class Contention(KernelError):
    """``ENOMEM``, because others hold the locks of all victims, and perhaps wait for ours
    (kernel: ``-EDEADLK`` of a ww_mutex)."""


def retry_on_contention(attempt: Callable[[], T]) -> T:
    """Do something that takes locks, makes room in VRAM, and gives the locks back; again when
    others stand in the way (kernel: ``drm_exec_retry_on_contention``, ``xe_validation_guard``)."""
    for _ in range(CONTENTION_RETRIES):
        try:
            return attempt()
        except Contention:
            # Not in step with the other one, who may be doing the same.
            time.sleep(random.uniform(0, CONTENTION_WAIT))
    return attempt()


class TtmDevice:
    """The managers of one device and the two ways to get memory back."""

    def __init__(
        self,
        managers: Iterable[TtmManager],
        system_budget: int,
        check: Callable[[str], None],
        shmem: ShmemStore,
    ) -> None:
        self.managers = {manager.mem_type: manager for manager in managers}
        self.system_budget = system_budget
        self.system_used = 0
        self.lru_lock = threading.Lock()
        self._check = check
        self.shmem = shmem

    def validate(self, bo: TtmBuffer, places: tuple[Place, ...], ctx: OperationCtx) -> None:
        """Bring ``bo`` into one of ``places`` with pages (kernel: ``ttm_bo_validate``).

        ``EINVAL`` pinned elsewhere, ``E2BIG`` never fits, ``ENOMEM`` no room even after eviction.
        """
        checked = False
        for evict in (False, True):
            skipped = PlaceFlag.DESIRED if evict else PlaceFlag.FALLBACK
            usable = [place for place in places if not place.flags & skipped]
            # A BO that was evicted goes back where there is room, but stays in a fallback place
            # rather than evict others.
            if any(bo.is_in(place) for place in usable):
                if not bo.populated:
                    self.populate(bo)
                return
            if bo.pin_count:
                raise KernelError(errno.EINVAL, "the BO is pinned")
            if not checked:
                self._check("ttm_bo_validate")
                checked = True
            if any(self._try_place(bo, place, ctx, evict) for place in usable):
                return
        raise KernelError(errno.ENOMEM, "no placement has room, and nothing can be evicted")

    def init_without_pages(self, bo: TtmBuffer) -> None:
        """File a new BO under SYSTEM with no pages yet (``DEFER_BACKING``)."""
        with self.lru_lock:
            bo.mem_type = MemType.SYSTEM
            self._file(bo)

    def unmap_foreign(self, bo: TtmBuffer) -> None:
        """An import lets go of its exporter's pages; its next validation maps them anew."""
        with self.lru_lock:
            if bo.mem_type is None:
                return  # it ends
            self._unfile(bo)
            self._uncharge(bo)
            bo.mem_type = MemType.SYSTEM
            bo.populated = False
            self._file(bo)

    def forget(self, bo: TtmBuffer) -> None:
        """A BO ends, or loses its pages: give back what it uses (kernel: ``ttm_resource_free``)."""
        with self.lru_lock:
            self._unfile(bo)
            self._uncharge(bo)
            bo.mem_type = None
            bo.populated = False

    def bump(self, bo: TtmBuffer) -> None:
        """Make it the most recently used (kernel: ``ttm_bo_move_to_lru_tail``)."""
        with self.lru_lock:
            manager = self.managers.get(bo.mem_type) if bo.mem_type is not None else None
            if manager is not None and bo in manager.lru:
                manager.lru.move_to_end(bo)

    def set_purgeable(self, bo: TtmBuffer) -> None:
        """Refile after its advice changed (kernel: ``xe_bo_set_purgeable_shrinker``)."""
        with self.lru_lock:
            manager = self.managers.get(bo.mem_type) if bo.mem_type is not None else None
            if manager is not None:
                self._file_purgeable(manager, bo)

    def purge(self, bo: TtmBuffer) -> int:
        """Drop the contents of a DONTNEED BO; returns the bytes freed, 0 when it may not be.

        Kernel: ``xe_ttm_bo_purge``.  The caller holds ``resv``.
        """
        if not bo.populated or not bo.is_dontneed():
            return 0
        if bo.pin_count:
            raise KernelError(errno.EINVAL, "the BO is pinned")
        bo.ttm_move_notify(True)
        freed = bo.size
        self.forget(bo)
        bo.drop_pages()
        bo.ttm_purged()
        return freed

    def pages(self, bo: TtmBuffer, *, named: bool = False) -> ShmemFile:
        """The contents of a populated BO, made if this is the first touch.

        The caller holds ``resv``.  ``named``: see `ShmemStore.create`.  ``ENOMEM`` no file to be
        had, ``EACCES`` the pages are mapped where no name is needed, and cannot get one now.
        """
        if bo.pages is None:
            bo.pages = self.shmem.create(bo.size, named=named)
        elif named and not bo.pages.is_named:
            if bo.cpu_mappings:
                raise KernelError(errno.EACCES, "another user maps these pages by descriptor")
            bo.pages = self.shmem.name(bo.pages)
        return bo.pages

    def evict(self, bo: TtmBuffer) -> tuple[str, int]:
        """Take one BO out of VRAM: ``("purged" | "moved", bytes)`` (kernel: ``ttm_bo_evict``).

        The caller holds ``resv``.  ``ENOMEM`` when there is nowhere to go.
        """
        if bo.is_dontneed():
            if bo.is_busy():
                raise KernelError(errno.EBUSY, BUSY)
            return "purged", self.purge(bo)
        if self.system_used + bo.size > self.system_budget:
            self.shrink(self.system_used + bo.size - self.system_budget)
        if self.system_used + bo.size > self.system_budget:
            raise KernelError(errno.ENOMEM, "no system memory to evict to")
        bo.ttm_move_notify(True)
        self._move(bo, MemType.TT, False)
        return "moved", bo.size

    def evict_bytes(self, mem_type: MemType, need: int, ctx: OperationCtx) -> ShrinkResult:
        """Evict the oldest BOs of a region until ``need`` bytes were freed."""
        result = ShrinkResult()
        freed = 0
        for bo in self._oldest(self.managers[mem_type].lru):
            if freed >= need:
                break
            freed += self._evict_one(bo, Place(mem_type), ctx, result)
        return result

    def shrink(self, need: int) -> ShrinkResult:
        """The system shrinker: purge DONTNEED BOs, oldest first, SYSTEM before TT.

        WILLNEED pages stay: the mock has no swap.  Kernel: ``xe_shrinker_scan``.
        """
        result = ShrinkResult()
        freed = 0
        for mem_type in (MemType.SYSTEM, MemType.TT):
            for bo in self._oldest(self.managers[mem_type].purgeable):
                if freed >= need:
                    return result
                freed += self.shrink_one(bo, result)
        return result

    def shrink_one(self, bo: TtmBuffer, result: ShrinkResult) -> int:
        """Let the shrinker look at one BO; returns the bytes freed."""
        if not bo.get_unless_zero():
            return 0
        locked = bo.resv.trylock()
        try:
            if not locked:
                result.skip(bo, BUSY)
                return 0
            if bo.mem_type is None or bo.mem_type.is_vram:
                result.skip(bo, "not in system memory")
                return 0
            return self._purge_or_skip(bo, result)
        finally:
            if locked:
                bo.resv.unlock()
            bo.put()

    def _purge_or_skip(self, bo: TtmBuffer, result: ShrinkResult) -> int:
        if not bo.populated:
            result.skip(bo, "no pages")
            return 0
        if not bo.is_dontneed():
            result.skip(bo, "not DONTNEED")
            return 0
        if bo.is_busy():
            result.skip(bo, BUSY)
            return 0
        try:
            freed = self.purge(bo)
        except KernelError as error:
            result.skip(bo, error.reason)
            return 0
        result.add(bo, "purged", freed)
        return freed

    def evict_one(self, bo: TtmBuffer, ctx: OperationCtx, result: ShrinkResult) -> int:
        """Let eviction look at one BO of VRAM; purges it if it is DONTNEED, else leaves it."""
        if not bo.get_unless_zero():
            return 0
        locked = bo.resv.trylock()
        try:
            if not locked:
                result.skip(bo, BUSY)
                return 0
            if bo.mem_type is None or not bo.mem_type.is_vram:
                result.skip(bo, "not in VRAM")
                return 0
            return self._purge_or_skip(bo, result)
        finally:
            if locked:
                bo.resv.unlock()
            bo.put()

    def _try_place(self, bo: TtmBuffer, place: Place, ctx: OperationCtx, evict: bool) -> bool:
        if place.mem_type.is_vram:
            self.managers[place.mem_type].check_possible(bo.size, place.visible)
        elif evict and (over := self._system_excess(bo)) > 0:
            self.shrink(over)
        if self._try_replace(bo, place):
            return True
        return evict and place.mem_type.is_vram and self._evict_alloc(bo, place, ctx)

    def _system_excess(self, bo: TtmBuffer) -> int:
        """Bytes that the budget lacks for a BO's pages."""
        if bo.populated and bo.mem_type is not None and not bo.mem_type.is_vram:
            return 0
        return self.system_used + bo.size - self.system_budget

    def _evict_alloc(self, bo: TtmBuffer, place: Place, ctx: OperationCtx) -> bool:
        """Evict one BO after the other, oldest first, until ``bo`` has its place
        (kernel: ``ttm_bo_evict_alloc``)."""
        busy = 0
        while True:
            result = ShrinkResult()
            for victim in self._oldest(self.managers[place.mem_type].lru):
                freed = self._evict_one(victim, place, ctx, result)
                if freed and self._try_replace(bo, place):
                    return True
            if result.victims:
                continue
            busy += 1
            is_busy = any(entry["reason"] == BUSY for entry in result.skipped)
            if not is_busy:
                return False
            if busy == BUSY_RETRIES:
                raise Contention(errno.ENOMEM, "others work on all that could be evicted")
            # Somebody else works on the victims; that takes microseconds.
            time.sleep(BUSY_WAIT * busy)

    def _try_replace(self, bo: TtmBuffer, place: Place) -> bool:
        """Take a place if it has room now."""
        with self.lru_lock:
            if not self.managers[place.mem_type].has_room(bo.size, place.visible):
                return False
            if not place.mem_type.is_vram and self._system_excess(bo) > 0:
                return False
            before = bo.mem_type if bo.populated else None
            self._replace(bo, place)
        if before is None:
            return True
        if before.is_vram or place.mem_type.is_vram:
            bo.ttm_move_notify(False)
        bo.ttm_moved(place.mem_type)
        return True

    def populate(self, bo: TtmBuffer) -> None:
        """Give a filed BO its pages where it is."""
        if bo.mem_type is None or bo.mem_type.is_vram:
            raise KernelError(errno.EINVAL, "the BO has no place")
        if not self._try_place(bo, Place(bo.mem_type), OperationCtx(), True):
            raise KernelError(errno.ENOMEM, "no system memory left")

    def _move(self, bo: TtmBuffer, target: MemType, visible: bool) -> None:
        with self.lru_lock:
            self._replace(bo, Place(target, visible=visible))
        bo.ttm_moved(target)

    def _replace(self, bo: TtmBuffer, place: Place) -> None:
        """Under the LRU lock: give up the old place and take the new one, with pages."""
        self._unfile(bo)
        self._uncharge(bo)
        manager = self.managers[place.mem_type]
        bo.visible_bytes = manager.charge(bo.size, place.visible)
        if not place.mem_type.is_vram:
            self.system_used += bo.size
        bo.mem_type = place.mem_type
        bo.populated = True
        self._file(bo)

    def _file(self, bo: TtmBuffer) -> None:
        warn_on(bo.mem_type is None, "a BO without a place is filed")
        assert bo.mem_type is not None
        manager = self.managers[bo.mem_type]
        manager.lru[bo] = None
        self._file_purgeable(manager, bo)

    @staticmethod
    def _file_purgeable(manager: TtmManager, bo: TtmBuffer) -> None:
        if bo.populated and bo.is_dontneed():
            manager.purgeable[bo] = None
        else:
            manager.purgeable.pop(bo, None)

    def _unfile(self, bo: TtmBuffer) -> None:
        if bo.mem_type is None:
            return
        manager = self.managers[bo.mem_type]
        manager.lru.pop(bo, None)
        manager.purgeable.pop(bo, None)

    def _uncharge(self, bo: TtmBuffer) -> None:
        if bo.mem_type is None or not bo.populated:
            return
        self.managers[bo.mem_type].uncharge(bo.size, bo.visible_bytes)
        if not bo.mem_type.is_vram:
            self.system_used -= bo.size

    def _oldest(self, lru: Iterable[TtmBuffer]) -> Iterator[TtmBuffer]:
        """An LRU list from its old end, a piece at a time: it changes as victims go.

        Each piece is twice as long as the last one: what is passed over is looked at again for
        each piece, which would else take a time that grows with its square.
        """
        seen: set[int] = set()
        length = LRU_PIECE
        while True:
            with self.lru_lock:
                unseen = (bo for bo in lru if bo.id not in seen)
                piece = list(itertools.islice(unseen, length))
            if not piece:
                return
            for bo in piece:
                seen.add(bo.id)
                yield bo
            length *= 2

    def _evict_one(
        self, bo: TtmBuffer, place: Place, ctx: OperationCtx, result: ShrinkResult
    ) -> int:
        mine = bo.resv.held()
        if mine and not (ctx.allow_res_evict and bo.resv is ctx.resv):
            result.skip(bo, "belongs to the caller")
            return 0
        if not bo.get_unless_zero():
            return 0
        locked = mine or bo.resv.trylock()
        try:
            if not locked:
                result.skip(bo, BUSY)
                return 0
            if bo.pin_count:
                result.skip(bo, "pinned")
                return 0
            if bo.mem_type != place.mem_type:
                return 0
            if not bo.eviction_valuable(place, ctx):
                result.skip(bo, "in use by the caller, or elsewhere")
                return 0
            return self._evict_or_skip(bo, result)
        finally:
            if locked and not mine:
                bo.resv.unlock()
            bo.put()

    def _evict_or_skip(self, bo: TtmBuffer, result: ShrinkResult) -> int:
        try:
            action, freed = self.evict(bo)
        except KernelError as error:
            result.skip(bo, error.reason)
            return 0
        result.add(bo, action, freed, "" if action == "purged" else "system")
        return freed
