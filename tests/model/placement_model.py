"""A slow, obvious model of where BOs are: memory.md 1.5 to 1.7 word by word, for one card whose
VRAM the CPU sees whole.

Nothing here is shared with the driver. Lists are kept oldest first, sums are added up each time
that somebody asks. What a BO's advice is, and what a purge means for it, its `Owner` knows.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

__all__ = ("FALLBACK", "NOWHERE", "VRAM", "NoRoom", "Owner", "Placed", "Places", "Victim")

VRAM, GTT, SYSTEM = "vram0", "gtt", "system"
#: What `Placed.shown` says of a BO without pages.
NOWHERE = "none"
#: Placement mask of GEM_CREATE -> places in their order.
PLACES = {1: (GTT,), 2: (VRAM,), 3: (VRAM, GTT)}
#: The place that is tried only after eviction failed elsewhere, by mask.
FALLBACK = {3: GTT}

Victim = tuple[str, str, str]
"""BO, ``purged`` or ``moved``, and the region that it left."""


class NoRoom(Exception):
    """A BO finds no place: E2BIG or ENOMEM."""

    def __init__(self, errno: str) -> None:
        super().__init__(errno)
        self.errno = errno


class Owner(Protocol):
    """What decides about contents."""

    def is_dontneed(self, bo: str) -> bool:
        """Whether they may be lost."""

    def purged(self, bo: str) -> None:
        """They are lost."""


@dataclass(eq=False, slots=True)
class Placed:
    """One BO: bytes, mask of places, and whose reservation guards it."""

    name: str
    size: int
    mask: int
    resv: str
    region: str | None = None
    populated: bool = False

    @property
    def shown(self) -> str:
        """Region of its pages."""
        return self.region if self.populated and self.region else NOWHERE


class Places:
    """The regions of one card with the two ways to get memory back.

    ``held`` are the reservations that a call holds: their BOs are in nobody's reach, but that a
    VM whose reservation is ``own`` may evict its own BOs from VRAM.  ``spared`` are other BOs that
    may not be evicted now.
    """

    def __init__(self, vram: int, system: int, owner: Owner) -> None:
        self.sizes = {SYSTEM: system, GTT: system, VRAM: vram}
        self.owner = owner
        self.bos: dict[str, Placed] = {}
        self.lru: dict[str, list[Placed]] = {region: [] for region in self.sizes}
        #: BOs in the order in which they became DONTNEED.
        self.unwanted: list[str] = []
        #: What the last call did to others.
        self.victims: list[Victim] = []

    # --- what can be seen -----------------------------------------------------------------

    def used(self, region: str) -> int:
        """Bytes of a region in use."""
        return sum(bo.size for bo in self.lru[region] if bo.populated)

    def purgeable(self, region: str) -> list[int]:
        """Sizes of the BOs of a region that may be purged."""
        return [
            bo.size for bo in self.lru[region] if bo.populated and self.owner.is_dontneed(bo.name)
        ]

    # --- lives ----------------------------------------------------------------------------

    def add(self, bo: Placed, *, deferred: bool, own: str | None) -> None:
        """GEM_CREATE; NoRoom leaves nothing of it."""
        self.bos[bo.name] = bo
        if deferred:
            self._file(bo, SYSTEM)
            return
        try:
            self.validate(bo.name, {bo.resv}, own)
        except NoRoom:
            self.forget(bo.name)
            raise

    def forget(self, name: str) -> None:
        """The BO ends."""
        self._unfile(self.bos.pop(name))
        self.no_longer_unwanted(name)

    def now_unwanted(self, name: str) -> None:
        """The BO became DONTNEED."""
        self.unwanted.append(name)

    def no_longer_unwanted(self, name: str) -> None:
        """It became anything else."""
        if name in self.unwanted:
            self.unwanted.remove(name)

    # --- places ---------------------------------------------------------------------------

    def validate(
        self, name: str, held: set[str], own: str | None, spared: Collection[str] = ()
    ) -> None:
        """Bring a BO to the first of its places that has room, at last by eviction."""
        bo = self.bos[name]
        for evict in (False, True):
            usable = [place for place in PLACES[bo.mask] if evict or place != FALLBACK.get(bo.mask)]
            if bo.region in usable:
                return
            for place in usable:
                if self._try(bo, place, evict, held):
                    return
                if place == VRAM and evict and self._evict_until_taken(bo, held, own, spared):
                    return
        raise NoRoom("ENOMEM")

    def populate(self, name: str, held: set[str]) -> None:
        """Give a BO pages where it is."""
        bo = self.bos[name]
        if bo.populated:
            return
        assert bo.region == SYSTEM
        if not self._take_system(bo, SYSTEM, True, held):
            raise NoRoom("ENOMEM")

    def _try(self, bo: Placed, place: str, evict: bool, held: set[str]) -> bool:
        if place != VRAM:
            return self._take_system(bo, place, evict, held)
        if bo.size > self.sizes[VRAM]:
            raise NoRoom("E2BIG")
        return self._take_vram(bo)

    def _take_vram(self, bo: Placed) -> bool:
        if self.used(VRAM) + bo.size > self.sizes[VRAM]:
            return False
        self._settle(bo, VRAM)
        return True

    def _take_system(self, bo: Placed, place: str, evict: bool, held: set[str]) -> bool:
        if bo.populated and bo.region != VRAM:
            self._settle(bo, place)
            return True
        if evict:
            self.shrink(self._excess(bo.size), held)
        if self._excess(bo.size) > 0:
            return False
        self._settle(bo, place)
        return True

    def _excess(self, size: int) -> int:
        """Bytes too many if ``size`` more were taken of the machine's memory."""
        return self.used(SYSTEM) + self.used(GTT) + size - self.sizes[SYSTEM]

    # --- reclaim --------------------------------------------------------------------------

    def _evict_until_taken(
        self, bo: Placed, held: set[str], own: str | None, spared: Collection[str]
    ) -> bool:
        any_left = True
        while any_left:
            any_left = False
            for victim in list(self.lru[VRAM]):
                out_of_reach = victim.resv in held and victim.resv != own
                if out_of_reach or victim.name in spared or not self._evict(victim, held):
                    continue
                any_left = True
                if self._take_vram(bo):
                    return True
        return False

    def _evict(self, victim: Placed, held: set[str]) -> bool:
        if self.owner.is_dontneed(victim.name):
            self._purge(victim)
            return True
        self.shrink(self._excess(victim.size), held | {victim.resv})
        if self._excess(victim.size) > 0:
            return False
        self._settle(victim, GTT)
        self.victims.append((victim.name, "moved", VRAM))
        return True

    def evict_bytes(self, need: int) -> None:
        """Pressure on VRAM: the oldest go until ``need`` bytes were freed."""
        freed = 0
        for victim in list(self.lru[VRAM]):
            if freed >= need:
                return
            if self._evict(victim, set()):
                freed += victim.size

    def shrink(self, need: int, held: set[str]) -> None:
        """The system shrinker: DONTNEED BOs go, those in SYSTEM first, until ``need`` bytes did."""
        for region in (SYSTEM, GTT):
            for name in list(self.unwanted):
                bo = self.bos[name]
                if need <= 0:
                    return
                if bo.region == region and bo.populated and bo.resv not in held:
                    self._purge(bo)
                    need -= bo.size

    def purge_one(self, name: str, in_vram: bool) -> None:
        """Pressure on one BO, by eviction or by the shrinker."""
        bo = self.bos[name]
        if bo.populated and self.owner.is_dontneed(name) and (bo.region == VRAM) == in_vram:
            self._purge(bo)

    def _purge(self, bo: Placed) -> None:
        assert bo.region is not None and self.owner.is_dontneed(bo.name), f"{bo.name} is needed"
        self.victims.append((bo.name, "purged", bo.region))
        self._unfile(bo)
        self.owner.purged(bo.name)

    # --- lists ----------------------------------------------------------------------------

    def _settle(self, bo: Placed, region: str) -> None:
        """Now it is there, with pages, as the one used last."""
        self._unfile(bo)
        self._file(bo, region)
        bo.populated = True

    def _file(self, bo: Placed, region: str) -> None:
        bo.region = region
        self.lru[region].append(bo)

    def _unfile(self, bo: Placed) -> None:
        if bo.region is not None:
            self.lru[bo.region].remove(bo)
        bo.region, bo.populated = None, False
