"""What a run found: its lines, as a table for people and as JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ("Line", "Report", "machine", "skipped")


@dataclass(frozen=True, slots=True)
class Line:
    """One result.  ``ratio`` and its fellows compare median, p99 and worst to ``ratio_to``."""

    name: str
    """What --only selects by, unique within a report together with ``what``."""
    what: str
    unit: str = "µs"
    median: float | None = None
    p99: float | None = None
    worst: float | None = None
    ratio: float | None = None
    ratio_p99: float | None = None
    ratio_worst: float | None = None
    ratio_to: str = ""
    goal: float | None = None
    """Most that ``ratio`` may be, or the median where there is no ratio; None for no goal."""
    iterations: str = ""
    note: str = ""
    skipped: str = ""
    """Why there is no result."""

    @property
    def verdict(self) -> str:
        """``met``, ``missed``, ``skipped``, or nothing where there is no goal."""
        if self.skipped:
            return "skipped"
        judged = self.median if self.ratio is None else self.ratio
        if self.goal is None or judged is None:
            return ""
        return "met" if judged <= self.goal else "missed"

    def asdict(self) -> dict[str, Any]:
        """Plain values; numbers to four digits."""
        values = dataclasses.asdict(self)
        rounded = {
            key: _rounded(value) if isinstance(value, float) else value
            for key, value in values.items()
        }
        return {**rounded, "verdict": self.verdict}


def skipped(name: str, what: str, reason: str) -> Line:
    """The line of something that could not be measured here."""
    return Line(name, what, unit="", skipped=reason)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def machine() -> dict[str, str]:
    """Where the figures come from."""
    return {
        "processor": _processor(),
        "processors": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.machine()


@dataclass(frozen=True, slots=True)
class Report:
    """All lines of one run."""

    scale: str
    machine: dict[str, str]
    lines: Sequence[Line]

    def json(self) -> str:
        """The report for programs."""
        lines = [line.asdict() for line in self.lines]
        report = {"scale": self.scale, "machine": self.machine, "lines": lines}
        return json.dumps(report, indent=1, ensure_ascii=False) + "\n"

    def table(self) -> str:
        """The report for people."""
        about = ", ".join(f"{key} {value}" for key, value in self.machine.items())
        rows = [_row(line) for line in self.lines if not line.skipped]
        parts = [f"scale {self.scale}; {about}", ""]
        if rows:
            parts += [*_aligned([_HEADER, *rows]), "", _LEGEND]
        parts += _footnotes(self.lines)
        return "\n".join(parts) + "\n"


_HEADER = (
    *("what", "unit", "median", "p99", "worst", "x med", "x p99", "x worst", "to"),
    *("goal", "verdict", "iterations"),
)
_LEGEND = "x med, x p99, x worst: how many times that of the line named under to."
_LEFT_COLUMNS = ("what", "unit", "to", "verdict", "iterations")


def _row(line: Line) -> tuple[str, ...]:
    numbers = (line.median, line.p99, line.worst)
    ratios = (line.ratio, line.ratio_p99, line.ratio_worst)
    return (
        line.what,
        line.unit,
        *(_number(value) for value in numbers),
        *("" if value is None else f"{value:.2f}" for value in ratios),
        line.ratio_to,
        "" if line.goal is None else f"<= {line.goal:g}",
        line.verdict,
        line.iterations,
    )


def _number(value: float | None) -> str:
    """Three digits or more, never an exponent."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if name in _LEFT_COLUMNS else cell.rjust(width)
            for cell, width, name in zip(row, widths, _HEADER, strict=True)
        ]
        yield "  ".join(cells).rstrip()


def _footnotes(lines: Iterable[Line]) -> Iterable[str]:
    """Notes and reasons, each once, with what they are about."""
    about: dict[str, list[str]] = {}
    for line in lines:
        text = f"skipped: {line.skipped}" if line.skipped else line.note
        if text:
            about.setdefault(text, []).append(line.what)
    for text, whats in about.items():
        yield f"{'; '.join(whats)}: {text}"
