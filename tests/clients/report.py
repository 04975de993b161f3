"""The score: docs/conformance.json for programs, docs/conformance.md for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.clients.known import TOGETHER, Entry, class_of, class_sizes, find
from tests.clients.outcome import FINE, Outcome, Result
from tests.clients.suite import ALL, VRAM

__all__ = ("load", "merge", "score_of", "write")

DOCS = Path(__file__).resolve().parents[2] / "docs"
_JSON = DOCS / "conformance.json"
_MARKDOWN = DOCS / "conformance.md"
_HALF = "xe_exec_system_allocator"
"""So many of all the subtests are its own that the sum is told without them too."""
COLUMNS = ("pass", "fail", "crash", "timeout", "skip", "missing")
"""``skip`` is right, as a B580 would skip too; ``missing`` is a skip for which the mock is to
blame."""

Score = dict[str, Any]


def load() -> Score:
    """The score as it was written last."""
    if not _JSON.exists():
        return {"versions": {}, "programs": {}}
    score: Score = json.loads(_JSON.read_text())
    return score


def score_of(program: str, result: Result, right: Iterable[Entry]) -> Score:
    """One program's part of the score."""
    right = list(right)
    skipped: dict[str, str] = {}
    missing: dict[str, str] = {}
    for test, verdict in result.items():
        if verdict.outcome is Outcome.SKIP:
            is_right = find(right, program, test) is not None
            (skipped if is_right else missing)[test] = verdict.reason
    counts = Counter(verdict.outcome for verdict in result.values())
    return {
        **{o.value: counts[o] for o in Outcome if o is not Outcome.SKIP},
        "skip": len(skipped),
        "missing": len(missing),
        "classes": _by_class(program, result),
        "failed": {
            test: verdict.reason
            for test, verdict in sorted(result.items())
            if verdict.outcome not in FINE
        },
        "skipped": _by_reason(skipped),
        "missed": _by_reason(missing),
    }


def _by_class(program: str, result: Result) -> dict[str, int]:
    passed = (test for test, verdict in result.items() if verdict.outcome is Outcome.PASS)
    return dict(sorted(Counter(class_of(program, test) for test in passed).items()))


def _by_reason(tests: Mapping[str, str]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for test, reason in sorted(tests.items()):
        reasons.setdefault(reason, []).append(test)
    return reasons


def merge(score: Score, results: Mapping[str, Score], versions: Mapping[str, str]) -> Score:
    """Put what was run in place of what was known of it."""
    # Those of an older form of the file are to be run anew.
    before = {n: one for n, one in score["programs"].items() if one.keys() >= set(COLUMNS)}
    return {"versions": dict(versions), "programs": {**before, **results}}


def write(score: Score, known: list[Entry], right: list[Entry]) -> None:
    """Write both files."""
    _JSON.write_text(json.dumps(score, indent=1, sort_keys=True) + "\n")
    _MARKDOWN.write_text("\n".join(_markdown(score, known, right)) + "\n")


def _markdown(score: Score, known: list[Entry], right: list[Entry]) -> Iterator[str]:
    programs = dict(sorted(score["programs"].items()))
    once = {name: entry for name, entry in programs.items() if TOGETHER not in name}
    versions = ", ".join(f"{name} {version}" for name, version in sorted(score["versions"].items()))
    yield "# Unmodified programs on the mock"
    yield ""
    yield f"Made by `scripts/clients`. Packages: {versions}."
    yield ""
    yield from _sums(once)
    yield ""
    yield f"| program | {' | '.join(COLUMNS)} |"
    yield f"|---|{'---|' * len(COLUMNS)}"
    for name, entry in programs.items():
        yield f"| {name} | {' | '.join(str(entry[column]) for column in COLUMNS)} |"
    yield ""
    yield from _devices()
    yield ""
    yield from _failures(programs, known)
    yield ""
    yield from _skips(programs, known, right)


def _sums(programs: Mapping[str, Score]) -> Iterator[str]:
    total = {column: sum(entry[column] for entry in programs.values()) for column in COLUMNS}
    half = programs.get(_HALF, {"pass": 0})["pass"]
    yield (
        f"**{total['pass']} tests pass**, {total['pass'] - half} of them outside {_HALF}; "
        f"{total['fail']} fail, {total['crash']} crash, {total['timeout']} take too long, "
        f"{total['skip']} skip as they would with a real B580 (or the device named), and "
        f"{total['missing']} skip because something is missing here. A skip is no pass."
    )
    yield ""
    yield "| class of IGT's subtests | there are | pass | outside " + _HALF + " |"
    yield "|---|---|---|---|"
    for letter, meaning in _CLASSES.items():
        binaries = {name.partition(" ")[0] for name in programs}
        sizes = {name: class_sizes(name).get(letter, 0) for name in binaries}
        passed = {n: entry["classes"].get(letter, 0) for n, entry in programs.items()}
        outside = sum(passed.values()) - passed.get(_HALF, 0)
        yield (
            f"| {letter}: {meaning} | {sum(sizes.values())} | {sum(passed.values())} | {outside} |"
        )


_CLASSES = {
    "A": "the uAPI alone",
    "B": "commands are executed",
    "C": "sysfs, debugfs, fdinfo, a second card",
    "D": "not for a mock",
}


def _devices() -> Iterator[str]:
    usual = " ".join(VRAM)
    yield "## On which device"
    yield ""
    yield f"IGT's programs with `{usual}`, all others with the mock's defaults, but:"
    yield ""
    yield "| program | options of `xe-mock run` |"
    yield "|---|---|"
    for client in ALL:
        if client.options not in ((), VRAM):
            yield f"| {client.name} | `{' '.join(client.options)}` |"


def _failures(programs: Mapping[str, Score], known: list[Entry]) -> Iterator[str]:
    yield "## What fails"
    yield ""
    yield "| program | test | cause, or what it said |"
    yield "|---|---|---|"
    for name, entry in programs.items():
        for cause, tests in _by_reason(
            {
                test: found.why if (found := find(known, name, test)) else said
                for test, said in entry["failed"].items()
            }
        ).items():
            yield f"| {name} | {_names(tests)} | {_cell(cause)} |"


def _skips(programs: Mapping[str, Score], known: list[Entry], right: list[Entry]) -> Iterator[str]:
    for title, key, entries in (
        ("What is skipped for want of something in the mock", "missed", known),
        ("What a real device skips too", "skipped", right),
    ):
        yield f"## {title}"
        yield ""
        yield "| program | tests | why |"
        yield "|---|---|---|"
        for name, entry in programs.items():
            whys: dict[str, str] = {}
            for said, tests in entry[key].items():
                for test in tests:
                    found = find(entries, name, test)
                    whys[test] = found.why if found else said
            for why, tests in _by_reason(whys).items():
                yield f"| {name} | {_names(tests)} | {_cell(why)} |"
        yield ""


def _names(tests: list[str], most: int = 6) -> str:
    shown = ", ".join(tests[:most])
    return shown if len(tests) <= most else f"{shown} and {len(tests) - most} more"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
