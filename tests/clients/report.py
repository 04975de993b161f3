"""The score: docs/conformance.json for programs, docs/conformance.md for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.clients.programs import Outcome, Result

__all__ = ("known_failures", "merge", "new_failures")

DOCS = Path(__file__).resolve().parents[2] / "docs"
_JSON = DOCS / "conformance.json"
_MARKDOWN = DOCS / "conformance.md"

Score = dict[str, Any]


def _load() -> Score:
    if not _JSON.exists():
        return {"versions": {}, "programs": {}}
    score: Score = json.loads(_JSON.read_text())
    return score


def known_failures() -> dict[str, set[str]]:
    """Of each program the tests that are known to fail."""
    return {name: set(entry["failed"]) for name, entry in _load()["programs"].items()}


def new_failures(results: dict[str, Result], known: dict[str, set[str]]) -> list[str]:
    """``PROGRAM: TEST`` for each that nobody expected."""
    return [
        f"{name}: {test}"
        for name, result in results.items()
        for test in result.failed
        if test not in known.get(name, set())
    ]


def merge(results: dict[str, Result], versions: dict[str, str]) -> None:
    """Put what was run in place of what was known of it; causes that people wrote stay."""
    score = _load()
    score["versions"] = versions
    for name, result in results.items():
        causes = score["programs"].get(name, {}).get("failed", {})
        score["programs"][name] = {
            **{outcome.value: result.count(outcome) for outcome in Outcome},
            "failed": {test: causes.get(test, result.reason) for test in sorted(result.failed)},
            "skipped": sorted(t for t, o in result.outcomes.items() if o is Outcome.SKIP),
        }
    _JSON.write_text(json.dumps(score, indent=1, sort_keys=True) + "\n")
    _MARKDOWN.write_text("\n".join(_markdown(score)) + "\n")


def _markdown(score: Score) -> list[str]:
    programs = score["programs"]
    total = {o.value: sum(entry[o.value] for entry in programs.values()) for o in Outcome}
    lines = [
        "# Unmodified programs on the mock",
        "",
        "Made by `scripts/clients`, of what it was last asked to run. Packages: "
        + ", ".join(f"{name} {version}" for name, version in sorted(score["versions"].items()))
        + ".",
        "",
        f"**{total['pass']} tests pass**, {total['fail']} fail, {total['skip']} are skipped, "
        f"{total['crash']} crash, {total['timeout']} take too long. A skip counts as no pass.",
        "",
        "| program | pass | fail | skip | crash | timeout |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in sorted(programs.items()):
        counts = " | ".join(str(entry[outcome.value]) for outcome in Outcome)
        lines.append(f"| {name} | {counts} |")
    lines += [
        "",
        "## What fails",
        "",
        "| program | test | cause, or what it said |",
        "|---|---|---|",
    ]
    for name, entry in sorted(programs.items()):
        lines += [
            f"| {name} | {test} | {_cell(cause)} |" for test, cause in entry["failed"].items()
        ]
    return lines


def _cell(text: str) -> str:
    return f"{text}".replace("|", "\\|") if text else ""
