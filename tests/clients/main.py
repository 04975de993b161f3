"""Runs unmodified programs on the mock, several at a time, each on a device of its own."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.clients import report
from tests.clients.chroot import default_directory, make_chroot, versions
from tests.clients.igt import Igt, Part
from tests.clients.judge import anew, new_failures, shrunk
from tests.clients.known import FAILURES, Entry, read_entries, right_skips, write_entries
from tests.clients.outcome import FINE, Outcome, Result, failed
from tests.clients.programs import Program
from tests.clients.suite import ALL, QUICK, Client
from tests.clients.together import Together

RETRIES_MAX = 20
"""More failures of one program than that have a cause that a second try does not mend."""

Unit = Part | Program | Together
Results = dict[str, Result]


def main() -> int:
    """Run what was asked for; 1 when something failed that was not known to."""
    args = _arguments()
    make_chroot(args.chroot)
    clients = [c for c in (QUICK if args.quick else ALL) if _is_meant(c.name, args.names)]
    if not clients:
        sys.exit(f"scripts/clients: no program is called {' or '.join(args.names)}")
    units = _units(clients, args.chroot)
    results = _run_all(units, args.chroot, args.jobs)
    _run_again(units, results, args.chroot)
    return _conclude(args, results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these; globs")
    parser.add_argument(
        "--quick", action="store_true", help="what takes a few minutes; docs stay as they are"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--chroot", type=Path, default=default_directory(), metavar="DIR")
    parser.add_argument("--json", action="store_true", help="write the score as JSON to stdout")
    return parser.parse_args()


def _is_meant(name: str, globs: Iterable[str]) -> bool:
    return not globs or any(fnmatch.fnmatchcase(name, glob) for glob in globs)


# ---- running ---------------------------------------------------------------------------------


def _units(clients: Iterable[Client], chroot: Path) -> list[Unit]:
    units: list[Unit] = []
    for client in clients:
        if isinstance(client, Igt):
            units += client.parts(chroot)
        else:
            units.append(client)
    return units


def _run_all(units: list[Unit], chroot: Path, jobs: int) -> Results:
    results: Results = {}
    began = time.monotonic()
    number = 0

    def ended(unit: Unit, result: Result) -> None:
        nonlocal number
        number += 1
        results.setdefault(unit.name, {}).update(result)
        spent = time.monotonic() - began
        line = f"[{number}/{len(units)}, {spent:.0f} s] {unit.name}: {_counts(result)}"
        print(line, file=sys.stderr, flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(u.run, chroot): u for u in units if not isinstance(u, Together)}
        for done in as_completed(running):
            ended(running[done], done.result())
    for unit in units:
        if isinstance(unit, Together):  # enough for one machine
            ended(unit, unit.run(chroot))
    return results


def _run_again(units: Iterable[Unit], results: Results, chroot: Path) -> None:
    """Whoever failed gets a device and the whole machine for itself, and that counts: beside
    others, what has a tenth of a second may be late."""
    again = [
        unit.alone(name)
        for unit in units
        if isinstance(unit, Part) and len(failed(results[unit.name])) <= RETRIES_MAX
        for name in unit.names
        if results[unit.name][name].outcome not in FINE
    ]
    for number, unit in enumerate(again, 1):
        result = unit.run(chroot)
        results[unit.name].update(result)
        line = f"[again {number}/{len(again)}] {unit.name} {unit.names[0]}: {_counts(result)}"
        print(line, file=sys.stderr, flush=True)


def _counts(result: Result) -> str:
    counts = Counter(verdict.outcome for verdict in result.values())
    return ", ".join(f"{counts[o]} {o.value}" for o in Outcome if counts[o])


# ---- telling ---------------------------------------------------------------------------------


def _conclude(args: argparse.Namespace, results: Mapping[str, Result]) -> int:
    known, right = read_entries(FAILURES), right_skips()
    new = new_failures(results, known, right)
    if not args.json:
        for name, result in results.items():
            print(_line(name, result))
    if not args.quick:
        _write(args, results, known, right)
    if args.json:
        scores = {name: report.score_of(name, result, right) for name, result in results.items()}
        print(json.dumps({"programs": scores, "new_failures": new}, indent=1))
    for line in new:
        print(f"new failure: {line}", file=sys.stderr)
    return 1 if new else 0


def _write(
    args: argparse.Namespace,
    results: Mapping[str, Result],
    known: list[Entry],
    right: list[Entry],
) -> None:
    """Put the score into docs/, and the list of failures in order."""
    packages, before = versions(args.chroot), report.load()
    is_same = packages == before["versions"]
    if args.names and not is_same:
        print("docs/conformance.* are of other packages: run all to write them", file=sys.stderr)
        return
    # Other packages: what fails now is what is known from now on.
    known = (shrunk if is_same else anew)(known, results, right)
    write_entries(FAILURES, known)
    scores = {name: report.score_of(name, result, right) for name, result in results.items()}
    report.write(report.merge(before, scores, packages), known, right)


def _line(name: str, result: Result) -> str:
    if bad := failed(result):
        why = f"; {', '.join(bad[:3])}: {result[bad[0]].reason}"
        return f"{name}: fail ({_counts(result)}{why})"
    if any(verdict.outcome is Outcome.PASS for verdict in result.values()):
        return f"{name}: pass ({_counts(result)})"
    return f"{name}: skip ({next(iter(result.values())).reason})"


if __name__ == "__main__":
    sys.exit(main())
