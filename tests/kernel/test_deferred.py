"""How many requests may sleep at once, and what ends a sleep that nobody may interrupt."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from tests.kernel.fakes import FakeCaller
from xedev.kernel import deferred
from xedev.kernel.deferred import Deferred
from xedev.kernel.errors import KernelError
from xedev.kernel.wait import WaitQueue

PATIENCE = 10.0


class Sleeper:
    """A thread in a wait, until `wake`."""

    def __init__(self) -> None:
        self._queue, self._is_due, self._asleep = WaitQueue(), False, threading.Event()
        self.thread = threading.Thread(target=self._sleep)
        self.thread.start()
        assert self._asleep.wait(PATIENCE)

    def _look(self) -> bool:
        self._asleep.set()
        return self._is_due

    def _sleep(self) -> None:
        Deferred(self._queue, self._look, lambda: 0).wait(FakeCaller())

    def wake(self) -> None:
        self._is_due = True
        self._queue.wake_up()
        self.thread.join(PATIENCE)


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Sleeper]]:
    """As many as may sleep."""
    monkeypatch.setattr(deferred, "SLEEPERS_MAX", 3)
    sleepers = [Sleeper() for _ in range(3)]
    yield sleepers
    for sleeper in sleepers:
        sleeper.wake()


def one_more(abandoned: list[int]) -> None:
    Deferred(WaitQueue(), lambda: False, lambda: 0, 0.01, lambda: abandoned.append(1)).wait(
        FakeCaller()
    )


def test_one_too_many_is_enomem_and_leaves_nothing(sleepers: list[Sleeper]) -> None:
    abandoned: list[int] = []
    with pytest.raises(KernelError) as caught:
        one_more(abandoned)
    assert caught.value.errno == errno.ENOMEM
    assert "wait already" in caught.value.reason
    assert abandoned == [1]


def test_after_one_was_woken_there_is_room_again(sleepers: list[Sleeper]) -> None:
    sleepers[0].wake()
    abandoned: list[int] = []
    one_more(abandoned)
    assert abandoned == []


def test_a_signal_ends_a_wait_that_is_not_interruptible_with_its_answer() -> None:
    caller = FakeCaller()
    caller.signalled = True
    answer = Deferred(WaitQueue(), lambda: False, lambda: 7, is_interruptible=False)
    assert answer.wait(caller) == 7
    assert answer.then(lambda finish: finish() + 1).wait(caller) == 8


def test_a_bug_in_a_look_leaves_nothing_either() -> None:
    abandoned: list[int] = []

    def look() -> bool:
        raise RuntimeError("on purpose")

    answer = Deferred(WaitQueue(), look, lambda: 7, abandon=lambda: abandoned.append(1))
    with pytest.raises(RuntimeError):
        answer.wait(FakeCaller())
    assert abandoned == [1]
