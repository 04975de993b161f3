"""Who made a request: ids, rights, memory and descriptors of the calling thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xedev.kernel.files import File
    from xedev.kernel.user_memory import UserMemory

__all__ = ("CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_NICE", "Caller")

CAP_SYS_ADMIN = 21
CAP_SYS_NICE = 23
CAP_PERFMON = 38


class Caller(ABC):
    """The calling thread, as far as the driver may know it.  One object lives for one request.

    ``reason`` is filled by the DRM core when a request fails, for the transport's use.
    """

    __slots__ = ("reason",)

    reason: str
    may_defer = False
    """Whether the transport takes a `Deferred` for an answer and finishes it by itself."""

    @property
    @abstractmethod
    def tid(self) -> int:
        """Id of the calling thread (kernel: ``task_pid_vnr``); 0 when it is not known."""

    @property
    @abstractmethod
    def tgid(self) -> int:
        """Id of the thread group, which people call the pid."""

    @property
    @abstractmethod
    def uid(self) -> int:
        """Effective user id."""

    @property
    @abstractmethod
    def gid(self) -> int:
        """Effective group id."""

    @property
    @abstractmethod
    def comm(self) -> str:
        """Name of the calling thread, at most 15 characters."""

    @property
    @abstractmethod
    def memory(self) -> UserMemory:
        """The caller's memory."""

    @abstractmethod
    def mm(self) -> UserMemory:
        """The process's memory for after the request; ``EFAULT`` once the process is gone
        (kernel: ``mmgrab(current->mm)``)."""

    @abstractmethod
    def capable(self, cap: int) -> bool:
        """True when the thread holds capability ``cap`` where the device lives."""

    @abstractmethod
    def fget(self, fd: int) -> File | None:
        """The mock's open file behind the caller's descriptor ``fd``.

        None when the descriptor is open but not one of the mock's; `KernelError` ``EBADF`` when
        nothing is open under that number.
        """

    @abstractmethod
    def dup_fd(self, fd: int) -> int:
        """A descriptor of our own for what the caller has open under ``fd``: ``EBADF`` nothing,
        or out of reach (kernel: ``fget``, for files that are not the mock's)."""

    @abstractmethod
    def sees_our_proc(self) -> bool:
        """Whether the thread may open what ``/proc`` shows of this process's descriptors."""

    @abstractmethod
    def interrupted(self) -> bool:
        """True once a signal waits for the caller, so that a sleep must end."""
