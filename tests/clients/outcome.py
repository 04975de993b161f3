"""How a test ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ("FINE", "Outcome", "Result", "Verdict", "failed")


class Outcome(Enum):
    """How one test ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    CRASH = "crash"
    TIMEOUT = "timeout"


FINE = (Outcome.PASS, Outcome.SKIP)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one test: how it ended, and what it said of it unless it passed."""

    outcome: Outcome
    reason: str = ""


Result = dict[str, Verdict]
"""Of one program: its tests by name."""


def failed(result: Result) -> list[str]:
    """Those that neither passed nor were skipped."""
    return [name for name, verdict in result.items() if verdict.outcome not in FINE]
