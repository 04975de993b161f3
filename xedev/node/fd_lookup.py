"""From a client's descriptor number to the mock's open file behind it (kernel: ``fget``).

A FUSE server is never told which descriptors its clients hold.  But /proc shows the inode and the
mount of each, and every file that an ioctl may be handed (a dma-buf) has an inode of its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from xedev.kernel.errors import KernelError
from xedev.kernel.files import File
from xedev.node.frames import FrameFile
from xedev.node.mounts import mount_device

__all__ = ("FdLookup",)


class FdLookup:
    """Resolves descriptors of any process to the open files of one mount.

    ``by_inode`` gives an open file of an inode: *the* file for dma-bufs and their like, any of
    them for a device node.  ``device`` is the mount's ``major:minor``, once known.
    """

    def __init__(self, by_inode: Callable[[int], File | None]) -> None:
        self._by_inode = by_inode
        self.device: str | None = None

    def fget(self, tid: int, fd: int) -> File | None:
        """The open file behind descriptor ``fd`` of thread ``tid``; None when it is not ours.

        ``EBADF`` when nothing is open there, and when the kernel does not let us look.
        """
        if fd < 0:
            raise KernelError(errno.EBADF, f"fd {fd} is negative")
        if tid == 0:
            raise KernelError(errno.EBADF, "the caller lives outside of the mock's pid namespace")
        try:
            return self._find(tid, fd)
        except KernelError:
            raise
        except FileNotFoundError:
            raise KernelError(errno.EBADF, f"fd {fd} is not open") from None
        except OSError as error:
            reason = f"the mock may not look at the descriptors of {tid}: {error.strerror}"
            raise KernelError(errno.EBADF, reason) from None

    def _find(self, tid: int, fd: int) -> File | None:
        info = _numbers(Path(f"/proc/{tid}/fdinfo/{fd}").read_text())
        if info.get("flags", 0) & os.O_PATH:
            raise KernelError(errno.EBADF, f"fd {fd} is a mere path (O_PATH)")
        file = self._by_inode(info.get("ino", 0))
        if file is None:
            return None
        # A descriptor that came through a socket may belong to a mount that its present owner
        # does not see.  Then the inode number alone must do; it is unlikely enough.
        device = mount_device(tid, info["mnt_id"]) or self.device
        if device != self.device:
            return None
        return file.file if isinstance(file, FrameFile) else file


def _numbers(fdinfo: str) -> dict[str, int]:
    """The fields of an fdinfo file that are numbers; ``flags`` is octal (proc(5))."""
    lines = (line.split(":", 1) for line in fdinfo.splitlines() if ":" in line)
    return {
        key: int(value, 8 if key == "flags" else 10)
        for key, value in lines
        if value.strip().isdecimal()
    }
