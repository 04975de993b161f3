"""Two things measured in turns, and how many times one costs the other."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from benchmarks.report import Line
from benchmarks.timing import Summary, combine

__all__ = ("Round", "compared", "two_lines")

Round = tuple[Summary, Summary]
"""What it is compared to, and the thing itself, one right after the other."""


def compared(
    name: str,
    what: str,
    rounds: Sequence[Round],
    to: str,
    goal: float | None,
    iterations: str,
    note: str = "",
) -> Line:
    """The line of the thing itself."""
    base = combine([under for under, _ in rounds])
    cost = combine([over for _, over in rounds])
    return Line(
        name,
        what,
        median=cost.median,
        p99=cost.p99,
        worst=cost.worst,
        # Of each round its own ratio: a disturbance that outlasts a round hits both alike.
        ratio=median(over.median / under.median for under, over in rounds),
        ratio_p99=median(over.p99 / under.p99 for under, over in rounds),
        ratio_worst=cost.worst / base.worst,
        ratio_to=to,
        goal=goal,
        iterations=iterations,
        note=note,
    )


def two_lines(
    name: str,
    whats: tuple[str, str],
    rounds: Sequence[Round],
    *,
    to: str,
    goal: float | None,
    iterations: str,
) -> list[Line]:
    """The lines of both."""
    base_what, what = whats
    base = combine([under for under, _ in rounds])
    return [
        Line(
            name,
            base_what,
            median=base.median,
            p99=base.p99,
            worst=base.worst,
            iterations=iterations,
        ),
        compared(name, what, rounds, to, goal, iterations),
    ]
