"""Engines that have one mode at a time (kernel: drivers/gpu/drm/xe/xe_hw_engine_group.c).

A job that takes page faults must not hold up one whose fence has to come, so they do not run beside
each other on the engines of a group.  Where both kinds have work they take turns: otherwise the
first would never run beside clients that always have something for the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xedev.gpu.engine import Entry

__all__ = ("EngineModes", "has_fences")

NS_PER_MS = 1_000_000
FENCES_TIME = 5 * NS_PER_MS
"""How long jobs with fences go on, before those that come wait for the others."""
DRAIN_TIME = 20 * NS_PER_MS
"""How long they wait while one that has begun goes on.  The kernel sets no end to that, and a job
that waits for one behind it would never be done."""
PAUSE_TIME = 50 * NS_PER_MS
"""How long nobody waits after that."""
FAULTS_TIME = 10 * NS_PER_MS
"""What the jobs that take faults have then (kernel: ``min_run_period_pf_ms``)."""


class _Mode(Enum):
    FENCES = auto()
    """Jobs with fences run."""
    DRAIN = auto()
    """Those that have begun do."""
    FAULTS = auto()
    """Jobs run that take faults."""


@dataclass(slots=True)
class _Turn:
    """Of a group whose two kinds of jobs both have work."""

    mode: _Mode
    end: int
    """When the next mode comes, nanoseconds."""

    def go_on(self, now: int, *, is_drained: bool) -> bool:
        """Change the mode if it is time to; whether it was."""
        if self.mode is _Mode.DRAIN and is_drained:
            self.mode, self.end = _Mode.FAULTS, now + FAULTS_TIME
        elif now < self.end:
            return False
        elif self.mode is _Mode.FENCES:
            self.mode, self.end = _Mode.DRAIN, now + DRAIN_TIME
        elif self.mode is _Mode.DRAIN:
            self.mode, self.end = _Mode.FENCES, now + PAUSE_TIME
        else:
            self.mode, self.end = _Mode.FENCES, now + FENCES_TIME
        return True


class EngineModes:
    """Of all groups.  Without `update` jobs with fences always come first."""

    def __init__(self) -> None:
        self._turns: dict[tuple[int, int], _Turn] = {}

    def update(self, entries: Iterable[Entry], now: int) -> bool:
        """Look at all that have work; whether somebody may do what he might not before."""
        with_faults: set[tuple[int, int]] = set()
        with_fences: set[tuple[int, int]] = set()
        busy: set[tuple[int, int]] = set()
        for entry in entries:
            group = entry.engine_group
            if entry.ppgtt.faulting:
                with_faults.add(group)
            elif has_fences(entry):
                with_fences.add(group)
                if _has_begun(entry):
                    busy.add(group)
        both = with_faults & with_fences
        changed = bool(self._turns.keys() - both)
        self._turns = {group: turn for group, turn in self._turns.items() if group in both}
        for group in both:
            turn = self._turns.setdefault(group, _Turn(_Mode.FENCES, now + FENCES_TIME))
            changed |= turn.go_on(now, is_drained=group not in busy)
        return changed

    def forget(self) -> bool:
        """Nobody takes faults any more; whether somebody waited for such."""
        changed = bool(self._turns)
        self._turns.clear()
        return changed

    def next_change(self) -> float:
        """When `update` is due, if nothing comes or goes."""
        return min((turn.end for turn in self._turns.values()), default=float("inf"))

    def is_for_faults(self, entry: Entry) -> bool:
        """Whether it is the turn of jobs that take faults."""
        turn = self._turns.get(entry.engine_group)
        return turn is not None and turn.mode is _Mode.FAULTS

    def holds(self, entry: Entry) -> bool:
        """Whether somebody whose jobs have fences has to wait for those that take faults."""
        if not self._turns or not has_fences(entry):
            return False
        turn = self._turns.get(entry.engine_group)
        if turn is None or turn.mode is _Mode.FENCES:
            return False
        return turn.mode is _Mode.FAULTS or not _has_begun(entry)


def has_fences(entry: Entry) -> bool:
    """Whether somebody waits for its jobs; long-running ones without faults are of neither kind."""
    return not entry.ppgtt.is_lr


def _has_begun(entry: Entry) -> bool:
    return bool(entry.jobs) and entry.jobs[0].is_started
