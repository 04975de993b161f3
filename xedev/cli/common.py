"""What the commands share: their errors, and the way to the files of a mount."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from xedev.node.tree import DRI_DEBUG_DIR, debug_dir

__all__ = (
    "CommandError",
    "add_device_choice",
    "is_debugging",
    "open_debug",
    "read_state",
    "say",
    "table",
)

_CONNECTION_LOST = (errno.ENOTCONN, errno.ECONNABORTED)


class CommandError(Exception):
    """A command cannot do what it was told; the text is one line for its user."""


def is_debugging() -> bool:
    """Whether the user wants to see all that is known about an error."""
    return os.environ.get("XE_MOCK_DEBUG", "") not in ("", "0")


def say(text: str) -> None:
    """Write a line to stderr."""
    print(f"xe-mock: {text}", file=sys.stderr, flush=True)


def add_device_choice(parser: argparse.ArgumentParser, default: int | None = 0) -> None:
    """Declare which card of a mount a command is about; None: all of them."""
    words = "all" if default is None else f"card {default}"
    parser.add_argument(
        "--device",
        metavar="I",
        type=_device_index,
        default=default,
        help=f"which card of a mount with several (default: {words})",
    )


def _device_index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a card")
    return int(text)


def open_debug(directory: str, name: str, flags: int, device: int = 0) -> int:
    """Open a debug file of a device of the mount at ``directory``."""
    with _explained(directory, device):
        path = os.path.join(directory, debug_dir(device), name)
        return os.open(path, flags | os.O_CLOEXEC)


@contextmanager
def _explained(directory: str, device: int = 0) -> Iterator[None]:
    """Turn the errors of using a mount into sentences."""
    try:
        yield
    except FileNotFoundError:
        if device and os.path.exists(os.path.join(directory, debug_dir(0))):
            raise CommandError(f"{directory}: it has no card {device}") from None
        raise CommandError(f"{directory}: no xe-mock is mounted there") from None
    except PermissionError:
        raise CommandError(f"{directory}: only the user who mounted it may do that") from None
    except OSError as error:
        if error.errno in _CONNECTION_LOST:
            text = f"{directory}: the daemon is dead (xe-mock umount cleans up)"
            raise CommandError(text) from None
        raise CommandError(f"{directory}: {error.strerror}") from None


def read_state(directory: str, device: int | None = None) -> dict[str, Any]:
    """What ``xe-mock show --json`` prints: of one device, or of all, one after the other."""
    states = [_read_state(directory, index) for index in _devices(directory, device)]
    return {kind: [thing for state in states for thing in state[kind]] for kind in states[0]}


def _devices(directory: str, device: int | None) -> list[int]:
    if device is not None:
        return [device]
    with _explained(directory):
        names = os.listdir(os.path.join(directory, DRI_DEBUG_DIR))
    return sorted(int(name) for name in names if name.isdecimal())


def _read_state(directory: str, device: int) -> dict[str, Any]:
    fd = open_debug(directory, "state", os.O_RDONLY, device)
    with open(fd, encoding="utf-8") as file:
        state: dict[str, Any] = json.load(file)
    return state


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as they need to be; those of numbers to the right."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    columns = [_column(list(column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _column(cells: list[str]) -> list[str]:
    width = max(map(len, cells))
    is_numeric = all(cell[:1].isdigit() for cell in cells[1:])
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in cells]
