"""Sizes of memory as people write them."""

from __future__ import annotations

import argparse
import re

__all__ = ("parse_memory_size", "parse_size", "size_text")

_PAGE = 64 << 10  # the larger of the two page sizes that GPUs have

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:I?B)?")


def parse_size(text: str) -> int:
    """``256M``, ``12G`` or ``4096`` in bytes; for argparse."""
    match = _SIZE.fullmatch(text.strip().upper())
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size (such as 256M or 12G)")
    return int(match[1]) * _UNITS[match[2]]


def parse_memory_size(text: str) -> int:
    """The size of a memory, which consists of whole pages; for argparse."""
    size = parse_size(text)
    if size % _PAGE:
        raise argparse.ArgumentTypeError(f"{text!r} is no multiple of {size_text(_PAGE)}")
    return size


def size_text(size: int) -> str:
    """The number in the largest unit that leaves it whole."""
    for unit, factor in reversed(_UNITS.items()):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
