"""Threads that do what was queued."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from xedev.kernel import workqueue
from xedev.kernel.workqueue import Workqueue

PATIENCE = 10.0


def test_one_thread_keeps_the_order() -> None:
    queue, done, seen = Workqueue("test"), threading.Event(), list[int]()
    for number in range(100):
        queue.queue_work(partial(seen.append, number))
    queue.queue_work(done.set)
    assert done.wait(PATIENCE)
    assert seen == list(range(100))
    queue.destroy()


def test_work_that_hangs_leaves_the_other_threads_alone() -> None:
    queue, hung, done = Workqueue("test", 2), threading.Event(), threading.Event()

    def hang() -> None:
        hung.wait(PATIENCE)

    queue.queue_work(hang)
    queue.queue_work(done.set)
    assert done.wait(PATIENCE)
    hung.set()
    queue.destroy()


def test_no_more_threads_than_allowed_and_none_without_need() -> None:
    queue, gate, names = Workqueue("limited", 3), threading.Event(), set()
    started, done = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        names.add(threading.get_ident())
        started.release()
        gate.wait(PATIENCE)
        done.release()

    for _ in range(10):
        queue.queue_work(work)
    for _ in range(3):
        assert started.acquire(timeout=PATIENCE)
    assert not started.acquire(timeout=0.05)
    gate.set()
    for _ in range(10):
        assert done.acquire(timeout=PATIENCE)
    assert len(names) == 3
    queue.destroy()


def test_destroyed_threads_end_after_their_work() -> None:
    queue, ran = Workqueue("ending"), threading.Event()
    queue.queue_work(ran.set)
    queue.destroy()
    assert ran.wait(PATIENCE)
    deadline = threading.Event()
    while any(thread.name == "ending" for thread in threading.enumerate()):
        assert not deadline.wait(0.01)


def test_threads_end_without_work_and_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workqueue, "IDLE_TIME", 0.01)
    queue = Workqueue("idle")
    for _ in range(3):
        done = threading.Event()
        queue.queue_work(done.set)
        assert done.wait(PATIENCE)
        while any(thread.name == "idle" for thread in threading.enumerate()):
            time.sleep(0.001)


@pytest.mark.expects_bug
def test_a_bug_in_one_work_is_logged_and_the_next_one_runs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue, done = Workqueue("buggy"), threading.Event()

    def fail() -> None:
        raise RuntimeError("on purpose")

    queue.queue_work(fail)
    queue.queue_work(done.set)
    assert done.wait(PATIENCE)
    assert "work of buggy" in caplog.text
    queue.destroy()
