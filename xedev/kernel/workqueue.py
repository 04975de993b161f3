"""Work for threads of our own (kernel: kernel/workqueue.c)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from xedev.kernel.errors import report_bug

__all__ = ("Workqueue",)

_Work = Callable[[], None]


class Workqueue:
    """Runs what is queued, with at most ``max_active`` threads; one keeps the order.

    A thread is made when work comes and none is idle.  They do not keep the process alive: work
    may hang in the memory of a hostile client.
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
        while True:
            with self._lock:
                self._idle += 1
            work = self._work.get()
            with self._lock:
                self._idle -= 1
                if work is None:
                    self._threads -= 1
                    return
            try:
                work()
            except Exception:  # noqa: BLE001 - the next work has nothing to do with it
                report_bug(f"work of {self._name}")
            del work
