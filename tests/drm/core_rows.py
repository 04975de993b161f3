"""Typed reader of ``tests/vectors/core_ioctls.json``."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ("CORE_ROWS", "CoreRow")

_FILE = Path(__file__).parents[1] / "vectors" / "core_ioctls.json"


@dataclass(frozen=True, slots=True)
class CoreRow:
    """One core ioctl: who may use it, and what it answers the master to ``args``."""

    name: str
    cmd: int
    flags: frozenset[str]
    answer: int
    args: bytes

    def __str__(self) -> str:
        return self.name.removeprefix("DRM_IOCTL_")


def _row(item: dict[str, str]) -> CoreRow:
    answer = item["answer"]
    return CoreRow(
        name=item["name"],
        cmd=int(item["cmd"], 16),
        flags=frozenset(item["flags"]),
        answer=0 if answer == "0" else getattr(errno, answer),
        args=bytes.fromhex(item.get("args", "")),
    )


_data = json.loads(_FILE.read_text())

CORE_ROWS: tuple[CoreRow, ...] = tuple(_row(item) for item in _data["ioctls"])
"""Every row of the core's table that has a handler."""
