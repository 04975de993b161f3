"""The messages between the driver and the GPU, and what their numbers mean.

To the GPU, in this order of effect:

``(HELLO, Hardware as a tuple)``            first of all
``(VM, vm, bits, scratch, faulting, is_lr)``  an address space of ``bits`` bits
``(VM_END, vm)``
``(MAP, vm, ranges, token)``                page tables, as `Range`; ``token``: acknowledge it
``(QUEUE, queue, vm, Placement as a tuple)``
``(QUEUE_END, queue, token)``               what it runs is dropped; acknowledged
``(GROUP_END, queue, token)``               what the group of a primary queue runs is dropped
``(GROUP_PRIORITY, queue, priority)``       among the queues of its group
``(FORGET, bos, clients)``                  keys that no range bears any more
``(JOB, queue, seqno, batches, fence)``     ``fence`` is ``(address, value)`` or None
``(REPLY, request, answer)``                to an ASK
``(STAT, token)``                           asks for the ticks of all queues
``(RESET,)``                                all engines: what has begun is lost

From the GPU:

``(ACK, token)``
``(STARTED, queue, seqno, (class, instance, gt), nanoseconds)``
``(DONE, queue, seqno, ticks, nanoseconds)``
``(FAILED, queue, seqno, Failure, address, access, lines, ticks, nanoseconds)``  it runs no more
``(ENDED, queue, ticks)``                   before the ACK of its QUEUE_END
``(ASK, request, what, ...)``               see `Ask`
``(STATS, token, ((queue, ticks), ...))``
``(BUG, text)``                             a traceback of its own

Times are CLOCK_MONOTONIC; ticks are of the GT's clock.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = (
    *(
        "ACK",
        "ASK",
        "DONE",
        "ENDED",
        "FAILED",
        "GROUP_END",
        "GROUP_PRIORITY",
        "HELLO",
        "JOB",
        "MAP",
        "QUEUE",
        "QUEUE_END",
        "REPLY",
    ),
    *("BUG", "FORGET", "RESET", "STARTED", "STAT", "STATS", "VM", "VM_END"),
    *("Ask", "EngineInfo", "Failure", "Hardware", "Placement", "Range", "RangeKind"),
)

HELLO, VM, VM_END, MAP, QUEUE, QUEUE_END, JOB, REPLY, STAT, RESET, FORGET = range(11)
GROUP_END, GROUP_PRIORITY = range(11, 13)
ACK, STARTED, DONE, FAILED, ASK, STATS, BUG, ENDED = range(100, 108)


class RangeKind(IntEnum):
    """What stands behind a range of GPU addresses."""

    NONE = 0
    """Nothing: the range is unmapped."""
    BO = 1
    """``key`` is the BO's id, ``offset`` bytes into it."""
    CLIENT = 2
    """Memory of a process: ``key`` is the driver's number of it, ``offset`` the CPU address."""
    NULL = 3
    """Reads give zero, writes vanish."""
    UNBOUND = 4
    """The driver is asked at the first access."""


class Range(NamedTuple):
    """One piece of the page tables: ``[start, end)``."""

    start: int
    end: int
    kind: int
    key: int = 0
    offset: int = 0
    read_only: bool = False
    pat_index: int = 0
    atomic: bool = True
    """Whether atomics are allowed (kernel: ``XE_USM_PPGTT_PTE_AE``)."""


class EngineInfo(NamedTuple):
    """One engine."""

    gt_id: int
    engine_class: int
    """``DRM_XE_ENGINE_CLASS_*``."""
    instance: int
    """Logical."""
    mmio_base: int


class Hardware(NamedTuple):
    """What there is."""

    reference_clock: int
    """Hertz of the GT's clock."""
    engines: tuple[tuple[int, int, int, int], ...]
    """Each as `EngineInfo`."""
    seed: int = -1
    """Not negative: deterministic, with this seed."""


class Placement(NamedTuple):
    """Where a queue runs, and how."""

    gt_id: int
    engine_class: int
    mask: int
    """Logical instances of the first of its engines."""
    width: int
    priority: int
    timeslice_us: int
    timeout_ms: int
    """Context time of one job; 0 for none."""
    group: int = 0
    """The number of the primary queue whose context it shares; 0 for a context of its own."""
    group_priority: int = 1
    """Among the queues of its group."""


class Failure(IntEnum):
    """Why a queue runs nothing more."""

    FAULT = 0
    """A page that is not there, or not for this (kernel: memory CAT error)."""
    HANG = 1
    """A command that is none."""
    TIMEOUT = 2
    RESET = 3
    """It ran when the engines were reset."""


class Ask(IntEnum):
    """What the GPU cannot know or do by itself."""

    PAGES = 0
    """``bo``: where its contents are, as ``(path, inode)``; None: it has none."""
    FAULT = 1
    """``queue, address, access``: mend the page tables; whether that was done."""
    READ = 2
    """``mm, address, length``: bytes of a process; None: not there."""
    WRITE = 3
    """``mm, address, bytes``: whether that could be done."""
    SWAP = 4
    """``mm, address, old, new``: store ``new`` if ``old`` is there; what was there, or None."""
    SETTLE = 5
    """Answered when no more messages seem to be on their way."""
    PROCESS = 6
    """``mm``: the process that it is the memory of, if the GPU may reach that itself; else 0."""
