"""What is known of the tests: their classes, the skips that are right, and those that fail."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = (
    "FAILURES",
    "NOW_AND_THEN",
    "TOGETHER",
    "Entry",
    "a_class",
    "class_of",
    "class_sizes",
    "classed_programs",
    "find",
    "read_entries",
    "right_skips",
    "write_entries",
)

_HERE = Path(__file__).parent
FAILURES = _HERE / "known_failures.tsv"
"""Program, subtests as globs, cause.  It only shrinks, unless the packages are others."""
_SKIPS = _HERE / "right_skips.tsv"
"""Program, subtests as globs, reason: what a real B580 (or the device named) skips as well."""
_CLASSES = _HERE / "classes.tsv"
NOW_AND_THEN = "now and then: "
"""How the cause of a failure begins that does not always show."""
TOGETHER = " at a time"
"""In the names of runs of several programs beside each other, whose tests are called ``PROGRAM
SUBTEST``; each of them is run by itself too."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Tests of a program, and why they are as they are."""

    program: str
    tests: str
    why: str

    def meets(self, program: str, test: str) -> bool:
        """Whether it speaks of this test."""
        names = self.tests.split()
        return fnmatch.fnmatchcase(program, self.program) and any(
            fnmatch.fnmatchcase(test, name) for name in names
        )


def find(entries: Iterable[Entry], program: str, test: str) -> Entry | None:
    """The first that speaks of this test."""
    if TOGETHER in program:
        program, _, test = test.partition(" ")
    return next((entry for entry in entries if entry.meets(program, test)), None)


def right_skips() -> list[Entry]:
    """Those skips that count as right."""
    return read_entries(_SKIPS)


def read_entries(path: Path) -> list[Entry]:
    """The entries of a file; none where there is no file."""
    return [Entry(*fields) for fields in _rows(path)] if path.exists() else []


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Write them instead of those that are there; the comment at the head stays."""
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    rows = ["\t".join((entry.program, entry.tests, entry.why)) for entry in entries]
    path.write_text("\n".join([*head, *rows]) + "\n")


def class_of(program: str, test: str) -> str:
    """A letter from A to D, or "" if none is known."""
    classes = _classes().get(program.partition(" ")[0], {})
    return classes.get(test) or classes.get("*", "")


def a_class(program: str, letter: str = "A") -> tuple[str, ...]:
    """Its subtests of a class that is not the one of most."""
    classes = _classes()[program]
    return tuple(name for name, its in classes.items() if its == letter and name != "*")


def classed_programs() -> set[str]:
    """Those of IGT's programs whose subtests are classed."""
    return {row[0] for row in _rows(_CLASSES)}


def class_sizes(program: str) -> dict[str, int]:
    """How many subtests it has of each class."""
    return {row[1]: int(row[3]) for row in _rows(_CLASSES) if row[0] == program}


@cache
def _classes() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = {}
    for program, letter, names, _ in _rows(_CLASSES):
        table.setdefault(program, {}).update(dict.fromkeys(names.split(), letter))
    return table


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")
