"""``xe-mock show``: what exists on the device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xedev.cli.common import add_device_choice, read_state, table
from xedev.cli.sizes import size_text

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to", "state_text")

_Row = Mapping[str, Any]
_Columns = Mapping[str, Callable[[_Row], object]]


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "show",
        help="list devices, open files, VMs, exec queues and buffers",
        description="Lists what exists on the device, without opening it.",
    )
    parser.add_argument("directory", metavar="DIR")
    add_device_choice(parser, default=None)
    parser.add_argument("--json", action="store_true", help="all of it, as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    state = read_state(args.directory, args.device)
    print(json.dumps(state, indent=2) if args.json else state_text(state))
    return 0


def state_text(state: Mapping[str, Any]) -> str:
    """The state as tables, one device after the other."""
    return "\n\n".join(part for device in state["devices"] for part in _device_parts(device, state))


def _device_parts(device: _Row, state: Mapping[str, Any]) -> Iterator[str]:
    files, vms, queues, bos = (
        [thing for thing in state[kind] if thing["device"] == device["index"]]
        for kind in ("files", "vms", "exec_queues", "bos")
    )
    yield _device_text(device)
    yield _section("open files", _FILES, files)
    yield f"VMs: {len(vms)}"
    yield from map(_vm_text, vms)
    yield _section("exec queues", _QUEUES, queues)
    yield _section("buffers", _BOS, bos)


def _section(title: str, columns: _Columns, rows: list[_Row]) -> str:
    head = f"{title}: {len(rows)}"
    return f"{head}\n{_indent(_rows_text(columns, rows))}" if rows else head


def _rows_text(columns: _Columns, rows: list[_Row]) -> str:
    return table(list(columns), ([cell(row) for cell in columns.values()] for row in rows))


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def _device_text(device: _Row) -> str:
    troubles = [name for name in ("wedged", "unplugged") if device[name]]
    gpu = [f"GPU process {device['gpu_pid']}"] if device["gpu_pid"] else []
    policy = f"purgeability {device['purgeability']}"
    facts = ", ".join([device["profile"], policy, *gpu, *troubles])
    title = f"device {device['index']}: {device['name']} at {device['pci']} ({facts})"
    return f"{title}\n{_indent(_rows_text(_REGIONS, device['regions']))}"


def _vm_text(vm: _Row) -> str:
    title = f"vm {vm['id']} of client {vm['client']} ({vm['mode']}): {len(vm['vmas'])} VMAs"
    return f"{title}\n{_indent(_rows_text(_VMAS, vm['vmas']))}" if vm["vmas"] else title


def _plain(*names: str) -> Iterator[tuple[str, Callable[[_Row], object]]]:
    for name in names:
        yield name, lambda row, name=name: "-" if row[name] in (None, "") else row[name]  # type: ignore[misc]


def _yes(name: str) -> Callable[[_Row], object]:
    return lambda row: "yes" if row[name] else "no"


def _vma_target(vma: _Row) -> str:
    return vma["kind"] if vma["bo"] is None else f"bo {vma['bo']}+{vma['offset']:#x}"


def _engine_text(queue: _Row) -> str:
    """As ``vcs[0,1]x2``: two of these at once."""
    engines = ",".join(map(str, queue["engines"]))
    width = f"x{queue['width']}" if queue["width"] > 1 else ""
    return queue["class"] if queue["class"] == "bind" else f"{queue['class']}[{engines}]{width}"


def _queue_state(queue: _Row) -> str:
    if queue["banned"]:
        return "banned"
    if not queue["jobs"]:
        return "idle"
    return "running" if queue["running"] else "waiting"


_REGIONS: _Columns = {
    **dict(_plain("name")),
    "size": lambda row: size_text(row["size"]),
    "used": lambda row: size_text(row["used"]),
}
_FILES: _Columns = {
    **dict(_plain("id", "node", "pid", "comm", "uid", "name")),
    "master": _yes("master"),
    **dict(_plain("handles", "vms")),
}
_VMAS: _Columns = {
    "start": lambda row: f"{row['start']:#014x}",
    "end": lambda row: f"{row['end']:#014x}",
    "maps": _vma_target,
    "pat": lambda row: row["pat_index"],
    **dict(_plain("atomic", "state")),
}
_QUEUES: _Columns = {
    **dict(_plain("client", "id", "number", "vm")),
    "engine": _engine_text,
    **dict(_plain("priority", "jobs")),
    "state": _queue_state,
    **dict(_plain("ticks")),
}
_BOS: _Columns = {
    **dict(_plain("id")),
    "size": lambda row: size_text(row["size"]),
    **dict(_plain("placement", "handles", "state", "vma_count", "willneed_count")),
    "exported": _yes("exported"),
    "imported": _yes("imported"),
}
