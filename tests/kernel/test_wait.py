from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.kernel.fakes import FakeCaller
from xedev.kernel import wait
from xedev.kernel.errors import KernelError
from xedev.kernel.wait import WaitQueue

_TIMEOUT = 10.0  # seconds


class Sleeper:
    """A thread that waits until ``ready`` is set."""

    def __init__(self, pool: ThreadPoolExecutor, queue: WaitQueue | None = None) -> None:
        self.queue = queue or WaitQueue()
        self.caller = FakeCaller()
        self.ready = False
        self.looked = threading.Semaphore(0)
        self.answer: Future[bool] = pool.submit(
            self.queue.wait_event, self._look, self.caller, _TIMEOUT
        )
        self.await_look()

    def _look(self) -> bool:
        self.looked.release()
        return self.ready

    def await_look(self) -> None:
        """Return once it has looked at its condition again."""
        assert self.looked.acquire(timeout=_TIMEOUT)


@pytest.fixture
def sleeper() -> Iterator[Callable[..., Sleeper]]:
    with ThreadPoolExecutor(4) as pool:
        yield lambda queue=None: Sleeper(pool, queue)


def test_what_holds_already_is_not_waited_for() -> None:
    assert WaitQueue().wait_event(lambda: True, FakeCaller())


def test_time_passes() -> None:
    start = time.monotonic()
    assert not WaitQueue().wait_event(lambda: False, FakeCaller(), 0.05)
    assert 0.05 <= time.monotonic() - start < _TIMEOUT


def test_no_time_is_a_look() -> None:
    assert not WaitQueue().wait_event(lambda: False, FakeCaller(), 0)


def test_a_wake_up_makes_the_sleeper_look(sleeper: Callable[..., Sleeper]) -> None:
    one = sleeper()
    while one.looked.acquire(blocking=False):
        pass  # it looks before it sleeps, too
    one.queue.wake_up()
    one.await_look()
    assert not one.answer.done(), "the condition did not hold"
    one.ready = True
    one.queue.wake_up()
    assert one.answer.result(_TIMEOUT)


def test_nobody_looks_unless_woken(sleeper: Callable[..., Sleeper]) -> None:
    one = sleeper()
    time.sleep(0.02)
    while one.looked.acquire(blocking=False):
        pass
    assert not one.looked.acquire(timeout=0.1), "it polls"
    one.ready = True
    one.queue.wake_up()
    assert one.answer.result(_TIMEOUT)


def test_a_signal_ends_only_its_own_wait(sleeper: Callable[..., Sleeper]) -> None:
    queue = WaitQueue()
    one, two, three = sleeper(queue), sleeper(queue), sleeper()
    one.caller.signalled = True
    wait.wake_all_sleepers()
    with pytest.raises(KernelError) as caught:
        one.answer.result(_TIMEOUT)
    assert caught.value.errno == errno.EINTR
    for other in (two, three):
        assert not other.answer.done()
        other.ready = True
        other.queue.wake_up()
        assert other.answer.result(_TIMEOUT)


def test_a_signal_that_came_before_the_wait_counts() -> None:
    caller = FakeCaller()
    caller.signalled = True
    with pytest.raises(KernelError) as caught:
        WaitQueue().wait_event(lambda: False, caller, _TIMEOUT)
    assert caught.value.errno == errno.EINTR


def test_a_signal_does_not_matter_to_what_holds() -> None:
    caller = FakeCaller()
    caller.signalled = True
    assert WaitQueue().wait_event(lambda: True, caller)


def test_shutting_down_ends_every_wait(sleeper: Callable[..., Sleeper]) -> None:
    sleepers = [sleeper(), sleeper()]
    try:
        wait.shut_down()
        for one in sleepers:
            with pytest.raises(KernelError) as caught:
                one.answer.result(_TIMEOUT)
            assert caught.value.errno == errno.EINTR
        with pytest.raises(KernelError):
            WaitQueue().wait_event(lambda: False, FakeCaller(), _TIMEOUT)
        assert WaitQueue().wait_event(lambda: True, FakeCaller())
    finally:
        wait.start_up()
    assert not WaitQueue().wait_event(lambda: False, FakeCaller(), 0)


def test_who_cannot_sleep_is_called() -> None:
    queue = WaitQueue()
    calls: list[str] = []
    remove = queue.add_waker(lambda: calls.append("one"))
    queue.add_waker(lambda: calls.append("two"))
    queue.wake_up()
    remove()
    queue.wake_up()
    assert calls == ["one", "two", "two"]
