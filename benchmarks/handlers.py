"""What the driver's handlers cost by themselves: no mount, no transport."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from itertools import cycle

from benchmarks.device import PAGE, Client, make_device
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, combine, time_calls, tuned_gc
from uapi import drm, xe_drm

__all__ = ("WHATS", "measure", "unchecked")

Step = Callable[[], object]

_BO_SIZE = 0x10000
_ADDRESS = 0
_WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
_DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED


def _version_null(client: Client) -> Step:
    return client.prepare(drm.DRM_IOCTL_VERSION, drm.drm_version())


def _version_strings(client: Client) -> Step:
    texts = ctypes.create_string_buffer(192)
    address = ctypes.addressof(texts)
    arg = drm.drm_version(name=address, date=address + 64, desc=address + 128)
    version = client.prepare(drm.DRM_IOCTL_VERSION, arg, texts)

    def step() -> int:
        arg.name_len = arg.date_len = arg.desc_len = 64
        return version()

    return step


def _get_cap(client: Client) -> Step:
    return client.prepare(drm.DRM_IOCTL_GET_CAP, drm.drm_get_cap(capability=drm.DRM_CAP_PRIME))


def _device_query(client: Client) -> Step:
    arg = xe_drm.drm_xe_device_query(query=xe_drm.DRM_XE_DEVICE_QUERY_CONFIG)
    client.call(xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, arg)
    answer = ctypes.create_string_buffer(arg.size)
    arg.data = ctypes.addressof(answer)
    return client.prepare(xe_drm.DRM_IOCTL_XE_DEVICE_QUERY, arg, answer)


def _gem_pair(client: Client) -> Step:
    made = xe_drm.drm_xe_gem_create(
        size=_BO_SIZE, placement=2, cpu_caching=xe_drm.DRM_XE_GEM_CPU_CACHING_WC
    )
    closed = drm.drm_gem_close()
    create = client.prepare(xe_drm.DRM_IOCTL_XE_GEM_CREATE, made)
    close = client.prepare(drm.DRM_IOCTL_GEM_CLOSE, closed)

    def step() -> int:
        made.handle = 0
        failed = create()
        closed.handle = made.handle
        return close() or failed

    return step


def _vm_pair(client: Client) -> Step:
    made, destroyed = xe_drm.drm_xe_vm_create(), xe_drm.drm_xe_vm_destroy()
    create = client.prepare(xe_drm.DRM_IOCTL_XE_VM_CREATE, made)
    destroy = client.prepare(xe_drm.DRM_IOCTL_XE_VM_DESTROY, destroyed)

    def step() -> int:
        failed = create()
        destroyed.vm_id = made.vm_id
        return destroy() or failed

    return step


def _bind_pair(client: Client) -> Step:
    vm, bo = client.create_vm(), client.create_bo(_BO_SIZE)
    bind = client.binding(vm, bo, _ADDRESS, _BO_SIZE)
    unbind = client.unbinding(vm, _ADDRESS, _BO_SIZE)

    def step() -> int:
        return bind() or unbind()

    return step


def _bound_vm(client: Client) -> int:
    vm, bo = client.create_vm(), client.create_bo(_BO_SIZE)
    client.binding(vm, bo, _ADDRESS, _BO_SIZE)()
    return vm


def _madvise(client: Client) -> Step:
    vm = _bound_vm(client)
    states = (_DONTNEED, _WILLNEED)
    advice = cycle(client.advising(vm, _ADDRESS, _BO_SIZE, state) for state in states)
    return lambda: next(advice)()


def _range_attrs(client: Client) -> Step:
    arg = xe_drm.drm_xe_vm_query_mem_range_attr(vm_id=_bound_vm(client), range=_BO_SIZE)
    query = client.prepare(xe_drm.DRM_IOCTL_XE_VM_QUERY_MEM_RANGE_ATTRS, arg)

    def step() -> int:
        arg.num_mem_ranges = arg.sizeof_mem_range_attr = 0
        return query()

    return step


def _mmap_offset(client: Client) -> Step:
    arg = xe_drm.drm_xe_gem_mmap_offset(handle=client.create_bo(PAGE))
    return client.prepare(xe_drm.DRM_IOCTL_XE_GEM_MMAP_OFFSET, arg)


def _refused(client: Client) -> Step:
    arg = xe_drm.drm_xe_madvise(vm_id=_bound_vm(client), start=1, range=PAGE)
    advise = client.prepare(xe_drm.DRM_IOCTL_XE_MADVISE, arg)
    return lambda: advise() + errno.EINVAL


_STEPS: dict[str, tuple[str, Callable[[Client], Step]]] = {
    "handler/version-null": ("VERSION, NULL strings", _version_null),
    "handler/version-strings": ("VERSION, strings", _version_strings),
    "handler/get-cap": ("GET_CAP", _get_cap),
    "handler/device-query": ("DEVICE_QUERY of CONFIG", _device_query),
    "handler/gem-pair": ("GEM_CREATE and GEM_CLOSE", _gem_pair),
    "handler/vm-pair": ("VM_CREATE and VM_DESTROY", _vm_pair),
    "handler/bind-pair": ("VM_BIND map and unmap", _bind_pair),
    "handler/madvise": ("MADVISE, retained_ptr", _madvise),
    "handler/range-attrs": ("VM_QUERY_MEM_RANGE_ATTRS, counting", _range_attrs),
    "handler/mmap-offset": ("GEM_MMAP_OFFSET", _mmap_offset),
    "handler/refused": ("MADVISE that is refused (EINVAL)", _refused),
}
"""Name -> what it is, and how a step of it is made."""

WHATS = {name: f"handler: {what}" for name, (what, _) in _STEPS.items()}


def unchecked(name: str) -> Step:
    """The step ``name`` of a device of its own, for a profiler."""
    return _STEPS[name][1](Client(make_device()))


def measure(names: frozenset[str], scale: Scale) -> list[Line]:
    """Time the steps called ``names``."""
    return list(_lines(names, scale))


def _lines(names: frozenset[str], scale: Scale) -> Iterator[Line]:
    client = Client(make_device())
    steps = {name: _STEPS[name][1](client) for name in _STEPS if name in names}
    for name, step in steps.items():
        if step():
            raise AssertionError(f"{name} does not do what it is to measure")
    rounds: dict[str, list[Summary]] = {name: [] for name in steps}
    with tuned_gc():
        for _ in range(scale.rounds):
            for name, step in steps.items():
                rounds[name].append(time_calls(step, scale.calls))
    for name, found in rounds.items():
        cost = combine(found)
        yield Line(
            name,
            WHATS[name],
            median=cost.median,
            p99=cost.p99,
            worst=cost.worst,
            iterations=f"{scale.rounds} x {scale.calls}",
        )
    client.close()
