"""Locks that know who holds them, so that a missing one is found at once."""

from __future__ import annotations

import threading
from enum import IntEnum
from types import TracebackType

from xedev.kernel.errors import KernelBug

__all__ = ("LockLevel", "Mutex", "RwSem", "lockdep_assert_held", "lockdep_enable")

_get_ident = threading.get_ident


class LockLevel(IntEnum):
    """Outer locks first: a thread may only take a lock of the same or a higher level."""

    FILE = 1
    """A file's PRIME tables."""
    OBJECT_NAME = 2
    """The device's names and dma-buf links."""
    VM = 3
    """``vm->lock``."""
    RESV = 4
    """Reservation objects of VMs and BOs, several at a time."""


class _Lockdep(threading.local):
    """The locks that this thread holds, outermost first; filled only while checking is on."""

    def __init__(self) -> None:
        self.held: list[tuple[int, str]] = []


_lockdep: _Lockdep | None = None


def lockdep_enable() -> None:
    """Check from now on that locks are taken from the outside in (kernel: lockdep)."""
    global _lockdep
    _lockdep = _Lockdep()


def _check_order(level: int, name: str) -> None:
    if _lockdep is None or not level:
        return
    for held_level, held_name in _lockdep.held:
        if held_level > level:
            raise KernelBug(f"{name} is taken inside {held_name}")


def _note_taken(level: int, name: str) -> None:
    if _lockdep is not None and level:
        _lockdep.held.append((level, name))


def _note_released(level: int, name: str) -> None:
    if _lockdep is not None and (level, name) in _lockdep.held:
        _lockdep.held.remove((level, name))


class Mutex:
    """A lock with an owner (kernel: ``struct mutex``, ``ww_mutex``).  Not recursive.

    ``level`` places it in the order of `LockLevel`; 0 takes no part in the check.
    """

    __slots__ = ("_acquire", "_release", "level", "name", "owner")

    def __init__(self, name: str, level: int = 0) -> None:
        lock = threading.Lock()
        self._acquire = lock.acquire
        self._release = lock.release
        self.name = name
        self.level = level
        self.owner = 0

    def lock(self) -> None:
        """Wait for the lock; `KernelBug` when this thread already holds it."""
        me = _get_ident()
        if self.owner == me:
            raise KernelBug(f"{self.name} is taken twice")
        if _lockdep is not None:
            _check_order(self.level, self.name)
            _note_taken(self.level, self.name)
        self._acquire()
        self.owner = me

    def trylock(self) -> bool:
        """Take the lock if it is free.  A try cannot deadlock, so its order is not checked."""
        if not self._acquire(False):
            return False
        self.owner = _get_ident()
        if _lockdep is not None:
            _note_taken(self.level, self.name)
        return True

    def unlock(self) -> None:
        """Give the lock back."""
        if self.owner != _get_ident():
            raise KernelBug(f"{self.name} is released by a thread that does not hold it")
        self.owner = 0
        self._release()
        if _lockdep is not None:
            _note_released(self.level, self.name)

    def held(self) -> bool:
        """True when the calling thread holds it (kernel: ``lockdep_is_held``)."""
        return self.owner == _get_ident()

    __enter__ = lock

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unlock()


class RwSem:
    """Many readers or one writer (kernel: ``struct rw_semaphore``).

    A writer keeps the inner lock all the while, so that taking it for writing costs no more than
    a mutex; a reader only counts itself under it.
    """

    __slots__ = ("_condition", "_lock", "_readers", "level", "name", "writer")

    def __init__(self, name: str, level: int = 0) -> None:
        self._lock = threading.Lock()
        self._condition = threading.Condition(self._lock)
        self._readers = 0
        self.name = name
        self.level = level
        self.writer = 0

    def down_write(self) -> None:
        """Wait until nobody else holds it, and hold it alone."""
        me = _get_ident()
        if self.writer == me:
            raise KernelBug(f"{self.name} is taken twice")
        if _lockdep is not None:
            _check_order(self.level, self.name)
            _note_taken(self.level, self.name)
        self._lock.acquire()
        while self._readers:
            self._condition.wait()
        self.writer = me

    def up_write(self) -> None:
        """End holding it alone."""
        if self.writer != _get_ident():
            raise KernelBug(f"{self.name} is released by a thread that does not hold it")
        self.writer = 0
        self._lock.release()
        if _lockdep is not None:
            _note_released(self.level, self.name)

    def down_read(self) -> None:
        """Wait until no writer holds it, and hold it with other readers."""
        if self.writer == _get_ident():
            raise KernelBug(f"{self.name} is read by its own writer")
        if _lockdep is not None:
            _check_order(self.level, self.name)
            _note_taken(self.level, self.name)
        with self._lock:
            self._readers += 1

    def up_read(self) -> None:
        """End reading."""
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._condition.notify_all()
        if _lockdep is not None:
            _note_released(self.level, self.name)

    def held_write(self) -> bool:
        """True when the calling thread holds it alone."""
        return self.writer == _get_ident()


def lockdep_assert_held(lock: Mutex) -> None:
    """`KernelBug` unless the calling thread holds ``lock``."""
    if lock.owner != _get_ident():
        raise KernelBug(f"{lock.name} must be held here")
