"""Whether reclaim costs more, the larger a victim is or the more BOs there are to choose from."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.device import PAGE, SYSTEM, VRAM, Client, fill_map, make_device
from benchmarks.pairs import Round, two_lines
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, time_calls, tuned_gc
from uapi import xe_drm
from xedev.drm.ttm import MemType
from xedev.xe.xe_bo import PURGED, XeBo

__all__ = ("WHATS", "measure")

_DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Scene:
    """A device with something to reclaim."""

    reclaim: Callable[[], object]
    """What is timed: it takes one victim."""
    renew: Callable[[], None]
    """Makes good for the victim; AssertionError when there was none."""


# ---- the size of the victim ------------------------------------------------------------------


def _eviction(size: int) -> _Scene:
    """One BO that is evicted, and comes back when it is mapped again."""
    client = Client(make_device())
    vm, handle = client.create_vm(), client.create_bo(size)
    bo = client.find_bo(handle)
    _touch(bo)

    def renew() -> None:
        _check(bo.mem_type is MemType.TT)
        client.bind_bo(vm, handle, size, 0)
        _check(bo.mem_type is MemType.VRAM0)

    return _Scene(client.pressing(f"region vram0 {PAGE} evict"), renew)


def _touch(bo: XeBo) -> None:
    """Make all pages of a BO, by storing to them."""
    with bo.resv:
        pages = bo.xe.ttm.pages(bo)
        for start in range(0, bo.size, _MIB):
            pages.write(start, bytes(_MIB))
    _check(pages.allocated() == bo.size)


def _check(is_so: bool) -> None:
    if not is_so:
        raise AssertionError("reclaim does not do what is to be measured")


# ---- the number of BOs -----------------------------------------------------------------------


class _Condemned:
    """DONTNEED BOs of a page each, oldest first, mapped one behind the other."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._vm = client.create_vm()
        self._oldest: deque[tuple[int, int]] = deque()

    def add(self, handle: int) -> None:
        """The youngest."""
        self._place(handle, len(self._oldest))

    def replace(self, handle: int) -> None:
        """The oldest was purged; ``handle`` is the youngest and takes its address."""
        victim, page = self._oldest.popleft()
        _check(self._client.find_bo(victim).purgeable.state is PURGED)
        self._client.close_bo(victim)
        self._place(handle, page)

    def _place(self, handle: int, page: int) -> None:
        self._client.bind_bo(self._vm, handle, PAGE, page * PAGE)
        self._client.advise_pages(self._vm, [page], _DONTNEED)
        self._oldest.append((handle, page))


def _shrinker(count: int) -> _Scene:
    """BOs in system memory, of which only the last one may be purged."""
    client = Client(make_device())
    for _ in range(count - 1):
        client.create_bo(PAGE, SYSTEM)
    victims = _Condemned(client)
    victims.add(client.create_bo(PAGE, SYSTEM))
    return _Scene(
        client.pressing(f"region system {PAGE} shrink"),
        lambda: victims.replace(client.create_bo(PAGE, SYSTEM)),
    )


def _vram(count: int) -> _Scene:
    """BOs in VRAM that all may be purged, each in its turn."""
    client = Client(make_device())
    victims = _Condemned(client)
    for _ in range(count):
        victims.add(client.create_bo(PAGE))
    return _Scene(
        client.pressing(f"region vram0 {PAGE} evict"),
        lambda: victims.replace(client.create_bo(PAGE)),
    )


def _overcommit(count: int) -> _Scene:
    """The same, in a VRAM that has no room for another one."""
    client = Client(make_device(vram=count * PAGE))
    victims = _Condemned(client)
    for _ in range(count):
        victims.add(client.create_bo(PAGE))
    arg = xe_drm.drm_xe_gem_create(
        size=PAGE, placement=VRAM, cpu_caching=xe_drm.DRM_XE_GEM_CPU_CACHING_WC
    )
    create = client.prepare(xe_drm.DRM_IOCTL_XE_GEM_CREATE, arg)

    def renew() -> None:
        victims.replace(arg.handle)
        arg.handle = 0

    return _Scene(create, renew)


def _passed_over(count: int) -> _Scene:
    """A VRAM full of one VM's own BOs, with one behind them that may be purged.

    A list of ops in that VM never evicts its BOs (kernel: ``xe_bo_eviction_valuable``).
    """
    client = Client(make_device(vram=(count + 1) * PAGE))
    vm = client.create_vm()
    for _ in range(count):
        client.create_bo(PAGE, vm=vm)
    victims = _Condemned(client)
    victims.add(client.create_bo(PAGE))
    ops = (xe_drm.drm_xe_vm_bind_op * 2)()
    newcomer, nothing = ops
    fill_map(newcomer, _deferred(client), 0, PAGE)
    nothing.op, nothing.addr, nothing.range = xe_drm.DRM_XE_VM_BIND_OP_UNMAP, PAGE, PAGE
    arg = xe_drm.drm_xe_vm_bind(vm_id=vm, num_binds=len(ops), vector_of_binds=ctypes.addressof(ops))
    bind = client.prepare(xe_drm.DRM_IOCTL_XE_VM_BIND, arg, ops)
    unbind = client.unbinding(vm, 0, PAGE)

    def renew() -> None:
        _check(unbind() == 0)
        client.close_bo(newcomer.obj)
        victims.replace(client.create_bo(PAGE))
        newcomer.obj = _deferred(client)

    return _Scene(bind, renew)


def _deferred(client: Client) -> int:
    return client.create_bo(PAGE, flags=xe_drm.DRM_XE_GEM_CREATE_FLAG_DEFER_BACKING)


# ---- measuring -------------------------------------------------------------------------------


def _reclaims(scale: Scale) -> int:
    return scale.reclaims


def _walks(scale: Scale) -> int:
    return scale.walk_calls


@dataclass(frozen=True, slots=True)
class _Comparison:
    """The same scene, small and large."""

    what: str
    make: Callable[[int], _Scene]
    sizes: Callable[[Scale], tuple[int, int]]
    label: Callable[[int], str]
    calls: Callable[[Scale], int] = _reclaims
    goal: float = 1.3
    per_size: bool = False
    """Whether the costs are divided by the sizes."""


def _size_label(size: int) -> str:
    return f"{size // _MIB} MiB"


def _count_label(count: int) -> str:
    return f"{count} BOs"


def _evict_sizes(scale: Scale) -> tuple[int, int]:
    return scale.evict_sizes


def _passed_over_sizes(scale: Scale) -> tuple[int, int]:
    return scale.passed_over


def _pick_bos(scale: Scale) -> tuple[int, int]:
    return scale.pick_bos


_COMPARISONS = {
    "evict/size": _Comparison(
        "evict a BO from VRAM, all pages touched", _eviction, _evict_sizes, _size_label
    ),
    "pick/shrinker": _Comparison(
        "shrinker purges the youngest, the others WILLNEED", _shrinker, _pick_bos, _count_label
    ),
    "pick/vram": _Comparison(
        "eviction purges the oldest, all DONTNEED", _vram, _pick_bos, _count_label
    ),
    "pick/overcommit": _Comparison(
        "GEM_CREATE in full VRAM purges the oldest", _overcommit, _pick_bos, _count_label
    ),
    "pick/passed-over": _Comparison(
        "look at a BO of VRAM in vain",
        _passed_over,
        _passed_over_sizes,
        _count_label,
        _walks,
        goal=2,
        per_size=True,
    ),
}

WHATS = {name: comparison.what for name, comparison in _COMPARISONS.items()}


def measure(name: str, scale: Scale) -> list[Line]:
    """The two lines of one of `WHATS`."""
    comparison = _COMPARISONS[name]
    small, large = comparison.sizes(scale)
    calls = comparison.calls(scale)
    labels = comparison.label(small), comparison.label(large)
    with tuned_gc():
        scenes = []
        for size, label in zip((small, large), labels, strict=True):
            say(f"{name}: making {label}")
            scenes.append(comparison.make(size))
        rounds = [_round(scenes, calls) for _ in range(scale.rounds)]
    if comparison.per_size:
        rounds = [(_each(under, small), _each(over, large)) for under, over in rounds]
    return two_lines(
        name,
        (f"{comparison.what}: {labels[0]}", f"{comparison.what}: {labels[1]}"),
        rounds,
        to=labels[0],
        goal=comparison.goal,
        iterations=f"{scale.rounds} x {calls}",
    )


def _round(scenes: Sequence[_Scene], count: int) -> Round:
    small, large = (time_calls(scene.reclaim, count, scene.renew) for scene in scenes)
    return small, large


def _each(cost: Summary, count: int) -> Summary:
    return Summary(cost.median / count, cost.p99 / count, cost.worst / count)
