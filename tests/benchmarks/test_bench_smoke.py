"""The benchmarks run and report; what they report is not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import Line, Report, skipped

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
VERDICTS = {"met", "missed", "skipped", ""}
NUMBERS = ("median", "p99", "worst", "ratio", "ratio_p99", "ratio_worst", "goal")
TEXTS = ("name", "what", "unit", "ratio_to", "iterations", "note", "skipped")


def _run(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, str(RUN), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _report(*arguments: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(_run("--scale", "tiny", "--json", "-", *arguments))
    return report


def _check_line(line: dict[str, Any]) -> None:
    assert set(line) == {*NUMBERS, *TEXTS, "verdict"}
    assert all(isinstance(line[key], str) for key in TEXTS)
    assert all(line[key] is None or line[key] >= 0 for key in NUMBERS)
    assert line["verdict"] in VERDICTS
    assert (line["verdict"] == "skipped") == bool(line["skipped"])
    assert (line["median"] is None) == bool(line["skipped"])
    if line["ratio"] is not None:
        assert line["ratio_to"]


def test_in_process() -> None:
    report = _report("--only", "handler", "--only", "growth", "--only", "memory")
    assert report["scale"] == "tiny"
    assert {"processor", "kernel", "python"} <= set(report["machine"])
    for line in report["lines"]:
        _check_line(line)
        assert not line["skipped"]
    assert {line["name"] for line in report["lines"]} == {
        name
        for name in _run("--list").split()
        if name.startswith(("handler/", "growth/", "memory/"))
    }
    garbage = next(line for line in report["lines"] if line["name"] == "memory/garbage")
    assert garbage["median"] == 0


@pytest.mark.fuse
def test_mounted() -> None:
    report = _report("--only", "mounted", "--only", "stall")
    for line in report["lines"]:
        _check_line(line)
    measured = {line["name"] for line in report["lines"]}
    assert measured >= {
        name for name in _run("--list").split() if name.startswith(("mounted/", "stall/"))
    }


def test_an_unknown_name_is_refused() -> None:
    ran = subprocess.run([sys.executable, str(RUN), "--only", "nonsense"], check=False)
    assert ran.returncode == 2


# ---- the report ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        (Line("n", "w", median=9.0, ratio=2.0, goal=2.5), "met"),
        (Line("n", "w", median=1.0, ratio=2.6, goal=2.5), "missed"),
        (Line("n", "w", median=1000.0, goal=1024), "met"),
        (Line("n", "w", median=1.0, goal=0), "missed"),
        (Line("n", "w", median=1.0), ""),
        (skipped("n", "w", "no gcc"), "skipped"),
    ],
)
def test_verdict(line: Line, verdict: str) -> None:
    assert line.verdict == verdict


def test_table() -> None:
    lines = [
        Line("a", "first", median=1.5, p99=2.0, worst=1234.5, note="a note"),
        Line("b", "second", median=3.0, ratio=2.0, ratio_to="first", goal=4, iterations="1 x 1"),
        skipped("c", "third", "no gcc"),
    ]
    text = Report("tiny", {"kernel": "none"}, lines).table()
    rows = text.splitlines()
    header = next(row for row in rows if row.startswith("what"))
    second = next(row for row in rows if row.startswith("second"))
    assert second.index("2.00") + len("2.00") == header.index("x med") + len("x med")
    assert "<= 4" in second
    assert "met" in second
    assert "first: a note" in rows
    assert "third: skipped: no gcc" in rows
    assert not any(row.startswith("third ") for row in rows)
