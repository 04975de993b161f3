"""``xe-mock trace``: watch ioctls and changes of state as they happen."""

from __future__ import annotations

import argparse
import errno
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xedev.cli.common import add_device_choice, open_debug, say

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to", "event_text")

_MOUNT_ENDED = (errno.ENOTCONN, errno.ECONNABORTED)
_TOLD_ELSEWHERE = frozenset({"event", "time", "pid", "tid", "comm"})


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "trace",
        help="watch what clients do",
        description="Prints every ioctl and every change of state until interrupted.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_device_choice(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--count", metavar="N", type=_positive, help="end after N events")
    parser.set_defaults(run=_run)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of events")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    fd = open_debug(args.directory, "trace", os.O_RDONLY, args.device)
    say(f"tracing {args.directory}")
    try:
        for number, line in enumerate(_lines(fd), 1):
            print(line if args.json else event_text(json.loads(line)), flush=True)
            if number == args.count:
                break
    except KeyboardInterrupt:
        return 0  # the usual end
    finally:
        os.close(fd)
    return 0


def _lines(fd: int) -> Iterator[str]:
    """The lines of the stream, until the mount ends."""
    rest = b""
    while True:
        try:
            data = os.read(fd, 1 << 16)
        except OSError as error:
            if error.errno not in _MOUNT_ENDED:
                raise
            say("the mount has ended")
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


def event_text(event: dict[str, Any]) -> str:
    """One event as a line of text."""
    make = _TEXTS.get(event["event"], _other)
    if "pid" not in event:
        return make(event)
    return f"{event['pid']:>7} {event.get('comm', ''):<15} {make(event)}"


def _ioctl(event: dict[str, Any]) -> str:
    # The repr of the struct, without its name: the ioctl's name says it already.
    arguments = event["args_text"].partition("(")[2].removesuffix(")")
    text = f"{event['client']:>3}  {event['name']}({arguments}) = {event['result']}"
    return f"{text} [{event['errno']}: {event['reason']}]" if event["errno"] else text


def _bo_state(event: dict[str, Any]) -> str:
    rest = _fields(event, {"bo", "old", "new"})
    change = f"bo {event['bo']}: {event['old']} -> {event['new']}"
    return f"{change} ({rest})" if rest else change


def _lost(event: dict[str, Any]) -> str:
    return f"lost: {event['count']} events came faster than they were read"


def _other(event: dict[str, Any]) -> str:
    return f"{event['event']}: {_fields(event, set())}"


def _fields(event: dict[str, Any], known: set[str]) -> str:
    return ", ".join(
        f"{name}={value}" for name, value in event.items() if name not in known | _TOLD_ELSEWHERE
    )


_TEXTS = {"ioctl": _ioctl, "bo_state": _bo_state, "lost": _lost}
