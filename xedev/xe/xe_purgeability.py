"""Three ways to keep a BO's purgeable state, interchangeable (``--purgeability``).

``counters``
    As landed upstream ("drm/xe/madvise: Track purgeability with BO-local counters"): two counts
    on the BO, and the gate for new mappings in VMA creation.
``seed``
    The same counts as mailed first: the gate comes late, so a fresh bind has promoted a DONTNEED
    BO before anybody looks.
``walk``
    The older way: after each change all VMAs of the BO are walked; a shared BO is always
    WILLNEED and advice on it is lost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xedev.xe.xe_bo import (
    DONTNEED,
    PURGED,
    WILLNEED,
    XeBo,
    XeMadvPurgeableState,
    purgeable_gate,
    xe_bo_assert_held,
    xe_bo_set_purgeable_state,
    xe_bo_vma_count_dec_locked,
    xe_bo_vma_count_inc_locked,
    xe_bo_willneed_get_locked,
    xe_bo_willneed_put_locked,
)

if TYPE_CHECKING:
    from xedev.xe.xe_vm import XeVma

__all__ = ("POLICIES", "PurgePolicy", "xe_bo_all_vmas", "xe_bo_recount")


def xe_bo_all_vmas(bo: XeBo) -> Iterator[XeVma]:
    """Every VMA of a BO in every VM: the slow way to know."""
    for vm_bo in bo.gpuva_list.values():
        yield from vm_bo.vmas  # type: ignore[misc]


def xe_bo_recount(bo: XeBo) -> tuple[int, int]:
    """``(vma_count, willneed_count)`` by a full walk, for checks of the counters."""
    if bo.imported:
        return 0, 0
    states = [vma.attr.purgeable_state for vma in xe_bo_all_vmas(bo)]
    holder = 1 if bo.xe.has_live_export(bo) else 0
    return len(states), states.count(WILLNEED) + holder


class PurgePolicy(ABC):
    """How VMAs, advice and exports change a BO's state.  The BO's reservation is held."""

    name: str

    @abstractmethod
    def vma_create(self, bo: XeBo, vma: XeVma) -> None:
        """A VMA is about to be linked; ``EBUSY`` or ``EINVAL`` refuses it."""

    @abstractmethod
    def vma_destroy(self, bo: XeBo, vma: XeVma) -> None:
        """A VMA was unlinked."""

    @abstractmethod
    def late_gate(self, bo: XeBo) -> None:
        """A VMA of this bind is about to get page tables."""

    @abstractmethod
    def madvise(self, bo: XeBo, vma: XeVma, state: XeMadvPurgeableState) -> bool:
        """Apply advice to one VMA; True when the BO was purged before."""

    @abstractmethod
    def export(self, bo: XeBo) -> None:
        """A dma-buf is being made."""

    @abstractmethod
    def unexport(self, bo: XeBo) -> None:
        """The dma-buf went, or could not be made."""


class CountersPolicy(PurgePolicy):
    """BO-local counters with the gate at VMA creation: what Linux does."""

    name = "counters"

    def vma_create(self, bo: XeBo, vma: XeVma) -> None:
        """Gate a WILLNEED VMA, then count it.  Remnants of a split keep DONTNEED and pass."""
        if vma.attr.purgeable_state is not WILLNEED:
            xe_bo_vma_count_inc_locked(bo)
            return
        if bo.purgeable.state is not WILLNEED:
            purgeable_gate(bo)
        xe_bo_vma_count_inc_locked(bo)
        xe_bo_willneed_get_locked(bo)

    def vma_destroy(self, bo: XeBo, vma: XeVma) -> None:
        """Uncount it; a WILLNEED one was a holder."""
        xe_bo_vma_count_dec_locked(bo)
        if vma.attr.purgeable_state is WILLNEED:
            xe_bo_willneed_put_locked(bo)

    def late_gate(self, bo: XeBo) -> None:
        """The gate was at creation."""

    def madvise(self, bo: XeBo, vma: XeVma, state: XeMadvPurgeableState) -> bool:
        """Act on a real transition only (kernel: ``madvise_purgeable``)."""
        if bo.purgeable.state is PURGED:
            return True
        attr = vma.attr
        if attr.purgeable_state is not state:
            attr.purgeable_state = state
            if state is WILLNEED:
                xe_bo_willneed_get_locked(bo)
            else:
                xe_bo_willneed_put_locked(bo)
        return False

    def export(self, bo: XeBo) -> None:
        """The dma-buf is one more holder."""
        xe_bo_willneed_get_locked(bo)

    def unexport(self, bo: XeBo) -> None:
        """The holder goes."""
        xe_bo_willneed_put_locked(bo)


class SeedPolicy(CountersPolicy):
    """Counters with the gate where it was before: after VMA creation promoted the BO."""

    name = "seed"

    def vma_create(self, bo: XeBo, vma: XeVma) -> None:
        """Count first, ask later."""
        xe_bo_vma_count_inc_locked(bo)
        if vma.attr.purgeable_state is WILLNEED:
            xe_bo_willneed_get_locked(bo)

    def late_gate(self, bo: XeBo) -> None:
        """``EBUSY`` or ``EINVAL`` for new mappings and for remnants of a split alike."""
        purgeable_gate(bo)


class WalkPolicy(PurgePolicy):
    """The walk over all VMAs of the BO after each change."""

    name = "walk"

    def vma_create(self, bo: XeBo, vma: XeVma) -> None:
        """Nothing: only madvise and destruction look."""
        xe_bo_assert_held(bo)

    def vma_destroy(self, bo: XeBo, vma: XeVma) -> None:
        """Walk what is left."""
        self._recompute(bo)

    def late_gate(self, bo: XeBo) -> None:
        """``EBUSY`` or ``EINVAL`` for new mappings and for remnants of a split alike."""
        purgeable_gate(bo)

    def madvise(self, bo: XeBo, vma: XeVma, state: XeMadvPurgeableState) -> bool:
        """A shared BO's VMAs are skipped whole; else set, and walk."""
        if self._is_shared(bo):
            return False
        if bo.purgeable.state is PURGED:
            return True
        vma.attr.purgeable_state = state
        self._recompute(bo)
        return False

    def export(self, bo: XeBo) -> None:
        """Being shared is seen by looking, not counted."""

    def unexport(self, bo: XeBo) -> None:
        """Nobody looks until the next advice or unmap."""

    @staticmethod
    def _is_shared(bo: XeBo) -> bool:
        return bo.imported or bo.dma_buf is not None

    def _recompute(self, bo: XeBo) -> None:
        if bo.purgeable.state is PURGED:
            return
        state = self._aggregate(bo)
        if state is not None:
            xe_bo_set_purgeable_state(bo, state)

    def _aggregate(self, bo: XeBo) -> XeMadvPurgeableState | None:
        """DONTNEED when every VMA is; None when there is no VMA to ask."""
        if self._is_shared(bo):
            return WILLNEED
        any_vma = False
        for vma in xe_bo_all_vmas(bo):
            if vma.attr.purgeable_state is WILLNEED:
                return WILLNEED
            any_vma = True
        return DONTNEED if any_vma else None


POLICIES: dict[str, type[PurgePolicy]] = {
    policy.name: policy for policy in (CountersPolicy, SeedPolicy, WalkPolicy)
}
