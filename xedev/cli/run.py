"""``xe-mock run``: run a program on a machine that has the mock for its GPU."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from xedev import shim
from xedev.cli.common import CommandError, say
from xedev.cli.environment import STRICT_BARRIER, program_environment, show_library
from xedev.cli.mount import add_device_options, options_from
from xedev.node.daemon import MountError, MountOptions, start, stop
from xedev.node.namespace import NamespaceError, enter_ipc_namespace, enter_namespace
from xedev.node.options import DEVICES_MAX
from xedev.node.program import ProgramError, run_program
from xedev.node.tree import NODE_DIR
from xedev.node.view import prepare_dev, show_machine

if TYPE_CHECKING:
    from xedev.cli.types import Commands

__all__ = ("add_to",)

OWN_FAILURE = 125
"""Exit code when not even a try was made to run the program, as with env(1) and timeout(1)."""

_FAILURES = (CommandError, MountError, NamespaceError, shim.LibraryError, OSError, ValueError)

_DESCRIPTION = """
Runs PROGRAM so that it believes to be on a machine with an Intel GPU.  It gets a mount namespace
of its own with the mock's nodes in /dev/dri, and its view of /sys, /sys/kernel/debug and a few
files of /proc; nothing of the machine is changed.  Whoever is not root needs user namespaces.
"""
_EPILOG = """
The exit code is that of PROGRAM, 128 + n when signal n ended it; 127: there is no such program,
126: it cannot be run, 125: xe-mock itself failed.
"""


def add_to(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run",
        help="run a program that finds the mock where it looks for a GPU",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        usage="xe-mock run [options] [--] PROGRAM [ARGUMENT ...]",
    )
    add_device_options(parser)
    parser.add_argument(
        "--devices",
        metavar="N",
        type=int,
        choices=range(1, DEVICES_MAX + 1),
        default=1,
        help=f"how many cards, up to {DEVICES_MAX}",
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        default="/",
        help="the program's root directory; it needs dev, proc and sys, which may be empty",
    )
    parser.add_argument(
        "--no-master",
        dest="master",
        action="store_false",
        help="let the program become DRM master; otherwise somebody else is it, "
        "as a compositor is on a desktop",
    )
    parser.add_argument(
        "--no-preload",
        dest="preload",
        action="store_false",
        help="go without the library that makes the nodes look like a device's",
    )
    parser.add_argument(
        "--strict-barrier",
        action="store_true",
        help="stores into the PCI barrier page vanish, as on the device; takes SIGSEGV and SIGTRAP "
        "of the program (x86-64 only)",
    )
    parser.add_argument(
        "--keep", action="store_true", help="let the device live on when the program has ended"
    )
    parser.add_argument("--log", metavar="FILE", help="append the daemon's log to FILE")
    parser.add_argument("program", metavar="PROGRAM", nargs=argparse.PARSER, help="and arguments")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    command = args.program[1:] if args.program[0] == "--" else args.program
    try:
        if not command:
            raise CommandError("which program?")
        _check_barrier(args)
        return _run_on_device(args, command)
    except ProgramError as error:
        say(str(error))
        return error.status
    except _FAILURES as error:
        say(" ".join(str(error).split()))
        return OWN_FAILURE


def _check_barrier(args: argparse.Namespace) -> None:
    if not args.strict_barrier:
        return
    if not args.preload:
        raise CommandError("--strict-barrier is the preload library's: leave --no-preload out")
    if platform.machine() != "x86_64":
        say("--strict-barrier is for x86-64 only: the barrier page keeps what is stored there")


def _run_on_device(args: argparse.Namespace, command: list[str]) -> int:
    root = os.path.realpath(args.root)
    options = options_from(args)
    if not args.keep:
        options = replace(options, die_with=os.getpid())
    # Before the namespace: it may have to be built, with all that the machine has.
    library = shim.library() if args.preload else None
    enter_namespace()
    if root != "/":
        enter_ipc_namespace()
    point = prepare_dev(root)
    with _device(point, options, args.keep), ExitStack() as clients:
        show_machine(root)
        shown = None if library is None else show_library(library, root)
        environment = program_environment(os.environ, shown)
        if args.strict_barrier:
            environment[STRICT_BARRIER] = "1"
        if args.master:
            for index in range(options.devices):
                clients.enter_context(_master(point, index))
        return run_program(command, environment, root)


@contextmanager
def _device(point: str, options: MountOptions, keep: bool) -> Iterator[None]:
    """The mount with its daemon."""
    pid = start(point, options)
    try:
        yield
    finally:
        if keep:
            user = "" if os.geteuid() == 0 else " -U --preserve-credentials"
            say(f"the device lives on: nsenter -t {pid} -m{user} shows it, kill {pid} ends it")
        else:
            _stop(point)


def _stop(point: str) -> None:
    """End the device; whatever became of it, the program's exit code stands."""
    try:
        stopped = stop(point)
    except MountError as error:
        say(str(error))
        return
    if stopped.errors:
        first = (stopped.messages or [""])[0].strip().splitlines()
        say(f"the mock logged {stopped.errors} error(s), the first: {': '.join(first[-1:])}")


@contextmanager
def _master(point: str, index: int) -> Iterator[None]:
    """Hold a card as a compositor does: whoever opens it first is its master."""
    fd = os.open(os.path.join(point, NODE_DIR, f"card{index}"), os.O_RDWR | os.O_CLOEXEC)
    try:
        yield
    finally:
        os.close(fd)
