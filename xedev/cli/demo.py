"""``xe-mock demo``: show a buffer being purged."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import xedev
from xedev.cli.common import CommandError, say
from xedev.cli.mount import add_device_options, options_from
from xedev.node.daemon import MountError, MountOptions, start, stop
from xedev.node.tree import NODE_DIR

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to",)

_EXAMPLE = Path("examples") / "purgeable.py"
_IN_PROCESS = "in-process"


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="show a buffer being purged",
        description="Mounts the mock, runs examples/purgeable.py on it, unmounts.  Where no mount"
        " can be made, the example runs on a device in its own process.",
    )
    add_device_options(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    example = Path(xedev.__file__).parents[1] / _EXAMPLE
    if not example.exists():
        raise CommandError(f"{example} is missing: the demo needs a checkout of the project")
    options = options_from(args)
    with tempfile.TemporaryDirectory(prefix="xe-mock-demo-") as directory:
        try:
            start(directory, options)
        except MountError as error:
            say(f"no mount, so the device is {_IN_PROCESS}: {error}")
            return _run_example(example, _IN_PROCESS)
        return _run_on_mount(example, directory, options)


def _run_on_mount(example: Path, directory: str, options: MountOptions) -> int:
    try:
        status = _run_example(example, os.path.join(directory, NODE_DIR, "renderD128"))
    finally:
        stopped = stop(directory)
    if stopped.errors:
        raise CommandError(f"the daemon logged {stopped.errors} error(s)")
    return status


def _run_example(example: Path, node: str) -> int:
    # A process of its own: what it shows is a client's view through the kernel.
    checkout = str(example.parents[1])
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(example), node]
    return subprocess.run(command, env=environment, check=False).returncode
