"""What is new among the failures, and what is not known any more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.clients.known import NOW_AND_THEN, Entry, find
from tests.clients.outcome import Outcome, Result

__all__ = ("anew", "new_failures", "shrunk")


def new_failures(
    results: Mapping[str, Result], known: list[Entry], right: list[Entry]
) -> list[str]:
    """``PROGRAM TEST: REASON`` of each that nobody expected: a skip too, if it is not right."""
    return [
        f"{program} {test}: {reason}"
        for program, test, reason in _bad(results, right)
        if find(known, program, test) is None
    ]


def shrunk(known: list[Entry], results: Mapping[str, Result], right: list[Entry]) -> list[Entry]:
    """``known`` without what did not fail any more, of the programs that were run whole."""
    used = {find(known, program, test) for program, test, _ in _bad(results, right)}
    return [
        entry
        for entry in known
        if entry in used or entry.program not in results or entry.why.startswith(NOW_AND_THEN)
    ]


def anew(known: list[Entry], results: Mapping[str, Result], right: list[Entry]) -> list[Entry]:
    """The failures of ``results``, with the causes of ``known`` where they have one."""
    added = [
        Entry(program, test, reason)
        for program, test, reason in _bad(results, right)
        if find(known, program, test) is None
    ]
    return [*shrunk(known, results, right), *added]


def _bad(results: Mapping[str, Result], right: list[Entry]) -> Iterator[tuple[str, str, str]]:
    for program, result in results.items():
        for test, verdict in result.items():
            if verdict.outcome is Outcome.PASS:
                continue
            if verdict.outcome is Outcome.SKIP and find(right, program, test):
                continue
            yield program, test, verdict.reason
