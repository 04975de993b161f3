"""``xe-mock show``: what exists on the device."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from xedev.cli.common import read_state

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to",)


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "show",
        help="list devices, open files, VMs and buffers",
        description="Lists what exists on the device, without opening it.",
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    state = read_state(args.directory)
    print(json.dumps(state, indent=2) if args.json else state)
    return 0
