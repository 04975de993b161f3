"""``xe-mock pressure``: let the driver want memory back."""

from __future__ import annotations

import argparse
import errno
import json
import os
from typing import TYPE_CHECKING, Any

from xedev.cli.common import CommandError, add_device_choice, open_debug
from xedev.cli.sizes import parse_size, size_text

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to",)

_REFUSALS = {
    errno.ENOENT: "there is no such buffer or region on this device",
    errno.EINVAL: "that cannot be done to this buffer or region",
}


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "pressure",
        help="make the driver evict or shrink",
        description="Runs the driver's own eviction or shrinker, and prints what became of whom."
        "  It sets no state: what must not be purged is not.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_device_choice(parser)
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--bo", metavar="ID", type=int, help="one buffer, by its id in show")
    target.add_argument("--region", choices=("system", "vram0"), help="a memory region")
    parser.add_argument("--bytes", metavar="SIZE", type=parse_size, help="how much of the region")
    parser.add_argument("--by", choices=("evict", "shrink"), required=True)
    parser.add_argument("--json", action="store_true", help="print the driver's answer as JSON")
    parser.set_defaults(run=_run, usage_error=parser.error)


def _run(args: argparse.Namespace) -> int:
    if (args.region is None) != (args.bytes is None):
        args.usage_error("--region and --bytes belong together")
    target = f"bo {args.bo}" if args.region is None else f"region {args.region} {args.bytes}"
    answer = _command(args.directory, args.device, f"{target} {args.by}")
    print(answer.strip() if args.json else _text(json.loads(answer)))
    return 0


def _command(directory: str, device: int, command: str) -> str:
    """Run a command through the control file and return its answer."""
    fd = open_debug(directory, "pressure", os.O_RDWR, device)
    with open(fd, "r+b", buffering=0) as control:
        try:
            control.write(command.encode())
        except OSError as error:
            raise CommandError(_REFUSALS.get(error.errno or 0, error.strerror)) from None
        return control.read().decode()


def _text(answer: dict[str, Any]) -> str:
    lines = [
        f"bo {victim['bo']}: {victim['action']}, {size_text(victim['bytes'])}"
        for victim in answer["victims"]
    ]
    lines += [f"bo {skipped['bo']}: skipped, {skipped['reason']}" for skipped in answer["skipped"]]
    return "\n".join(lines or ["nothing to do"])
