"""Limits of the scheduler for each class of engines (kernel: xe_hw_engine_class_sysfs.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from xedev.kernel.errors import KernelError
from xedev.kernel.sysfs import Attribute, kstrtou32

__all__ = ("SchedProp", "XeHwEngineClass", "eclass_attributes")

READ_WRITE = 0o644


@dataclass(slots=True)
class SchedProp:
    """One property of the scheduler, and the limits that the administrator sets."""

    value: int
    min: int
    max: int

    @property
    def limits(self) -> range:
        """What it may be set to."""
        return range(self.min, self.max + 1)


@dataclass(frozen=True, slots=True)
class _Property:
    """What a property is called, and what it can be at all."""

    key: str
    value_name: str
    stem: str
    """Of the names of its limits."""
    hard: range
    default: int


_PROPERTIES = (
    _Property("job_timeout", "job_timeout_ms", "job_timeout", range(1, 10_001), 5000),
    _Property(
        "timeslice", "timeslice_duration_us", "timeslice_duration", range(1, 10_000_001), 1000
    ),
    _Property(
        "preempt_timeout", "preempt_timeout_us", "preempt_timeout", range(1, 10_000_001), 640_000
    ),
)
"""Kernel: ``XE_HW_ENGINE_*_MIN``, ``_MAX``, and ``hw_engine_init``."""


class XeHwEngineClass:
    """The properties of one class of one GT (kernel: ``struct xe_hw_engine_class_intf``)."""

    def __init__(self, name: str, job_timeout_ms: int) -> None:
        self.name = name
        props = {
            property_.key: SchedProp(property_.default, property_.hard[0], property_.hard[-1])
            for property_ in _PROPERTIES
        }
        props["job_timeout"].value = job_timeout_ms
        self.job_timeout, self.timeslice, self.preempt_timeout = props.values()
        """Milliseconds; microseconds; microseconds."""
        self.defaults = {key: replace(prop) for key, prop in props.items()}
        """What they were in the beginning."""

    def prop(self, key: str) -> SchedProp:
        """One of them by its name."""
        prop: SchedProp = getattr(self, key)
        return prop


def eclass_attributes(eclass: XeHwEngineClass, directory: str) -> Iterator[Attribute]:
    """Files of a class, with those of its directory of defaults."""
    for property_ in _PROPERTIES:
        prop, default = eclass.prop(property_.key), eclass.defaults[property_.key]
        for name, show, store in _files(property_, prop):
            yield Attribute(f"{directory}/{name}", show, store, READ_WRITE)
        for name, show, _ in _files(property_, default):
            yield Attribute(f"{directory}/.defaults/{name}", show)


_File = tuple[str, Callable[[], str], Callable[[str], None]]


def _files(property_: _Property, prop: SchedProp) -> Iterator[_File]:
    """Name, show and store: the property and its limits."""

    def store_value(text: str) -> None:
        prop.value = _within(kstrtou32(text), prop.min, prop.max)

    def store_min(text: str) -> None:
        prop.min = _within(kstrtou32(text), property_.hard[0], min(prop.max, property_.hard[-1]))

    def store_max(text: str) -> None:
        prop.max = _within(kstrtou32(text), max(prop.min, property_.hard[0]), property_.hard[-1])

    yield property_.value_name, lambda: f"{prop.value}\n", store_value
    yield f"{property_.stem}_min", lambda: f"{prop.min}\n", store_min
    yield f"{property_.stem}_max", lambda: f"{prop.max}\n", store_max


def _within(number: int, low: int, high: int) -> int:
    if not low <= number <= high:
        raise KernelError(errno.EINVAL, f"{number} is not from {low} to {high}")
    return number
