"""What the commands share: their errors, and the way to the files of a mount."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from xedev.node.tree import DEBUG_DIR

__all__ = ("CommandError", "is_debugging", "open_debug", "read_state", "say", "table")

_CONNECTION_LOST = (errno.ENOTCONN, errno.ECONNABORTED)


class CommandError(Exception):
    """A command cannot do what it was told; the text is one line for its user."""


def is_debugging() -> bool:
    """Whether the user wants to see all that is known about an error."""
    return os.environ.get("XE_MOCK_DEBUG", "") not in ("", "0")


def say(text: str) -> None:
    """Write a line to stderr."""
    print(f"xe-mock: {text}", file=sys.stderr, flush=True)


def open_debug(directory: str, name: str, flags: int) -> int:
    """Open a debug file of the mount at ``directory``."""
    path = os.path.join(directory, DEBUG_DIR, name)
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError:
        raise CommandError(f"{directory}: no xe-mock is mounted there") from None
    except PermissionError:
        raise CommandError(f"{directory}: only the user who mounted it may do that") from None
    except OSError as error:
        raise _lost(directory, error) from None


def _lost(directory: str, error: OSError) -> CommandError:
    if error.errno in _CONNECTION_LOST:
        return CommandError(f"{directory}: the daemon is dead (xe-mock umount cleans up)")
    return CommandError(f"{directory}: {error.strerror}")


def read_state(directory: str) -> dict[str, Any]:
    """What ``xe-mock show --json`` prints."""
    with open(open_debug(directory, "state", os.O_RDONLY), encoding="utf-8") as file:
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
