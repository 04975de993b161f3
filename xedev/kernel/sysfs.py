"""Attributes as sysfs has them: files of one value, and links (kernel: fs/sysfs, lib/kstrtox.c)."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass

from xedev.kernel.errors import KernelError

__all__ = ("Attribute", "BinAttribute", "Link", "kstrtobool", "kstrtou32")

PAGE_SIZE = 4096
_NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|[0-9]+)")
_U32_MAX = 0xFFFFFFFF
_YES = re.compile(r"[eEyYtT1]|[oO][nN]")
_NO = re.compile(r"[dDnNfF0]|[oO][fF]")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One file."""

    name: str
    """Path below the directory of what it describes."""
    show: Callable[[], str | bytes] | None
    """Makes what a read gives; None where nothing can be read."""
    store: Callable[[str], None] | None = None
    """Takes a text without its newline at the end."""
    mode: int = 0o444
    size: int = PAGE_SIZE
    """What stat(2) says, whatever there is to read."""


@dataclass(frozen=True, slots=True)
class BinAttribute:
    """A file of bytes, each with its place (kernel: ``struct bin_attribute``)."""

    name: str
    """Path below the directory of what it describes."""
    read: Callable[[int, int], bytes]
    """Offset and size."""
    write: Callable[[bytes], None] | None = None
    mode: int = 0o444
    size: int = 0
    """What stat(2) says."""
    is_mappable: bool = False
    exists: Callable[[], bool] | None = None
    """Whether it is there just now, and its directory with it; None: always."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    name: str
    """Path below the directory of what it belongs to."""
    target: str
    """Path below /sys."""


def kstrtou32(text: str) -> int:
    """A number in C's notation: ``EINVAL`` none, ``ERANGE`` too large."""
    if not _NUMBER.fullmatch(text):
        raise KernelError(errno.EINVAL, f"{text[:20]!r} is no number")
    digits = text.removeprefix("+")
    is_octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
    try:
        number = int(digits, 8 if is_octal else 0)
    except ValueError:
        raise KernelError(errno.EINVAL, f"{text[:20]!r} is no number") from None
    if number > _U32_MAX:
        raise KernelError(errno.ERANGE, f"{text[:20]} has more than 32 bits")
    return number


def kstrtobool(text: str) -> bool:
    """Yes or no, which its first letters tell: ``EINVAL`` neither."""
    if _YES.match(text):
        return True
    if _NO.match(text):
        return False
    raise KernelError(errno.EINVAL, f"{text[:20]!r} is neither yes nor no")
