"""How the score of unmodified programs is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients import report
from tests.clients.igt import IgtOutput
from tests.clients.judge import anew, new_failures, shrunk
from tests.clients.known import (
    FAILURES,
    Entry,
    a_class,
    class_of,
    classed_programs,
    read_entries,
    right_skips,
)
from tests.clients.on_mock import Ended
from tests.clients.outcome import Outcome, Result, Verdict
from tests.clients.report import score_of
from tests.clients.suite import ALL, QUICK

ENDED = Ended(code=0, late=False, trouble="")
KILLED = Ended(code=137, late=False, trouble="")
LATE = Ended(code=143, late=True, trouble="")


def result_of(text: str, ended: Ended = ENDED) -> Result:
    output = IgtOutput()
    for line in text.encode().split(b"\n"):
        output.see(line)
    output.close(ended)
    return output.result


def test_a_subtest_passes_by_its_own_word() -> None:
    text = "Opened device: /dev/dri/card0\nStarting subtest: one\nSubtest one: SUCCESS (0.1s)\n"
    assert result_of(text) == {"one": Verdict(Outcome.PASS)}


def test_a_word_behind_an_unended_line_is_heard() -> None:
    text = "Starting subtest: one\nwarning without an endSubtest one: SUCCESS (0.1s)\n"
    assert result_of(text)["one"].outcome is Outcome.PASS


def test_a_failure_gives_the_assertion_that_failed_first() -> None:
    text = (
        "Starting subtest: one\n"
        "(x:1) CRITICAL: Test assertion failure function f, file x.c:1:\n"
        "(x:1) CRITICAL: Failed assertion: value == 1\n"
        "(x:1) CRITICAL: error: 2 != 1\n"
        "Subtest one: FAIL (0.1s)\n"
    )
    assert result_of(text) == {"one": Verdict(Outcome.FAIL, "value == 1")}


def test_a_skip_gives_what_was_required() -> None:
    text = (
        "Starting subtest: one\n"
        "Test requirement not met in function f, file x.c:1:\n"
        "Test requirement: has_it(fd)\n"
        "Subtest one: SKIP (0.0s)\n"
    )
    assert result_of(text) == {"one": Verdict(Outcome.SKIP, "has_it(fd)")}


def test_what_is_required_of_all_is_the_reason_of_each() -> None:
    text = (
        "Test requirement not met in function main, file x.c:1:\n"
        "Test requirement: has_it(fd)\n"
        "Subtest one: SKIP (0.0s)\nSubtest two: SKIP (0.0s)\n"
    )
    assert {v.reason for v in result_of(text).values()} == {"has_it(fd)"}


@pytest.mark.parametrize(
    ("ended", "outcome"), [(KILLED, Outcome.CRASH), (LATE, Outcome.TIMEOUT)], ids=str
)
def test_a_subtest_without_an_end_did_not_pass(ended: Ended, outcome: Outcome) -> None:
    text = "Starting subtest: one\nSubtest one: SUCCESS (0.1s)\nStarting subtest: two\n"
    result = result_of(text, ended)
    assert [verdict.outcome for verdict in result.values()] == [Outcome.PASS, outcome]


KNOWN = [
    Entry("tool", "old-* other", "a cause"),
    Entry("tool", "gone", "was mended"),
    Entry("tool", "at-times", "now and then: too slow"),
    Entry("not run", "any", "whatever"),
]
RIGHT = [Entry("tool", "needs-*", "no device has it")]
RESULTS = {
    "tool": {
        "fine": Verdict(Outcome.PASS),
        "gone": Verdict(Outcome.PASS),
        "at-times": Verdict(Outcome.PASS),
        "old-one": Verdict(Outcome.FAIL, "said"),
        "needs-more": Verdict(Outcome.SKIP, "not here"),
        "fresh": Verdict(Outcome.CRASH, "signal"),
        "skips": Verdict(Outcome.SKIP, "why not"),
    }
}


def test_a_failure_is_new_unless_the_list_has_it() -> None:
    new = new_failures(RESULTS, KNOWN, RIGHT)
    assert new == ["tool fresh: signal", "tool skips: why not"]


def test_the_list_loses_what_passes_now() -> None:
    assert shrunk(KNOWN, RESULTS, RIGHT) == [KNOWN[0], *KNOWN[2:]]


def test_a_list_for_other_packages_takes_in_what_fails() -> None:
    added = anew(KNOWN, RESULTS, RIGHT)[3:]
    assert [(entry.tests, entry.why) for entry in added] == [
        ("fresh", "signal"),
        ("skips", "why not"),
    ]


def test_a_skip_is_right_only_if_a_device_skips_too() -> None:
    score = score_of("tool", RESULTS["tool"], RIGHT)
    told = [score[key] for key in ("pass", "fail", "crash", "skip", "missing")]
    assert told == [3, 1, 1, 1, 1]


def test_the_lists_are_well_formed() -> None:
    for entry in (*read_entries(FAILURES), *right_skips()):
        assert all((entry.program, entry.tests, entry.why)), entry


def test_each_program_is_classed_and_run_under_one_name() -> None:
    names = [client.name for client in ALL]
    assert len(names) == len(set(names))
    assert classed_programs() <= {name.partition(" ")[0] for name in names}


def test_the_quick_selection_has_each_subtest_that_needs_the_uapi_alone() -> None:
    assert class_of("xe_vm", "bind-once") == "A"
    assert class_of("xe_vm", "large-binds-2097152") == "B"
    (xe_vm,) = (client for client in QUICK if client.name == "xe_vm")
    assert getattr(xe_vm, "only", ()) == a_class("xe_vm")


def test_what_is_run_twice_is_summed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "_MARKDOWN", tmp_path / "score.md")
    monkeypatch.setattr(report, "_JSON", tmp_path / "score.json")
    scores = {name: score_of(name, RESULTS["tool"], RIGHT) for name in ("tool", "2 at a time")}
    report.write(report.merge({"versions": {}, "programs": {}}, scores, {}), KNOWN, RIGHT)
    assert "**3 tests pass**" in (tmp_path / "score.md").read_text()


def test_beside_others_a_program_may_do_what_it_may_do_alone() -> None:
    results = {"2 at a time": {f"tool {test}": one for test, one in RESULTS["tool"].items()}}
    new = new_failures(results, KNOWN, RIGHT)
    assert new == ["2 at a time tool fresh: signal", "2 at a time tool skips: why not"]
