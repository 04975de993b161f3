"""Files that stand in for those of /proc/sys (kernel: fs/drop_caches.c, kernel/sysctl.c)."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable

from xedev.drm.drm_device import DebugfsFile
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.node.debug_files import ControlFile

__all__ = ("DROP_CACHES", "SysctlFile", "drop_caches_file")

DROP_CACHES = "proc/sys/vm/drop_caches"
"""Path below the mount point, and below ``/`` where it is meant to be bind-mounted."""

_DROP_MIN, _DROP_MAX = 1, 4
_DROP_SLAB = 2
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*")


class SysctlFile(ControlFile):
    """One open of a sysctl that can only be written, by root too (kernel: ``sysctl_perm``)."""

    def __init__(self, file: DebugfsFile, flags: int) -> None:
        if flags & os.O_ACCMODE != os.O_WRONLY:
            raise KernelError(errno.EACCES, f"{file.name} can only be written")
        super().__init__(file, flags)


def drop_caches_file(drop_slab: Callable[[], None]) -> DebugfsFile:
    """``drop_caches``: a number from 1 to 4; ``drop_slab`` runs when bit 1 is set in it."""

    def write(text: str, caller: Caller) -> str:
        if _number(text) & _DROP_SLAB:
            drop_slab()
        return ""

    return DebugfsFile("drop_caches", 0o200, None, write)


def _number(text: str) -> int:
    """The first word as a number (kernel: ``proc_dointvec_minmax``); ``EINVAL``."""
    word = next(iter(text.split()), "")
    if not _NUMBER.fullmatch(word):
        raise KernelError(errno.EINVAL, f"{word!r} is no number")
    octal = word.startswith("0") and word.isdecimal()
    number = int(word, 8 if octal else 0)
    if not _DROP_MIN <= number <= _DROP_MAX:
        raise KernelError(errno.EINVAL, f"{number} is not from {_DROP_MIN} to {_DROP_MAX}")
    return number
