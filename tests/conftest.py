"""Rules for every test: its needs are met, it logs no bug, and it leaves no mount behind."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests import needs
from tests.lockdep import lockdep

__all__ = ("lockdep",)

# ---- Hypothesis ------------------------------------------------------------------------------

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    # A slow machine is no failure.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# ---- needs -----------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)  # before any fixture tries what cannot work
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in needs.NEEDS:
        if item.get_closest_marker(need):
            _insist_on(need)


def _insist_on(need: str) -> None:
    reason = needs.why_missing(need)
    if not reason:
        return
    if need in needs.required():
        pytest.fail(f"XE_MOCK_REQUIRE demands {need}: {reason}", pytrace=False)
    pytest.skip(f"needs {need}: {reason}")


# ---- logged errors ---------------------------------------------------------------------------


class _BugLog(logging.Handler):
    """Keeps what the mock logs as an ERROR: always a bug, never the answer to bad input."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(self.format(record))

    def take(self) -> list[str]:
        texts, self._texts = self._texts, []
        return texts


_bug_log = _BugLog()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    _fail_for_bugs(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    finally:
        _fail_for_bugs(item)


def _fail_for_bugs(item: pytest.Item) -> None:
    texts = _bug_log.take()
    if texts and not item.get_closest_marker("expects_bug"):
        pytest.fail("logged as an error:\n" + "\n".join(texts), pytrace=False)


# ---- mounts left behind ----------------------------------------------------------------------

_LAST_GRACE = 3.0  # seconds for a killed test's daemon to go
_mounts_before = pytest.StashKey[set[str]]()


def _xe_mock_mounts() -> set[str]:
    """The lines of mountinfo of all mounts of xe-mock; a line's first word is unique."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if line.partition(" - ")[2].startswith("fuse.xe-mock ")}


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[_mounts_before] = _xe_mock_mounts()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # other workers' mounts are still in use; the controller looks when all are done
    left = _mounts_left(session.stash[_mounts_before])
    if not left:
        return
    report = pytest.TestReport(
        nodeid="mounts left behind",
        location=("tests/conftest.py", None, "mounts left behind"),
        keywords={},
        outcome="failed",
        longrepr="\n".join(sorted(left)),
        when="teardown",
    )
    session.config.hook.pytest_runtest_logreport(report=report)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _mounts_left(before: set[str]) -> set[str]:
    deadline = time.monotonic() + _LAST_GRACE
    while (left := _xe_mock_mounts() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


# ---- set-up ----------------------------------------------------------------------------------


def pytest_configure() -> None:
    try:
        needs.required()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    logging.getLogger("xedev").addHandler(_bug_log)


def pytest_unconfigure() -> None:
    logging.getLogger("xedev").removeHandler(_bug_log)
