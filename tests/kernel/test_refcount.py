from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from xedev.kernel.errors import KernelBug
from xedev.kernel.refcount import Refcounted


class Thing(Refcounted):
    def __init__(self) -> None:
        super().__init__()
        self.frees = 0

    def free(self) -> None:
        self.frees += 1


def test_it_ends_with_its_last_reference() -> None:
    thing = Thing()
    thing.get()
    thing.put()
    assert thing.frees == 0
    thing.put()
    assert thing.frees == 1


def test_nobody_comes_back_from_the_dead() -> None:
    thing = Thing()
    assert thing.get_unless_zero()
    thing.put()
    thing.put()
    assert not thing.get_unless_zero()
    with pytest.raises(KernelBug, match="used after its end"):
        thing.get()
    with pytest.raises(KernelBug, match="once too often"):
        thing.put()
    assert thing.frees == 1


def test_threads_may_count_at_once() -> None:
    thing = Thing()

    def work(_: int) -> None:
        for _ in range(500):
            thing.get()
            thing.put()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert (thing.refs, thing.frees) == (1, 0)
