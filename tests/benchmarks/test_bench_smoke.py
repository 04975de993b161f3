"""The benchmarks run and report; what they report is not looked at."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mapping, servers
from benchmarks.report import Line, Report, skipped
from benchmarks.scale import SCALES

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


IN_PROCESS = ("handler/", "growth/", "memory/", "evict/", "pick/")
MOUNTED = ("mounted/", "stall/")
MAPPED = ("mapping/", "sigbus/", "bandwidth/", "live/")
PRELOAD = ("preload/",)
IGT = ("igt/",)
EXECUTION = ("exec/", "copy/", "wait/")
COMPARED = (
    "mapping/",
    "sigbus/",
    "bandwidth/",
    "live/",
    "evict/",
    "pick/",
    "copy/",
    "preload/",
    "igt/",
)


def _only(groups: tuple[str, ...]) -> list[str]:
    return [argument for group in groups for argument in ("--only", group)]


def _listed(*arguments: str) -> set[str]:
    return set(_run("--list", *arguments).split())


def _check_comparison(lines: list[dict[str, Any]]) -> None:
    """One line is the base, the other one says how many times that it costs."""
    base, line = lines
    assert base["what"] != line["what"]
    assert base["ratio"] is None
    assert base["median"] > 0
    assert line["ratio"] == pytest.approx(line["median"] / base["median"], rel=0.01)
    assert line["median"] <= line["p99"] <= line["worst"]


def _check_comparisons(report: dict[str, Any]) -> None:
    names = {line["name"] for line in report["lines"] if line["name"].startswith(COMPARED)}
    for name in names:
        _check_comparison([line for line in report["lines"] if line["name"] == name])


def test_every_group_is_tested() -> None:
    assert _listed() == _listed(*_only(IN_PROCESS + MOUNTED + MAPPED + PRELOAD + IGT + EXECUTION))


def test_in_process() -> None:
    report = _report(*_only(IN_PROCESS))
    assert report["scale"] == "tiny"
    assert {"processor", "kernel", "python"} <= set(report["machine"])
    for line in report["lines"]:
        _check_line(line)
        assert not line["skipped"]
    assert {line["name"] for line in report["lines"]} == _listed(*_only(IN_PROCESS))
    _check_comparisons(report)
    garbage = next(line for line in report["lines"] if line["name"] == "memory/garbage")
    assert garbage["median"] == 0


@pytest.mark.fuse
def test_mounted() -> None:
    report = _report(*_only(MOUNTED))
    for line in report["lines"]:
        _check_line(line)
    assert {line["name"] for line in report["lines"]} >= _listed(*_only(MOUNTED))


@pytest.mark.fuse
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_mapped_memory() -> None:
    report = _report(*_only(MAPPED))
    for line in report["lines"]:
        _check_line(line)
        assert not line["skipped"]
    assert {line["name"] for line in report["lines"]} == _listed(*_only(MAPPED))
    _check_comparisons(report)


@pytest.mark.fuse
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_execution() -> None:
    report = _report(*_only(EXECUTION))
    for line in report["lines"]:
        _check_line(line)
    assert {line["name"] for line in report["lines"]} >= _listed(*_only(EXECUTION))
    _check_comparisons(report)
    lost = next(line for line in report["lines"] if line["name"] == "wait/lost")
    assert lost["skipped"] or lost["median"] == 0


@pytest.mark.fuse
@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc")
def test_preload() -> None:
    report = _report(*_only(PRELOAD))
    for line in report["lines"]:
        _check_line(line)
        assert not line["skipped"]
    _check_comparisons(report)


def test_what_is_missing_for_a_mount_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "probe", lambda: "no /dev/fuse")
    with pytest.raises(servers.Unavailable, match="no /dev/fuse"):
        mapping.measure(frozenset(mapping.WHATS), SCALES["tiny"])


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
