"""``xe-mock env``: what ``xe-mock run`` does, for people who want to do it by hand."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from xedev import shim
from xedev.cli.environment import PRELOAD, VARIABLES
from xedev.node.sysctl import DROP_CACHES
from xedev.node.tree import NODE_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xedev.cli.types import Commands

__all__ = ("add_to",)

_DESCRIPTION = """
Prints, as lines for a shell, what a program needs to find the mock mounted at DIR where it looks
for a GPU: the environment, and in comments the mounts.  'xe-mock run' does all of it, and hides
nothing else of /sys.
"""
_SYS_DIRS = (*("sys/dev/char", "sys/class/drm", "sys/bus/pci/devices", "sys/devices/pci0000:00"),)
_SHOWN = {
    "dev/dri": NODE_DIR,
    **{path: path for path in _SYS_DIRS},
    "sys/kernel/debug": "debug",
    DROP_CACHES: DROP_CACHES,
}
"""Place in the program's view, and in the mount."""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "env", help="print what a program needs to find a mount", description=_DESCRIPTION
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", default="/mnt/xe-mock")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    for line in _lines(os.path.abspath(args.directory)):
        print(line)
    return 0


def _lines(directory: str) -> Iterator[str]:
    yield f"# With 'xe-mock mount {directory}', in a mount namespace (as root: unshare --mount),"
    yield "# each of these where the directory exists (/dev/dri can be made):"
    for place, source in _SHOWN.items():
        path = shlex.quote(f"{directory}/{source}")
        yield f"#   mount --bind {path} /{place}"
    for name, value in {**VARIABLES, PRELOAD: str(shim.library())}.items():
        yield f"export {name}={shlex.quote(value)}"
