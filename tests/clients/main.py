"""Runs the programs, several at a time, each on a device of its own."""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.clients.chroot import default_directory, make_chroot, versions
from tests.clients.programs import ALL, QUICK, Outcome, Program, Result
from tests.clients.report import known_failures, merge, new_failures


def main() -> int:
    """Run what was asked for; 1 when something failed that was not known to."""
    args = _arguments()
    make_chroot(args.chroot)
    programs = [p for p in (QUICK if args.quick else ALL) if not args.names or p.name in args.names]
    known = known_failures()
    results = _run_all(programs, args.chroot, args.jobs)
    merge(results, versions(args.chroot))
    new = new_failures(results, known)
    for line in new:
        print(f"new failure: {line}")
    return 1 if new else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/clients", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--quick", action="store_true", help="what takes a few minutes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--chroot", type=Path, default=default_directory(), metavar="DIR")
    return parser.parse_args()


def _run_all(programs: list[Program], chroot: Path, jobs: int) -> dict[str, Result]:
    results: dict[str, Result] = {}
    began = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(program.run, chroot): program for program in programs}
        for number, done in enumerate(as_completed(running), 1):
            program = running[done]
            results[program.name] = result = done.result()
            spent = time.monotonic() - began
            print(f"[{number}/{len(programs)} {spent:4.0f} s] {_line(program, result)}", flush=True)
    return results


def _line(program: Program, result: Result) -> str:
    counts = {outcome: result.count(outcome) for outcome in Outcome}
    if result.failed:
        word = "fail"
    else:
        word = "pass" if counts[Outcome.PASS] else "skip"
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    why = f"; {', '.join(result.failed[:3])}: {result.reason}" if result.failed else ""
    return f"{program.name}: {word} ({told}{why})"


if __name__ == "__main__":
    sys.exit(main())
