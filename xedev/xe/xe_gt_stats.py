"""Counters of a GT (kernel: drivers/gpu/drm/xe/xe_gt_stats.c)."""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum

__all__ = ("GtStat", "XeGtStats", "svm_stat")


class GtStat(StrEnum):
    """What is counted where the driver does it; the value is its name in debugfs."""

    SVM_PAGEFAULT_COUNT = "svm_pagefault_count"
    TLB_INVAL = "tlb_inval_count"
    SVM_TLB_INVAL_COUNT = "svm_tlb_inval_count"
    SVM_TLB_INVAL_US = "svm_tlb_inval_us"
    VMA_PAGEFAULT_COUNT = "vma_pagefault_count"
    VMA_PAGEFAULT_KB = "vma_pagefault_kb"
    INVALID_PREFETCH_PAGEFAULT_COUNT = "invalid_prefetch_pagefault_count"
    HW_ENGINE_GROUP_SUSPEND_LR_QUEUE_COUNT = "hw_engine_group_suspend_lr_queue_count"
    HW_ENGINE_GROUP_SKIP_LR_QUEUE_COUNT = "hw_engine_group_skip_lr_queue_count"
    HW_ENGINE_GROUP_WAIT_DMA_QUEUE_COUNT = "hw_engine_group_wait_dma_queue_count"
    HW_ENGINE_GROUP_SUSPEND_LR_QUEUE_US = "hw_engine_group_suspend_lr_queue_us"
    HW_ENGINE_GROUP_WAIT_DMA_QUEUE_US = "hw_engine_group_wait_dma_queue_us"
    PRL_4K_ENTRY_COUNT = "prl_4k_entry_count"
    PRL_64K_ENTRY_COUNT = "prl_64k_entry_count"
    PRL_2M_ENTRY_COUNT = "prl_2m_entry_count"
    PRL_ISSUED_COUNT = "prl_issued_count"
    PRL_ABORTED_COUNT = "prl_aborted_count"


_SIZES = {4 << 10: "4K", 64 << 10: "64K", 2 << 20: "2M"}
_OF_A_SIZE = (
    *("pagefault_count", "valid_pagefault_count", "pagefault_us", "migrate_count", "migrate_us"),
    *("device_copy_us", "cpu_copy_us", "device_copy_kb", "cpu_copy_kb"),
    *("get_pages_us", "bind_us"),
)
"""Of ranges of shared memory, for each of their sizes."""
_OF_ALL_SIZES = ("device_copy_us", "cpu_copy_us", "device_copy_kb", "cpu_copy_kb")


def svm_stat(what: str, size: int) -> str:
    """The counter of ranges of ``size`` bytes: ``svm_4K_pagefault_count``."""
    return f"svm_{_SIZES[size]}_{what}"


def _names() -> tuple[str, ...]:
    """All of them, in the kernel's order."""
    stats = list(GtStat)
    svm: list[str] = []
    for what in _OF_A_SIZE:
        svm += [f"svm_{what}"] if what in _OF_ALL_SIZES else []
        svm += [svm_stat(what, size) for size in _SIZES]
    first = stats.index(GtStat.HW_ENGINE_GROUP_SUSPEND_LR_QUEUE_COUNT)
    return (*stats[:first], *svm, *stats[first:])


_NAMES = _names()


class XeGtStats:
    """The counters of one GT, from the start of the device or the last time they were cleared."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: Counter[str] = Counter()

    def incr(self, name: str, count: int = 1) -> None:
        """It happened again (kernel: ``xe_gt_stats_incr``)."""
        with self._lock:
            self._counters[name] += count

    def clear(self) -> None:
        """Begin anew (kernel: ``xe_gt_stats_clear``)."""
        with self._lock:
            self._counters.clear()

    def print_info(self) -> str:
        """A line for each (kernel: ``xe_gt_stats_print_info``)."""
        with self._lock:
            return "".join(f"{name}: {self._counters[name]}\n" for name in _NAMES)
