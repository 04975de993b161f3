"""Whether a call on one VMA costs more, the more of them there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

from benchmarks.device import PAGE, Client, make_device
from benchmarks.progress import say
from benchmarks.report import Line
from benchmarks.scale import Scale
from benchmarks.timing import Summary, combine, time_calls, tuned_gc
from uapi import xe_drm

__all__ = ("WHATS", "measure")

Step = Callable[[], object]

WHATS = {
    "growth/madvise-counters": "MADVISE on 1 of the BO's VMAs, policy counters",
    "growth/madvise-walk": "MADVISE on 1 of the BO's VMAs, policy walk",
    "growth/bind": "bind and unbind 1 page in a VM with many VMAs",
}
_GOALS = {"growth/madvise-counters": 1.2, "growth/bind": 2.0}
_WILLNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_WILLNEED
_DONTNEED = xe_drm.DRM_XE_VMA_PURGEABLE_STATE_DONTNEED


def _madvise_step(client: Client, vmas: int) -> Step:
    """Advice on the VMA in the middle, while all others are DONTNEED.

    So each call changes the BO's state too, and a policy that walks has to look at all VMAs.
    """
    vm, bo = client.create_vm(), client.create_bo(vmas * PAGE)
    client.bind_pages(vm, bo, 0, vmas)
    # From the last one on: so a policy that walks meets a WILLNEED VMA at once each time.
    client.advise_pages(vm, reversed(range(vmas)), _DONTNEED)
    middle = vmas // 2 * PAGE
    states = (_WILLNEED, _DONTNEED)
    advice = cycle(client.advising(vm, middle, PAGE, state) for state in states)
    return lambda: next(advice)()


def _bind_step(client: Client, vmas: int) -> Step:
    """A bind and an unbind that fill and open a hole in the middle."""
    vm, bo = client.create_vm(), client.create_bo((vmas + 1) * PAGE)
    hole = vmas // 2
    client.bind_pages(vm, bo, 0, hole)
    client.bind_pages(vm, bo, hole + 1, vmas - hole)
    bind = client.binding(vm, bo, hole * PAGE, PAGE)
    unbind = client.unbinding(vm, hole * PAGE, PAGE)
    return lambda: bind() or unbind()


def measure(name: str, scale: Scale) -> list[Line]:
    """The lines of one of `WHATS`, one for each size."""
    policy = "walk" if name.endswith("walk") else "counters"
    make, sizes = (
        (_bind_step, scale.bind_sizes)
        if name == "growth/bind"
        else (_madvise_step, scale.madvise_sizes)
    )
    calls = scale.walk_calls if policy == "walk" else scale.calls
    client = Client(make_device(policy))
    with tuned_gc():
        steps = []
        for size in sizes:
            say(f"{name}: making {size} VMAs")
            steps.append(make(client, size))
        for step in steps:
            if step():
                raise AssertionError(f"{name} does not do what it is to measure")
        rounds = _rounds(steps, calls, scale.rounds)
        return list(_lines(name, sizes, rounds, f"{scale.rounds} x {calls}"))


def _rounds(steps: Sequence[Step], calls: int, count: int) -> list[list[Summary]]:
    """Per step its rounds; the steps take turns, so that a disturbance hits all alike."""
    rounds: list[list[Summary]] = [[] for _ in steps]
    for _ in range(count):
        for step, mine in zip(steps, rounds, strict=True):
            mine.append(time_calls(step, calls))
    return rounds


def _lines(
    name: str, sizes: Sequence[int], rounds: Sequence[Sequence[Summary]], iterations: str
) -> Iterator[Line]:
    base = combine(rounds[0])
    for size, found in zip(sizes, rounds, strict=True):
        cost = combine(found)
        first = size == sizes[0]
        yield Line(
            name,
            f"{WHATS[name]}: {size}",
            median=cost.median,
            p99=cost.p99,
            worst=cost.worst,
            ratio=None if first else cost.median / base.median,
            ratio_p99=None if first else cost.p99 / base.p99,
            ratio_worst=None if first else cost.worst / base.worst,
            ratio_to="" if first else f"{sizes[0]} VMA(s)",
            goal=None if first else _GOALS.get(name),
            iterations=iterations,
        )
