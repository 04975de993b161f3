"""Exec queues: what can be made of which engines, for whom, and what it keeps busy."""

from __future__ import annotations

import ctypes
import errno
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from uapi import xe_drm
from xedev.client import Device
from xedev.client.memory import op_map_null
from xedev.client.transport import IN, Buffer
from xedev.node.local import LocalTransport
from xedev.testing.target import Target
from xedev.xe.xe_device import XeConfig, XeDevice
from xedev.xe.xe_exec_queue import XeExecQueue

CREATE = xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_CREATE
RENDER, COPY, VIDEO, ENHANCE, COMPUTE = range(5)
BINDS = xe_drm.DRM_XE_ENGINE_CLASS_VM_BIND
LR = xe_drm.DRM_XE_VM_CREATE_FLAG_LR_MODE
FAULT = LR | xe_drm.DRM_XE_VM_CREATE_FLAG_FAULT_MODE
CAP_SYS_NICE = 23
NO_QUEUE = 0x7FFF_FFFF

RCS = (RENDER, 0, 0)
CCS = (COMPUTE, 0, 0)
VCS = [(VIDEO, 0, 1), (VIDEO, 1, 1)]
BIND_ENGINE = (BINDS, 0, 0)

Engines = Sequence[tuple[int, int, int]]
Eci = xe_drm.drm_xe_engine_class_instance


@pytest.fixture(
    params=[
        "in-process",
        pytest.param("ioctl", marks=pytest.mark.fuse),
        pytest.param("frames", marks=pytest.mark.fuse),
    ]
)
def target(request: pytest.FixtureRequest, xe_target: Callable[..., Target[Any]]) -> Target[Any]:
    return xe_target(request.param)


@pytest.fixture
def device(target: Target[Any]) -> Device:
    return target.device()


@pytest.fixture
def local() -> Iterator[Device]:
    """A client without capabilities."""
    with Device(LocalTransport(XeDevice(), caps=())) as device:
        yield device


def create(
    device: Device,
    vm: int,
    engines: Engines,
    width: int = 1,
    placements: int = 1,
    properties: Sequence[tuple[int, int]] = (),
    **fields: Any,
) -> int:
    """EXEC_QUEUE_CREATE; ``properties`` become a chain of extensions."""
    array = (Eci * len(engines))(
        *(Eci(engine_class=c, engine_instance=i, gt_id=g) for c, i, g in engines)
    )
    chain = [chained(*pair) for pair in properties]
    for link, after in itertools.pairwise(chain):
        link.base.next_extension = ctypes.addressof(after)
    arg = xe_drm.drm_xe_exec_queue_create(
        width=width,
        num_placements=placements,
        vm_id=vm,
        instances=ctypes.addressof(array),
        extensions=ctypes.addressof(chain[0]) if chain else 0,
    )
    for name, value in fields.items():
        setattr(arg, name, value)
    device.ioctl(CREATE, arg, [Buffer(array, IN), *(Buffer(link, IN) for link in chain)])
    return arg.exec_queue_id


def chained(number: int, value: int) -> xe_drm.drm_xe_ext_set_property:
    ext = xe_drm.drm_xe_ext_set_property(property=number, value=value)
    ext.base.name = xe_drm.DRM_XE_EXEC_QUEUE_EXTENSION_SET_PROPERTY
    return ext


def destroy(device: Device, queue: int) -> None:
    arg = xe_drm.drm_xe_exec_queue_destroy(exec_queue_id=queue)
    device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_DESTROY, arg)


def ban(device: Device, queue: int) -> int:
    arg = xe_drm.drm_xe_exec_queue_get_property(exec_queue_id=queue, value=77)
    device.ioctl(xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY, arg)
    return arg.value


def refused(call: Callable[[], object]) -> str:
    """Name of the errno; "" for none."""
    try:
        call()
    except OSError as error:
        name = errno.errorcode[error.errno or 0]
        return "EOPNOTSUPP" if name == "ENOTSUP" else name  # one number, two names
    return ""


# ---- create -----------------------------------------------------------------------------------


def test_ids_are_the_lowest_free_ones_from_1(device: Device) -> None:
    vm = device.vm_create()
    assert [create(device, vm, [RCS]) for _ in range(3)] == [1, 2, 3]
    destroy(device, 2)
    assert create(device, vm, [CCS]) == 2


@pytest.mark.parametrize("profile", ["bmg", "lnl", "dg2", "cri"])
def test_every_engine_of_the_query_can_have_a_queue(profile: str) -> None:
    with Device(LocalTransport(XeDevice(XeConfig(profile=profile)))) as device:
        vm = device.vm_create()
        engines = [
            (e.instance.engine_class, e.instance.engine_instance, e.instance.gt_id)
            for e in device.query_engines()
        ]
        assert engines
        ids = [create(device, vm, [engine]) for engine in engines]
        assert ids == list(range(1, len(engines) + 1))
        assert [ban(device, queue) for queue in ids] == [0] * len(ids)


@pytest.mark.parametrize(
    ("engines", "width", "placements", "error"),
    [
        ([RCS], 1, 1, ""),
        (VCS, 1, 2, ""),  # either of them
        (VCS, 2, 1, ""),  # both at once
        (VCS[::-1], 2, 1, "EINVAL"),  # not one after the other
        ([VCS[0]] * 2, 2, 1, "EINVAL"),
        ([VCS[0]] * 2, 1, 2, ""),  # the same twice is no harm
        ([RCS, CCS], 1, 2, "EINVAL"),  # two classes
        ([(RENDER, 1, 0)], 1, 1, "EINVAL"),  # no such instance
        ([(RENDER, 0, 1)], 1, 1, "EINVAL"),  # not on that GT
        ([(RENDER, 0, 9)], 1, 1, "EINVAL"),  # no such GT
        ([(6, 0, 0)], 1, 1, "EINVAL"),  # no such class
        ([RCS], 0, 1, "EINVAL"),
        ([RCS], 1, 0, "EINVAL"),
        ([RCS] * 10, 1, 10, "EINVAL"),  # too many
        ([RCS] * 9, 1, 9, ""),
        ([BIND_ENGINE], 1, 1, ""),
        ([BIND_ENGINE] * 2, 1, 2, "EINVAL"),
        ([BIND_ENGINE] * 2, 2, 1, "EINVAL"),
        ([(BINDS, 1, 0)], 1, 1, "EINVAL"),
    ],
)
def test_which_engines_go_together(
    device: Device, engines: Engines, width: int, placements: int, error: str
) -> None:
    vm = device.vm_create()
    assert refused(lambda: create(device, vm, engines, width, placements)) == error


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"flags": xe_drm.DRM_XE_EXEC_QUEUE_LOW_LATENCY_HINT}, ""),
        ({"flags": 2}, "EINVAL"),
        ({"vm_id": 0}, "ENOENT"),
        ({"vm_id": 99}, "ENOENT"),
        ({"instances": 8}, "EFAULT"),
        ({"extensions": 8}, "EFAULT"),
        # The order of the checks.
        ({"flags": 2, "vm_id": 99}, "EINVAL"),
        ({"instances": 8, "vm_id": 99}, "EFAULT"),
        ({"vm_id": 99, "extensions": 8}, "ENOENT"),
    ],
)
@pytest.mark.parametrize("engine", [RCS, BIND_ENGINE], ids=["engine", "binds"])
def test_arguments(
    device: Device, engine: tuple[int, int, int], fields: dict[str, Any], error: str
) -> None:
    vm = device.vm_create()
    assert refused(lambda: create(device, vm, [engine], **fields)) == error
    # What failed has left no queue: the next one gets the first number.
    destroy(device, 1) if not error else None
    assert create(device, vm, [engine]) == 1


def test_reserved_must_be_zero(device: Device) -> None:
    vm = device.vm_create()
    for index in range(2):
        arg = xe_drm.drm_xe_exec_queue_create(width=1, num_placements=1, vm_id=vm)
        arg.reserved[index] = 1
        assert refused(lambda arg=arg: device.ioctl(CREATE, arg)) == "EINVAL"  # type: ignore[misc]


def test_a_wide_queue_needs_a_class_that_can() -> None:
    # No profile has two engines of another class, so that the mask alone refuses them.
    with Device(LocalTransport(XeDevice())) as device:
        vm = device.vm_create()
        assert refused(lambda: create(device, vm, [RCS, (RENDER, 1, 0)], 2)) == "EINVAL"


# ---- extensions -------------------------------------------------------------------------------

PRIORITY, TIMESLICE, PXP, REPLAY, GROUP, GROUP_PRIORITY, CACHE_FIX = range(7)


@pytest.mark.parametrize(
    ("engine", "properties", "error"),
    [
        (RCS, [(PRIORITY, 0)], ""),
        (RCS, [(PRIORITY, 1)], ""),
        (RCS, [(PRIORITY, 2)], "EPERM"),
        (RCS, [(PRIORITY, 3)], "EINVAL"),
        (RCS, [(TIMESLICE, 0)], "EINVAL"),
        (RCS, [(TIMESLICE, 1)], ""),
        (RCS, [(TIMESLICE, 10_000_000)], ""),
        (RCS, [(TIMESLICE, 10_000_001)], "EINVAL"),
        (RCS, [(PXP, 0)], ""),
        (RCS, [(PXP, 1)], "ENODEV"),
        (RCS, [(PXP, 2)], "EINVAL"),
        (RCS, [(REPLAY, 8)], "EFAULT"),
        (RCS, [(GROUP, 1 << 63)], "ENODEV"),
        (RCS, [(GROUP_PRIORITY, 1)], "EINVAL"),  # without a group
        (RCS, [(GROUP_PRIORITY, 3)], "EINVAL"),
        (RCS, [(CACHE_FIX, 1)], ""),
        (CCS, [(CACHE_FIX, 1)], "EOPNOTSUPP"),
        (RCS, [(7, 0)], "EINVAL"),
        (RCS, [(PRIORITY, 0), (TIMESLICE, 5000), (PXP, 0)], ""),
        (RCS, [(PRIORITY, 0), (TIMESLICE, 0), (PRIORITY, 2)], "EINVAL"),  # the first that fails
        (RCS, [(PRIORITY, 0)] * 16, ""),
        (RCS, [(PRIORITY, 0)] * 17, "E2BIG"),
        (BIND_ENGINE, [(PRIORITY, 2)], "EPERM"),
    ],
)
def test_properties(
    local: Device,
    engine: tuple[int, int, int],
    properties: list[tuple[int, int]],
    error: str,
) -> None:
    vm = local.vm_create()
    assert refused(lambda: create(local, vm, [engine], properties=properties)) == error


def test_high_priority_with_the_capability() -> None:
    with Device(LocalTransport(XeDevice(), caps={CAP_SYS_NICE})) as device:
        assert create(device, device.vm_create(), [RCS], properties=[(PRIORITY, 2)]) == 1


def test_a_chain_of_another_name_is_refused(local: Device) -> None:
    vm = local.vm_create()
    link = chained(PRIORITY, 0)
    for field, value in (("name", 1), ("pad", 1)):
        link = chained(PRIORITY, 0)
        setattr(link.base, field, value)
        address = ctypes.addressof(link)
        assert refused(lambda at=address: create(local, vm, [RCS], extensions=at)) == "EINVAL"  # type: ignore[misc]


# ---- the others -------------------------------------------------------------------------------


def test_destroy_and_properties_of_unknown_queues(device: Device) -> None:
    assert refused(lambda: destroy(device, NO_QUEUE)) == "ENOENT"
    assert refused(lambda: ban(device, NO_QUEUE)) == "ENOENT"
    queue = create(device, device.vm_create(), [RCS])
    for field in ("pad", "reserved"):
        arg = xe_drm.drm_xe_exec_queue_destroy(exec_queue_id=queue)
        if field == "pad":
            arg.pad = 1
        else:
            arg.reserved[1] = 1
        assert (
            refused(partial(device.ioctl, xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_DESTROY, arg)) == "EINVAL"
        )
    question = xe_drm.drm_xe_exec_queue_get_property(exec_queue_id=queue, property=1)
    number = xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_GET_PROPERTY
    assert refused(lambda: device.ioctl(number, question)) == "EINVAL"
    destroy(device, queue)
    assert refused(lambda: destroy(device, queue)) == "ENOENT"


@pytest.mark.parametrize(
    ("number", "value", "queue", "error"),
    [
        (GROUP_PRIORITY, 1, None, "EINVAL"),  # in no group
        (GROUP_PRIORITY, 3, None, "EINVAL"),
        (PRIORITY, 1, None, "EINVAL"),
        (PRIORITY, 1, NO_QUEUE, "EINVAL"),
        (GROUP_PRIORITY, 1, NO_QUEUE, "ENOENT"),
    ],
)
def test_set_property(
    device: Device, number: int, value: int, queue: int | None, error: str
) -> None:
    made = create(device, device.vm_create(), [RCS])
    arg = xe_drm.drm_xe_exec_queue_set_property(
        exec_queue_id=queue or made, property=number, value=value
    )
    ioctl = xe_drm.DRM_IOCTL_XE_EXEC_QUEUE_SET_PROPERTY
    assert refused(lambda: device.ioctl(ioctl, arg)) == error


@pytest.mark.parametrize(
    ("flags", "engine", "error"),
    [(0, RCS, ""), (LR, RCS, "EBUSY"), (LR, BIND_ENGINE, ""), (FAULT, RCS, "")],
)
def test_queues_of_a_vm_that_must_be_preempted_keep_it(
    device: Device, flags: int, engine: tuple[int, int, int], error: str
) -> None:
    vm = device.vm_create(flags)
    queue = create(device, vm, [engine])
    assert refused(lambda: device.vm_destroy(vm)) == error
    if error:
        destroy(device, queue)
        device.vm_destroy(vm)


def test_a_queue_outlives_its_vm(device: Device, target: Target[Any]) -> None:
    vm = device.vm_create()
    queue = create(device, vm, [RCS])
    device.vm_destroy(vm)
    assert ban(device, queue) == 0
    assert refused(lambda: create(device, vm, [RCS])) == "ENOENT"
    assert target.state()["files"][0]["exec_queues"] == 1


def test_binds_through_a_queue_of_their_own(device: Device) -> None:
    vm, other = device.vm_create(), device.vm_create()
    binds, work = create(device, vm, [BIND_ENGINE]), create(device, vm, [RCS])
    device.vm_bind(vm, [op_map_null(0, 4096)], exec_queue_id=binds)
    assert (
        refused(lambda: device.vm_bind(vm, [op_map_null(0, 4096)], exec_queue_id=work)) == "EINVAL"
    )
    assert (
        refused(lambda: device.vm_bind(other, [op_map_null(0, 4096)], exec_queue_id=binds))
        == "EINVAL"
    )
    assert (
        refused(lambda: device.vm_bind(vm, [op_map_null(0, 4096)], exec_queue_id=NO_QUEUE))
        == "ENOENT"
    )


# ---- observation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "caps", "fields", "error"),
    [
        ("bmg", (), {"extensions": 1}, "EINVAL"),
        ("bmg", (), {"observation_type": 2}, "EINVAL"),
        ("bmg", (), {"observation_op": 3}, "EINVAL"),
        ("bmg", (), {"observation_type": 1, "observation_op": 1}, "EINVAL"),
        ("bmg", (), {}, "ENODEV"),
        ("bmg", (), {"observation_op": 2}, "ENODEV"),
        ("bmg", (), {"observation_type": 1}, "EACCES"),
        ("bmg", {38}, {"observation_type": 1}, "ENODEV"),
        ("dg2", (), {"observation_type": 1}, "ENODEV"),
    ],
)
def test_observation_is_not_available(
    profile: str, caps: set[int], fields: dict[str, int], error: str
) -> None:
    xe = XeDevice(XeConfig(profile=profile))
    with Device(LocalTransport(xe, caps=caps)) as device:
        arg = xe_drm.drm_xe_observation_param(**fields)
        assert refused(lambda: device.ioctl(xe_drm.DRM_IOCTL_XE_OBSERVATION, arg)) == error


def test_a_vm_destroyed_meanwhile_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """The VM ends between the look at it and the making of the queue: gone, or kept by it."""
    with Device(LocalTransport(XeDevice())) as device:
        vm = device.vm_create()
        make = XeExecQueue.__init__

        def late(self: XeExecQueue, *args: Any) -> None:
            device.vm_destroy(vm)
            make(self, *args)

        monkeypatch.setattr(XeExecQueue, "__init__", late)
        queue = create(device, vm, [RCS])
        monkeypatch.undo()
        assert ban(device, queue) == 0
        assert refused(lambda: create(device, vm, [RCS])) == "ENOENT"
