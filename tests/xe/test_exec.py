"""EXEC: what it refuses and which reason comes first, what it runs, and in which order."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.xe.gate import Gate, error_of, is_signalled, signals, waits_for
from tests.xe.gpu_work import (
    ADDR,
    BCS,
    FAULT,
    FENCE,
    LR,
    PAGE,
    RCS,
    VCS,
    Board,
    status_of,
    wait_for,
)
from uapi import drm, xe_drm
from xedev.client import BatchBuilder, Compare, Device, GpuUserFence
from xedev.client.memory import ExecSync, op_map, op_unmap
from xedev.client.transport import IN, Buffer
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice

EXEC = xe_drm.DRM_IOCTL_XE_EXEC
NOWHERE = 0x7_0000_0000
UNKNOWN = 0x7FFF_FFFF
BAD_POINTER = 8
MAX_JOBS = 1000
SIGNALED = drm.DRM_SYNCOBJ_CREATE_SIGNALED
BIND_ENGINE = xe_drm.drm_xe_engine_class_instance(engine_class=xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND)


# ---- what is refused ----


@dataclass(frozen=True)
class Fault:
    """Something wrong with an EXEC."""

    error: str
    queue: str = ""
    """Which queue of the `Stage`, if it matters."""
    fields: dict[str, Any] = field(default_factory=dict)
    syncs: tuple[str, ...] = ()
    """Names of `Stage.syncs`."""

    def with_(self, other: Fault) -> Fault | None:
        """Both; None when they cannot be at once."""
        if (self.queue and other.queue) or self.fields.keys() & other.fields.keys():
            return None
        return Fault(
            self.error,
            self.queue or other.queue,
            {**self.fields, **other.fields},
            self.syncs + other.syncs,
        )


FAULTS = {
    "extensions": Fault("EINVAL", fields={"extensions": 1}),
    **{f"pad{index}": Fault("EINVAL", fields={f"pad[{index}]": 1}) for index in range(3)},
    **{f"reserved{index}": Fault("EINVAL", fields={f"reserved[{index}]": 1}) for index in range(2)},
    "too many syncs": Fault("EINVAL", fields={"num_syncs": 1025}),
    "no such queue": Fault("ENOENT", "unknown"),
    "queue 0": Fault("ENOENT", "none"),
    "a queue for binds": Fault("EINVAL", "binds"),
    "more batches than engines": Fault("EINVAL", fields={"num_batch_buffer": 3}),
    "one batch for two engines": Fault("EINVAL", "wide", {"num_batch_buffer": 1}),
    "a banned queue": Fault("ECANCELED", "banned"),
    "a full queue": Fault("EAGAIN", "full"),
    "unreadable syncs": Fault("EFAULT", fields={"syncs": BAD_POINTER, "num_syncs": 1}),
    "no such syncobj": Fault("ENOENT", syncs=("unknown",)),
    "a syncobj without a fence": Fault("EINVAL", syncs=("empty",)),
    "a user fence to wait for": Fault("EOPNOTSUPP", syncs=("waited",)),
    "an odd user fence": Fault("EINVAL", syncs=("odd",)),
    "two user fences": Fault("EINVAL", syncs=("fence", "fence")),
    "unreadable batches": Fault("EFAULT", "wide", {"num_batch_buffer": 2, "address": BAD_POINTER}),
    "nothing that could wait": Fault("EOPNOTSUPP", "", {"num_batch_buffer": 0}, ("done",)),
    "a closed VM": Fault("ECANCELED", "closed"),
}
"""In the order in which they are found; those of one table row are one step."""

EQUAL = (
    {"extensions", "pad0", "pad1", "pad2", "reserved0", "reserved1", "too many syncs"},
    {"no such queue", "queue 0"},
    # Found as the array is read, whichever comes first there.
    {"unreadable syncs", "no such syncobj", "a syncobj without a fence"},
)


class Stage:
    """Queues in all states, and syncs good and bad."""

    def __init__(self, device: Device, gate: Gate) -> None:
        self.device = device
        board = Board(device)
        self.batch = board.storing(1)
        closed_vm = device.vm_create()
        self.queues = {
            "": board.queue(),
            "none": 0,
            "unknown": UNKNOWN,
            "binds": board.queue([BIND_ENGINE]),
            "wide": board.queue(VCS, 2),
            "banned": board.queue(),
            "full": board.queue(),
            "closed": device.exec_queue_create(closed_vm, [RCS]),
        }
        device.vm_destroy(closed_vm)
        assert board.run(self.queues["banned"], NOWHERE) < 0
        shut = waits_for(gate.syncobj())
        for _ in range(MAX_JOBS):
            device.exec(self.queues["full"], self.batch, [shut])
        self.out = device.syncobj_create()
        fence = GpuUserFence(FENCE).sync()
        waited, odd = GpuUserFence(FENCE).sync(), GpuUserFence(FENCE + 4).sync()
        waited.flags = 0
        self.syncs = {
            "unknown": signals(UNKNOWN),
            "empty": waits_for(device.syncobj_create()),
            "done": waits_for(device.syncobj_create(SIGNALED)),
            "waited": waited,
            "odd": odd,
            "fence": fence,
            "out": signals(self.out),
        }

    def exec(self, fault: Fault) -> str:
        """Name of the errno."""
        syncs = [self.syncs[name] for name in ("out", *fault.syncs)]
        array = Buffer((xe_drm.drm_xe_sync * len(syncs))(*syncs), IN)
        wide = fault.queue == "wide"
        batches = Buffer((ctypes.c_uint64 * 2)(self.batch, self.batch), IN)
        arg = xe_drm.drm_xe_exec(
            exec_queue_id=self.queues[fault.queue],
            num_syncs=len(syncs),
            syncs=array.address,
            address=batches.address if wide else self.batch,
            num_batch_buffer=2 if wide else 1,
        )
        for path, value in fault.fields.items():
            name, _, index = path.rstrip("]").partition("[")
            if index:
                getattr(arg, name)[int(index)] = value
            else:
                setattr(arg, name, value)
        return error_of(lambda: self.device.ioctl(EXEC, arg, [array, batches]))


def test_every_fault_alone(device: Device, gate: Gate) -> None:
    stage = Stage(device, gate)
    # A client starts over at EAGAIN, and would for ever.
    faults = {name: fault for name, fault in FAULTS.items() if fault.error != "EAGAIN"}
    assert {name: stage.exec(fault) for name, fault in faults.items()} == {
        name: fault.error for name, fault in faults.items()
    }
    # None of them has put a fence into the object that stood first in the array.
    assert error_of(lambda: is_signalled(device, stage.out)) == "EINVAL"
    assert stage.exec(Fault("")) == ""
    wait_for(device, stage.out)


def _pairs() -> Iterator[tuple[str, Fault]]:
    for (first, early), (second, late) in itertools.combinations(FAULTS.items(), 2):
        both = early.with_(late)
        if both is None or any({first, second} <= group for group in EQUAL):
            continue
        if both.queue == "wide" and both.fields.get("num_batch_buffer") == 0:
            continue  # then no batches are read
        yield f"{first}, {second}", both


def test_of_two_faults_the_earlier_one_is_told(local: Device, local_gate: Gate) -> None:
    stage = Stage(local, local_gate)
    pairs = dict(_pairs())
    assert len(pairs) > 100
    assert {name: stage.exec(fault) for name, fault in pairs.items()} == {
        name: fault.error for name, fault in pairs.items()
    }


VRAM = 2
MIB = 1 << 20


@pytest.fixture
def small() -> Iterator[LocalTransport]:
    """A device of little VRAM."""
    xe = XeDevice(XeConfig(vram=64 * MIB))
    yield LocalTransport(xe)
    xe.shutdown()


def test_what_does_not_fit_at_once_cannot_run(small: LocalTransport) -> None:
    """A bind may push out what the VM has bound before, but a job needs all of it."""
    with Device(small) as device:
        board, out = Board(device), device.syncobj_create()
        queue, batch = board.queue(), board.storing(1)
        bos = [device.gem_create(40 * MIB, VRAM) for _ in range(2)]
        for index, bo in enumerate(bos, 1):
            device.vm_bind(board.vm, [op_map(bo, 0, index << 32, 40 * MIB)])
        for _ in range(2):
            error = error_of(lambda: device.exec(queue, batch, [signals(out)]))
            assert error == "ENOMEM"
        assert error_of(lambda: is_signalled(device, out)) == "EINVAL"
        device.exec(queue, 0, [signals(out)], 0)  # without a batch nothing has to be there
        device.vm_bind(board.vm, [op_unmap(1 << 32, 40 * MIB)])
        assert board.run(queue, batch) == 1


def test_what_was_evicted_comes_back(small: LocalTransport) -> None:
    """Two VMs that need the whole VRAM in turn find what they stored."""
    with Device(small) as device:
        boards = [Board(device) for _ in range(2)]
        far = 1 << 32
        for board in boards:
            device.vm_bind(board.vm, [op_map(device.gem_create(48 * MIB, VRAM), 0, far, 48 * MIB)])
        queues = [board.queue() for board in boards]
        for value, (board, queue) in enumerate(zip(boards, queues, strict=True), 1):
            assert board.run(queue, board.storing(value, far + 40 * MIB)) == 1
        for value, (board, queue) in enumerate(zip(boards, queues, strict=True), 1):
            copy = board.batch(BatchBuilder().copy_dword(ADDR, far + 40 * MIB).end())
            assert board.run(queue, copy) == 1
            assert board.read() == value


def test_stale_protected_content() -> None:
    xe = XeDevice(XeConfig(profile="lnl"))
    with Device(LocalTransport(xe)) as device:
        board = Board(device)
        hwdrm = xe_drm.DRM_XE_PXP_TYPE_HWDRM
        kind = xe_drm.DRM_XE_EXEC_QUEUE_SET_PROPERTY_PXP_TYPE
        protected = device.exec_queue_create(board.vm, [RCS], properties=[(kind, hwdrm)])
        plain, batch = board.queue(), board.storing(1)
        link = xe_drm.drm_xe_ext_set_property(
            property=xe_drm.DRM_XE_GEM_CREATE_SET_PROPERTY_PXP_TYPE, value=hwdrm
        )
        link.base.name = xe_drm.DRM_XE_GEM_CREATE_EXTENSION_SET_PROPERTY
        secret = device.gem_create(PAGE, 1, extensions=[link])
        device.vm_bind(board.vm, [op_map(secret, 0, 2 * ADDR, PAGE)])
        assert board.run(protected, batch) == 1
        xe.pxp_key_instance += 1
        assert error_of(lambda: board.exec(protected, batch)) == "ENOEXEC"
        assert board.run(plain, batch) == 1
    xe.shutdown()


# ---- a full queue ----


def _exec_once(device: Device, queue: int, address: int) -> None:
    """EXEC as ioctl(2) answers it; a client's method would start over at EAGAIN."""
    arg = xe_drm.drm_xe_exec(exec_queue_id=queue, address=address, num_batch_buffer=1)
    fcntl.ioctl(device.transport.fileno(), EXEC, bytes(arg))


@pytest.mark.fuse
def test_a_thousand_jobs_fill_a_queue(xe_target: Callable[..., Target[Any]]) -> None:
    device = xe_target("ioctl").device()
    gate, board = Gate(device), Board(device)
    queue, other, batch = board.queue(), board.queue(), board.storing(1)
    shut = waits_for(gate.syncobj())
    for _ in range(MAX_JOBS):
        device.exec(queue, batch, [shut])
    assert error_of(lambda: _exec_once(device, queue, batch)) == "EAGAIN"
    _exec_once(device, other, batch)
    gate.open()
    # The client's method starts over until there is room.
    assert board.run(queue, batch) == 1
    gate.close()


# ---- nothing to run ----


def test_an_idle_queue_signals_at_once(device: Device) -> None:
    board, binary, timeline = Board(device), device.syncobj_create(), device.syncobj_create()
    queue = board.queue()
    for _ in range(2):  # before its first job, and after it
        device.syncobj_reset([binary])
        device.exec(queue, 0, [signals(binary), signals(timeline, 5)], 0)
        assert is_signalled(device, binary)
        assert device.syncobj_query([timeline]) == [5]
        assert board.run(queue, board.storing(1)) == 1


def test_a_busy_queue_signals_with_its_last_job(device: Device, gate: Gate) -> None:
    board, out = Board(device), device.syncobj_create()
    queue = board.queue()
    first = board.exec(queue, board.storing(1), waits_for(gate.syncobj(1)))
    last = board.exec(queue, board.storing(2), waits_for(gate.syncobj(2)))
    device.exec(queue, 0, [signals(out)], 0)
    gate.open()
    wait_for(device, first)
    assert not is_signalled(device, out)
    gate.open()
    wait_for(device, out)
    assert is_signalled(device, last)


@pytest.mark.parametrize("syncs", [[], ["fence"], ["fence", "out"]])
def test_a_user_fence_without_a_batch_is_never_written(device: Device, syncs: list[str]) -> None:
    board, out = Board(device), device.syncobj_create()
    queue = board.queue()
    known: dict[str, ExecSync] = {"fence": GpuUserFence(FENCE), "out": signals(out)}
    device.exec(queue, 0, [known[name] for name in syncs], 0)
    assert board.run(queue, board.storing(1)) == 1
    assert board.read(FENCE) == 0


@pytest.mark.parametrize("width", [1, 2])
def test_no_batches_for_any_width(device: Device, width: int) -> None:
    board, out = Board(device), device.syncobj_create()
    device.exec(board.queue(VCS[:width], width), BAD_POINTER, [signals(out)], 0)
    assert is_signalled(device, out)


@pytest.mark.parametrize("mode", [LR, FAULT])
def test_a_long_running_vm_looks_at_syncs_and_leaves_them(device: Device, mode: int) -> None:
    board, out = Board(device, mode), device.syncobj_create()
    queue, empty = board.queue(), device.syncobj_create()
    done = device.syncobj_create(SIGNALED)
    device.exec(queue, 0, [waits_for(done), GpuUserFence(FENCE)], 0)
    for error, sync in [("EOPNOTSUPP", signals(out)), ("EINVAL", waits_for(empty))]:
        assert error_of(lambda: device.exec(queue, 0, [sync], 0)) == error  # noqa: B023
    assert board.read(FENCE) == 0


def test_a_closed_vm_is_not_noticed_without_a_batch(device: Device) -> None:
    vm, out = device.vm_create(), device.syncobj_create()
    queue = device.exec_queue_create(vm, [RCS])
    device.vm_destroy(vm)
    device.exec(queue, 0, [signals(out)], 0)
    assert is_signalled(device, out)
    assert error_of(lambda: device.exec(queue, ADDR)) == "ECANCELED"


# ---- what runs ----


def test_every_engine_stores(device: Device) -> None:
    board = Board(device)
    engines = [engine.instance for engine in device.query_engines()]
    assert len(engines) > 5
    for value, engine in enumerate(engines, 1):
        assert board.run(board.queue([engine]), board.storing(value)) == 1
        assert board.read() == value


def test_a_wide_queue_runs_a_batch_on_each_engine(device: Device) -> None:
    board = Board(device)
    queue = board.queue(VCS, 2)
    batches = [board.storing(7, ADDR), board.storing(8, ADDR + 4)]
    assert board.run(queue, batches) == 1
    assert [board.read(ADDR), board.read(ADDR + 4)] == [7, 8]
    # The same batch twice is fine, and nothing on the user's side is kept.
    increment = board.batch(BatchBuilder().atomic_inc(ADDR + 8).end())
    assert board.run(queue, [increment] * 2) == 1
    assert board.read(ADDR + 8) == 2


def test_batches_of_a_wide_queue_run_at_once(device: Device) -> None:
    """Each waits for what the other one stores."""
    board = Board(device)
    cells = [ADDR, ADDR + 4]
    batches = [
        board.batch(
            BatchBuilder()
            .store_dword(mine, 1)
            .semaphore_wait(other, 1, Compare.GTE)
            .store_dword(mine, 2)
            .end()
        )
        for mine, other in (cells, cells[::-1])
    ]
    # Each waits for "at least": the other may have gone on.
    assert board.run(board.queue(VCS, 2), batches) == 1
    assert [board.read(cell) for cell in cells] == [2, 2]


def test_a_balanced_queue_takes_a_free_engine(device: Device) -> None:
    """Two jobs that need each other, on two queues that may both use either engine."""
    board = Board(device)
    wait = board.batch(BatchBuilder().semaphore_wait(ADDR, 1).store_dword(ADDR + 4, 2).end())
    first, second = (board.queue(VCS, 1, 2) for _ in range(2))
    waiting = board.exec(first, wait)
    assert board.run(second, board.storing(1)) == 1
    wait_for(device, waiting)
    assert board.read(ADDR + 4) == 2


@pytest.mark.parametrize("mode", [LR, FAULT])
def test_a_long_running_vm_tells_by_a_user_fence(device: Device, mode: int) -> None:
    board = Board(device, mode)
    queue = board.queue()
    board.exec_lr(queue, board.storing(5), 9)
    device.wait_user_fence(board.fence_address, 9, exec_queue_id=queue, timeout=20 * 10**9)
    assert board.read() == 5
    assert error_of(lambda: board.exec(queue, board.storing(1))) == "EOPNOTSUPP"


@pytest.mark.parametrize("mode", [LR, FAULT])
def test_a_long_running_vm_waits_for_syncobjs(device: Device, gate: Gate, mode: int) -> None:
    board, value = Board(device, mode), 9
    queue = board.queue()
    board.exec_lr(queue, board.storing(5), value, waits_for(gate.syncobj()))
    assert board.read() == 0
    gate.open()
    device.wait_user_fence(board.fence_address, value, exec_queue_id=queue, timeout=20 * 10**9)
    assert board.read() == 5


def test_the_upper_bits_of_an_address_do_not_matter(device: Device) -> None:
    board = Board(device)
    canonical = 0xFFFF << 48
    assert board.run(board.queue(), board.storing(5) | canonical) == 1
    assert board.read() == 5


# ---- order ----


def test_jobs_of_a_queue_run_in_order(device: Device) -> None:
    """Each multiplies what is there by ten and adds its number, dword by dword."""
    board = Board(device)
    queue = board.queue([BCS])
    steps = [
        board.batch(
            BatchBuilder()
            .copy_dword(ADDR + 4 * index, ADDR + 4 * (index - 1))
            .atomic_inc(ADDR + 4 * index)
            .end()
        )
        for index in range(1, 30)
    ]
    outs = [board.exec(queue, step) for step in steps]
    wait_for(device, outs[-1])
    assert [board.read(ADDR + 4 * index) for index in range(30)] == list(range(30))
    # The last one is done, so all are.
    assert [status_of(device, out) for out in outs] == [1] * len(outs)


def test_a_job_behind_a_gate_holds_its_queue_and_no_other(device: Device, gate: Gate) -> None:
    board = Board(device)
    held, free = board.queue(), board.queue()
    first = board.exec(held, board.storing(1), waits_for(gate.syncobj()))
    second = board.exec(held, board.storing(2))
    assert board.run(free, board.storing(3)) == 1
    assert not is_signalled(device, second)
    assert board.read() == 3
    gate.open()
    wait_for(device, first, second)
    assert board.read() == 2


def test_files_have_queues_and_memory_of_their_own(
    xe_target: Callable[..., Target[Any]],
) -> None:
    target = xe_target("in-process")
    devices = [target.device() for _ in range(2)]
    boards = [Board(device) for device in devices]
    for value, board in enumerate(boards, 1):
        assert board.run(board.queue(), board.storing(value)) == 1
    assert [board.read() for board in boards] == [1, 2]
    foreign = boards[0].queue()
    assert error_of(lambda: devices[1].exec(foreign, ADDR)) == "ENOENT"
