"""Serves `FakeTree` over FUSE: ``python -m tests.node.fake_daemon DIRECTORY BACKEND``.

Prints ``ready`` once mounted, and when it has ended one line of JSON with what became of it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys

from tests.node.fake_files import FakeTree
from xedev.node.fuse_adapter import FuseAdapter
from xedev.node.fuse_binding import BackendName

_PR_SET_PDEATHSIG = 1


def main(directory: str, backend: BackendName) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    tree = FakeTree()
    adapter = FuseAdapter(
        tree,
        directory,
        backend=backend,
        allow_other=os.geteuid() == 0,  # others need a line in fuse.conf
        on_ready=lambda: print("ready", flush=True),
    )
    tree.errors = lambda: adapter.errors
    adapter.run()
    report = {"errors": adapter.errors, "releases": [file.releases for file in tree.files]}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])  # type: ignore[arg-type]
