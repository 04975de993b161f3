"""Python's view of threads that libfuse makes."""

from __future__ import annotations

import ctypes
import threading
import time

__all__ = ("ThreadKeeper",)

_PYGILSTATE_LOCKED = 0

_ensure = ctypes.pythonapi.PyGILState_Ensure
_ensure.restype = ctypes.c_int
_ensure.argtypes = ()
_release = ctypes.pythonapi.PyGILState_Release
_release.restype = None
_release.argtypes = (ctypes.c_int,)


class ThreadKeeper:
    """Keeps the Python thread state of a foreign thread until that thread ends.

    Without it, each callback on a thread that C code has made creates a thread state and destroys
    it again, which takes longer than everything else about a small ioctl.

    One more ``PyGILState_Ensure`` keeps the state; when the thread ends it must be dropped again,
    or every thread of libfuse leaves its state behind.  The destructor of a pthread key comes too
    late: glibc clears the keys in order of their making, Python's own first, so that the state
    could not be found any more.  Destructors of C++ ``thread_local`` objects run before all keys.
    Where the C library lacks them (musl) nothing is kept, which is slower but right.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.kept = 0
        # ctypes takes the GIL for this callback with an Ensure of its own, and drops it after.
        self._destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._give_back)
        self._at_thread_exit = getattr(ctypes.PyDLL(None), "__cxa_thread_atexit_impl", None)
        if self._at_thread_exit is not None:
            # (destructor, its argument, some address in the library that must stay loaded)
            self._at_thread_exit.argtypes = (type(self._destructor), *[ctypes.c_void_p] * 2)

    def keep(self) -> None:
        """Keep the calling thread's state.  Once per thread, and never on a thread of Python's."""
        if self._at_thread_exit is None:
            return
        library = ctypes.cast(_release, ctypes.c_void_p)
        if self._at_thread_exit(self._destructor, None, library) != 0:
            return
        _ensure()
        with self._lock:
            self.kept += 1

    def _give_back(self, _object: int | None) -> None:
        # Ensured twice here: by `keep` and by ctypes, whose own Release then frees the state.
        with self._lock:
            self.kept -= 1
        _release(_PYGILSTATE_LOCKED)

    def wait_until_none(self, timeout: float) -> bool:
        """Wait for the last threads to end: they must not meet a Python that is finalizing."""
        deadline = time.monotonic() + timeout
        while self.kept:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        return True
