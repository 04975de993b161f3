"""What all ioctls of a `Device` have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from uapi.base import Struct
from uapi.registry import lookup
from xedev.client.transport import Buffer, IoctlError, Transport

__all__ = ("Call", "Ioctls")


@dataclass(frozen=True, slots=True)
class Call:
    """One finished ioctl, as an observer sees it."""

    cmd: int
    arg: Struct | None  # as the driver left it
    result: int  # of ioctl(2); -1 after an error
    error: IoctlError | None

    @property
    def name(self) -> str:
        """The ioctl's name, or its number in hex when it has none."""
        row = lookup(self.cmd)
        return row.name if row is not None else f"{self.cmd:#x}"

    def __str__(self) -> str:
        arg = "" if self.arg is None else repr(self.arg)
        return f"{self.name}({arg}) = {self.error or self.result}"


class Ioctls:
    """An open DRM file, and the one way in which its ioctls are made."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        #: Called after every ioctl, also a failed one.
        self.observer: Callable[[Call], None] | None = None

    def ioctl(self, cmd: int, arg: Struct | None = None, buffers: Sequence[Buffer] = ()) -> int:
        """Run any ioctl. ``buffers`` lists all memory that ``arg`` points to.

        Returns the ioctl's value (>= 0); raises `IoctlError` with its errno.
        """
        try:
            result = self.transport.ioctl(cmd, arg, buffers)
        except IoctlError as error:
            # Kept in no other local variable: that would be a cycle through the traceback.
            self._observe(Call(cmd, arg, -1, error))
            raise
        except OSError as error:
            self._observe(Call(cmd, arg, -1, _refusal(error, cmd)))
            raise _refusal(error, cmd) from error
        self._observe(Call(cmd, arg, result, None))
        return result

    def _observe(self, call: Call) -> None:
        if self.observer is not None:
            self.observer(call)


def _refusal(error: OSError, cmd: int) -> IoctlError:
    return IoctlError(error.errno or 0, cmd, getattr(error, "reason", ""))
