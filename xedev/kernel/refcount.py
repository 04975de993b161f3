"""Reference counts."""

from __future__ import annotations

import threading

from xedev.kernel.errors import KernelBug

__all__ = ("Refcounted",)

# One lock for all counts: it is held for a few instructions only, and an object costs none.
_lock = threading.Lock()
_acquire, _release = _lock.acquire, _lock.release  # half the cost of a with statement


class Refcounted:
    """An object that ends with its last reference (kernel: ``struct kref``).

    Made with one reference.  `free` runs in the thread that dropped the last one.
    """

    __slots__ = ("refs",)

    def __init__(self) -> None:
        self.refs = 1

    def get(self) -> None:
        """Take one more reference; only who holds one may ask."""
        if not self.get_unless_zero():
            raise KernelBug(f"{type(self).__name__} is used after its end")

    def get_unless_zero(self) -> bool:
        """Take a reference unless the object is ending (kernel: ``kref_get_unless_zero``)."""
        _acquire()
        try:
            if self.refs <= 0:
                return False
            self.refs += 1
            return True
        finally:
            _release()

    def put(self) -> None:
        """Drop one reference."""
        _acquire()
        try:
            self.refs -= 1
            left = self.refs
        finally:
            _release()
        if left < 0:
            raise KernelBug(f"{type(self).__name__} is dropped once too often")
        if not left:
            self.free()

    def free(self) -> None:
        """The last reference went."""
