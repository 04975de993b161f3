"""The ordered map of an address space against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xedev.drm.drm_gpuvm import DrmGpuva, DrmGpuvm
from xedev.kernel.errors import KernelBug

SLOTS = 64  # places for a VMA, ten bytes each


def _vma(slot: int) -> DrmGpuva:
    """A VMA that leaves a gap on both sides of its slot."""
    return DrmGpuva(10 * slot + 1, 10 * slot + 9, None, 0)


def _expected(vmas: dict[int, DrmGpuva], start: int, end: int) -> list[DrmGpuva]:
    ordered = [vmas[slot] for slot in sorted(vmas)]
    return [vma for vma in ordered if vma.end > start and vma.start < end]


@given(slots=st.lists(st.integers(0, SLOTS - 1), max_size=300), data=st.data())
def test_it_holds_what_a_list_would(slots: list[int], data: st.DataObject) -> None:
    gpuvm: DrmGpuvm[DrmGpuva] = DrmGpuvm(10 * SLOTS)
    vmas: dict[int, DrmGpuva] = {}
    for slot in slots:  # comes or goes
        if slot in vmas:
            gpuvm.remove(vmas.pop(slot))
        else:
            vmas[slot] = _vma(slot)
            gpuvm.insert(vmas[slot])
    assert list(gpuvm) == _expected(vmas, 0, 10 * SLOTS)
    assert len(gpuvm) == len(vmas)
    start = data.draw(st.integers(0, 10 * SLOTS))
    end = data.draw(st.integers(start, 10 * SLOTS))
    assert gpuvm.find_range(start, end) == _expected(vmas, start, end)


@pytest.mark.parametrize("order", [range(SLOTS), reversed(range(SLOTS))])
def test_it_can_be_filled_and_emptied_from_either_side(order: range) -> None:
    gpuvm: DrmGpuvm[DrmGpuva] = DrmGpuvm(10 * SLOTS)
    vmas = [_vma(slot) for slot in order]
    for vma in vmas:
        gpuvm.insert(vma)
    for vma in vmas:
        gpuvm.remove(vma)
    assert list(gpuvm) == []
    gpuvm.insert(vmas[0])
    assert list(gpuvm) == [vmas[0]]


def test_vmas_that_touch_are_no_overlap() -> None:
    gpuvm: DrmGpuvm[DrmGpuva] = DrmGpuvm(100)
    low, high = DrmGpuva(0, 10, None, 0), DrmGpuva(10, 20, None, 0)
    gpuvm.insert(high)
    gpuvm.insert(low)
    assert gpuvm.find_range(0, 10) == [low]
    assert gpuvm.find_range(9, 11) == [low, high]


@pytest.mark.parametrize(("start", "end"), [(10, 20), (15, 20), (5, 15), (12, 18)])
def test_an_overlap_is_a_bug(start: int, end: int) -> None:
    gpuvm: DrmGpuvm[DrmGpuva] = DrmGpuvm(100)
    gpuvm.insert(DrmGpuva(10, 20, None, 0))
    with pytest.raises(KernelBug):
        gpuvm.insert(DrmGpuva(start, end, None, 0))


def test_removing_a_stranger_is_a_bug() -> None:
    gpuvm: DrmGpuvm[DrmGpuva] = DrmGpuvm(100)
    gpuvm.insert(DrmGpuva(10, 20, None, 0))
    for stranger in (DrmGpuva(10, 20, None, 0), DrmGpuva(30, 40, None, 0)):
        with pytest.raises(KernelBug):
            gpuvm.remove(stranger)
