"""Batches that spin until the CPU, or their time, ends them (IGT: lib/xe/xe_spin.c).

`Spinner` lays one out in memory that the caller has mapped and bound; `Cork` also does the rest,
and keeps an engine or a syncobj busy for as long as a test likes.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, TypeAlias

from uapi import xe_drm
from uapi.base import Struct, c_array, layout, u32, u64
from xedev.client.batch import CTX_TIMESTAMP, Alu, BatchBuilder, Compare, gpr
from xedev.client.device import Device
from xedev.client.mapping import Mapping
from xedev.client.memory import sync_signal, sync_wait
from xedev.client.syncobj import deadline_ns
from xedev.client.xe_ioctl import (
    xe_bb_size,
    xe_bo_create,
    xe_bo_map,
    xe_vm_bind_async,
    xe_vm_create,
    xe_vm_destroy,
    xe_vm_unbind_async,
)
from xedev.client.xe_query import drm_xe_get_gt, vram_if_possible

__all__ = (
    "XE_SPIN_STARTED",
    "Cork",
    "SpinCopy",
    "SpinOpts",
    "Spinner",
    "XeSpin",
    "spin_batch",
    "xe_spin_init",
    "xe_spin_nsec_to_ticks",
)

#: What a spinner stores when it begins.
XE_SPIN_STARTED = 0xC0FFEE

_GOES_ON = 0xFFFF_FFFF
_MAX_CTX_TICKS = 0xFFFF_FFFF - 1000
_NSEC_PER_SEC = 1_000_000_000
#: Stores between that of the ticks and the look at them, so that it has arrived by then.
_DELAY_STORES = 8
#: General-purpose registers: the time at the begin, and now.
_START_TS, _NOW_TS = 0, 1

#: Memory that the batch is laid out in.
Memory: TypeAlias = "Mapping | mmap.mmap | bytearray"


@layout
class XeSpin(Struct):
    """What a spinner consists of (IGT: ``struct xe_spin``)."""

    batch: Annotated[c_array[ctypes.c_uint32], ctypes.c_uint32 * 128]
    pad: u64
    start: u32  # XE_SPIN_STARTED when it runs
    end: u32  # the CPU stores 0 to end it
    wait_cond: u32  # with the option, a round waits until this is 0
    ticks_delta: u32  # the complement of the ticks it has run for, with ctx_ticks
    exec_sync: u64  # for a user fence of EXEC
    timestamp: u32  # CTX_TIMESTAMP in the latest round, with write_timestamp


@dataclass(frozen=True, slots=True)
class SpinCopy:
    """A copy of bytes to be done in every round, on copy engines."""

    target: int
    source: int
    length: int


@dataclass(frozen=True, slots=True)
class SpinOpts:
    """How to spin (IGT: ``struct xe_spin_opts``)."""

    addr: int
    """The GPU's address of the `XeSpin`."""
    preempt: bool = False
    """Let another context have the engine, once in a round."""
    ctx_ticks: int = 0
    """Ticks after which it ends by itself, 0 for never."""
    write_timestamp: bool = False
    wait_cond: bool = False
    """Wait in every round, with a semaphore, until the CPU has stored 0 to ``wait_cond``."""
    mem_copy: SpinCopy | None = None


def _offset(field: str) -> int:
    offset: int = getattr(XeSpin, field).offset
    return offset


def xe_spin_nsec_to_ticks(device: Device, gt_id: int, nsec: int) -> int:
    """``ctx_ticks`` for a time; ValueError for more than 32 bits of them."""
    ticks = -(-nsec * drm_xe_get_gt(device, gt_id).reference_clock // _NSEC_PER_SEC)
    if not 0 <= ticks < _MAX_CTX_TICKS:
        raise ValueError(f"{nsec} ns are {ticks} ticks")
    return ticks


# --- the program ---------------------------------------------------------------------------


def spin_batch(opts: SpinOpts) -> BatchBuilder:
    """The batch of a spinner; ValueError when it has no room in `XeSpin`."""
    batch = BatchBuilder(opts.addr)
    if opts.ctx_ticks:
        _read_timestamp(batch, _START_TS)
    batch.store_dword(opts.addr + _offset("start"), XE_SPIN_STARTED)
    loop = batch.here
    if opts.preempt:
        batch.arb_check()
    if opts.write_timestamp:
        batch.load_register_reg(gpr(_NOW_TS), CTX_TIMESTAMP)
        batch.store_register_mem(gpr(_NOW_TS), opts.addr + _offset("timestamp"))
    if opts.ctx_ticks:
        _end_after(batch, opts)
    if opts.mem_copy is not None:
        batch.mem_copy(opts.mem_copy.target, opts.mem_copy.source, opts.mem_copy.length)
    if opts.wait_cond:
        batch.semaphore_wait(opts.addr + _offset("wait_cond"), 0, Compare.EQ)
    batch.conditional_end(opts.addr + _offset("end"), 0, Compare.GT).jump(loop)
    if len(batch) > XeSpin.pad.offset:  # type: ignore[attr-defined]
        raise ValueError(f"{len(batch)} bytes are too many for the batch of a spinner")
    return batch


def _read_timestamp(batch: BatchBuilder, register: int) -> None:
    """Read the lower half of CTX_TIMESTAMP."""
    batch.load_register_imm(gpr(register) + 4, 0)
    batch.load_register_reg(gpr(register), CTX_TIMESTAMP)


def _end_after(batch: BatchBuilder, opts: SpinOpts) -> None:
    """End when the ticks have passed.

    The command can go on while memory is greater, so that the difference is stored turned over.
    """
    ticks_delta = opts.addr + _offset("ticks_delta")
    _read_timestamp(batch, _NOW_TS)
    batch.math(
        Alu.load(Alu.SRCA, _NOW_TS),
        Alu.load(Alu.SRCB, _START_TS),
        Alu.SUB,
        Alu.storeinv(_NOW_TS, Alu.ACCU),
    )
    batch.store_register_mem(gpr(_NOW_TS), ticks_delta)
    for _ in range(_DELAY_STORES):
        batch.store_dword(opts.addr + _offset("pad"), XE_SPIN_STARTED)
    batch.conditional_end(ticks_delta, ~opts.ctx_ticks & 0xFFFF_FFFF, Compare.GT)


# --- in memory -----------------------------------------------------------------------------


def xe_spin_init(memory: Memory, opts: SpinOpts, offset: int = 0) -> Spinner:
    """Lay a spinner out, ready to run, ``offset`` bytes into ``memory``."""
    return Spinner(memory, opts, offset)


class Spinner:
    """A spinner in memory of this process that the GPU sees at ``opts.addr``."""

    def __init__(self, memory: Memory, opts: SpinOpts, offset: int = 0) -> None:
        self.opts = opts
        self._memory = memory
        self._offset = offset
        self.reset()

    @property
    def address(self) -> int:
        """The batch's address for EXEC."""
        return self.opts.addr

    def reset(self) -> None:
        """Lay it out anew, for another run."""
        image = XeSpin(end=_GOES_ON, wait_cond=int(self.opts.wait_cond))
        batch = bytes(spin_batch(self.opts))
        data = batch + bytes(image)[len(batch) :]
        self._memory[self._offset : self._offset + len(data)] = data

    # --- what the GPU stored --------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether it runs, or has run."""
        return self.read("start") != 0

    @property
    def ticks(self) -> int:
        """Ticks it has run for, with ``ctx_ticks``."""
        return ~self.read("ticks_delta") & 0xFFFF_FFFF

    @property
    def timestamp(self) -> int:
        """CTX_TIMESTAMP in the latest round, with ``write_timestamp``."""
        return self.read("timestamp")

    def wait_started(self, timeout: float = 10.0) -> None:
        """Look until it runs; ETIME after ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while not self.started:
            if time.monotonic() > end:
                raise OSError(errno.ETIME, os.strerror(errno.ETIME), "spinner")
            time.sleep(0.0001)

    def read(self, field: str) -> int:
        """A field of 32 bits of the `XeSpin`."""
        at = self._offset + _offset(field)
        return int.from_bytes(self._memory[at : at + 4], "little")

    # --- what the CPU stores --------------------------------------------------------------

    def end(self) -> None:
        """Let it end in its next round."""
        self._store("end", 0)

    def go_on(self) -> None:
        """Let the semaphore of the option ``wait_cond`` through."""
        self._store("wait_cond", 0)

    def _store(self, field: str, value: int) -> None:
        at = self._offset + _offset(field)
        self._memory[at : at + 4] = value.to_bytes(4, "little")


# --- with everything around it -------------------------------------------------------------


class Cork:
    """A spinner with BO, mapping, bind, queue and syncobj of its own (IGT: ``struct xe_cork``).

    ``instances``, ``width`` and ``placements`` are those of the queue; all engines of a wide one
    run the same batch. Without ``vm`` there is one for it alone; it must not be in LR mode, whose
    queues signal no syncobj. As a context manager it is started at the begin and ended at the end.
    """

    def __init__(
        self,
        device: Device,
        instances: Sequence[xe_drm.drm_xe_engine_class_instance],
        vm: int | None = None,
        width: int = 1,
        placements: int = 1,
        *,
        addr: int | None = None,
        preempt: bool = True,
        ctx_ticks: int = 0,
    ) -> None:
        self.device = device
        self.width = width
        self._own_vm = vm is None
        self.vm = xe_vm_create(device) if vm is None else vm
        self.addr = (1 + instances[0].engine_class) << 20 if addr is None else addr
        self.bo_size = xe_bb_size(device, ctypes.sizeof(XeSpin))
        self.bo = xe_bo_create(
            device,
            self.vm,
            self.bo_size,
            vram_if_possible(device, instances[0].gt_id),
            xe_drm.DRM_XE_GEM_CREATE_FLAG_NEEDS_VISIBLE_VRAM,
        )
        self.map = xe_bo_map(device, self.bo, self.bo_size)
        self.exec_queue = device.exec_queue_create(self.vm, instances, width, placements)
        #: Signalled when the spinner has ended.
        self.syncobj = device.syncobj_create()
        self._bound = device.syncobj_create()
        opts = SpinOpts(self.addr, preempt, ctx_ticks, write_timestamp=True)
        self.spin = xe_spin_init(self.map, opts)
        self._bind()

    def _bind(self) -> None:
        syncs = [sync_signal(self._bound)]
        xe_vm_bind_async(self.device, self.vm, 0, self.bo, 0, self.addr, self.bo_size, syncs)

    def sync_start(self, timeout: float = 10.0) -> None:
        """Submit the batch and wait until it runs; ETIME after ``timeout`` seconds."""
        self.submit()
        self.spin.wait_started(timeout)

    def submit(self) -> None:
        """Submit the batch; it may have to wait for its turn."""
        syncs = [sync_wait(self._bound), sync_signal(self.syncobj)]
        self.device.exec(self.exec_queue, [self.addr] * self.width, syncs)

    def sync_end(self, timeout: float = 10.0) -> None:
        """End it, wait until it has ended, and unmap it; ETIME after ``timeout`` seconds."""
        self.spin.end()
        self.wait(timeout)
        self.device.syncobj_reset([self._bound])
        syncs = [sync_signal(self._bound)]
        xe_vm_unbind_async(self.device, self.vm, 0, 0, self.addr, self.bo_size, syncs)
        self.device.syncobj_wait([self._bound], deadline_ns(timeout))

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until it has ended; ETIME after ``timeout`` seconds."""
        self.device.syncobj_wait([self.syncobj], deadline_ns(timeout))

    def destroy(self) -> None:
        """Give everything back; a spinner that still runs is killed with its queue."""
        self.device.syncobj_destroy(self._bound)
        self.device.syncobj_destroy(self.syncobj)
        self.device.exec_queue_destroy(self.exec_queue)
        self.map.close()
        self.device.gem_close(self.bo)
        if self._own_vm:
            xe_vm_destroy(self.device, self.vm)

    def __enter__(self) -> Cork:
        self.sync_start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.sync_end()
        finally:
            self.destroy()
