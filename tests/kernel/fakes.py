"""A caller that no process stands behind."""

from __future__ import annotations

from xedev.kernel.caller import Caller
from xedev.kernel.files import File
from xedev.kernel.user_memory import UserMemory

__all__ = ("FakeCaller",)


class FakeCaller(Caller):
    """Somebody who has no memory and no rights, and gets a signal when a test says so."""

    tid = 1
    tgid = 1
    uid = 1000
    gid = 1000
    comm = "fake"

    def __init__(self) -> None:
        self.reason = ""
        self.signalled = False

    @property
    def memory(self) -> UserMemory:
        raise AssertionError("nobody asks for the memory")

    def mm(self) -> UserMemory:
        return self.memory

    def capable(self, cap: int) -> bool:
        return False

    def fget(self, fd: int) -> File | None:
        return None

    def dup_fd(self, fd: int) -> int:
        raise NotImplementedError

    def sees_our_proc(self) -> bool:
        return True

    def interrupted(self) -> bool:
        return self.signalled
