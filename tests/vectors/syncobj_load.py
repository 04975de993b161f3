"""Typed reader of ``syncobj.json``: the sequences of drm-core.md 3.8.

A step is an object whose first key is the operation. ``s:5`` is the object named s at point 5,
``#99`` a bare handle. A misspelt key is an error, never ignored.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uapi import drm

__all__ = ("SyncobjVector", "Target", "VectorStep", "load_syncobj", "target")

_FILE = Path(__file__).parent / "syncobj.json"

_OPTIONS: dict[str, frozenset[str]] = {
    "create": frozenset({"flags", "handle"}),
    "destroy": frozenset({"pad"}),
    "handle_to_fd": frozenset({"flags", "point", "pad", "fd"}),
    "fd_to_handle": frozenset({"flags", "point", "pad", "s"}),
    "close": frozenset(),
    "differ": frozenset(),
    "wait": frozenset({"flags", "timeout", "first"}),
    "timeline_wait": frozenset({"flags", "timeout", "first"}),
    "reset": frozenset({"pad"}),
    "signal": frozenset({"pad"}),
    "timeline_signal": frozenset({"flags"}),
    "query": frozenset({"flags", "is"}),
    "transfer": frozenset({"to", "flags", "pad"}),
    "attach": frozenset({"fence"}),
    "done": frozenset(),
    "eventfd": frozenset({"to", "flags", "pad"}),
    "counter": frozenset({"is"}),
    "readable": frozenset({"is"}),
    "fault": frozenset({"pointer"}),
    "begin": frozenset({"wait", "transfer", "to", "flags"}),
    "sleeps": frozenset(),
    "end": frozenset({"first"}),
}
"""What may stand beside ``errno`` in a step, by its operation."""

_WAIT = "DRM_SYNCOBJ_WAIT_FLAGS_WAIT_"
_FLAGS = {
    **{name: getattr(drm, _WAIT + name) for name in ("ALL", "FOR_SUBMIT", "AVAILABLE")},
    "SIGNALED": drm.DRM_SYNCOBJ_CREATE_SIGNALED,
    "LAST_SUBMITTED": drm.DRM_SYNCOBJ_QUERY_FLAGS_LAST_SUBMITTED,
    "SYNC_FILE": drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_EXPORT_SYNC_FILE,
    "TIMELINE": drm.DRM_SYNCOBJ_HANDLE_TO_FD_FLAGS_TIMELINE,
}


@dataclass(frozen=True, slots=True)
class Target:
    """An object by its name, or a bare handle; and a point of it."""

    name: str
    handle: int
    point: int


@dataclass(frozen=True, slots=True)
class VectorStep:
    """One call, and how it ends."""

    op: str
    operand: Any
    options: Mapping[str, Any]
    errno: int
    """0 for success."""

    @property
    def flags(self) -> int:
        """The sum of named flags, or a bare number."""
        flags = self.options.get("flags", 0)
        return flags if isinstance(flags, int) else sum(_FLAGS[name] for name in flags)


@dataclass(frozen=True, slots=True)
class SyncobjVector:
    """One sequence of calls on a fresh file."""

    id: int
    title: str
    steps: tuple[VectorStep, ...]
    takes_seconds: int
    """How long it sleeps, on the whole."""

    def __str__(self) -> str:
        return f"{self.id}-{self.title.replace(' ', '_')}"


def target(text: str) -> Target:
    """``name``, ``name:point``, ``#handle``, ``#handle:point``."""
    name, _, point = text.partition(":")
    is_bare = name.startswith("#")
    return Target("" if is_bare else name, int(name[1:], 0) if is_bare else 0, int(point or "0"))


def load_syncobj() -> list[SyncobjVector]:
    """All vectors of drm-core.md 3.8."""
    data = json.loads(_FILE.read_text())
    if data["format"] != 1:
        raise ValueError(f"{_FILE} has format {data['format']}")
    return [_vector(raw) for raw in data["vectors"]]


def _vector(raw: dict[str, Any]) -> SyncobjVector:
    if unknown := set(raw) - {"id", "title", "steps", "takes_seconds"}:
        raise ValueError(f"unknown keys {sorted(unknown)} in vector {raw['id']}")
    steps = tuple(_step(dict(step)) for step in raw["steps"])
    return SyncobjVector(raw["id"], raw["title"], steps, raw.get("takes_seconds", 0))


def _step(raw: dict[str, Any]) -> VectorStep:
    op = next(iter(raw))
    operand = raw.pop(op)
    error = raw.pop("errno", None)
    if unknown := set(raw) - _OPTIONS[op]:
        raise ValueError(f"unknown keys {sorted(unknown)} in {op} {operand}")
    return VectorStep(op, operand, raw, getattr(errno, error) if error else 0)
