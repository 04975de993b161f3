"""The command line of ``xe-mock``."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from xedev.cli import demo, env, mount, pressure, run, show, top, trace, umount
from xedev.cli.common import is_debugging, say

__all__ = ("main",)

_COMMANDS = (mount, umount, run, env, show, top, trace, pressure, demo)
_INTERRUPTED = 130  # as the shell has it: 128 + SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xe-mock",
        description="A mock of Intel's Xe DRM driver, presented as a directory with device nodes.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for an error, 2 for wrong usage."""
    args = _parser().parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has seen enough; nor may Python's exit flush into nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, and may ask for more
        if is_debugging():
            traceback.print_exc()
        say(_sentence(error))
        return 1
    return status


def _sentence(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return " ".join(text.split())
