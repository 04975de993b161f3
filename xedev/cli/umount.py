"""``xe-mock umount``: end a mount and its daemon."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from xedev.cli.common import is_debugging, say
from xedev.node.daemon import stop

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to",)


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "umount",
        help="end a mount",
        description="Ends a mount, and returns when its daemon is gone; 1 if that logged an error.",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    stopped = stop(args.directory)
    if not stopped.errors:
        return 0
    if is_debugging():
        for message in stopped.messages:
            say(message)
    first = (stopped.messages or [""])[0].splitlines()
    causes = ": ".join([first[0], first[-1]] if len(first) > 1 else first)
    say(f"{args.directory}: the daemon logged {stopped.errors} error(s), the first: {causes}")
    return 1
