"""``xe-mock top``: who uses how much of the device, again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xedev.cli.common import CommandError, add_device_choice, read_state, table
from xedev.cli.sizes import size_text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xedev.cli.types import Commands

__all__ = ("Snapshot", "add_to", "picture", "picture_text")

_Row = Mapping[str, Any]
_Columns = Mapping[str, Callable[[_Row], object]]
_Picture = dict[str, Any]
_Show = Callable[[_Picture], None]

_INTERVAL_MAX = 86400.0  # seconds
_STATES = ("WILLNEED", "DONTNEED", "PURGED")


# ---- the command ----


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "top",
        help="watch what clients use",
        description="Shows regions, buffers by state, and open files with the engines that they "
        "use, until interrupted. It looks from outside: it opens no device node.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_device_choice(parser, default=None)
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=_interval,
        default=1.0,
        help="time between two looks (default: 1)",
    )
    parser.add_argument(
        "--once", action="store_true", help="one look; rates need two, so it has none"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per look, on a line")
    parser.set_defaults(run=_run)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _INTERVAL_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to a day")
    return seconds


def _run(args: argparse.Namespace) -> int:
    try:
        with _display(args) as show:
            for look in _pictures(args):
                show(look)
    except KeyboardInterrupt:
        pass  # the usual end
    return 0


def _pictures(args: argparse.Namespace) -> Iterator[_Picture]:
    """What there is to see, each ``--interval`` seconds, until the mount ends."""
    before = _look(args)
    yield picture(before, None)
    while not args.once:
        time.sleep(args.interval)
        now = _look_again(args)
        yield picture(now, before)
        before = now


def _look(args: argparse.Namespace) -> Snapshot:
    state = read_state(args.directory, args.device)
    return Snapshot(time.monotonic(), state)


def _look_again(args: argparse.Namespace) -> Snapshot:
    """As `_look`, when the mount was there a moment ago."""
    try:
        return _look(args)
    except (CommandError, OSError) as error:
        raise CommandError(f"the mount has ended: {error}") from None


# ---- what is shown, as data ----


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The device's state and the second of CLOCK_MONOTONIC when it was read."""

    time: float
    state: Mapping[str, Any]


def picture(now: Snapshot, before: Snapshot | None) -> _Picture:
    """What ``--json`` prints: sizes in bytes; since the look ``before``, ``ioctls_per_second`` and
    ``engines``, the part of each class's engines that a file had, in percent."""
    return {
        "devices": [_device(device) for device in now.state["devices"]],
        "bos": [_bos(now.state["bos"], state) for state in _STATES],
        "files": sorted(_files(now, before), key=_by_use),
    }


def _device(device: _Row) -> _Row:
    return {name: value for name, value in device.items() if name != "pending_fds"}


def _bos(bos: Sequence[_Row], state: str) -> _Row:
    sizes = [bo["size"] for bo in bos if bo["state"] == state]
    return {"state": state, "count": len(sizes), "bytes": sum(sizes)}


_FILE_FIELDS = (
    *("device", "id", "node", "pid", "comm", "name"),
    *("handles", "vms", "resident", "ioctls"),
)


def _files(now: Snapshot, before: Snapshot | None) -> Iterator[_Row]:
    old = {} if before is None else {file["id"]: file for file in before.state["files"]}
    clocks = _clocks(now, before)
    for file in now.state["files"]:
        was = old.get(file["id"], _NEW_FILE)
        new = _increase(was["ioctls"], file["ioctls"])
        yield {
            **{name: file[name] for name in _FILE_FIELDS},
            "ioctls_per_second": before and round(new / (now.time - before.time), 1),
            "engines": before and _engine_use(was["ticks"], file["ticks"], clocks[file["device"]]),
        }


_NEW_FILE: _Row = {"ioctls": 0, "ticks": {}}


def _clocks(now: Snapshot, before: Snapshot | None) -> dict[int, dict[str, int]]:
    """How many ticks the engines of each class had between two looks, by device."""
    old = {} if before is None else {card["index"]: card for card in before.state["devices"]}
    return {
        card["index"]: {
            name: count * _increase(old.get(card["index"], _NEW_CARD)["gt_ticks"], card["gt_ticks"])
            for name, count in card["engines"].items()
        }
        for card in now.state["devices"]
    }


_NEW_CARD: _Row = {"gt_ticks": 0}


def _engine_use(
    old: Mapping[str, int], new: Mapping[str, int], clock: Mapping[str, int]
) -> dict[str, float]:
    """Percent of the ticks that there were, for each class that was used at all."""
    spent = {name: _increase(old.get(name, 0), ticks) for name, ticks in new.items()}
    return {name: round(100 * spent[name] / clock[name], 1) for name in spent if clock[name]}


def _increase(old: int, new: int) -> int:
    """A count that shrank is another file's: the mount was made anew."""
    return new - old if new >= old else new


def _by_use(file: _Row) -> tuple[float, float, int, int]:
    """Who has most of the engines first, then who asks most, is the largest, is the oldest."""
    use = sum((file["engines"] or {}).values())
    return -use, -(file["ioctls_per_second"] or 0), -file["resident"], file["id"]


# ---- how it looks ----


@dataclass(frozen=True, slots=True)
class _Section:
    """One table, as text."""

    title: str
    head: list[str]
    rows: list[list[str]]


def _sections(look: _Picture) -> Iterator[_Section]:
    for device in look["devices"]:
        yield _section(_device_title(device), _REGIONS, device["regions"])
    yield _section(f"buffers: {sum(row['count'] for row in look['bos'])}", _BOS, look["bos"])
    yield _section(f"open files: {len(look['files'])}", _FILES, look["files"])


def _section(title: str, columns: _Columns, rows: Sequence[_Row]) -> _Section:
    cells = [[_printable(str(cell(row))) for cell in columns.values()] for row in rows]
    return _Section(title, list(columns), cells)


def _printable(text: str) -> str:
    """A process may call itself anything, even what moves the cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _device_title(device: _Row) -> str:
    troubles = [name for name in ("wedged", "unplugged") if device[name]]
    facts = ", ".join([device["profile"], f"purgeability {device['purgeability']}", *troubles])
    up = _duration(int(device["uptime"]))
    return f"device {device['index']}: {device['name']} at {device['pci']} ({facts}), up {up}"


def _duration(seconds: int) -> str:
    """``H:MM:SS``, after the days if there are any."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock


def _size(name: str) -> Callable[[_Row], str]:
    return lambda row: size_text(row[name])


def _plain(name: str) -> Callable[[_Row], object]:
    return lambda row: "-" if row[name] in (None, "") else row[name]


def _engines(file: _Row) -> str:
    """As ``rcs 98% bcs 3%``; engines that were idle are left out."""
    use = file["engines"] or {}
    return " ".join(f"{name} {part:.0f}%" for name, part in use.items() if part) or "-"


_REGIONS: _Columns = {
    "region": _plain("name"),
    "size": _size("size"),
    "used": _size("used"),
    "purgeable": _size("purgeable"),
    "purgeable BOs": _plain("purgeable_bos"),
    "CPU-visible used": _size("cpu_visible_used"),
}
_BOS: _Columns = {"state": _plain("state"), "count": _plain("count"), "size": _size("bytes")}
_FILES: _Columns = {
    "client": _plain("id"),
    "pid": _plain("pid"),
    "comm": _plain("comm"),
    "node": _plain("node"),
    "handles": _plain("handles"),
    "VMs": _plain("vms"),
    "resident": _size("resident"),
    "ioctls/s": _plain("ioctls_per_second"),
    "engines": _engines,
}
_STYLES = {"DONTNEED": "yellow", "PURGED": "red"}


def picture_text(look: _Picture) -> str:
    """The picture as lines of text."""
    return "\n\n".join(map(_section_text, _sections(look)))


def _section_text(section: _Section) -> str:
    if not section.rows:
        return section.title
    lines = table(section.head, section.rows).splitlines()
    return "\n".join([section.title, *("  " + line for line in lines)])


# Rich is imported where it draws: the other commands need not wait for it.


@contextmanager
def _display(args: argparse.Namespace) -> Iterator[_Show]:
    """A function that shows one picture: on a terminal in place of the last one."""
    if args.json:
        yield lambda look: print(json.dumps(look), flush=True)
        return
    if not sys.stdout.isatty():
        yield lambda look: print(picture_text(look), end="\n" if args.once else "\n\n", flush=True)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if args.once:
        yield lambda look: console.print(_drawing(look))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        yield lambda look: live.update(_drawing(look), refresh=True)


def _drawing(look: _Picture) -> RenderableType:
    from rich.console import Group

    return Group(*map(_section_drawing, _sections(look)))


def _section_drawing(section: _Section) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    title = Text(section.title, style="bold")
    if not section.rows:
        return Group(title, "")
    grid = Table(box=None, header_style="dim", padding=(0, 0, 0, 2))
    for name, cells in zip(section.head, zip(*section.rows, strict=True), strict=True):
        is_number = all(cell[0].isdigit() or cell == "-" for cell in cells)
        grid.add_column(name, justify="right" if is_number else "left", no_wrap=True)
    for row in section.rows:
        is_there = row[1] != "0"
        grid.add_row(*map(Text, row), style=_STYLES.get(row[0]) if is_there else None)
    return Group(title, grid, "")
