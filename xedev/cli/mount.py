"""``xe-mock mount``: make a mount."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from xedev.cli.common import say
from xedev.cli.sizes import parse_memory_size
from xedev.node.daemon import MountOptions, run_foreground, start
from xedev.node.options import DEVICES_MAX, JOB_TIMEOUT_MAX
from xedev.node.tree import NODE_DIR

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_device_options", "add_to", "options_from")


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "mount", help="present the mock in a directory", description=__doc__
    )
    parser.add_argument("directory", metavar="DIR", help="an empty directory")
    add_device_options(parser)
    parser.add_argument(
        "--devices",
        metavar="N",
        type=_device_count,
        default=1,
        help=f"how many cards, up to {DEVICES_MAX}: card0, card1, …",
    )
    _add_memory_options(parser)
    parser.add_argument("--log", metavar="FILE", help="append the daemon's log to FILE")
    parser.add_argument(
        "--backend", choices=("fusepy", "mfusepy"), help="FUSE binding (default: what is there)"
    )
    parser.add_argument(
        "--allow-other",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="let other users in (default: when root mounts)",
    )
    parser.add_argument("--foreground", action="store_true", help="do not become a daemon")
    parser.add_argument("--die-with", metavar="PID", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(run=_run)


def _add_memory_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen about the pages behind BOs."""
    parser.add_argument(
        "--memory",
        choices=("memfd", "tmpfs"),
        default="memfd",
        help="what holds a BO's contents: a memfd (default), or a file that clients in other "
        "process namespaces can map too",
    )
    parser.add_argument(
        "--memory-dir",
        metavar="DIR",
        default="/dev/shm",
        help="where such files are made (default: /dev/shm)",
    )
    parser.add_argument(
        "--memory-fds",
        metavar="N",
        type=_natural,
        help="use files beyond N memfds (default: what the limit on descriptors allows)",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Declare what can be chosen about the device."""
    parser.add_argument(
        "--profile",
        choices=("bmg", "lnl", "dg2", "cri"),
        default="bmg",
        help=(
            "GPU: Battlemage (discrete, default), Lunar Lake (integrated), Alchemist (discrete) or"
            " Crescent Island (discrete, with groups of queues)"
        ),
    )
    parser.add_argument(
        "--vram", metavar="SIZE", type=parse_memory_size, help="video memory, e.g. 12G"
    )
    parser.add_argument(
        "--visible-vram",
        metavar="SIZE",
        type=parse_memory_size,
        help="video memory that the CPU reaches, as with a small BAR, e.g. 256M (default: all)",
    )
    parser.add_argument(
        "--system",
        metavar="SIZE",
        type=parse_memory_size,
        help="system memory for buffers, e.g. 256M",
    )
    parser.add_argument(
        "--purgeability",
        choices=("counters", "seed", "walk"),
        default="counters",
        help="how it is decided what may be purged (default: counters, as upstream)",
    )
    parser.add_argument(
        "--debug-kernel",
        action="store_true",
        help="behave as a kernel built with the driver's debugging options",
    )
    parser.add_argument(
        "--job-timeout",
        "--job-timeout-ms",
        dest="job_timeout_ms",
        metavar="MS",
        type=_job_timeout,
        default=5000,
        help="milliseconds that a job may be on an engine before its queue is banned "
        "(default: 5000)",
    )
    parser.add_argument(
        "--deterministic",
        metavar="SEED",
        type=_natural,
        help="run jobs one at a time, in an order that SEED decides, under a virtual clock",
    )


def _device_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= DEVICES_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {DEVICES_MAX}")
    return int(text)


def _job_timeout(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= JOB_TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of milliseconds up to {JOB_TIMEOUT_MAX}"
        )
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def options_from(args: argparse.Namespace) -> MountOptions:
    """The options of a mount as parsed; what a command does not declare has its default."""
    names = MountOptions.__dataclass_fields__
    return MountOptions(**{name: value for name, value in vars(args).items() if name in names})


def _run(args: argparse.Namespace) -> int:
    options = options_from(args)
    if args.foreground:
        return 1 if run_foreground(args.directory, options) else 0
    pid = start(args.directory, options)
    say(f"{os.path.join(args.directory, NODE_DIR)} is ready (pid {pid})")
    return 0
