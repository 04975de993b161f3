"""Work for threads of our own (kernel: kernel/workqueue.c)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from xedev.kernel.errors import report_bug

__all__ = ("Workqueue",)

_Work = Callable[[], None]

IDLE_TIME = 10.0
"""Seconds after which a thread without work ends."""


class Workqueue:
    """Runs what is queued, with at most ``max_active`` threads; one keeps the order.

    A thread is made when work comes and none is idle, and ends when none came for a while.  They
    do not keep the process alive: work may hang in the memory of a hostile client.
    """

    def __init__(self, name: str, max_active: int = 1) -> None:
        self._name = name
        self._max_active = max_active
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0

    def queue_work(self, work: _Work) -> None:
        """Have ``work`` called soon."""
        with self._lock:
            self._work.put(work)
            if self._work.qsize() > self._idle and self._threads < self._max_active:
                self._threads += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def destroy(self) -> None:
        """End the threads, each after the work that it is at."""
        with self._lock:
            for _ in range(self._threads):
                self._work.put(None)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:  # noqa: BLE001 - the next work has nothing to do with it
                report_bug(f"work of {self._name}")
            del work

    def _next(self) -> _Work | None:
        """What to do; None: the thread ends, and is not counted any more."""
        with self._lock:
            self._idle += 1
        while True:
            work, is_late = None, False
            try:
                work = self._work.get(timeout=IDLE_TIME)
            except queue.Empty:
                is_late = True
            with self._lock:
                if is_late and not self._work.empty():
                    continue  # it came just now, and was left to us
                self._idle -= 1
                if work is None:
                    self._threads -= 1
                return work
