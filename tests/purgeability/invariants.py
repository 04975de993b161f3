"""What must hold of a device between any two calls, looked up in its own objects.

I1 to I7 are the invariants of purgeability (memory.md 4.2); the rest is accounting: references,
locks, lists and the use of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from xedev.drm.ttm import MemType, TtmBuffer
from xedev.xe.xe_bo import DONTNEED, PURGED, WILLNEED, XeBo, XeMadvPurgeableState
from xedev.xe.xe_device import XeDevice
from xedev.xe.xe_purgeability import xe_bo_all_vmas, xe_bo_recount

__all__ = ("Invariants", "changes", "check_nothing_left")


@dataclass
class Invariants:
    """The checks of one device, with what they must remember from call to call."""

    xe: XeDevice
    purged: set[int] = field(default_factory=set)
    #: State of a BO when its last VMA went (I5).
    left_as: dict[int, XeMadvPurgeableState] = field(default_factory=dict)

    def check(self) -> None:
        """Assert everything."""
        for bo in self.xe.bos.values():
            assert bo.resv.owner == 0, f"the reservation of bo {bo.id} is held"
            self._check_references(bo)
            self._check_never_unpurged(bo)
            if bo.imported:
                _check_imported(bo)
            elif self.xe.policy.name == "walk":
                _check_walked(bo)
            else:
                _check_counted(bo)
                if self.xe.policy.name == "counters":
                    self._check_left(bo)
        for vm in self.xe.vms.values():
            _check_vm(vm)
        _check_memory(self.xe)

    def _check_references(self, bo: XeBo) -> None:
        handles = int(bo.handle_count > 0)
        vmas = len(list(xe_bo_all_vmas(bo)))
        export = int(self.xe.has_live_export(bo))
        assert bo.refs == handles + vmas + export, f"references of bo {bo.id}"

    def _check_never_unpurged(self, bo: XeBo) -> None:
        state = bo.purgeable.state
        assert state is PURGED or bo.id not in self.purged, f"I7: bo {bo.id}"
        if state is PURGED:
            self.purged.add(bo.id)
            assert not bo.populated, f"bo {bo.id} is purged and has pages"

    def _check_left(self, bo: XeBo) -> None:
        state = bo.purgeable.state
        if bo.purgeable.vma_count:
            self.left_as.pop(bo.id, None)
        elif state is not PURGED:
            assert self.left_as.setdefault(bo.id, state) is state, f"I5: bo {bo.id}"


def _check_imported(bo: XeBo) -> None:
    purgeable = bo.purgeable
    assert purgeable.state is WILLNEED, f"I6: bo {bo.id}"
    assert (purgeable.vma_count, purgeable.willneed_count) == (0, 0), f"I6: bo {bo.id}"


def _check_walked(bo: XeBo) -> None:
    """``walk`` looks late, but never says DONTNEED of a BO that somebody needs."""
    advice = {vma.attr.purgeable_state for vma in xe_bo_all_vmas(bo)}
    assert bo.purgeable.state is not DONTNEED or WILLNEED not in advice, f"bo {bo.id}"


def _check_counted(bo: XeBo) -> None:
    purgeable, state = bo.purgeable, bo.purgeable.state
    counts = purgeable.vma_count, purgeable.willneed_count
    assert counts == xe_bo_recount(bo), f"I1, I2: bo {bo.id}"
    if state is not PURGED and purgeable.vma_count:
        assert (state is DONTNEED) == (purgeable.willneed_count == 0), f"I3: bo {bo.id}"
    if state is PURGED:
        assert purgeable.willneed_count == 0, f"I4: bo {bo.id}"


def _check_vm(vm: Any) -> None:
    assert vm.lock.writer == 0 and vm.resv.owner == 0, f"vm {vm.id} is locked"
    private = [bo for bo in vm.xe.bos.values() if bo.vm is vm]
    assert vm.refs == 1 + len(private), f"references of vm {vm.id}"
    vmas = list(vm.gpuvm)
    assert all(vma.start < vma.end <= vm.size for vma in vmas), f"bounds in vm {vm.id}"
    assert all(one.end <= two.start for one, two in pairwise(vmas)), f"overlap in vm {vm.id}"
    for vma in vmas:
        linked = vma.obj is None or vma in vma.obj.gpuva_list[vm.gpuvm].vmas
        assert linked, f"a vma of vm {vm.id} is not linked to its BO"
    with_bo = sum(vma.obj is not None for vma in vmas)
    assert with_bo == sum(len(vm_bo.vmas) for vm_bo in vm.gpuvm.vm_bos.values()), "dead links"


def _check_memory(xe: XeDevice) -> None:
    used: Counter[MemType] = Counter()
    visible: Counter[MemType] = Counter()
    for bo in xe.bos.values():
        if bo.populated:
            assert bo.mem_type is not None
            used[bo.mem_type] += bo.size
            visible[bo.mem_type] += bo.visible_bytes
    for mem_type, manager in xe.ttm.managers.items():
        assert manager.used == used[mem_type] <= manager.size, f"use of {manager.name}"
        assert manager.visible_used == visible[mem_type], f"visible use of {manager.name}"
        filed: set[TtmBuffer] = {bo for bo in xe.bos.values() if bo.mem_type == mem_type}
        assert set(manager.lru) == filed, f"LRU list of {manager.name}"
        unwanted = {bo for bo in filed if bo.populated and bo.is_dontneed()}
        assert set(manager.purgeable) == unwanted, f"purgeable list of {manager.name}"
    assert xe.ttm.system_used == used[MemType.SYSTEM] + used[MemType.TT] <= xe.ttm.system_budget


def check_nothing_left(xe: XeDevice) -> None:
    """All clients are gone: no object lives, no byte is used."""
    state = xe.show()
    for kind in ("files", "vms", "bos"):
        assert state[kind] == [], kind
    assert len(xe.tokens) == 0, "descriptors that nobody took"
    assert not xe.live_exports, "dma-bufs"
    assert not xe.object_names.entries, "global names"
    for manager in xe.ttm.managers.values():
        assert (manager.used, manager.visible_used) == (0, 0), manager.name
        assert not manager.lru and not manager.purgeable, manager.name
    assert xe.ttm.system_used == 0


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], *, reclaim: bool = False
) -> list[str]:
    """Differences between two states of ``XeDevice.show``, for people to read.

    ``reclaim``: the call may have looked for memory. Then BOs may have moved, and ones that nobody
    needed may be purged, even when it found too little in the end.
    """
    found = []
    for kind in ("devices", "files", "vms"):
        old, new = before[kind], after[kind]
        if kind == "devices" and reclaim:
            old, new = _without(old, "regions"), _without(new, "regions")
        if old != new:
            found.append(f"{kind}: {old} -> {new}")
    return found + _bo_changes(before["bos"], after["bos"], reclaim)


def _bo_changes(before: Any, after: Any, reclaim: bool) -> list[str]:
    old = {bo["id"]: bo for bo in before}
    new = {bo["id"]: bo for bo in after}
    found = [f"bo {number}: gone or new" for number in old.keys() ^ new.keys()]
    for number in old.keys() & new.keys():
        one, two = dict(old[number]), dict(new[number])
        if reclaim:
            del one["placement"], two["placement"]
            if (one["state"], two["state"]) == ("DONTNEED", "PURGED"):
                del one["state"], two["state"]
        if one != two:
            found.append(f"bo {number}: {one} -> {two}")
    return found


def _without(entries: Any, key: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != key} for entry in entries]
