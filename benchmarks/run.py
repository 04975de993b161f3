#!/usr/bin/env python3
"""Measures what the mock costs; scripts/bench sets up what it needs.  See README.md."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    # In place of this file's own directory: everything here is imported as benchmarks.MODULE,
    # and xedev is the one of this checkout.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from benchmarks.main import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
